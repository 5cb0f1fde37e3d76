"""The compiled walk over GoFlow-family protobuf messages: bytes in, one row of numbers per flow record out.

Encoding rules: protobuf.dev/programming-guides/encoding (varints of at most ten bytes, the
last value of a repeated scalar wins, unknown fields are skipped by wire type). Every read is checked
against the end of its record, because the bytes come from a network.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import bare_njit, inline_njit
from flowstream.decode.protobuf_fields import (
    ADDRESS_SLOTS,
    FIXED_BYTES,
    LAST_FIELD,
    LIMITS,
    MILLISECONDS_MIN,
    NO_WIRE_TYPE,
    NUMBER_SLOT_OF_TAG,
    NUMBER_TAGS,
    RECORD_BYTES_MIN,
    ROW_WIDTH,
    SLOT_OF_FIELD,
    SLOTS,
    TAG_MAX,
    TIME_MAX,
)  # fmt: skip
from flowstream.errors import Reason

_TRUNCATED: Final = int(Reason.TRUNCATED)
_MALFORMED: Final = int(Reason.MALFORMED)
_NO_TIME: Final = int(Reason.NO_TIME)
_NO_ADDRESS: Final = int(Reason.NO_ADDRESS)
_OUT_OF_RANGE: Final = int(Reason.OUT_OF_RANGE)
_EMPTY: Final = int(Reason.EMPTY)
_UNSOUND: Final = (_TRUNCATED, _MALFORMED)

_SRC: Final = SLOTS["src_addr"]
_RECEIVED_S: Final = SLOTS["received_s"]
_START_S: Final = SLOTS["flow_start_s"]
_END_S: Final = SLOTS["flow_end_s"]
_START_MS: Final = SLOTS["flow_start_ms"]
_END_MS: Final = SLOTS["flow_end_ms"]
_RECEIVED_NS: Final = SLOTS["time_received_ns"]
_START_NS: Final = SLOTS["time_flow_start_ns"]
_END_NS: Final = SLOTS["time_flow_end_ns"]
_ORIGIN_OFFSET: Final = SLOTS["origin_offset"]
_ORIGIN_ROW: Final = SLOTS["origin_row"]

_Bytes = NDArray[np.uint8]
_Rows = NDArray[np.uint64]
_Index = int | np.int64


@inline_njit
def _varint(buffer: _Bytes, position: _Index, end: _Index) -> tuple[np.uint64, _Index]:
    """Return (value, position after it); the position is minus a Reason where there is no varint."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while position < end:
        byte = np.uint64(buffer[position])
        position += 1
        # The tenth byte has room for one bit, and no successor.
        if shift == np.uint64(63) and byte > np.uint64(1):
            return value, -_MALFORMED
        value |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return value, position
        shift += np.uint64(7)
    return value, -_TRUNCATED


@inline_njit
def _address(buffer: _Bytes, position: _Index, length: _Index, rows: _Rows, at: _Index, slot: _Index) -> bool:
    """Write an address of 0, 4 or 16 bytes as two words; return False for any other length."""
    high = np.uint64(0)
    low = np.uint64(0)
    if length == 4:
        for index in range(position, position + 4):
            low = (low << np.uint64(8)) | np.uint64(buffer[index])
        low |= np.uint64(0xFFFF_0000_0000)
    elif length == 16:
        for index in range(position, position + 8):
            high = (high << np.uint64(8)) | np.uint64(buffer[index])
            low = (low << np.uint64(8)) | np.uint64(buffer[index + 8])
    rows[at, slot] = high
    rows[at, slot + 1] = low
    return length in (0, 4, 16)  # a tuple: numba builds a set anew at every call


@inline_njit
def _in_ns(value: np.uint64, unit_ns: np.uint64) -> np.uint64:
    """Return ``value * unit_ns``, or one more than any time where that would not fit."""
    if value > TIME_MAX // unit_ns:
        return TIME_MAX + np.uint64(1)
    return value * unit_ns


@inline_njit
def _settle_times(rows: _Rows, at: _Index) -> int:
    """Bring the times of whichever schema this is to nanoseconds; return 0 or a Reason.

    A nanosecond receive time means goflow2 v2, and field 38 then holds something else. Flow times that do
    not fit are clipped, not refused: goflow2 before v2.2.3 passed NTP-format times on as nanoseconds, and
    ``normalise`` replaces what lies that far away.
    """
    if rows[at, _RECEIVED_NS] == 0:
        if rows[at, _RECEIVED_S] == 0:
            return _NO_TIME
        second, millisecond = np.uint64(10**9), np.uint64(10**6)
        rows[at, _RECEIVED_NS] = _in_ns(rows[at, _RECEIVED_S], second)
        start_ms, end_ms = rows[at, _START_MS], rows[at, _END_MS]
        fine_start, fine_end = start_ms > MILLISECONDS_MIN, end_ms > MILLISECONDS_MIN
        rows[at, _START_NS] = _in_ns(start_ms, millisecond) if fine_start else _in_ns(rows[at, _START_S], second)
        rows[at, _END_NS] = _in_ns(end_ms, millisecond) if fine_end else _in_ns(rows[at, _END_S], second)
    for slot in (_START_NS, _END_NS):
        if rows[at, slot] == 0:
            rows[at, slot] = rows[at, _RECEIVED_NS]
        elif rows[at, slot] > TIME_MAX:
            rows[at, slot] = TIME_MAX
    return 0


@inline_njit
def _judge(rows: _Rows, at: _Index, addressed: bool) -> _Index:  # noqa: FBT001 - compiled code takes no keywords
    """Settle the times of a row that was read to its end; return 0 or the first Reason to refuse it."""
    reason: _Index = _settle_times(rows, at)
    if reason:
        return reason
    if not addressed:
        return _NO_ADDRESS
    too_large = np.uint64(0)
    for slot in range(ADDRESS_SLOTS, ROW_WIDTH):  # without an exit, so that it compiles to vector instructions
        too_large |= np.uint64(rows[at, slot] > LIMITS[slot])
    return _OUT_OF_RANGE if too_large else 0


@inline_njit
def _read_record(  # noqa: C901 - see the comment on tags
    buffer: _Bytes, position: _Index, end: _Index, rows: _Rows, at: _Index
) -> _Index:
    """Read the record ``buffer[position:end]`` into ``rows[at]``; return 0 or a Reason."""
    for slot in range(ROW_WIDTH):
        rows[at, slot] = 0
    has_source = False
    odd_addresses = 0  # one bit per address, so that a later, good duplicate clears it
    while position < end:
        # Nearly every tag takes one byte or two.
        tag = np.uint64(buffer[position])
        if tag < np.uint64(0x80):
            position += 1
        elif position + 1 < end and buffer[position + 1] < 0x80:
            tag = tag & np.uint64(0x7F) | np.uint64(buffer[position + 1]) << np.uint64(7)
            position += 2
        else:
            tag, position = _varint(buffer, position, end)
            if position < 0:
                return -position
        if tag < np.uint64(NUMBER_TAGS) and NUMBER_SLOT_OF_TAG[tag] >= 0:
            number, position = _varint(buffer, position, end)
            if position < 0:
                return -position
            rows[at, NUMBER_SLOT_OF_TAG[tag]] = number
            continue
        wire_type = np.int64(tag & np.uint64(7))
        number = FIXED_BYTES[wire_type]
        if tag < np.uint64(8) or tag > TAG_MAX or number == NO_WIRE_TYPE:
            return _MALFORMED
        if number == 0:
            number, position = _varint(buffer, position, end)
            if position < 0:
                return -position
        field = np.int64(tag >> np.uint64(3))
        slot = SLOT_OF_FIELD[field] if field <= LAST_FIELD else -1
        if slot >= 0 and (wire_type != 2 or slot >= ADDRESS_SLOTS):
            return _MALFORMED  # an address that is not bytes, or a number that is not a varint
        if wire_type == 0:
            continue
        if number > np.uint64(end - position):
            return _TRUNCATED
        length = np.int64(number)
        if slot >= 0:
            fits = _address(buffer, position, length, rows, at, slot)
            odd_addresses = odd_addresses & ~(1 << slot) | (0 if fits else 1 << slot)
            has_source = length != 0 if slot == _SRC else has_source
        position += length
    reason: _Index = _judge(rows, at, has_source and odd_addresses == 0)
    return reason


@inline_njit
def _run_length(buffer: _Bytes, position: _Index, end: _Index) -> _Index:
    """Return how many length-delimited records fill ``buffer[position:end]`` exactly; 0 if they do not."""
    records = 0
    shortest = end - position
    while position < end:
        size, position = _varint(buffer, position, end)
        if position < 0 or size > np.uint64(end - position):
            return 0
        shortest = min(shortest, np.int64(size))
        position += np.int64(size)
        records += 1
    return records if records == 1 or shortest >= RECORD_BYTES_MIN else 0


@bare_njit
def count_rows(buffer: _Bytes, bounds: NDArray[np.int64]) -> _Index:
    """Return how many rows the messages give at most: one each, or one per nine bytes of a run."""
    rows: _Index = 0
    for message in range(len(bounds) - 1):
        rows += max(1, _run_length(buffer, bounds[message], bounds[message + 1]))
    return rows


@bare_njit
def _read_run(buffer: _Bytes, position: _Index, end: _Index, rows: _Rows, filled: _Index) -> _Index:
    """Read a run of delimited records (see ``_run_length``) into ``rows[filled:]``; return 0 or a Reason."""
    while position < end:
        size, position = _varint(buffer, position, end)
        reason: _Index = _read_record(buffer, position, position + np.int64(size), rows, filled)
        if reason:
            return reason
        position += np.int64(size)
        filled += 1
    return 0


@bare_njit
def read_messages(buffer: _Bytes, bounds: NDArray[np.int64], rows: _Rows, reasons: NDArray[np.uint8]) -> _Index:
    """Decode every message; fill ``rows`` and ``reasons`` (0: it gave rows); return the number of rows.

    ``rows`` has ``count_rows`` rows of ``ROW_WIDTH``. A message is one delimited record where its varint
    prefix is exactly the length of the rest, else a bare record, else a run of delimited records: whichever
    of them decodes first, so that a bare record whose first bytes happen to spell its length is not lost.
    Where none does, the reason is the one of the first reading whose structure was sound.
    """
    filled: _Index = 0
    for message in range(len(bounds) - 1):
        start, end = bounds[message], bounds[message + 1]
        if start == end:
            reasons[message] = _EMPTY
            continue
        run = _run_length(buffer, start, end)
        records: _Index = 1
        reason: _Index = 0
        second: _Index = 0
        if run == 1:
            reason = _read_run(buffer, start, end, rows, filled)
            if reason:
                second = _read_record(buffer, start, end, rows, filled)
        else:
            reason = second = _read_record(buffer, start, end, rows, filled)
            if reason and run:
                second = _read_run(buffer, start, end, rows, filled)
                records = 1 if second else run
        if second == 0 or (reason in _UNSOUND and second not in _UNSOUND):
            reason = second
        reasons[message] = reason
        if reason == 0:
            for index in range(records):
                rows[filled + index, _ORIGIN_OFFSET] = message
                rows[filled + index, _ORIGIN_ROW] = index
            filled += records
    return filled
