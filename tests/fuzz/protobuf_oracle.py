"""What a GoFlow-family message should give, read by protobuf's own parser (upb).

Where flowstream differs from upb it does so on purpose, and ``walk`` finds each of these in the bytes:

* groups are in none of the schemas: upb passes over them, flowstream refuses;
* a known field with another wire type (packed too) is to upb an unknown one: flowstream refuses, because what such a
  producer means is not known;
* bits beyond the 64th of a varint: upb drops them, flowstream refuses;
* tags and lengths spelt with six to ten bytes: upb refuses, flowstream reads what they spell;
* numbers beyond their field: upb cuts a uint32 to 32 bits, flowstream refuses them as OUT_OF_RANGE. The oracle's
  fields are all uint64, so that nothing is cut before it is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from flowstream.errors import Reason
from tests.builders import GOFLOW2_V1, GOFLOW2_V2, GOFLOW_V3, varint

ADDRESSES = {"src_addr": 6, "dst_addr": 7, "sampler_address": 11}
COUNTED = {
    "sampling_rate": 32, "sequence_num": 32, "bytes": 63, "packets": 63, "src_as": 32, "dst_as": 32,
    "in_if": 32, "out_if": 32, "proto": 8, "src_port": 16, "dst_port": 16, "ip_ttl": 8, "tcp_flags": 16,
}  # fmt: skip
#: Fields 63 and 64 of GoFlow v3 are numbers, too; they go by the names of goflow2 v1.
NUMBERS = (GOFLOW_V3 | GOFLOW2_V1 | GOFLOW2_V2).items()
NUMBERS = {
    name: number
    for name, number in NUMBERS
    if name not in {*ADDRESSES, "etype", "ip_flags", "has_ppp", "ppp_address_control"}
}
TIME_MAX = 2**63 - 1
RUN_RECORD_BYTES_MIN = 8
UNSOUND = "unsound"  # TRUNCATED or MALFORMED: upb does not say which

Row = dict[str, Any]


def _message_class() -> Any:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="flowstream_fuzz.proto", package="fuzz", syntax="proto3")
    message = file.message_type.add(name="Flow")
    for names, kind in ((NUMBERS, field.TYPE_UINT64), (ADDRESSES, field.TYPE_BYTES)):
        for name, number in names.items():
            message.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("fuzz.Flow"))


FLOW = _message_class()


class Walk(NamedTuple):
    """``refused``: holds what flowstream refuses. ``spelt``: with tags and lengths as short as upb takes them."""

    refused: bool
    spelt: bytes


def _number(wire: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(wire[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if value >> 64:
                raise ValueError
            return value, at + place + 1
    raise ValueError


def walk(wire: bytes) -> Walk:
    """Look for what flowstream and upb judge differently, up to the first thing that is no field."""
    at, spelt = 0, bytearray()
    wire_types = dict.fromkeys(NUMBERS.values(), 0) | dict.fromkeys(ADDRESSES.values(), 2)
    try:
        while at < len(wire):
            tag, at = _number(wire, at)
            kind = tag & 7
            if kind in {3, 4} or wire_types.get(tag >> 3, kind) != kind:
                return Walk(True, wire)
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 0:
                value, at = _number(wire, at)
                spelt += varint(tag) + varint(value)
                continue
            spelt += varint(tag)
            if kind == 2:
                size, at = _number(wire, at)
                spelt += varint(size)
            spelt += wire[at : at + size]
            at += size
    except ValueError:
        return Walk(True, wire)
    return Walk(False, bytes(spelt))


def _words(address: bytes) -> list[int]:
    full = address.rjust(16, b"\0") if len(address) != 4 else bytes(10) + b"\xff\xff" + address
    return [int.from_bytes(full[:8], "big"), int.from_bytes(full[8:], "big")]


def _times(flow: Any) -> tuple[int, int, int]:
    """Return receive time, start and end in ns, of whichever schema has a receive time."""
    if flow.time_received_ns:
        return flow.time_received_ns, flow.time_flow_start_ns, flow.time_flow_end_ns
    start_ms, end_ms = (ms if ms > 10**12 else 0 for ms in (flow.time_flow_start_ms, flow.time_flow_end_ms))
    start, end = start_ms * 10**6 or flow.time_flow_start * 10**9, end_ms * 10**6 or flow.time_flow_end * 10**9
    return flow.time_received * 10**9, start, end


def record(wire: bytes) -> Row | Reason | str:
    """Return the row of a bare record, or why there is none."""
    refused, spelt = walk(wire)
    if refused:
        return UNSOUND
    try:
        flow = FLOW.FromString(spelt)
    except DecodeError:
        return UNSOUND
    received, start, end = _times(flow)
    if received == 0:
        return Reason.NO_TIME
    addresses = [getattr(flow, name) for name in ADDRESSES]
    if not flow.src_addr or any(len(address) not in {0, 4, 16} for address in addresses):
        return Reason.NO_ADDRESS
    if received > TIME_MAX or any(getattr(flow, name) >> bits for name, bits in COUNTED.items()):
        return Reason.OUT_OF_RANGE
    row: Row = {name: getattr(flow, name) for name in COUNTED}
    row |= {name.replace("sampler_address", "exporter"): _words(getattr(flow, name)) for name in ADDRESSES}
    row |= {"time_ns": received, "time_received_ns": received}
    row |= {"time_flow_start_ns": min(start or received, TIME_MAX), "time_flow_end_ns": min(end or received, TIME_MAX)}
    return row | {"flow_type": {1: 1, 2: 2, 3: 3, 4: 4, 9: 3, 10: 4}.get(flow.type, 0)}


def _bare(payload: bytes) -> list[Row] | Reason | str:
    row = record(payload)
    return [row] if isinstance(row, dict) else row


def _run(records: list[bytes]) -> list[Row] | Reason | str:
    rows = [record(one) for one in records]
    return next((row for row in rows if not isinstance(row, dict)), rows)  # type: ignore[return-value]


def _split(payload: bytes) -> list[bytes]:
    """Return the delimited records that a payload is, or nothing where it is not made of such."""
    at, records = 0, []
    try:
        while at < len(payload):
            size, at = _number(payload, at)
            if size > len(payload) - at:
                return []
            records.append(payload[at : at + size])
            at += size
    except ValueError:
        return []
    return records if len(records) == 1 or min(map(len, records)) >= RUN_RECORD_BYTES_MIN else []


def message(payload: bytes) -> list[Row] | Reason | str:
    """Return the rows of a message, bare or delimited, or why there is none."""
    if not payload:
        return Reason.EMPTY
    records = _split(payload)
    readings: list[Callable[[], list[Row] | Reason | str]] = [lambda: _bare(payload)]
    if records:
        readings.insert(0 if len(records) == 1 else 1, lambda: _run(records))
    found = [read() for read in readings]
    rows = next((f for f in found if isinstance(f, list)), None)
    return rows or next((f for f in found if f != UNSOUND), UNSOUND)
