"""The kernels of the Avro decoder: framing, and records of a flat schema, bounds checked at every read.

Encoding after the Avro 1.11 specification, "Binary encoding": int and long are zigzag varints, bytes a long
and that many bytes, a union the index of its branch and the value, an enum the index of its symbol.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream.batch import V4_MAPPED
from flowstream.decode.time_kernel import ABSENT, FINE, UNREADABLE
from flowstream.errors import Reason

NUMBER, OPTIONAL_NUMBER, ADDRESS, OPTIONAL_ADDRESS, ENUM = range(5)  # kinds of field
BARE, CONFLUENT, SINGLE_OBJECT = range(3)  # framings
PREFIX_BYTES = (0, 5, 10)

_Bytes = NDArray[np.uint8]
_Int = int | np.int64

_TRUNCATED = int(Reason.TRUNCATED)
_MALFORMED = int(Reason.MALFORMED)
_V4_MAPPED = np.uint64(V4_MAPPED)


@njit(nogil=True, cache=True, error_model="numpy")
def framings(buffer: _Bytes, bounds: NDArray[np.int64], kinds: _Bytes, ids: NDArray[np.uint64]) -> None:
    """Tell each message's framing, and its schema id or fingerprint (as the little-endian number it is)."""
    for m in range(len(kinds)):
        begin, size = bounds[m], bounds[m + 1] - bounds[m]
        kinds[m], ids[m] = BARE, 0
        if size >= 5 and buffer[begin] == 0:
            kinds[m] = CONFLUENT
            for i in range(1, 5):
                ids[m] = ids[m] << np.uint64(8) | np.uint64(buffer[begin + i])
        elif size >= 10 and buffer[begin] == 0xC3 and buffer[begin + 1] == 0x01:
            kinds[m] = SINGLE_OBJECT
            for i in range(9, 1, -1):
                ids[m] = ids[m] << np.uint64(8) | np.uint64(buffer[begin + i])


@njit(nogil=True, cache=True, error_model="numpy")
def _long(buffer: _Bytes, p: _Int, end: _Int) -> tuple[int, _Int, np.int64]:
    """Read a zigzag varint; (reason, where it ends, value)."""
    raw = np.uint64(0)
    for i in range(10):
        if p + i >= end:
            return _TRUNCATED, p, np.int64(0)
        byte = np.uint64(buffer[p + i])
        if i == 9 and byte > 1:
            break
        raw |= (byte & np.uint64(0x7F)) << np.uint64(7 * i)
        if byte < 0x80:
            value = np.int64(raw >> np.uint64(1)) ^ -np.int64(raw & np.uint64(1))
            return 0, p + i + 1, value
    return _MALFORMED, p, np.int64(0)


@njit(nogil=True, cache=True, error_model="numpy")
def _address(buffer: _Bytes, p: _Int, end: _Int, words: NDArray[np.uint64]) -> tuple[int, _Int, int]:
    """Read bytes that are an address into two words; (reason, where they end, status)."""
    reason, p, size = _long(buffer, p, end)
    if reason != 0:
        return reason, p, FINE
    if size < 0:
        return _MALFORMED, p, FINE
    if size > end - p:
        return _TRUNCATED, p, FINE
    if size not in (4, 16):
        return 0, p + size, ABSENT if size == 0 else UNREADABLE
    high, low = np.uint64(0), np.uint64(0)
    for i in range(size):
        high = high << np.uint64(8) | low >> np.uint64(56)
        low = low << np.uint64(8) | np.uint64(buffer[p + i])
    words[0], words[1] = high, low | _V4_MAPPED if size == 4 else low
    return 0, p + size, FINE


@njit(nogil=True, cache=True, error_model="numpy")
def read_records(
    buffer: _Bytes,
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    fields: NDArray[np.int64],
    numbers: NDArray[np.int64],
    words: NDArray[np.uint64],
    statuses: _Bytes,
    reasons: _Bytes,
) -> None:
    """Read one record per message into rows of ``numbers`` and ``words``.

    ``fields`` (f, 3) says for each field, in the order of the schema, its kind, the row of ``numbers``
    (or of ``words`` and ``statuses``) it goes to, and for an enum how many symbols it has. An absent
    number stays 0, an absent address ABSENT.
    """
    for m in range(len(begins)):
        p, end, reason = begins[m], ends[m], 0
        for f in range(len(fields)):
            kind, slot = fields[f, 0], fields[f, 1]
            if kind in (OPTIONAL_NUMBER, OPTIONAL_ADDRESS):
                reason, p, branch = _long(buffer, p, end)
                if reason != 0:
                    break
                if branch == 0:
                    if kind == OPTIONAL_ADDRESS:
                        statuses[slot, m] = ABSENT
                    continue
                if branch != 1:
                    reason = _MALFORMED
                    break
            if kind in (ADDRESS, OPTIONAL_ADDRESS):
                reason, p, statuses[slot, m] = _address(buffer, p, end, words[slot, m])
            else:
                reason, p, numbers[slot, m] = _long(buffer, p, end)
                if kind == ENUM and not 0 <= numbers[slot, m] < fields[f, 2]:
                    # Back to a symbol that exists, because the row is still looked up before it is dropped.
                    reason, numbers[slot, m] = _MALFORMED, 0
            if reason != 0:
                break
        if reason == 0 and p != end:
            reason = _MALFORMED
        reasons[m] = reason
