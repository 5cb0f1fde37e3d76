"""Order statistics and largest values, in bounded time and memory for any input.

Values are float64, neither negative nor NaN, so that they compare as their bits (int64) do.
"""

from __future__ import annotations

import math

from numba import njit

LEAF = 64  # values worth sorting by insertion
FEW = 32  # largest values kept by insertion


@njit(nogil=True, cache=True, error_model="numpy")
def sort_few(bits, first, last):  # type: ignore[no-untyped-def]
    """Sort ``bits[first:last]`` in place, by insertion."""
    for a in range(first + 1, last):
        value = bits[a]
        b = a
        while b > first and bits[b - 1] > value:
            bits[b] = bits[b - 1]
            b -= 1
        bits[b] = value


@njit(nogil=True, cache=True, error_model="numpy")
def select(bits, rank, lowest, highest, counts):  # type: ignore[no-untyped-def]
    """Return the ``rank``-th smallest of ``bits``, all of them between ``lowest`` and ``highest``.

    By digits from the top, 11 bits a round, hence linear for any input, where a quickselect can be led
    into quadratic time by whoever writes the flows. ``counts`` is scratch (2,048).
    """
    while lowest < highest:
        shift = 0
        while (highest - lowest) >> shift >= 2048:
            shift += 1
        counts[:2048] = 0
        for value in bits:
            if lowest <= value <= highest:
                counts[(value - lowest) >> shift] += 1
        digit = 0
        while rank >= counts[digit]:
            rank -= counts[digit]
            digit += 1
        lowest += digit << shift
        highest = min(highest, lowest + (1 << shift) - 1)
    return lowest


@njit(nogil=True, cache=True, error_model="numpy")
def lerp(low, high, weight):  # type: ignore[no-untyped-def]
    """Interpolate as ``numpy.quantile`` does, to the last bit (numpy's ``_lerp``)."""
    step = high - low
    if weight >= 0.5:
        return high - step * (1 - weight)
    return low + step * weight


@njit(nogil=True, cache=True, error_model="numpy")
def square_not_above(distance):  # type: ignore[no-untyped-def]
    """Return the largest float64 whose square root is not above ``distance`` (not negative)."""
    if distance == math.inf:
        return math.inf
    square = distance * distance
    while math.sqrt(square) > distance:
        square = math.nextafter(square, 0.0)
    while square < math.inf and math.sqrt(math.nextafter(square, math.inf)) <= distance:
        square = math.nextafter(square, math.inf)
    return square


@njit(nogil=True, cache=True, error_model="numpy")
def _worse(values, places, a, b):  # type: ignore[no-untyped-def]
    return values[a] < values[b] or (values[a] == values[b] and places[a] > places[b])


@njit(nogil=True, cache=True, error_model="numpy")
def _sink(values, places, size):  # type: ignore[no-untyped-def]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _worse(values, places, child + 1, child):
            child += 1
        if not _worse(values, places, child, at):
            return
        values[at], values[child] = values[child], values[at]
        places[at], places[child] = places[child], places[at]
        at = child


@njit(nogil=True, cache=True, error_model="numpy")
def offer(values, places, size, value, place):  # type: ignore[no-untyped-def]
    """Offer a value to the largest ones, ``values`` filled up to ``size``; return the new size.

    Places must be offered in ascending order; among equal values the earlier place stays. A few values are kept in
    descending order, more than ``FEW`` as a heap, worst first, so that no order of offers is slow.
    """
    if len(values) <= FEW:
        if size == len(values):
            if value <= values[size - 1]:
                return size
            size -= 1
        at = size
        while at > 0 and values[at - 1] < value:
            values[at] = values[at - 1]
            places[at] = places[at - 1]
            at -= 1
        values[at] = value
        places[at] = place
        return size + 1
    if size == len(values):
        if value > values[0]:
            values[0] = value
            places[0] = place
            _sink(values, places, size)
        return size
    values[size] = value
    places[size] = place
    at = size
    while at > 0 and _worse(values, places, at, (at - 1) // 2):
        parent = (at - 1) // 2
        values[at], values[parent] = values[parent], values[at]
        places[at], places[parent] = places[parent], places[at]
        at = parent
    return size + 1


@njit(nogil=True, cache=True, error_model="numpy")
def sort_offered(values, places, size):  # type: ignore[no-untyped-def]
    """Put the offered values in descending order, equal ones by place."""
    while size > 1 and len(values) > FEW:
        size -= 1
        values[0], values[size] = values[size], values[0]
        places[0], places[size] = places[size], places[0]
        _sink(values, places, size)


@njit(nogil=True, cache=True, error_model="numpy")
def busiest(counts, n, flows, pairs):  # type: ignore[no-untyped-def]
    """List the flows with most pairs above the threshold, ties in flow order; return how many."""
    used = 0
    for i in range(n):
        count = counts[i]
        if count == 0 or (used == len(flows) and (used == 0 or count <= pairs[used - 1])):
            continue
        at = used if used < len(flows) else used - 1
        used = max(used, at + 1)
        while at > 0 and pairs[at - 1] < count:
            pairs[at] = pairs[at - 1]
            flows[at] = flows[at - 1]
            at -= 1
        pairs[at] = count
        flows[at] = i
    return used
