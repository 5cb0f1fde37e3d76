"""Avro flow records: our own ``flow_record.v1``, or a writer's schema with fields of the same names.

Framing is told message by message: Confluent's (a zero byte and a schema id), single-object (``c3 01`` and a
fingerprint), or none. A bare message of ours cannot be taken for a framed one: it begins with its receive
time, and neither prefix is a plausible one. A foreign bare one could be; where ``bare_schema`` is given, it
is therefore used also for messages whose prefix names no schema that we have.

Messages written with exactly our schema (same fingerprint) are read by one kernel, those of other schemas by
fastavro, message by message.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowstream import schemas
from flowstream.batch import FlowBatch, FlowType
from flowstream.decode import avro_kernel, json_lines, text
from flowstream.decode.avro_writers import ADDRESSES, Writer, writer
from flowstream.decode.payloads import DecodeContext, Decoded, Payloads
from flowstream.decode.time_kernel import ABSENT
from flowstream.errors import Reason

WIRE_FORMAT = "avro"

_LIMITS: Final = {
    "src_port": 0xFFFF,
    "dst_port": 0xFFFF,
    "proto": 0xFF,
    "ip_ttl": 0xFF,
    "tcp_flags": 0xFFFF,
    "src_as": 0xFFFF_FFFF,
    "dst_as": 0xFFFF_FFFF,
    "in_if": 0xFFFF_FFFF,
    "out_if": 0xFFFF_FFFF,
    "record_id": 2**63 - 1,
    "bytes": 2**63 - 1,
    "packets": 2**63 - 1,
    "in_bytes": 2**63 - 1,
    "in_packets": 2**63 - 1,
    "sampling_rate": 0xFFFF_FFFF,
    "sequence_num": 0xFFFF_FFFF,
}
_NUMBERS: Final = (*_LIMITS, "time_received_ns", "time_flow_start_ns", "time_flow_end_ns", "flow_type")
_TYPE_NAMES: Final = {kind.value: kind.name for kind in FlowType}
_FLOW_TYPE: Final = _NUMBERS.index("flow_type")


class _Table:
    """Records as they come from either reader, before judgement: one column of each array per message."""

    def __init__(self, rows: int) -> None:
        self.numbers = np.zeros((len(_NUMBERS), rows), np.int64)
        self.words = np.zeros((len(ADDRESSES), rows, 2), np.uint64)
        self.statuses = np.full((len(ADDRESSES), rows), ABSENT, np.uint8)
        self.reasons = np.zeros(rows, np.uint8)

    def put(self, where: NDArray[np.int64], part: _Table) -> None:
        """Set the records at these positions."""
        self.numbers[:, where] = part.numbers
        self.words[:, where] = part.words
        self.statuses[:, where] = part.statuses
        self.reasons[where] = part.reasons


@cache
def _symbols() -> tuple[str, ...]:
    fields = {field["name"]: field["type"] for field in schemas.load("flow_record")["fields"]}
    return tuple(fields["flow_type"]["symbols"])


@cache
def _program() -> NDArray[np.int64]:
    """Return our schema as steps of the kernel; KeyError where it has a type that the kernel does not."""
    kinds = {
        "int": avro_kernel.NUMBER,
        "long": avro_kernel.NUMBER,
        "null|long": avro_kernel.OPTIONAL_NUMBER,
        "bytes": avro_kernel.ADDRESS,
        "null|bytes": avro_kernel.OPTIONAL_ADDRESS,
    }
    steps = []
    for field in schemas.load("flow_record")["fields"]:
        name, kind = field["name"], field["type"]
        slot = (ADDRESSES if name in ADDRESSES else _NUMBERS).index(name)
        if isinstance(kind, dict):
            steps.append((avro_kernel.ENUM, slot, len(kind["symbols"])))
        else:
            steps.append((kinds["|".join(kind) if isinstance(kind, list) else kind], slot, 0))
    return np.array(steps, np.int64)


def decode(payloads: Payloads, context: DecodeContext) -> Decoded:
    """Decode Avro messages to rows, one each, ``time_ns`` being the receive time.

    Null messages are skipped. Rejections: EMPTY, TOO_LARGE, UNKNOWN_SCHEMA (framed with an id or fingerprint
    we do not have, or a writer's schema that holds no flow records), TRUNCATED, MALFORMED (also bytes left
    over), NO_TIME, TIME_OUT_OF_RANGE (negative), NO_ADDRESS, OUT_OF_RANGE; the first of them in this order.
    """
    sizes = np.diff(payloads.bounds)
    reasons = np.zeros(len(payloads), np.uint8)
    reasons[(sizes == 0) & ~payloads.null] = Reason.EMPTY
    reasons[sizes > json_lines.MAX_PAYLOAD_BYTES] = Reason.TOO_LARGE
    messages = np.flatnonzero((reasons == 0) & ~payloads.null)
    table = _read(payloads, messages, context)
    rows = text.Rows(len(messages), table.reasons)
    flows = _flows(table, rows)
    return json_lines.conclude(json_lines.Objects([], messages, reasons), flows, rows.reasons)


def schema_ids(payloads: Payloads) -> set[int]:
    """Return the ids of the messages that look Confluent-framed."""
    kinds, ids = _framings(payloads)
    return set(np.unique(ids[kinds == avro_kernel.CONFLUENT]).tolist())


def _framings(payloads: Payloads) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """Return the framing of each message, and the id or fingerprint in it."""
    kinds, ids = np.zeros(len(payloads), np.uint8), np.zeros(len(payloads), np.uint64)
    avro_kernel.framings(np.frombuffer(payloads.buffer, np.uint8), payloads.bounds, kinds, ids)
    return kinds, ids


def _read(payloads: Payloads, messages: NDArray[np.int64], context: DecodeContext) -> _Table:
    """Read the messages at these indices, each with the schema it was written with."""
    table = _Table(len(messages))
    buffer = np.frombuffer(payloads.buffer, np.uint8)
    kinds, ids = _framings(payloads)
    begins, ends = payloads.bounds[:-1][messages], payloads.bounds[1:][messages]
    groups = _by_writer(kinds[messages], ids[messages], context)
    for reader, chosen, prefix in groups:
        begins[chosen] += prefix
        if reader is None:
            table.reasons[chosen] = Reason.UNKNOWN_SCHEMA
        elif reader.is_ours:
            part = _Table(len(chosen))
            avro_kernel.read_records(
                buffer,
                begins[chosen],
                ends[chosen],
                _program(),
                part.numbers,
                part.words,
                part.statuses,
                part.reasons,
            )
            table.put(chosen, part)
        else:
            bodies = map(payloads.buffer.__getitem__, map(slice, begins[chosen].tolist(), ends[chosen].tolist()))
            table.put(chosen, _table_of([reader.read(body) for body in bodies]))
    return table


def _by_writer(
    kinds: NDArray[np.uint8], ids: NDArray[np.uint64], context: DecodeContext
) -> list[tuple[Writer | None, NDArray[np.int64], int]]:
    """Group messages by framing and schema: the writer (None where unknown), which, and bytes of framing."""
    ours = writer(schemas.load("flow_record"))
    bare = ours if context.bare_schema is None else writer(context.bare_schema)
    groups = []
    for kind in (avro_kernel.BARE, avro_kernel.CONFLUENT, avro_kernel.SINGLE_OBJECT):
        members = np.flatnonzero(kinds == kind)
        distinct, which = np.unique(ids[members], return_inverse=True)
        # Hostile messages may name as many ids as there are messages: all the unknown ones are one group.
        unknown = np.ones(len(members), np.bool_)
        for index, schema_id in enumerate(distinct.tolist()):
            if kind == avro_kernel.BARE:
                reader = bare
            elif kind == avro_kernel.SINGLE_OBJECT and schema_id == _our_id():
                reader = ours
            elif kind == avro_kernel.CONFLUENT and schema_id in context.writer_schemas:
                reader = writer(context.writer_schemas[schema_id])
            else:
                continue
            chosen = which == index
            unknown &= ~chosen
            groups.append((reader, members[chosen], avro_kernel.PREFIX_BYTES[kind]))
        groups.append((None if context.bare_schema is None else bare, members[unknown], 0))
    return groups


@cache
def _our_id() -> int:
    return int.from_bytes(schemas.fingerprint("flow_record"), "little")


def _table_of(records: Sequence[dict[str, Any] | Reason]) -> _Table:
    """Lay out what fastavro read."""
    table = _Table(len(records))
    table.reasons[:] = [record if isinstance(record, Reason) else 0 for record in records]
    good = np.flatnonzero(table.reasons == 0)
    rows = [record for record in records if not isinstance(record, Reason)]
    for slot, name in enumerate(_NUMBERS[:_FLOW_TYPE]):
        table.numbers[slot, good] = [row.get(name) or 0 for row in rows]
    table.numbers[_FLOW_TYPE, good] = [_flow_type_index(row.get("flow_type")) for row in rows]
    for slot, name in enumerate(ADDRESSES):
        words, statuses = text.mixed_addresses([row.get(name) for row in rows])
        table.words[slot, good], table.statuses[slot, good] = words, statuses
    return table


def _flow_type_index(value: int | str | None) -> int:
    """Return the position of a symbol in our enum, given by name or by number; UNKNOWN where it is none."""
    if isinstance(value, int):
        value = _TYPE_NAMES.get(value)
    return _symbols().index(value) if value in _symbols() else 0


def _flows(table: _Table, rows: text.Rows) -> FlowBatch:
    columns: dict[str, NDArray[Any]] = {name: table.numbers[_NUMBERS.index(name)] for name in _NUMBERS}
    received = columns["time_received_ns"]
    rows.reject(received == 0, Reason.NO_TIME)
    rows.reject(received < 0, Reason.TIME_OUT_OF_RANGE)
    for slot, name in enumerate(ADDRESSES):
        rows.judge_addresses(table.statuses[slot], required=name == "src_addr")
        columns[name] = table.words[slot]
    for name, limit in _LIMITS.items():
        rows.reject((columns[name] < 0) | (columns[name] > limit), Reason.OUT_OF_RANGE)
    for name in ("time_flow_start_ns", "time_flow_end_ns"):
        columns[name] = np.where(columns[name] == 0, received, columns[name])
    columns["time_ns"] = received
    columns["flow_type"] = _flow_type_numbers()[columns["flow_type"]]
    return FlowBatch.of(len(received), columns)


@cache
def _flow_type_numbers() -> NDArray[np.uint8]:
    return np.array([FlowType[symbol] for symbol in _symbols()], np.uint8)
