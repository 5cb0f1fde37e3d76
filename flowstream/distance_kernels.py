"""Exact statistics of all pairwise Euclidean distances, for many groups of flows in one call.

Nothing of the order of the number of pairs is stored: pairs are walked in condensed order (``pair_kernels``)
in blocks of 2,048, as often as needed.

    pass 1   log-linear histogram of the squares (``histogram.EDGES``), least, greatest, sum of distances
    pass 2   the values in the few bins that hold a wanted order statistic, and the k farthest pairs
    pass 3   pairs above the tail threshold, per flow (skipped where the k farthest already hold them all)

A bin too full to be gathered is split on the bits of its float64 values until it is not: memory stays
bounded for any input. A group that fits one block is computed once and kept for all passes.

The sum is defined by condensed order alone: within a block the second half is added onto the first until one
number is left, block sums are added with Neumaier's compensation (Z. angew. Math. Mech. 54, 1974).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream.histogram import BINS
from flowstream.pair_kernels import BLOCK, PAD, count_above, fill, pair_at, sum_and_range
from flowstream.rank_kernels import (
    bracket_ranks,
    collect,
    count_few,
    count_many,
    drain_tables,
    gate_of,
    list_ranks,
    mark,
    new_spans,
    split_span,
    widest_span,
)
from flowstream.selection_kernels import LEAF, busiest, lerp, select, sort_few, sort_offered, square_not_above

GATHER_MAX = 1 << 20  # values of the second pass kept for selection: 8 MB
SPARSE_PAIRS = 1 << 15  # from here on four dense tables are cheaper than a bitmap of occupied bins
LEAST, GREATEST, MEAN, THRESHOLD, QUANTILES = range(5)  # columns of the statistics


class Outputs(NamedTuple):
    """Columns to be filled, one row or one segment per group; flows are numbered within their group.

    ``statistics`` is (groups, 4 + quantiles): least, greatest, mean, tail threshold, quantiles; untouched for
    a group without pairs. Segment ``g`` of the ``far_`` columns is ``far_bounds[g]:far_bounds[g + 1]``,
    farthest first, equal ones in flow order; of the ``busy_`` columns the first ``busy_used[g]`` rows of
    ``busy_bounds[g]:busy_bounds[g + 1]``. ``above`` counts the pairs of the tail. The histograms' ``bins``
    and ``counts`` are packed end to end, ``bins_used[g]`` of them for group ``g``.
    """

    statistics: NDArray[np.float64]
    above: NDArray[np.int64]
    bins_used: NDArray[np.int64]
    bins: NDArray[np.uint16]
    counts: NDArray[np.uint32]
    far_bounds: NDArray[np.int64]
    far_distance: NDArray[np.float64]
    far_first: NDArray[np.int64]
    far_second: NDArray[np.int64]
    busy_bounds: NDArray[np.int64]
    busy_used: NDArray[np.int64]
    busy_flow: NDArray[np.int64]
    busy_pairs: NDArray[np.int64]


class Scratch(NamedTuple):
    """Working arrays of one call, sized for its widest group."""

    x: NDArray[np.float64]  # the group's varying features
    block: NDArray[np.float64]  # squared distances of a run of pairs
    narrow: NDArray[np.float32]
    bins: NDArray[np.uint16]
    mask: NDArray[np.uint8]
    hits: NDArray[np.int64]
    folded: NDArray[np.float64]
    tables: NDArray[np.uint32]  # pairs by bin, zero between groups
    occupied: NDArray[np.uint64]
    kept: NDArray[np.int64]  # bits of gathered squares
    digits: NDArray[np.int64]
    counts: NDArray[np.int64]  # pairs above the threshold per flow
    places: NDArray[np.int64]  # of the farthest pairs, in condensed order


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _scratch(dims, spans_max, bounds, far_bounds):  # type: ignore[no-untyped-def]
    widest = 0
    listed = 0
    for g in range(len(bounds) - 1):
        widest = max(widest, bounds[g + 1] - bounds[g])
        listed = max(listed, far_bounds[g + 1] - far_bounds[g])
    return Scratch(
        np.zeros((dims, widest + PAD)),
        np.zeros(BLOCK + PAD),
        np.zeros(BLOCK + PAD, np.float32),
        np.zeros(BLOCK + PAD, np.uint16),
        np.zeros(BLOCK + PAD, np.uint8),
        np.zeros(BLOCK + PAD, np.int64),
        np.zeros((3, BLOCK)),
        np.zeros((4, BINS), np.uint32),
        np.zeros((BINS + 63) // 64, np.uint64),
        np.empty(min(GATHER_MAX, widest * (widest - 1) // 2) + spans_max, np.int64),
        np.zeros(2048, np.int64),
        np.zeros(widest, np.int64),
        np.zeros(listed, np.int64),
    )


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _varying(features, first, n, x):  # type: ignore[no-untyped-def]
    """Copy the features in which the group's flows differ to ``x``; the others add nothing to a distance."""
    dims = 0
    for q in range(len(features)):
        column = features[q, first : first + n]
        for t in range(1, n):
            if column[t] != column[0]:
                x[dims, :n] = column
                dims += 1
                break
    return dims


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _count_pairs(s, dims, n, out_bins, out_counts, figures):  # type: ignore[no-untyped-def]
    """Pass 1. Fill the sparse histogram and the least, the greatest and the mean; return how many bins."""
    pairs = n * (n - 1) // 2
    dense = pairs >= SPARSE_PAIRS
    total = 0.0
    lost = 0.0
    least = np.inf
    greatest = 0.0
    i, j = 0, 1
    while i < n - 1:
        i, j, filled = fill(s.x, dims, n, i, j, s.block, s.narrow, s.bins)
        if dense:
            count_many(s.bins, filled, s.tables)
        else:
            count_few(s.bins, filled, s.tables[0], s.occupied)
        part, low, high = sum_and_range(s.block, filled, s.folded)
        least = min(least, low)
        greatest = max(greatest, high)
        after = total + part
        lost += (total - after) + part if total >= part else (part - after) + total
        total = after
    figures[LEAST] = np.sqrt(least)
    figures[GREATEST] = np.sqrt(greatest)
    figures[MEAN] = (total + lost) / pairs
    return drain_tables(dense, s.tables, s.occupied, out_bins, out_counts)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _gather(s, dims, n, spans, used, gate, heap, places):  # type: ignore[no-untyped-def]
    """Pass 2. Gather the values of every span, and the farthest pairs into the heap."""
    leaders = 0
    at = 0
    for r in range(used):
        spans.start[r] = -1
        if spans.low[r] == spans.high[r]:
            continue
        if r > 0 and spans.low[r] == spans.low[r - 1]:
            spans.start[r] = spans.start[r - 1]
            continue
        spans.start[r] = at
        spans.end[leaders] = at
        spans.leader[leaders] = r
        leaders += 1
        at += spans.inside[r] + 1  # collect() writes one place too far
    pairs = n * (n - 1) // 2
    size = 0
    i, j, first = 0, 1, 0
    while first < pairs and (leaders or len(heap)):
        filled = pairs
        if pairs > BLOCK:
            i, j, filled = fill(s.x, dims, n, i, j, s.block, s.narrow, s.bins)
        mark(s.bins, filled, spans, leaders, gate, s.mask)
        size = collect(s.block, s.bins, s.mask, s.hits, filled, first, gate, spans, leaders, s.kept, heap, places, size)
        first += filled


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _read_quantiles(s, quantiles, pairs, spans, used, figures):  # type: ignore[no-untyped-def]
    """Select the order statistics from what was gathered, and interpolate."""
    for r in range(used):
        start, inside = spans.start[r], spans.inside[r]
        spans.bits[r] = spans.low[r]
        if start < 0:
            continue
        at = spans.rank[r] - spans.below[r]
        if inside <= LEAF:
            if r == 0 or spans.start[r - 1] != start:
                sort_few(s.kept, start, start + inside)
            spans.bits[r] = s.kept[start + at]
        else:
            values = s.kept[start : start + inside]
            spans.bits[r] = select(values, at, spans.low[r], spans.high[r], s.digits)
    squares = spans.bits.view(np.float64)
    for q in range(len(quantiles)):
        low = np.sqrt(squares[spans.rank_of[2 * q]])
        high = np.sqrt(squares[spans.rank_of[2 * q + 1]])
        position = quantiles[q] * (pairs - 1)
        figures[QUANTILES + q] = lerp(low, high, position - np.floor(position))


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _tail(s, dims, n, cut, heap, places):  # type: ignore[no-untyped-def]
    """Pass 3. Count the pairs above the cut per flow; return how many there are."""
    if len(heap) == n * (n - 1) // 2 or (len(heap) and heap[-1] <= cut):
        s.counts[:n] = 0
        above = 0
        while above < len(heap) and heap[above] > cut:
            i, j = pair_at(places[above], n)
            s.counts[i] += 1
            s.counts[j] += 1
            above += 1
        return above
    count_above(s.x, dims, n, cut, s.counts, s.block)
    return s.counts[:n].sum() // 2


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _summarise_group(s, dims, n, quantiles, tail_at, threshold, spans, packed, g, out):  # type: ignore[no-untyped-def]
    pairs = n * (n - 1) // 2
    figures = out.statistics[g]
    found = _count_pairs(s, dims, n, out.bins[packed:], out.counts[packed:], figures)
    bins, counts = out.bins[packed : packed + found], out.counts[packed : packed + found]
    used = list_ranks(quantiles, pairs, spans)
    bracket_ranks(spans, used, bins, counts)
    total, fullest = widest_span(spans, used)
    while total > GATHER_MAX:
        split_span(s.x, dims, n, spans, used, fullest, s.block, s.narrow, s.bins)
        total, fullest = widest_span(spans, used)
    first, last = out.far_bounds[g], out.far_bounds[g + 1]
    heap, places = out.far_distance[first:last], s.places[: last - first]
    _gather(s, dims, n, spans, used, gate_of(bins, counts, len(heap)), heap, places)
    sort_offered(heap, places, len(heap))
    _read_quantiles(s, quantiles, pairs, spans, used, figures)
    figures[THRESHOLD] = threshold if tail_at < 0 else figures[QUANTILES + tail_at]
    a, b = out.busy_bounds[g], out.busy_bounds[g + 1]
    if a < b or last > first:
        out.above[g] = _tail(s, dims, n, square_not_above(figures[THRESHOLD]), heap, places)
        out.busy_used[g] = busiest(s.counts, n, out.busy_flow[a:b], out.busy_pairs[a:b])
    for t in range(len(heap)):
        heap[t] = np.sqrt(heap[t])
        out.far_first[first + t], out.far_second[first + t] = pair_at(places[t], n)
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def summarise_groups(features, bounds, quantiles, tail_at, threshold, out):  # type: ignore[no-untyped-def]
    """Summarise the pairs of each group ``features[:, bounds[g]:bounds[g + 1]]`` into ``out``.

    ``quantiles`` ascend. The threshold of the tail is quantile number ``tail_at``, or ``threshold`` where
    that is negative. The tail is left out where neither pairs nor flows are to be listed.
    """
    s = _scratch(len(features), 2 * len(quantiles), bounds, out.far_bounds)
    spans = new_spans(len(quantiles))
    packed = 0
    for g in range(len(bounds) - 1):
        n = bounds[g + 1] - bounds[g]
        if n < 2:
            continue
        dims = _varying(features, bounds[g], n, s.x)
        found = _summarise_group(s, dims, n, quantiles, tail_at, threshold, spans, packed, g, out)
        out.bins_used[g] = found
        packed += found
