"""Small builders of test input, so that a test shows only the fact it is about.

The wire encoder here is its own few lines on purpose: it shares nothing with the decoders under test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flowstream.batch import COLUMNS, FlowBatch, FlowType, address_words

T0_S = 1_700_000_000  # 2023-11-14T22:13:20Z, a whole number of minutes and of 100 s
T0_NS = T0_S * 10**9

_COMMON = {
    "type": 1, "sampling_rate": 3, "sequence_num": 4, "src_addr": 6, "dst_addr": 7, "bytes": 9,
    "packets": 10, "sampler_address": 11, "src_as": 14, "dst_as": 15, "in_if": 18,
    "out_if": 19, "proto": 20, "src_port": 21, "dst_port": 22, "ip_ttl": 25, "tcp_flags": 26, "etype": 30,
}  # fmt: skip
GOFLOW_V3 = _COMMON | {"time_received": 2, "time_flow_end": 5, "time_flow_start": 38, "has_ppp": 63}
GOFLOW_V3 |= {"ppp_address_control": 64}
GOFLOW2_V1 = _COMMON | {"time_received": 2, "time_flow_end": 5, "time_flow_start": 38}
GOFLOW2_V1 |= {"time_flow_start_ms": 63, "time_flow_end_ms": 64}
GOFLOW2_V2 = _COMMON | {"ip_flags": 38, "time_received_ns": 110, "time_flow_start_ns": 111}
GOFLOW2_V2 |= {"time_flow_end_ns": 112}

_USUAL: dict[str, int | bytes] = {
    "type": 1, "sampling_rate": 1000, "sequence_num": 77, "src_addr": bytes([10, 0, 0, 1]),
    "dst_addr": bytes([10, 0, 0, 2]), "bytes": 1500, "packets": 1, "sampler_address": bytes([192, 0, 2, 1]),
    "src_as": 64500, "dst_as": 64501,
    "in_if": 3, "out_if": 4, "proto": 6, "src_port": 40000, "dst_port": 443, "ip_ttl": 61, "tcp_flags": 16,
    "etype": 0x800,
}  # fmt: skip


def varint(number: int) -> bytes:
    """Return a non-negative number as a protobuf varint."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def field(number: int, value: int | bytes) -> bytes:
    """Return one protobuf field: a varint, or length-delimited where the value is bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def record(numbers: Mapping[str, int], values: Mapping[str, int | bytes | None]) -> bytes:
    """Return a record in field order. None leaves a field out; zero is written, which proto3 permits."""
    known = sorted((numbers[name], value) for name, value in values.items() if value is not None)
    return b"".join(field(number, value) for number, value in known)


def delimited(*records: bytes) -> bytes:
    """Return the records end to end, each behind its length."""
    return b"".join(varint(len(one)) + one for one in records)


def goflow2_v2(**overrides: int | bytes | None) -> bytes:
    """Return a bare goflow2 v2 record of one TCP packet, received at T0."""
    times = {"time_received_ns": T0_NS, "time_flow_start_ns": T0_NS, "time_flow_end_ns": T0_NS}
    return record(GOFLOW2_V2, _USUAL | times | overrides)


def goflow2_v1(**overrides: int | bytes | None) -> bytes:
    """Return a bare goflow2 v1 record: seconds, and flow times in milliseconds beside them."""
    times = {"time_received": T0_S, "time_flow_start": T0_S - 2, "time_flow_end": T0_S - 1}
    times |= {"time_flow_start_ms": T0_S * 1000 - 1750, "time_flow_end_ms": T0_S * 1000 - 250}
    return record(GOFLOW2_V1, _USUAL | times | overrides)


def goflow_v3(**overrides: int | bytes | None) -> bytes:
    """Return a bare GoFlow v3 record: whole seconds, fields 63 and 64 being about PPP."""
    times = {"time_received": T0_S, "time_flow_start": T0_S - 2, "time_flow_end": T0_S - 1}
    return record(GOFLOW_V3, _USUAL | times | {"has_ppp": 1, "ppp_address_control": 0xFF03} | overrides)


def flows(rows: int | None = None, **columns: Any) -> FlowBatch:
    """Return plausible rows, one second apart from T0; a column is one value for all, or one for each.

    Addresses are texts. Without ``rows``, there are as many as the longest column given, or one.
    """
    given = [len(v) for v in columns.values() if isinstance(v, Sequence | np.ndarray) and not isinstance(v, str)]
    count = rows if rows is not None else max(given, default=1)
    times = T0_NS + np.arange(count, dtype=np.int64) * 10**9
    usual: dict[str, Any] = {
        "origin_offset": np.arange(count), "time_ns": times,
        "exporter": "192.0.2.1", "src_addr": "10.0.0.1", "dst_addr": "10.0.0.2", "src_port": 40000,
        "dst_port": 443, "proto": 6, "ip_ttl": 61, "tcp_flags": 16, "in_if": 3, "out_if": 4, "bytes": 1500,
        "packets": 1, "sampling_rate": 1000, "flow_type": FlowType.SFLOW_5,
    }  # fmt: skip
    merged = usual | columns
    for name in ("time_received_ns", "time_flow_start_ns", "time_flow_end_ns"):
        merged.setdefault(name, merged["time_ns"])
    return FlowBatch.of(count, {name: _column(name, value, count) for name, value in merged.items()})


def _column(name: str, value: Any, rows: int) -> Any:
    if COLUMNS[name].width == 2:
        texts = [value] * rows if isinstance(value, str) else value
        return np.array([address_words(text) for text in texts], np.uint64).reshape(rows, 2)
    return np.broadcast_to(np.asarray(value, COLUMNS[name].dtype), (rows,))
