"""goflow2's JSON, both generations.

goflow2 v2 writes snake_case keys and times in nanoseconds; its shipped mapping renders the receive time as
RFC 3339 text. v1 writes CamelCase keys, or snake_case ones with ``-format.tag=json``, and times in seconds,
flow times also in milliseconds. An object that has ``SrcAddr`` and no ``src_addr`` is read as CamelCase.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import compress
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from flowstream.batch import FlowBatch, FlowType
from flowstream.decode import json_lines, text
from flowstream.decode.json_lines import U8, U16, U32, U63, Text, attributes, numbers
from flowstream.decode.payloads import DecodeContext, Decoded, Payloads

WIRE_FORMAT = "goflow-json"

_NUMBERS = {
    "src_port": U16,
    "dst_port": U16,
    "ip_ttl": U8,
    "tcp_flags": U16,
    "src_as": U32,
    "dst_as": U32,
    "in_if": U32,
    "out_if": U32,
    "bytes": U63,
    "packets": U63,
    "sampling_rate": U32,
    "sequence_num": U32,
}
_OLD_SPELLINGS = (  # as goflow2 v1.0 and v1.1 have them
    ("IPTTL", "ip_ttl", U8),
    ("TCPFlags", "tcp_flags", U16),
    ("SrcAS", "src_as", U32),
    ("DstAS", "dst_as", U32),
)
_TEXTS = ("src_addr", "dst_addr", "sampler_address")
_NAMED = ("proto", "type")  # a name or a number
_TIMES = (
    *("time_received_ns", "time_flow_start_ns", "time_flow_end_ns"),  # goflow2 v2
    *("time_received", "time_flow_start", "time_flow_end", "time_flow_start_ms", "time_flow_end_ms"),  # v1
)
_TYPES = {kind.name: kind.value for kind in FlowType if kind <= FlowType.IPFIX}


def _snake(key: str) -> str:
    return key


@lru_cache(maxsize=64)
def _camel(key: str) -> str:
    return "".join(map(str.capitalize, key.split("_")))


def _fields() -> list[tuple[str, Any, Any]]:
    fields: list[tuple[str, Any, Any]] = []
    for key in (_snake, _camel):
        fields += [(key(name), kind, 0) for name, kind in _NUMBERS.items()]
        fields += [(key(name), Text, None) for name in _TEXTS]
        fields += [(key(name), int | Text, None) for name in _NAMED]
        fields += [(key(name), msgspec.Raw, msgspec.Raw()) for name in _TIMES]
    return [*fields, *((name, kind, 0) for name, _, kind in _OLD_SPELLINGS)]


_DECODER = msgspec.json.Decoder(msgspec.defstruct("GoFlowJson", _fields(), gc=False), strict=False)


def decode(payloads: Payloads, context: DecodeContext) -> Decoded:  # noqa: ARG001 - the contract of a decoder
    """Decode goflow2 JSON to rows, ``time_ns`` being the receive time, else flow end, else flow start.

    Rejections: EMPTY, TOO_LARGE, TRUNCATED and MALFORMED JSON, OUT_OF_RANGE numbers, NO_TIME,
    TIME_OUT_OF_RANGE (before 1970 or after 2261), NO_ADDRESS. Null messages are skipped.
    """
    objects = json_lines.parse(payloads, _DECODER)
    values = objects.values
    camel = np.fromiter(map(bool, attributes(values, "SrcAddr")), np.bool_, len(values))
    camel &= ~np.fromiter(map(bool, attributes(values, "src_addr")), np.bool_, len(values))
    if not camel.any():
        return json_lines.conclude(objects, *_rows(values, _snake))
    if camel.all():
        return json_lines.conclude(objects, *_rows(values, _camel))
    snake_flows, snake_reasons = _rows(list(compress(values, ~camel)), _snake)
    camel_flows, camel_reasons = _rows(list(compress(values, camel)), _camel)
    # Both kinds in one batch: from "snake_case first" back to the order of the messages.
    order = np.argsort(np.argsort(camel, kind="stable"))
    flows = FlowBatch.concat([snake_flows, camel_flows]).take(order)
    return json_lines.conclude(objects, flows, np.concatenate([snake_reasons, camel_reasons])[order])


@lru_cache(maxsize=256)
def _flow_type(value: int | str | None) -> int:
    if isinstance(value, int):
        return value if 0 <= value <= FlowType.IPFIX else FlowType.UNKNOWN
    return _TYPES.get(value or "", FlowType.UNKNOWN)


def _rows(objects: Sequence[Any], key: Callable[[str], str]) -> tuple[FlowBatch, NDArray[np.uint8]]:
    count = len(objects)
    rows = text.Rows(count)
    columns = {name: numbers(objects, key(name), "i8") for name in _NUMBERS}
    if key is _camel:
        for spelling, name, _ in _OLD_SPELLINGS:
            columns[name] |= numbers(objects, spelling, "i8")

    def reading(name: str, places: int) -> text.Reading:
        return text.times(attributes(objects, key(name)), places)

    start = text.first_known(
        reading("time_flow_start_ns", text.NANOSECONDS),
        reading("time_flow_start_ms", text.MILLISECONDS),
        reading("time_flow_start", text.SECONDS),
    )
    end = text.first_known(
        reading("time_flow_end_ns", text.NANOSECONDS),
        reading("time_flow_end_ms", text.MILLISECONDS),
        reading("time_flow_end", text.SECONDS),
    )
    received = rows.event_time(
        text.first_known(
            reading("time_received_ns", text.NANOSECONDS), reading("time_received", text.SECONDS), end, start
        )
    )
    columns |= {
        "time_ns": received,
        "time_received_ns": received,
        "time_flow_start_ns": rows.flow_time(start, received),
        "time_flow_end_ns": rows.flow_time(end, received),
        "src_addr": rows.address(attributes(objects, key("src_addr")), required=True),
        "dst_addr": rows.address(attributes(objects, key("dst_addr"))),
        "exporter": rows.address(attributes(objects, key("sampler_address"))),
        "proto": rows.proto(attributes(objects, key("proto"))),
        "flow_type": np.fromiter(map(_flow_type, attributes(objects, key("type"))), np.uint8, count),
    }
    return FlowBatch.of(count, columns), rows.reasons
