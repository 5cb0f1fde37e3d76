"""Flow records with a known truth: goflow2 messages, written by protobuf's own encoder, the same for the same seed.

Every flow has a number, which is its ``sequence_num``; its bytes, packets and sampling rate are drawn, so that
no loss is made good by a duplicate of another flow. Event time goes forward with the number.
"""

from __future__ import annotations

import random
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.builders import delimited

SECOND_NS = 10**9
T0_NS = 1_700_000_000 * SECOND_NS
#: Records that close windows come from here, so that they are nobody's traffic.
CLOSING_SOURCE = bytes([198, 51, 100, 1])
#: One flow in this many belongs to the one elephant, and one is small and seen at several places, as its neighbours.
ELEPHANT_ONE_IN = 8
SHARED_ONE_IN = 5
NEIGHBOURS = 20

_KINDS = {"u32": 13, "u64": 4, "bytes": 12}  # FieldDescriptorProto: TYPE_UINT32, TYPE_UINT64, TYPE_BYTES
#: Of goflow2's flow.proto (v2): what is written here.
_FIELDS = {
    "type": (1, "u32"), "sampling_rate": (3, "u64"), "sequence_num": (4, "u32"), "src_addr": (6, "bytes"),
    "dst_addr": (7, "bytes"), "bytes": (9, "u64"), "packets": (10, "u64"), "sampler_address": (11, "bytes"),
    "in_if": (18, "u32"), "out_if": (19, "u32"), "proto": (20, "u32"), "src_port": (21, "u32"),
    "dst_port": (22, "u32"), "ip_ttl": (25, "u32"), "tcp_flags": (26, "u32"), "time_received_ns": (110, "u64"),
    "time_flow_start_ns": (111, "u64"), "time_flow_end_ns": (112, "u64"),
}  # fmt: skip


def _message_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="flowstream_faults.proto", package="faults", syntax="proto3")
    message = file.message_type.add(name="Flow")
    for name, (number, kind) in _FIELDS.items():
        message.field.add(name=name, number=number, type=_KINDS[kind], label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("faults.Flow"))


#: protobuf's own class of the message.
Flow = _message_class()


def encoded(**fields: int | bytes) -> bytes:
    """Return a message as goflow2 puts it on Kafka: the record behind its length."""
    return delimited(Flow(**fields).SerializeToString())


class Flows:
    """Flows one after the other; ``number`` and ``time_ns`` are those of the next one."""

    def __init__(self, seed: int) -> None:
        self.number = 0
        self.time_ns = T0_NS
        self._draw = random.Random(seed)

    def next(self, step_ns: int, sources: int = 48, hot: float = 0.0) -> bytes:
        """Return the next flow and move time on.

        It comes from one of ``sources`` addresses, with the probability ``hot`` from the first of them.
        """
        draw = self._draw
        source = 0 if draw.random() < hot else draw.randrange(sources)
        elephant = self.number % ELEPHANT_ONE_IN == 0 and not hot
        shared = self.number % SHARED_ONE_IN == 0 and not elephant and not hot
        group = self.number // NEIGHBOURS
        port = 40_000 if elephant else 50_000 + group % 8192 if shared else draw.randrange(1024, 65_536)
        fields: dict[str, int | bytes] = {
            "type": 1, "sampling_rate": draw.randrange(1, 400), "sequence_num": self.number,
            "src_addr": (0x0A000001 + (0 if elephant else group % 4 if shared else source)).to_bytes(4, "big"),
            "dst_addr": (0xAC100001 + (0 if elephant or shared else draw.randrange(200))).to_bytes(4, "big"),
            "bytes": draw.randrange(64, 2_000 if shared else 60_000), "packets": draw.randrange(1, 40),
            "sampler_address": bytes([192, 0, 2, draw.randrange(1, 4) if shared else 1]),
            "in_if": 1 if elephant else draw.randrange(1, 9), "out_if": 9,
            "proto": 6, "src_port": port, "dst_port": 443, "ip_ttl": draw.randrange(60, 64) if shared else 62,
            "tcp_flags": 16, "time_received_ns": self.time_ns,
            "time_flow_start_ns": max(0, self.time_ns - draw.randrange(2 * SECOND_NS)),
            "time_flow_end_ns": self.time_ns,
        }  # fmt: skip
        self.number += 1
        self.time_ns += step_ns
        return encoded(**fields)

    def closing(self, ahead_s: float = 130) -> bytes:
        """Return a flow so far ahead that the watermark behind it passes every window before it."""
        self.time_ns += int(ahead_s * SECOND_NS)
        fields: dict[str, int | bytes] = {
            "type": 1, "sampling_rate": 1, "sequence_num": self.number, "src_addr": CLOSING_SOURCE,
            "dst_addr": CLOSING_SOURCE, "bytes": 64, "packets": 1, "sampler_address": bytes([192, 0, 2, 1]),
            "in_if": 1, "out_if": 9, "proto": 6, "time_received_ns": self.time_ns,
            "time_flow_start_ns": self.time_ns, "time_flow_end_ns": self.time_ns,
        }  # fmt: skip
        self.number += 1
        return encoded(**fields)
