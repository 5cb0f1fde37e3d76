"""The compiled walk over GoFlow-family protobuf messages: bytes in, one row of numbers per flow record out.

A row is ``ROW_WIDTH`` unsigned 64-bit numbers, one per *slot*; ``SLOT_OF_FIELD`` says which field number
fills which slot. Encoding rules: protobuf.dev/programming-guides/encoding (varints of at most ten bytes, the
last value of a repeated scalar wins, unknown fields are skipped by wire type). Every read is checked
against the end of its record, because the bytes come from a network.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream.errors import Reason

# Addresses come first and take two slots each (high word, low word), so "slot < ADDRESS_SLOTS" tells
# the kinds apart. Slot names are those of the columns they end in, where there is one.
SLOT_NAMES: Final = (
    "exporter", "exporter_low", "src_addr", "src_addr_low", "dst_addr", "dst_addr_low",
    "sampling_rate", "sequence_num", "bytes", "packets", "in_if", "out_if", "proto", "src_port",
    "dst_port", "ip_ttl", "tcp_flags", "flow_type", "received_s", "flow_start_s", "flow_end_s",
    "flow_start_ms", "flow_end_ms", "time_received_ns", "time_flow_start_ns", "time_flow_end_ns",
    "origin_offset", "origin_row",
)  # fmt: skip
SLOTS: Final = {name: slot for slot, name in enumerate(SLOT_NAMES)}
ROW_WIDTH: Final = len(SLOTS)
ADDRESS_SLOTS: Final = 6

# Protobuf field number -> slot. The three schemas differ in the times only: goflow2 v2 reuses 38 for the IP
# flags, and 63 and 64 are HasPPP and PPPAddressControl in GoFlow v3.
FIELDS: Final = {
    1: "flow_type", 2: "received_s", 3: "sampling_rate", 4: "sequence_num", 5: "flow_end_s", 6: "src_addr",
    7: "dst_addr", 9: "bytes", 10: "packets", 11: "exporter", 18: "in_if", 19: "out_if", 20: "proto",
    21: "src_port", 22: "dst_port", 25: "ip_ttl", 26: "tcp_flags", 38: "flow_start_s", 63: "flow_start_ms",
    64: "flow_end_ms", 110: "time_received_ns", 111: "time_flow_start_ns", 112: "time_flow_end_ns",
}  # fmt: skip
LAST_FIELD: Final = max(FIELDS)
SLOT_OF_FIELD: Final = np.full(LAST_FIELD + 1, -1, np.int64)
for _number, _name in FIELDS.items():
    SLOT_OF_FIELD[_number] = SLOTS[_name]

_NO_WIRE_TYPE: Final = np.uint64(255)
# Bytes that a value takes, by wire type; 0: a varint says. Groups (3, 4) are in none of the schemas.
FIXED_BYTES: Final = np.array([0, 8, 0, 255, 255, 4, 255, 255], np.uint64)
TAG_MAX: Final = np.uint64(0xFFFF_FFFF)  # field numbers end at 2**29 - 1

_U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF
LIMITS: Final = np.full(ROW_WIDTH, _U64_MAX, np.uint64)  # the largest value a slot's column can hold
for _bits, _names in {
    8: "proto ip_ttl",
    16: "src_port dst_port tcp_flags",
    32: "sampling_rate sequence_num in_if out_if",
    63: "bytes packets time_received_ns",
}.items():
    for _name in _names.split():
        LIMITS[SLOTS[_name]] = (1 << _bits) - 1

# A record without a time and a source address is refused, and those two take eight bytes. Asking for them of
# every record of a run keeps the rows set aside for a message in proportion to its size.
RECORD_BYTES_MIN: Final = 8
# A flow_start_ms above this is a time (2001 and later); below, it is one of the fields GoFlow v3 has there.
MILLISECONDS_MIN: Final = np.uint64(10**12)
TIME_MAX: Final = np.uint64((1 << 63) - 1)

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


@njit(nogil=True, cache=True, error_model="numpy")
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


@njit(nogil=True, cache=True, error_model="numpy")
def _big_endian(buffer: _Bytes, position: _Index, width: int) -> np.uint64:
    word = np.uint64(0)
    for index in range(position, position + width):
        word = (word << np.uint64(8)) | np.uint64(buffer[index])
    return word


@njit(nogil=True, cache=True, error_model="numpy")
def _store_address(buffer: _Bytes, position: _Index, length: _Index, row: _Rows, slot: _Index) -> bool:
    """Write an address of 0, 4 or 16 bytes as two words; return False for any other length."""
    row[slot] = 0
    row[slot + 1] = 0
    if length == 4:
        row[slot + 1] = np.uint64(0xFFFF_0000_0000) | _big_endian(buffer, position, 4)
    elif length == 16:
        row[slot] = _big_endian(buffer, position, 8)
        row[slot + 1] = _big_endian(buffer, position + 8, 8)
    return length in (0, 4, 16)  # a tuple: numba builds a set anew at every call


@njit(nogil=True, cache=True, error_model="numpy")
def _in_ns(value: np.uint64, unit_ns: np.uint64) -> np.uint64:
    """Return ``value * unit_ns``, or one more than any time where that would not fit."""
    if value > TIME_MAX // unit_ns:
        return TIME_MAX + np.uint64(1)
    return value * unit_ns


@njit(nogil=True, cache=True, error_model="numpy")
def _settle_times(row: _Rows) -> int:
    """Bring the times of whichever schema this is to nanoseconds; return 0 or a Reason.

    A nanosecond receive time means goflow2 v2, and field 38 then holds something else. Flow times that do
    not fit are clipped, not refused: goflow2 before v2.2.3 passed NTP-format times on as nanoseconds, and
    ``normalise`` replaces what lies that far away.
    """
    if row[_RECEIVED_NS] == 0:
        if row[_RECEIVED_S] == 0:
            return _NO_TIME
        second, millisecond = np.uint64(10**9), np.uint64(10**6)
        row[_RECEIVED_NS] = _in_ns(row[_RECEIVED_S], second)
        start_ms, end_ms = row[_START_MS], row[_END_MS]
        fine_start, fine_end = start_ms > MILLISECONDS_MIN, end_ms > MILLISECONDS_MIN
        row[_START_NS] = _in_ns(start_ms, millisecond) if fine_start else _in_ns(row[_START_S], second)
        row[_END_NS] = _in_ns(end_ms, millisecond) if fine_end else _in_ns(row[_END_S], second)
    for slot in (_START_NS, _END_NS):
        if row[slot] == 0:
            row[slot] = row[_RECEIVED_NS]
        elif row[slot] > TIME_MAX:
            row[slot] = TIME_MAX
    return 0


@njit(nogil=True, cache=True, error_model="numpy")
def _judge(row: _Rows, addressed: bool) -> _Index:  # noqa: FBT001 - compiled code takes no keywords
    """Settle the times of a row that was read to its end; return 0 or the first Reason to refuse it."""
    reason = _settle_times(row)
    if reason:
        return reason
    if not addressed:
        return _NO_ADDRESS
    for slot in range(ROW_WIDTH):
        if row[slot] > LIMITS[slot]:
            return _OUT_OF_RANGE
    return 0


@njit(nogil=True, cache=True, error_model="numpy")
def _read_record(buffer: _Bytes, position: _Index, end: _Index, row: _Rows) -> _Index:
    """Read the record ``buffer[position:end]`` into ``row``; return 0 or a Reason."""
    row[:] = 0
    has_source = False
    odd_addresses = 0  # one bit per address, so that a later, good duplicate clears it
    while position < end:
        tag, position = _varint(buffer, position, end)
        if position < 0:
            return -position
        wire_type = np.int64(tag & np.uint64(7))
        number = FIXED_BYTES[wire_type]
        if tag < np.uint64(8) or tag > TAG_MAX or number == _NO_WIRE_TYPE:
            return _MALFORMED
        if number == 0:
            number, position = _varint(buffer, position, end)
            if position < 0:
                return -position
        field = np.int64(tag >> np.uint64(3))
        slot = SLOT_OF_FIELD[field] if field <= LAST_FIELD else -1
        if slot >= 0 and wire_type != (0 if slot >= ADDRESS_SLOTS else 2):
            return _MALFORMED
        if wire_type == 0:
            if slot >= 0:
                row[slot] = number
            continue
        if number > np.uint64(end - position):
            return _TRUNCATED
        length = np.int64(number)
        if slot >= 0:
            fits = _store_address(buffer, position, length, row, slot)
            odd_addresses = odd_addresses & ~(1 << slot) | (0 if fits else 1 << slot)
            has_source = length != 0 if slot == _SRC else has_source
        position += length
    return _judge(row, has_source and odd_addresses == 0)


@njit(nogil=True, cache=True, error_model="numpy")
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


@njit(nogil=True, cache=True, error_model="numpy")
def count_rows(buffer: _Bytes, bounds: NDArray[np.int64]) -> _Index:
    """Return how many rows the messages give at most: one each, or one per nine bytes of a run."""
    rows: _Index = 0
    for message in range(len(bounds) - 1):
        rows += max(1, _run_length(buffer, bounds[message], bounds[message + 1]))
    return rows


@njit(nogil=True, cache=True, error_model="numpy")
def _read_run(buffer: _Bytes, position: _Index, end: _Index, rows: _Rows, filled: _Index) -> _Index:
    """Read a run of delimited records (see ``_run_length``) into ``rows[filled:]``; return 0 or a Reason."""
    while position < end:
        size, position = _varint(buffer, position, end)
        reason = _read_record(buffer, position, position + np.int64(size), rows[filled])
        if reason:
            return reason
        position += np.int64(size)
        filled += 1
    return 0


@njit(nogil=True, cache=True, error_model="numpy")
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
                second = _read_record(buffer, start, end, rows[filled])
        else:
            reason = second = _read_record(buffer, start, end, rows[filled])
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
