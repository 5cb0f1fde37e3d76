"""The logarithm, the same to the last bit on every machine.

``log1p`` of numpy and of C libraries depends on the processor: where there is AVX-512, numpy takes another routine,
and one value in a hundred comes out one bit apart. Here are additions, multiplications and divisions alone, whose
results IEEE 754 prescribes, in an order that the compiler keeps.
"""

from __future__ import annotations

import numpy as np

from flowstream.bare_kernel import bare_njit, inline_njit

_LN2_HIGH = float.fromhex("0x1.62e42fefp-1")  # 33 bits of ln 2: times an exponent it is exact
_LN2_LOW = float.fromhex("0x1.473de6af278edp-34")  # the rest
_SQRT2 = 1.4142135623730951
_MANTISSA = (1 << 52) - 1
_ONE = 1023 << 52


@inline_njit
def log1p(x):  # type: ignore[no-untyped-def]
    """Return ln(1 + x) of a finite x >= 0, to 1 ulp or so.

    1 + x = 2**e (1 + f) with f between sqrt(1/2) - 1 and sqrt(2) - 1, and ln(1 + f) = 2 atanh(s) with s = f / (2 + f),
    as its power series in s * s, which is below 0.0295: ten terms are enough.
    """
    u = 1.0 + x
    rest = (x - (u - 1.0)) if x < 1.0 else (1.0 - (u - x))  # what the addition lost
    bits = np.float64(u).view(np.int64)
    e = np.float64((bits >> 52) - 1023)
    m = np.int64((bits & _MANTISSA) | _ONE).view(np.float64)
    if m > _SQRT2:
        m *= 0.5
        e += 1.0
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    series = 1.0 / 21.0
    for k in range(19, 1, -2):
        series = 1.0 / k + z * series
    half = 0.5 * f * f
    # 2 atanh(s) = f - (half - s * (half + 2 z series)): the large part, f, is exact.
    return e * _LN2_HIGH - ((half - (s * (half + 2.0 * z * series) + (e * _LN2_LOW + rest / u))) - f)


@bare_njit
def log1p_in_place(matrix):  # type: ignore[no-untyped-def]
    """Replace every value by the logarithm of one plus it; negative ones count as 0."""
    for row in range(len(matrix)):
        for column in range(matrix.shape[1]):
            matrix[row, column] = log1p(max(matrix[row, column], 0.0))
