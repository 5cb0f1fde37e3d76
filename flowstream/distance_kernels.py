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

from flowstream.bare_kernel import bare_njit
from flowstream.histogram import BINS
from flowstream.pair_kernels import BLOCK, PAD, bin_of, count_above, fill, pair_at, range_of, sum_of_roots
from flowstream.rank_kernels import (
    BELOW,
    BITS,
    INSIDE,
    LOW,
    RANK,
    RANK_OF,
    SPAN_ROWS,
    START,
    WORDS,
    bracket_ranks,
    collect,
    count_few,
    count_many,
    drain_table,
    gate_of,
    list_marked,
    list_ranks,
    mark,
    merge_tables,
    offer_marked,
    place_spans,
    split_span,
    widest_span,
)  # fmt: skip
from flowstream.selection_kernels import (
    DIGITS,
    LEAF,
    busiest,
    lerp,
    select,
    sort_few,
    sort_offered,
    square_not_above,
)  # fmt: skip

GATHER_MAX = 1 << 20  # values of the second pass kept for selection: 8 MB
SPARSE_PAIRS = 1 << 15  # from here on four dense tables are cheaper than a bitmap of occupied bins
NO_BITS = np.iinfo(np.int64).max  # above those of any float
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


@bare_njit
def _varying(features, first, n, flat, width):  # type: ignore[no-untyped-def]
    """Copy the features in which the group's flows differ to ``flat``; the others add nothing to a distance."""
    dims = 0
    for q in range(len(features)):
        at = dims * width
        differ = False
        for t in range(n):
            value = features[q, first + t]
            differ |= value != features[q, first]
            flat[at + t] = value
        dims += differ
    return dims


@bare_njit
def _count_pairs(  # type: ignore[no-untyped-def]
    flat, width, dims, n, block, bits, bins, folded, table, occupied, out_bins, out_counts, packed, statistics, g
):
    """Pass 1. Fill the sparse histogram and the least, the greatest and the mean; return how many bins."""
    pairs = n * (n - 1) // 2
    dense = pairs >= SPARSE_PAIRS
    total = 0.0
    lost = 0.0
    least, greatest = NO_BITS, 0
    i, j = 0, 1
    while i < n - 1:
        i, j, filled = fill(flat, width, dims, n, i, j, block, bins)
        if dense:
            count_many(bins, filled, table)
        else:
            count_few(bins, filled, table, occupied)
        low, high = range_of(bits, filled)
        least, greatest = min(least, low), max(greatest, high)
        part = sum_of_roots(block, filled, folded)
        after = total + part
        lost += (total - after) + part if total >= part else (part - after) + total
        total = after
    statistics[g, MEAN] = (total + lost) / pairs
    least_square, greatest_square = np.int64(least).view(np.float64), np.int64(greatest).view(np.float64)
    statistics[g, LEAST] = np.sqrt(least_square)
    statistics[g, GREATEST] = np.sqrt(greatest_square)
    lowest, highest = np.int64(bin_of(least_square)), np.int64(bin_of(greatest_square))
    if dense:
        merge_tables(table, lowest, highest, occupied)
    return drain_table(table, lowest, highest, occupied, out_bins, out_counts, packed)


@bare_njit
def _gather(  # type: ignore[no-untyped-def]
    flat, width, dims, n, block, bits, bins, mask, words, hits, spans, leaders, gate, kept, heap, places, wanted
):
    """Pass 2. Gather the values of every span, and the farthest pairs into the heap."""
    pairs = n * (n - 1) // 2
    size = 0
    i, j, first = 0, 1, 0
    while first < pairs and (leaders or wanted):
        filled = pairs
        if pairs > BLOCK:
            i, j, filled = fill(flat, width, dims, n, i, j, block, bins)
        mark(bins, filled, spans, leaders, gate, mask)
        found = list_marked(words, mask, filled, hits)
        collect(bits, hits, found, spans, leaders, kept)
        if wanted:
            size = offer_marked(block, bins, hits, found, first, gate, heap, places, wanted, size)
        first += filled
    sort_offered(heap, places, wanted, wanted)


@bare_njit
def _read_quantiles(quantiles, pairs, spans, squares, used, kept, digits, statistics, g):  # type: ignore[no-untyped-def]
    """Select the order statistics from what was gathered, and interpolate; ``squares`` views ``spans``."""
    for r in range(used):
        start, inside = spans[START, r], spans[INSIDE, r]
        at = spans[RANK, r] - spans[BELOW, r]
        if start < 0:
            spans[BITS, r] = spans[LOW, r]
        elif inside <= LEAF:
            if r == 0 or spans[START, r - 1] != start:
                sort_few(kept, start, start + inside)
            spans[BITS, r] = kept[start + at]
        else:
            spans[BITS, r] = select(kept, start, start + inside, at, digits)
    for q in range(len(quantiles)):
        low = np.sqrt(squares[BITS, spans[RANK_OF, 2 * q]])
        high = np.sqrt(squares[BITS, spans[RANK_OF, 2 * q + 1]])
        position = quantiles[q] * (pairs - 1)
        statistics[g, QUANTILES + q] = lerp(low, high, position - np.floor(position))


@bare_njit
def _tail(flat, width, dims, n, cut, heap, places, wanted, counts, block):  # type: ignore[no-untyped-def]
    """Pass 3. Count the pairs above the cut per flow; return how many there are."""
    if wanted < n * (n - 1) // 2 and (wanted == 0 or heap[wanted - 1] > cut):
        return count_above(flat, width, dims, n, cut, counts, block)
    for i in range(n):
        counts[i] = 0
    above = 0
    while above < wanted and heap[above] > cut:
        i, j = pair_at(places[above], n)
        counts[i] += 1
        counts[j] += 1
        above += 1
    return above


@njit(nogil=True, cache=True, error_model="numpy")
def summarise_groups(features, bounds, quantiles, tail_at, threshold, out):  # type: ignore[no-untyped-def]
    """Summarise the pairs of each group ``features[:, bounds[g]:bounds[g + 1]]`` into ``out``.

    ``quantiles`` ascend. The threshold of the tail is quantile number ``tail_at``, or ``threshold`` where
    that is negative. The tail is left out where neither pairs nor flows are to be listed.
    """
    # Fields, views and scratch are taken once, and passed whole: slices and fields have their references counted.
    statistics, above, bins_used, out_bins, out_counts = out.statistics, out.above, out.bins_used, out.bins, out.counts
    far_bounds, far_distance, far_first, far_second = out.far_bounds, out.far_distance, out.far_first, out.far_second
    busy_bounds, busy_used, busy_flow, busy_pairs = out.busy_bounds, out.busy_used, out.busy_flow, out.busy_pairs
    widest, listed = np.max(np.diff(bounds)), np.max(np.diff(far_bounds))
    width = widest + PAD
    flat = np.zeros(len(features) * width)  # the group's varying features
    block = np.zeros(BLOCK + PAD)  # squared distances of a run of pairs
    bins, mask, hits = (
        np.zeros(BLOCK + PAD, np.uint16),
        np.zeros(BLOCK + PAD, np.uint8),
        np.zeros(BLOCK + PAD, np.int64),
    )
    bits, words = block.view(np.int64), mask.view(np.uint64)
    folded = np.zeros(BLOCK)
    table, occupied = np.zeros(4 * BINS, np.uint32), np.zeros(WORDS, np.uint64)  # pairs by bin, zero between groups
    spans = np.zeros((SPAN_ROWS, 2 * len(quantiles)), np.int64)
    squares = spans.view(np.float64)
    kept = np.empty(min(GATHER_MAX, widest * (widest - 1) // 2) + 2 * len(quantiles), np.int64)  # gathered squares
    digits, counts = np.zeros(DIGITS, np.int64), np.zeros(widest, np.int64)
    heap, places = np.zeros(listed), np.zeros(listed, np.int64)  # the farthest pairs, in condensed order
    packed = 0
    for g in range(len(bounds) - 1):
        n = bounds[g + 1] - bounds[g]
        if n < 2:
            continue
        pairs = n * (n - 1) // 2
        dims = _varying(features, bounds[g], n, flat, width)
        found = _count_pairs(
            flat, width, dims, n, block, bits, bins, folded, table, occupied, out_bins, out_counts, packed,
            statistics, g,
        )  # fmt: skip
        used = list_ranks(quantiles, pairs, spans)
        bracket_ranks(spans, used, out_bins, out_counts, packed)
        total, fullest = widest_span(spans, used)
        while total > GATHER_MAX:
            split_span(flat, width, dims, n, spans, used, fullest, block, bits, bins)
            total, fullest = widest_span(spans, used)
        leaders = place_spans(spans, used)
        far, wanted = far_bounds[g], far_bounds[g + 1] - far_bounds[g]
        gate = gate_of(out_bins, out_counts, packed, packed + found, wanted)
        _gather(
            flat, width, dims, n, block, bits, bins, mask, words, hits, spans, leaders, gate, kept, heap, places, wanted
        )  # fmt: skip
        _read_quantiles(quantiles, pairs, spans, squares, used, kept, digits, statistics, g)
        cut = threshold if tail_at < 0 else statistics[g, QUANTILES + tail_at]
        statistics[g, THRESHOLD] = cut
        busy, busy_end = busy_bounds[g], busy_bounds[g + 1]
        if busy < busy_end or wanted:
            above[g] = _tail(flat, width, dims, n, square_not_above(cut), heap, places, wanted, counts, block)
            busy_used[g] = busiest(counts, n, busy_flow, busy_pairs, busy, busy_end)
        for t in range(wanted):
            far_distance[far + t] = np.sqrt(heap[t])
            far_first[far + t], far_second[far + t] = pair_at(places[t], n)
        bins_used[g] = found
        packed += found
