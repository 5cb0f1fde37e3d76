"""Order statistics and largest values, in bounded time and memory for any input.

Values are float64, neither negative nor NaN, so that they compare as their bits (int64) do.
"""

from __future__ import annotations

import math

import numpy as np

from flowstream.bare_kernel import bare_njit

LEAF = 12  # values worth sorting by insertion
DIGITS = 2048  # told apart in a round of selection
FEW = 32  # largest values kept by insertion


@bare_njit
def sort_few(bits, first, last):  # type: ignore[no-untyped-def]
    """Sort ``bits[first:last]`` in place, by insertion."""
    for a in range(first + 1, last):
        value = bits[a]
        b = a
        while b > first and bits[b - 1] > value:
            bits[b] = bits[b - 1]
            b -= 1
        bits[b] = value


@bare_njit
def _halve(bits, first, last, rank):  # type: ignore[no-untyped-def]
    """Return the ``rank``-th smallest of ``bits[first:last]``, at least one value, in 64 passes at most."""
    lowest = highest = bits[first]
    for t in range(np.uint64(first), np.uint64(last)):
        lowest = min(lowest, bits[t])
        highest = max(highest, bits[t])
    while lowest < highest:
        middle = lowest + ((highest - lowest) >> 1)
        below = 0
        under, over = lowest, highest  # the values next to the middle, below and above it
        for t in range(np.uint64(first), np.uint64(last)):
            value = bits[t]
            low = value <= middle
            below += low
            under = max(under, value if low else lowest)
            over = min(over, highest if low else value)
        if rank < below:
            highest = under
        else:
            lowest = over
    return lowest


@bare_njit
def select(bits, first, last, rank, digits):  # type: ignore[no-untyped-def]
    """Return the ``rank``-th smallest of ``bits[first:last]``, at least one value, none of them negative.

    By digits from the top, 11 bits a round, hence linear for any input, where a quickselect can be led into
    quadratic time by whoever writes the flows; by halving where few are left. ``digits`` is scratch (2,048).
    """
    if last - first <= DIGITS:
        return _halve(bits, first, last, rank)
    lowest = highest = bits[first]
    for t in range(np.uint64(first), np.uint64(last)):
        lowest = min(lowest, bits[t])
        highest = max(highest, bits[t])
    while lowest < highest:
        shift = 0
        while (highest - lowest) >> shift >= DIGITS:
            shift += 1
        for digit in range(DIGITS):
            digits[digit] = 0
        for t in range(first, last):
            if lowest <= bits[t] <= highest:
                digits[(bits[t] - lowest) >> shift] += 1
        digit = 0
        while rank >= digits[digit]:
            rank -= digits[digit]
            digit += 1
        few = digits[digit]
        lowest += digit << shift
        highest = min(highest, lowest + (1 << shift) - 1)
        if few <= DIGITS:
            at = 0
            for t in range(first, last):
                if lowest <= bits[t] <= highest:
                    digits[at] = bits[t]
                    at += 1
            lowest = highest = _halve(digits, 0, few, rank)
    return lowest


@bare_njit
def lerp(low, high, weight):  # type: ignore[no-untyped-def]
    """Interpolate as ``numpy.quantile`` does, to the last bit (numpy's ``_lerp``)."""
    step = high - low
    if weight >= 0.5:
        return high - step * (1 - weight)
    return low + step * weight


@bare_njit
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


@bare_njit
def _worse(values, places, a, b):  # type: ignore[no-untyped-def]
    # No branches: with several ways out the references to the arrays would be counted.
    return (values[a] < values[b]) | ((values[a] == values[b]) & (places[a] > places[b]))


@bare_njit
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


@bare_njit
def _insert(values, places, wanted, size, value, place):  # type: ignore[no-untyped-def]
    if size == wanted:
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


@bare_njit
def _push(values, places, wanted, size, value, place):  # type: ignore[no-untyped-def]
    if size == wanted:
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


@bare_njit
def offer(values, places, wanted, size, value, place):  # type: ignore[no-untyped-def]
    """Offer a value to the ``wanted`` largest ones (1 or more), so far ``size``; return the new size.

    Places must be offered in ascending order; among equal values the earlier place stays. A few values are kept in
    descending order, more than ``FEW`` as a heap, worst first, so that no order of offers is slow.
    """
    if wanted <= FEW:
        return _insert(values, places, wanted, size, value, place)
    return _push(values, places, wanted, size, value, place)


@bare_njit
def sort_offered(values, places, wanted, size):  # type: ignore[no-untyped-def]
    """Put the offered values in descending order, equal ones by place."""
    while size > 1 and wanted > FEW:
        size -= 1
        values[0], values[size] = values[size], values[0]
        places[0], places[size] = places[size], places[0]
        _sink(values, places, size)


@bare_njit
def busiest(counts, n, flows, pairs, first, last):  # type: ignore[no-untyped-def]
    """List the flows with most pairs above the threshold, ties in flow order; return how many.

    They go to ``flows[first:last]`` and ``pairs[first:last]``, as far as these reach.
    """
    end = first
    for i in range(n):
        count = counts[i]
        if count == 0 or (end == last and (end == first or count <= pairs[end - 1])):
            continue
        at = end if end < last else end - 1
        end = max(end, at + 1)
        while at > first and pairs[at - 1] < count:
            pairs[at] = pairs[at - 1]
            flows[at] = flows[at - 1]
            at -= 1
        pairs[at] = count
        flows[at] = i
    return end - first
