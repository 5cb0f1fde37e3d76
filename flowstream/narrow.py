"""Columns of whole numbers in as few bytes a row as their range needs: frame of reference.

    width (one byte: 0, 1, 2, 4 or 8) | least value (8 bytes) | rows x (value - least), ``width`` bytes each

Everything is little-endian; a signed column is taken modulo 2**64. Width 0 says that all values are equal; no
rows are no bytes. After Goldstein, Ramakrishnan and Shaft, "Compressing relations and indexes", ICDE 1998.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import bare_njit, inline_njit
from flowstream.batch import Array
from flowstream.errors import StateError

HEADER_BYTES: Final = 9
ROWS_MAX: Final = 1 << 22  # a column that declares more is refused before anything is allocated for it
_WIDTHS: Final = (0, 1, 2, 4, 8)


@cache
def _widths(dtype: str) -> frozenset[int]:
    """Return which widths a column of a type may have."""
    return frozenset(width for width in _WIDTHS if width <= np.dtype(dtype).itemsize)


def pack(column: Array) -> bytes:
    """Return a column of integers of any width as bytes."""
    if not len(column):
        return b""
    out = np.empty(HEADER_BYTES + 8 * len(column), np.uint8)
    return out[: _pack(np.ascontiguousarray(column), out)].tobytes()


def check(raw: bytes, rows: int, dtype: str) -> None:
    """Raise StateError unless ``unpack`` would give ``rows`` values of a type."""
    if not 0 <= rows <= ROWS_MAX:
        raise StateError(f"a column of {rows} rows")
    width = raw[0] if raw else 0
    expected = HEADER_BYTES + rows * width if rows else 0
    if len(raw) != expected or width not in _widths(dtype):
        raise StateError(f"{len(raw)} bytes of width {width} for {rows} rows")


def unpack(raw: bytes, rows: int, dtype: str) -> Array:
    """Return the column that ``pack`` was given; the bytes must have passed ``check``."""
    column = np.empty(rows, dtype)
    unpack_into(raw, column)
    return column


def unpack_into(raw: bytes, column: Array) -> None:
    """Write the column that ``pack`` was given; the bytes must have passed ``check``."""
    if not len(column):
        return
    # The low bytes of the least value are that value in any narrower type, as the differences wrap around in it.
    least = np.frombuffer(raw, column.dtype, 1, 1)[0]
    if raw[0] == 0:
        column[:] = least
        return
    column[:] = np.frombuffer(raw, f"<u{raw[0]}", len(column), HEADER_BYTES)
    column += least


def pack_words(words: Array) -> bytes:
    """Return (rows, 2) address words as bytes: the high words packed, then the low ones."""
    return pack(words[:, 0]) + pack(words[:, 1])


def check_words(raw: bytes, rows: int) -> None:
    """Raise StateError unless ``unpack_words`` would give ``rows`` addresses."""
    for part in _cut(raw, rows):
        check(part, rows, "u8")


def unpack_words(raw: bytes, rows: int) -> NDArray[np.uint64]:
    """Return the (rows, 2) words that ``pack_words`` was given; the bytes must have passed ``check_words``."""
    words = np.empty((rows, 2), np.uint64)
    unpack_words_into(raw, words)
    return words


def unpack_words_into(raw: bytes, words: NDArray[np.uint64]) -> None:
    """Write the (rows, 2) words that ``pack_words`` was given; StateError where the bytes are too few for them."""
    if len(words) and not _unpack_words(np.frombuffer(raw, np.uint8), words):
        raise StateError(f"{len(raw)} bytes for {len(words)} addresses")


def _cut(raw: bytes, rows: int) -> tuple[bytes, bytes]:
    end = HEADER_BYTES + rows * raw[0] if raw else 0
    return raw[:end], raw[end:]


@bare_njit
def _pack(column, out):  # type: ignore[no-untyped-def]
    """Write a column, which has at least one row; return the bytes used."""
    least = most = column[0]
    for value in column:
        least = min(least, value)
        most = max(most, value)
    base = np.uint64(least)
    span = np.uint64(most) - base
    width = 0
    if span:
        width = 1 if span <= 0xFF else 2 if span <= 0xFFFF else 4 if span <= 0xFFFF_FFFF else 8
    out[0] = width
    for byte in range(8):
        out[1 + byte] = (base >> np.uint64(8 * byte)) & np.uint64(0xFF)
    at = HEADER_BYTES
    # One loop per width, so that the bytes of a value become one store.
    if width == 1:
        for row in range(len(column)):
            out[at + row] = np.uint64(column[row]) - base
    elif width == 2:
        _store(column, base, out[at:], 2)
    elif width == 4:
        _store(column, base, out[at:], 4)
    elif width == 8:
        _store(column, base, out[at:], 8)
    return at + len(column) * width


@inline_njit
def _store(column, base, out, width):  # type: ignore[no-untyped-def]
    for row in range(len(column)):
        value = np.uint64(column[row]) - base
        for byte in range(width):
            out[row * width + byte] = (value >> np.uint64(8 * byte)) & np.uint64(0xFF)


@bare_njit
def _unpack_words(raw, words):  # type: ignore[no-untyped-def]
    """Write both columns of address words; return whether the bytes did."""
    at = 0
    for side in range(2):
        if len(raw) < at + HEADER_BYTES or len(raw) < at + HEADER_BYTES + len(words) * raw[at]:
            return False
        width = raw[at]
        least = np.uint64(0)
        for byte in range(8):
            least |= np.uint64(raw[at + 1 + byte]) << np.uint64(8 * byte)
        at += HEADER_BYTES
        # One loop per width, so that the bytes of a value become one load.
        if width == 0:
            for row in range(len(words)):
                words[row, side] = least
        elif width == 1:
            _load(raw[at:], least, words, side, 1)
        elif width == 2:
            _load(raw[at:], least, words, side, 2)
        elif width == 4:
            _load(raw[at:], least, words, side, 4)
        elif width == 8:
            _load(raw[at:], least, words, side, 8)
        else:
            return False
        at += len(words) * width
    return True


@inline_njit
def _load(raw, least, words, side, width):  # type: ignore[no-untyped-def]
    for row in range(len(words)):
        value = np.uint64(0)
        for byte in range(width):
            value |= np.uint64(raw[row * width + byte]) << np.uint64(8 * byte)
        words[row, side] = value + least
