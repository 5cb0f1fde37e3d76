"""Numbers and addresses written as bytes by compiled code, for those that write very many of them.

Places are cast to unsigned where bytes are stored in loops: a signed one is tested for being negative, Python's
counting from the end, which keeps the compiler from joining the stores.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream.batch import V4_MAPPED, Array

DIGITS_MAX = 20  # of a 64-bit number, or its sign and 19
VARINT_MAX = 10  # bytes of a 64-bit number in Avro
ADDRESS_MAX = 39  # eight groups of four hexadecimal digits, seven colons


@njit(nogil=True, cache=True, error_model="numpy")
def digits_of(number):  # type: ignore[no-untyped-def]
    """Return how many decimal digits a ``uint64`` has."""
    digits = 1
    while number >= np.uint64(10):
        number //= np.uint64(10)
        digits += 1
    return digits


@njit(nogil=True, cache=True, error_model="numpy")
def put_digits(buffer, at, number):  # type: ignore[no-untyped-def]
    """Write a ``uint64`` in decimal; return where it ends."""
    end = at + digits_of(number)
    place = end
    while place > at:
        place -= 1
        tens = number // np.uint64(10)
        buffer[np.uint64(place)] = np.uint8(48) + np.uint8(number - tens * np.uint64(10))
        number = tens
    return end


@njit(nogil=True, cache=True, error_model="numpy")
def put_long(buffer, at, number):  # type: ignore[no-untyped-def]
    """Write an ``int64`` as Avro does, zig-zag and in groups of seven bits; return where it ends."""
    rest = np.uint64(number << np.int64(1)) ^ np.uint64(number >> np.int64(63))
    while rest > np.uint64(0x7F):
        buffer[at] = np.uint8(rest & np.uint64(0x7F)) | np.uint8(0x80)
        rest >>= np.uint64(7)
        at += 1
    buffer[at] = np.uint8(rest)
    return at + 1


@njit(nogil=True, cache=True, error_model="numpy")
def long_size(number):  # type: ignore[no-untyped-def]
    """Return how many bytes ``put_long`` writes."""
    rest = (np.uint64(number << np.int64(1)) ^ np.uint64(number >> np.int64(63))) >> np.uint64(7)
    size = 1
    while rest:
        rest >>= np.uint64(7)
        size += 1
    return size


@njit(nogil=True, cache=True, error_model="numpy")
def put_signed(buffer, at, number):  # type: ignore[no-untyped-def]
    """Write an ``int64`` in decimal; return where it ends."""
    if number < 0:
        buffer[at] = 45
        return put_digits(buffer, at + 1, np.uint64(-number))
    return put_digits(buffer, at, np.uint64(number))


@njit(nogil=True, cache=True, error_model="numpy")
def put_word(buffer, at, word):  # type: ignore[no-untyped-def]
    """Write the 8 bytes of a ``uint64``, least significant first; return where they end."""
    for b in range(8):
        buffer[np.uint64(at + b)] = np.uint8((word >> np.uint64(8 * b)) & np.uint64(0xFF))
    return at + 8


@njit(nogil=True, cache=True, error_model="numpy")
def put_bytes(buffer, at, piece, first, last):  # type: ignore[no-untyped-def]
    """Copy ``piece[first:last]``, which may lie in the same buffer before ``at``; return where the copy ends."""
    for b in range(first, last):
        buffer[np.uint64(at + b - first)] = piece[np.uint64(b)]
    return at + last - first


@njit(nogil=True, cache=True, error_model="numpy")
def _group(high, low, g):  # type: ignore[no-untyped-def]
    word = high if g < 4 else low
    return np.int64((word >> np.uint64(48 - 16 * (g & 3))) & np.uint64(0xFFFF))


@njit(nogil=True, cache=True, error_model="numpy")
def _put_v6(buffer, at, high, low):  # type: ignore[no-untyped-def]
    # RFC 5952, section 4.2: "::" stands for the longest run of two or more zero groups, the first of equal ones.
    longest, gap, run = 1, -1, 0
    for g in range(8):
        run = run + 1 if _group(high, low, g) == 0 else 0
        if run > longest:
            longest, gap = run, g - run + 1
    g = 0
    while g < 8:
        if g == gap:
            buffer[at] = 58
            buffer[at + 1] = 58
            at += 2
            g += longest
            continue
        if g > 0 and g != gap + longest:
            buffer[at] = 58
            at += 1
        number = _group(high, low, g)
        shift = 12
        while shift > 0 and number >> shift == 0:
            shift -= 4
        while shift >= 0:
            digit = (number >> shift) & 15
            buffer[at] = 48 + digit if digit < 10 else 87 + digit
            at += 1
            shift -= 4
        g += 1
    return at


@njit(nogil=True, cache=True, error_model="numpy")
def put_address(buffer, at, high, low):  # type: ignore[no-untyped-def]
    """Write an address as ``batch.address_text`` does; return where it ends."""
    if high == 0 and low >> np.uint64(32) == np.uint64(V4_MAPPED >> 32):
        for shift in (24, 16, 8, 0):
            at = put_digits(buffer, at, (low >> np.uint64(shift)) & np.uint64(0xFF))
            buffer[at] = 46
            at += 1
        return at - 1
    if high == 0 and low == 0:
        return at
    return _put_v6(buffer, at, high, low)


@njit(nogil=True, cache=True, error_model="numpy")
def _put_addresses(words, buffer, bounds):  # type: ignore[no-untyped-def]
    at = 0
    for g in range(len(words)):
        at = put_address(buffer, at, words[g, 0], words[g, 1])
        bounds[g + 1] = at


def packed_addresses(words: Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the texts of (n, 2) address words end to end in ASCII, and their n + 1 bounds."""
    buffer = np.empty(ADDRESS_MAX * len(words), np.uint8)
    bounds = np.zeros(len(words) + 1, np.int64)
    _put_addresses(np.ascontiguousarray(words, np.uint64), buffer, bounds)
    return buffer[: bounds[-1]], bounds
