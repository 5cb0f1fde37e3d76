"""The fields of goflow2's message that the jobs need, for Google's compiled protobuf parser (upb).

The parser skips every other field.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

BYTES, UINT64 = 12, 4  # descriptor types
FIELDS = {
    "src_addr": (6, BYTES),
    "bytes": (9, UINT64),
    "packets": (10, UINT64),
    "time_received_ns": (110, UINT64),
    "time_flow_start_ns": (111, UINT64),
    "time_flow_end_ns": (112, UINT64),
}


def flow_message() -> Any:
    """Return the message class."""
    file = descriptor_pb2.FileDescriptorProto(name="peer.proto", package="peer", syntax="proto3")
    message = file.message_type.add(name="Flow")
    for name, (number, kind) in FIELDS.items():
        message.field.add(name=name, number=number, type=kind, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("peer.Flow"))


def body(value: bytes) -> bytes:
    """Return a delimited message without its length."""
    start = 1
    while value[start - 1] > 0x7F:
        start += 1
    return value[start:]
