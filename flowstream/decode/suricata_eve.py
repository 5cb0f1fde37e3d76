"""Suricata's eve.json: the ``flow`` and ``netflow`` events of it.

``flow`` is two-way: to the server is our direction, to the client the way back. ``netflow`` is one-way, one
event for each. Events of other types carry no flow record and are passed over, whatever their other keys
hold. AWS Network Firewall wraps each event as ``{"event": {...}}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from flowstream.batch import Array, FlowBatch, FlowType
from flowstream.decode import json_lines, text
from flowstream.decode.json_lines import U8, U16, U63, U64, Text, attributes, numbers
from flowstream.decode.payloads import DecodeContext, Decoded, Payloads
from flowstream.errors import Reason

WIRE_FORMAT = "suricata-eve"

_ABSENT = msgspec.Raw()


class _Counters(msgspec.Struct, gc=False):
    """The ``flow`` and the ``netflow`` object: the one has the keys that the other lacks."""

    bytes_toserver: U63 = 0
    pkts_toserver: U63 = 0
    bytes_toclient: U63 = 0
    pkts_toclient: U63 = 0
    bytes: U63 = 0
    pkts: U63 = 0
    min_ttl: U8 = 0
    start: msgspec.Raw = _ABSENT
    end: msgspec.Raw = _ABSENT


class _Tcp(msgspec.Struct, gc=False):
    tcp_flags: Text = None


_NO_TCP = _Tcp()


class _Event(msgspec.Struct, gc=False):
    event_type: str | None = None
    timestamp: msgspec.Raw = _ABSENT
    flow_id: U64 = 0
    src_ip: Text = None
    src_port: U16 = 0
    dest_ip: Text = None
    dest_port: U16 = 0
    proto: int | Text = None
    flow: _Counters | None = None
    netflow: _Counters | None = None
    tcp: _Tcp | None = None


class _Line(_Event, gc=False):
    event: _Event | None = None  # a wrapped one


class _TypeOnly(msgspec.Struct, gc=False):
    event_type: Any = None
    event: Any = None


_DECODER = msgspec.json.Decoder(_Line, strict=False)
_TYPE_DECODER = msgspec.json.Decoder(_TypeOnly)
_NO_COUNTERS = _Counters()
_ONE_WAY, _TWO_WAY = 1, 2
_KINDS = {"netflow": _ONE_WAY, "flow": _TWO_WAY}


def decode(payloads: Payloads, context: DecodeContext) -> Decoded:  # noqa: ARG001 - the contract of a decoder
    """Decode flow and netflow events to rows, ``time_ns`` being ``timestamp``, else flow end or start.

    A message with no event of these types is skipped, as is a null one. Rejections: EMPTY, TOO_LARGE,
    TRUNCATED and MALFORMED JSON, OUT_OF_RANGE numbers, NO_TIME, TIME_OUT_OF_RANGE (before 1970 or after
    2261), NO_ADDRESS.
    """
    objects = json_lines.parse(payloads, _DECODER, _none_of_ours)
    events = _column(objects.values)
    wrapped = _column(attributes(objects.values, "event"))
    events = np.where(wrapped == None, events, wrapped)  # noqa: E711 - element by element
    types = attributes(events.tolist(), "event_type")
    kinds = np.fromiter(map(_KINDS.get, types, repeat(0)), np.uint8, len(types))
    ours = kinds != 0
    objects = json_lines.Objects(events[ours].tolist(), objects.message[ours], objects.reasons)
    flows, reasons = _rows(objects.values, kinds[ours] == _TWO_WAY)
    return json_lines.conclude(objects, flows, reasons)


def _none_of_ours(line: bytes) -> _Line | None:
    """Return an empty event for a line that is good JSON of another event type, None for any other line."""
    try:
        kind = _TYPE_DECODER.decode(line)
    except ValueError:
        return None
    event_type = kind.event.get("event_type") if isinstance(kind.event, dict) else kind.event_type
    return None if isinstance(event_type, str) and event_type in _KINDS else _Line()


def _column(values: Sequence[Any]) -> NDArray[np.object_]:
    return np.fromiter(values, np.object_, len(values))


@lru_cache(maxsize=1 << 10)
def _tcp_flags(text: str | None) -> int:
    try:
        flags = int(text, 16) if text else 0
    except ValueError:
        return -1
    return flags if 0 <= flags <= 0xFFFF else -1


def _rows(events: Sequence[Any], two_way: NDArray[np.bool_]) -> tuple[FlowBatch, NDArray[np.uint8]]:
    rows = text.Rows(len(events))
    kind = np.where(two_way, _column(attributes(events, "flow")), _column(attributes(events, "netflow")))
    lacking = kind == None  # noqa: E711 - element by element
    rows.reject(lacking, Reason.MALFORMED)
    kind[lacking] = _NO_COUNTERS
    counters: list[_Counters] = kind.tolist()
    start = text.times(attributes(counters, "start"), text.SECONDS)
    end = text.times(attributes(counters, "end"), text.SECONDS)
    received = rows.event_time(text.first_known(text.times(attributes(events, "timestamp"), text.SECONDS), end, start))
    tcp = _column(attributes(events, "tcp"))
    tcp[tcp == None] = _NO_TCP  # noqa: E711 - element by element
    tcp_flags = np.fromiter(map(_tcp_flags, attributes(tcp.tolist(), "tcp_flags")), np.int32, len(tcp))
    rows.reject(tcp_flags < 0, Reason.MALFORMED)

    def count(of_flow: str, of_netflow: str) -> Array:
        return np.where(two_way, numbers(counters, of_flow, "i8"), numbers(counters, of_netflow, "i8"))

    columns = {
        "time_ns": received,
        "time_received_ns": received,
        "time_flow_start_ns": rows.flow_time(start, received),
        "time_flow_end_ns": rows.flow_time(end, received),
        "record_id": rows.record_id(attributes(events, "flow_id")),
        "src_addr": rows.address(attributes(events, "src_ip"), required=True),
        "dst_addr": rows.address(attributes(events, "dest_ip")),
        "src_port": numbers(events, "src_port", "u2"),
        "dst_port": numbers(events, "dest_port", "u2"),
        "proto": rows.proto(attributes(events, "proto")),
        "ip_ttl": np.where(two_way, 0, numbers(counters, "min_ttl", "u1")),
        "tcp_flags": tcp_flags,
        "bytes": count("bytes_toserver", "bytes"),
        "packets": count("pkts_toserver", "pkts"),
        "in_bytes": np.where(two_way, numbers(counters, "bytes_toclient", "i8"), 0),
        "in_packets": np.where(two_way, numbers(counters, "pkts_toclient", "i8"), 0),
        "sampling_rate": np.ones(len(events), np.uint32),
        "flow_type": np.full(len(events), FlowType.EVENT, np.uint8),
    }
    return FlowBatch.of(len(events), columns), rows.reasons
