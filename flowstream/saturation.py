"""Whole numbers that stop at the limit of 63 bits instead of turning negative: for sums of what strangers send."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from flowstream.bare_kernel import inline_njit

COUNT_MAX: Final = (1 << 63) - 1


def whole_bounds(low: float, high: float, estimate: int) -> tuple[int, int]:
    """Return the bounds of a whole number, ``low`` rounded down and ``high`` up; at most ``COUNT_MAX``."""
    # Beyond 53 bits the nearest float may lie on the wrong side of the number itself, and is not what was counted.
    if low == high == float(estimate):
        return estimate, estimate
    return min(math.floor(low), estimate), min(max(math.ceil(high), estimate), COUNT_MAX)


@inline_njit
def scaled(value, times):  # type: ignore[no-untyped-def]
    """Return the product of two numbers, ``times`` >= 0; one that exceeds 63 bits stops at the limit."""
    limit = np.int64(COUNT_MAX)
    if -(1 << 31) < value < 1 << 31 and times < 1 << 32:
        return value * times
    if times and value > limit // times:
        return limit
    if times and value < -(limit // times):
        return -limit
    return value * times


@inline_njit
def plus(total, value):  # type: ignore[no-untyped-def]
    """Return the sum of two numbers; one that exceeds 63 bits stops at the limit."""
    limit = np.int64(COUNT_MAX)
    if value > 0 and total > limit - value:
        return limit
    if value < 0 and total < -limit - value:
        return -limit
    return total + value
