"""Doubles written as the shortest decimal number that reads back as the same double, as JSON has them.

The digits come from the Schubfach algorithm (R. Giulietti, "The Schubfach way to render doubles", 2020): with
``10**-k`` in 128 bits, three products tell which multiples of ``10**k`` round to the double. Of those with the
fewest digits it takes the nearest, so they are the digits of Python's ``repr``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from flowstream.text_kernels import digits_of, put_digits

DOUBLE_MAX = 25  # bytes: sign, 17 digits, point, "e-308", or as many zeros
_LEAST, _GREATEST = -292, 324  # powers of ten that there are products with
_LOW32 = np.uint64(0xFFFF_FFFF)


def _powers() -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    """Return ``10**p`` from ``_LEAST`` on, scaled to 128 bits and rounded up: high and low words."""
    words = []
    for p in range(_LEAST, _GREATEST + 1):
        over, under = 10 ** max(p, 0), 10 ** max(-p, 0)
        shift = 127 - ((p * 1741647) >> 19)  # 127 - floor(log2(10**p))
        scaled = -(-(over << max(shift, 0)) // (under << max(-shift, 0)))
        words.append((scaled >> 64, scaled & 0xFFFF_FFFF_FFFF_FFFF))
    return np.array(words, np.uint64)


_POWERS = _powers()


@njit(nogil=True, cache=True, error_model="numpy")
def _high_of_product(a, b):  # type: ignore[no-untyped-def]
    a0, a1, b0, b1 = a & _LOW32, a >> np.uint64(32), b & _LOW32, b >> np.uint64(32)
    middle = a1 * b0 + ((a0 * b0) >> np.uint64(32))
    other = a0 * b1 + (middle & _LOW32)
    return a1 * b1 + (middle >> np.uint64(32)) + (other >> np.uint64(32))


@njit(nogil=True, cache=True, error_model="numpy")
def _round_to_odd(high, low, number):  # type: ignore[no-untyped-def]
    """Return the top word of a product of 128 and 64 bits; its last bit also says that something was cut off."""
    under = high * number
    middle = under + _high_of_product(low, number)
    top = _high_of_product(high, number) + np.uint64(middle < under)
    return top | np.uint64(middle > np.uint64(1))


@njit(nogil=True, cache=True, error_model="numpy")
def shortest_decimal(bits):  # type: ignore[no-untyped-def]
    """Return (digits, exponent) of a positive finite double other than 0: it is ``digits * 10**exponent``."""
    fraction = bits & np.uint64(0xF_FFFF_FFFF_FFFF)
    biased = np.int64(bits >> np.uint64(52))
    number = fraction | np.uint64(1 << 52) if biased else fraction
    power = (biased or 1) - 1075
    uneven = np.int64(fraction == 0 and biased > 1)  # the double below is nearer than the one above
    outside = number & np.uint64(1)  # bounds belong to the interval of an even double
    k = (power * 1262611 - 524031 * uneven) >> 22
    shift = np.uint64(power + ((-k * 1741647) >> 19) + 1)
    high, low = _POWERS[-k - _LEAST]
    four = number << np.uint64(2)
    lower = _round_to_odd(high, low, (four - np.uint64(2 - uneven)) << shift) + outside
    value = _round_to_odd(high, low, four << shift)
    upper = _round_to_odd(high, low, (four + np.uint64(2)) << shift) - outside
    digits = value >> np.uint64(2)
    if digits >= np.uint64(10):
        tens = digits // np.uint64(10)
        below = lower <= np.uint64(40) * tens
        above = np.uint64(40) * tens + np.uint64(40) <= upper
        if below != above:
            return tens + np.uint64(above), k + 1
    below = lower <= np.uint64(4) * digits
    above = np.uint64(4) * digits + np.uint64(4) <= upper
    if below != above:
        return digits + np.uint64(above), k
    half = np.uint64(4) * digits + np.uint64(2)
    return digits + np.uint64(value > half or (value == half and digits & np.uint64(1) == np.uint64(1))), k


@njit(nogil=True, cache=True, error_model="numpy")
def _put_zeros(buffer, at, count):  # type: ignore[no-untyped-def]
    for b in range(count):
        buffer[np.uint64(at + b)] = 48
    return at + count


@njit(nogil=True, cache=True, error_model="numpy")
def put_double(buffer, at, bits):  # type: ignore[no-untyped-def]
    """Write the double of these ``uint64`` bits in at most ``DOUBLE_MAX`` bytes; return where it ends.

    NaN and infinities are ``null``. From 1e-5 to below 1e16 there is a point, beyond an exponent, as msgspec has it.
    """
    if bits >> np.uint64(52) & np.uint64(0x7FF) == np.uint64(0x7FF):
        buffer[at] = 110
        buffer[at + 1] = 117
        buffer[at + 2] = buffer[at + 3] = 108
        return at + 4
    if bits >> np.uint64(63):
        buffer[at] = 45
        at += 1
    bits &= np.uint64(0x7FFF_FFFF_FFFF_FFFF)
    digits, exponent = np.uint64(0), np.int64(0)
    if bits:
        digits, exponent = shortest_decimal(bits)
        tens = digits // np.uint64(10)
        while digits == tens * np.uint64(10):
            digits, exponent = tens, exponent + 1
            tens = digits // np.uint64(10)
    count = digits_of(digits)
    point = count + exponent  # digits before the point
    if -5 < point <= 0:
        buffer[at] = 48
        buffer[at + 1] = 46
        return put_digits(buffer, _put_zeros(buffer, at + 2, -point), digits)
    if exponent >= 0 and point <= 16:
        at = _put_zeros(buffer, put_digits(buffer, at, digits), exponent)
        buffer[at] = 46
        buffer[at + 1] = 48
        return at + 2
    # The digits go one place to the right of where they end up, and those before the point back again.
    scientific = not 0 < point <= 16
    whole = np.int64(1) if scientific else point
    end = put_digits(buffer, at + 1, digits)
    for b in range(at, at + whole):
        buffer[np.uint64(b)] = buffer[np.uint64(b + 1)]
    buffer[at + whole] = 46
    if not scientific:
        return end
    at = end if count > 1 else at + 1
    power = point - 1
    buffer[at] = 101
    at += 1
    if power < 0:
        buffer[at] = 45
        at += 1
        power = -power
    return put_digits(buffer, at, np.uint64(power))
