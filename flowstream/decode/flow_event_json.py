"""Connection events as flat JSON, one object each: the normalised form a log pipeline gives sensor events.

Counts are two-way: ``out_*`` from source to destination, ``in_*`` back. IPv4 addresses are numbers
(``src_ip4``), IPv6 addresses text (``src_ip6``). Times are in seconds and may have a fraction, which is read
from its digits and rounded half up at the nanosecond. Numbers may be strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from flowstream.batch import V4_MAPPED, FlowBatch, FlowType
from flowstream.decode import json_lines, text
from flowstream.decode.json_lines import U16, U32, U63, U64, Text, attributes, numbers
from flowstream.decode.payloads import DecodeContext, Decoded, Payloads
from flowstream.decode.time_kernel import ABSENT, FINE, LAST_NS

WIRE_FORMAT = "flow-event-json"

_ABSENT = msgspec.Raw()


class _Event(msgspec.Struct, gc=False):
    eventid: U64 = 0
    src_ip4: U32 = 0
    dst_ip4: U32 = 0
    src_ip6: Text = None
    dst_ip6: Text = None
    src_ip: Text = None
    dst_ip: Text = None
    src_port: U16 = 0
    dst_port: U16 = 0
    nproto: int | Text = None
    out_bytes: U63 = 0
    out_packets: U63 = 0
    in_bytes: U63 = 0
    in_packets: U63 = 0
    eventtime: msgspec.Raw = _ABSENT
    duration: msgspec.Raw = _ABSENT
    dvc_time: msgspec.Raw = _ABSENT
    timestamp: msgspec.Raw = msgspec.field(name="@timestamp", default=_ABSENT)


_DECODER = msgspec.json.Decoder(_Event, strict=False)


def decode(payloads: Payloads, context: DecodeContext) -> Decoded:  # noqa: ARG001 - the contract of a decoder
    """Decode events to rows, ``time_ns`` being ``eventtime``, or ``@timestamp`` where that is absent.

    Rejections: EMPTY, TOO_LARGE, TRUNCATED and MALFORMED JSON, OUT_OF_RANGE numbers, NO_TIME,
    TIME_OUT_OF_RANGE (before 1970 or after 2261), NO_ADDRESS. Null messages are skipped.
    """
    objects = json_lines.parse(payloads, _DECODER)
    events = objects.values
    rows = text.Rows(len(events))
    start = rows.event_time(
        text.first_known(
            text.times(attributes(events, "eventtime"), text.SECONDS),
            text.times(attributes(events, "timestamp"), text.SECONDS),
        )
    )
    duration = rows.flow_time(text.times(attributes(events, "duration"), text.SECONDS), np.zeros(len(events), np.int64))
    columns = {
        "time_ns": start,
        "time_received_ns": rows.flow_time(text.times(attributes(events, "dvc_time"), text.SECONDS), start),
        "time_flow_start_ns": start,
        "time_flow_end_ns": start + np.minimum(duration, LAST_NS - start),
        "record_id": rows.record_id(attributes(events, "eventid")),
        "src_addr": _addresses(rows, events, "src", required=True),
        "dst_addr": _addresses(rows, events, "dst", required=False),
        "src_port": numbers(events, "src_port", "u2"),
        "dst_port": numbers(events, "dst_port", "u2"),
        "proto": rows.proto(attributes(events, "nproto")),
        "bytes": numbers(events, "out_bytes", "i8"),
        "packets": numbers(events, "out_packets", "i8"),
        "in_bytes": numbers(events, "in_bytes", "i8"),
        "in_packets": numbers(events, "in_packets", "i8"),
        "sampling_rate": np.ones(len(events), np.uint32),
        "flow_type": np.full(len(events), FlowType.EVENT, np.uint8),
    }
    return json_lines.conclude(objects, FlowBatch.of(len(events), columns), rows.reasons)


def _addresses(rows: text.Rows, events: Sequence[Any], side: str, *, required: bool) -> NDArray[np.uint64]:
    """Return the words of one side: the number if there is one, else the IPv6 text, else the other text."""
    numbered = numbers(events, f"{side}_ip4", "u8").astype(np.uint64)
    words = np.stack([np.zeros_like(numbered), numbered | np.uint64(V4_MAPPED)], axis=1)
    rest = numbered == 0
    if not rest.any():
        return words
    v6_words, v6_statuses = text.addresses(attributes(events, f"{side}_ip6"))
    any_words, any_statuses = text.addresses(attributes(events, f"{side}_ip"))
    v6_absent: NDArray[np.bool_] = np.equal(v6_statuses, ABSENT)
    words[rest] = np.where(v6_absent[:, None], any_words, v6_words)[rest]
    statuses = np.where(v6_absent, any_statuses, v6_statuses)
    statuses[~rest] = FINE
    rows.judge_addresses(statuses, required=required)
    return words
