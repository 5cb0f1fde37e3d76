"""Passes over the pairs of a group: count them in log-linear bins, then gather what a few ranks need.

A rank is bracketed by a span of float64 bits, at first that of its bin. A span too full to be gathered is
split until it is not, so memory stays bounded for any input.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream.histogram import BINS, EDGES
from flowstream.pair_kernels import fill
from flowstream.selection_kernels import offer

SPLIT_BITS = 12
WORDS = (BINS + 63) // 64

_EDGE_BITS = EDGES.view(np.int64)  # non-negative floats compare as their bits do
_LOWEST = np.zeros(64, np.uint8)  # position of the lowest set bit by de Bruijn multiplication (Leiserson 1998)
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
for _bit in range(64):
    _LOWEST[((1 << _bit) * int(_DE_BRUIJN) & 0xFFFF_FFFF_FFFF_FFFF) >> 58] = _bit


class Spans(NamedTuple):
    """What is known of each wanted rank (ascending), and which quantile reads which."""

    rank: NDArray[np.int64]  # number of the value among all, from 0
    rank_of: NDArray[np.int64]  # two per quantile: which entry holds its lower and its upper neighbour
    low: NDArray[np.int64]  # the value's bits lie between low
    high: NDArray[np.int64]  # and high, both included
    below: NDArray[np.int64]  # values below the span
    inside: NDArray[np.int64]  # values in it
    bin: NDArray[np.int64]  # the bin that holds the span
    start: NDArray[np.int64]  # where its values are gathered, -1 where it is one value
    bits: NDArray[np.int64]  # the value, in the end
    leader: NDArray[np.int64]  # of the gathered spans: first rank in each
    end: NDArray[np.int64]  # and where its next value goes


@njit(nogil=True, cache=True, error_model="numpy")
def new_spans(quantiles):  # type: ignore[no-untyped-def]
    """Return room for the spans of so many quantiles."""
    c = np.zeros((11, 2 * quantiles), np.int64)
    return Spans(c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10])


@njit(nogil=True, cache=True, error_model="numpy")
def count_few(bins, filled, table, occupied):  # type: ignore[no-untyped-def]
    """Count a block's bins in one table, and note which are occupied in a bitmap."""
    b = bins[:filled]
    for t in range(filled):
        k = b[t]
        occupied[k >> 6] |= np.uint64(1) << np.uint64(k & 63)
        table[k] += np.uint32(1)


@njit(nogil=True, cache=True, error_model="numpy")
def count_many(bins, filled, tables):  # type: ignore[no-untyped-def]
    """Count a block's bins in four tables."""
    # Four: neighbouring pairs often share a bin, and one table would wait for its own last store.
    t0, t1, t2, t3 = tables[0], tables[1], tables[2], tables[3]
    quads = bins[: filled // 4 * 4].reshape(-1, 4)
    for t in range(len(quads)):
        t0[quads[t, 0]] += np.uint32(1)
        t1[quads[t, 1]] += np.uint32(1)
        t2[quads[t, 2]] += np.uint32(1)
        t3[quads[t, 3]] += np.uint32(1)
    for t in range(filled // 4 * 4, filled):
        t0[bins[t]] += np.uint32(1)


@njit(nogil=True, cache=True, error_model="numpy")
def drain_tables(dense, tables, occupied, bins, counts):  # type: ignore[no-untyped-def]
    """Move the counted tables to ascending (bin, count) arrays, leave them zero; return how many bins."""
    if dense:
        t0, t1, t2, t3 = tables[0], tables[1], tables[2], tables[3]
        for k in range(BINS):
            t0[k] += (t1[k] + t2[k]) + t3[k]
        t1[:] = 0
        t2[:] = 0
        t3[:] = 0
        for k in range(BINS):
            if t0[k]:
                occupied[k >> 6] |= np.uint64(1) << np.uint64(k & 63)
    table = tables[0]
    found = 0
    for w in range(WORDS):
        word = occupied[w]
        while word:
            lowest = word & (~word + np.uint64(1))
            k = (w << 6) + _LOWEST[(lowest * _DE_BRUIJN) >> np.uint64(58)]
            bins[found] = k
            counts[found] = table[k]
            table[k] = 0
            found += 1
            word ^= lowest
        occupied[w] = 0
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def list_ranks(quantiles, pairs, spans):  # type: ignore[no-untyped-def]
    """List the ranks that the quantiles (ascending) interpolate, ascending, each once; return how many."""
    used = 0
    for q in range(len(quantiles)):
        low = np.int64(quantiles[q] * (pairs - 1))
        for side in range(2):
            rank = min(low + side, pairs - 1)
            at = used
            while at > 0 and spans.rank[at - 1] > rank:
                at -= 1
            if at == 0 or spans.rank[at - 1] != rank:
                spans.rank[used] = rank
                used += 1
                at = used
            spans.rank_of[2 * q + side] = at - 1
    return used


@njit(nogil=True, cache=True, error_model="numpy")
def bracket_ranks(spans, used, bins, counts):  # type: ignore[no-untyped-def]
    """Set the span of each rank to its bin."""
    k = 0
    below = 0
    for r in range(used):
        while spans.rank[r] >= below + counts[k]:
            below += counts[k]
            k += 1
        spans.low[r] = _EDGE_BITS[bins[k]]
        spans.high[r] = _EDGE_BITS[np.int64(bins[k]) + 1] - 1
        spans.below[r] = below
        spans.inside[r] = counts[k]
        spans.bin[r] = bins[k]


@njit(nogil=True, cache=True, error_model="numpy")
def widest_span(spans, used):  # type: ignore[no-untyped-def]
    """Return the values to be gathered in all, and the fullest span; one single value is not gathered."""
    total = 0
    widest = -1
    for r in range(used):
        if spans.low[r] == spans.high[r] or (r > 0 and spans.low[r] == spans.low[r - 1]):
            continue
        total += spans.inside[r]
        if widest < 0 or spans.inside[r] > spans.inside[widest]:
            widest = r
    return total, widest


@njit(nogil=True, cache=True, error_model="numpy")
def split_span(x, dims, n, spans, used, widest, block, narrow, bins):  # type: ignore[no-untyped-def]
    """Narrow the span of a rank (and of those that share it) to a 4,096th, or to the values really there."""
    low, high, below = spans.low[widest], spans.high[widest], spans.below[widest]
    shift = 0
    while (high - low) >> shift >= 1 << SPLIT_BITS:
        shift += 1
    counts = np.zeros(1 << SPLIT_BITS, np.int64)
    least = np.full(1 << SPLIT_BITS, high)
    greatest = np.full(1 << SPLIT_BITS, low)
    bits = block.view(np.int64)
    i, j = 0, 1
    while i < n - 1:
        i, j, filled = fill(x, dims, n, i, j, block, narrow, bins)
        for t in range(filled):
            value = bits[t]
            if low <= value <= high:
                digit = (value - low) >> shift
                counts[digit] += 1
                least[digit] = min(least[digit], value)
                greatest[digit] = max(greatest[digit], value)
    for r in range(used):
        if spans.low[r] == low and spans.high[r] == high:
            digit = 0
            under = below
            while spans.rank[r] >= under + counts[digit]:
                under += counts[digit]
                digit += 1
            spans.low[r] = least[digit]
            spans.high[r] = greatest[digit]
            spans.below[r] = under
            spans.inside[r] = counts[digit]


@njit(nogil=True, cache=True, error_model="numpy")
def gate_of(bins, counts, wanted):  # type: ignore[no-untyped-def]
    """Return the lowest bin such that it and those above hold ``wanted`` pairs; beyond all bins for none."""
    gate = np.uint16(0xFFFF)
    reached = 0
    k = len(bins)
    while reached < wanted and k > 0:
        k -= 1
        gate = bins[k]
        reached += counts[k]
    return gate


@njit(nogil=True, cache=True, error_model="numpy")
def mark(bins, filled, spans, leaders, gate, mask):  # type: ignore[no-untyped-def]
    """Set ``mask`` where a bin holds a gathered span, or is at or above ``gate``; zero up to the stride."""
    padded = (filled + 15) // 16 * 16
    m = mask[:padded]
    b = bins[:padded]
    for t in range(padded):
        m[t] = b[t] >= gate
    for k in range(leaders):
        wanted = np.uint16(spans.bin[spans.leader[k]])
        if k and wanted == spans.bin[spans.leader[k - 1]]:
            continue
        for t in range(padded):
            m[t] |= b[t] == wanted
    m[filled:] = 0


@njit(nogil=True, cache=True, error_model="numpy")
def collect(block, bins, mask, hits, filled, first, gate, spans, leaders, kept, heap, places, size):  # type: ignore[no-untyped-def]
    """Take a block's marked values into their span, and into the heap of the farthest; return its size."""
    words = mask.view(np.uint64)
    found = 0
    for w in range((filled + 7) // 8):
        if words[w]:
            # Eight unconditional stores cost less than eight branches that nobody can predict.
            for t in range(8 * w, 8 * w + 8):
                hits[found] = t
                found += mask[t]
    bits = block.view(np.int64)
    for h in range(found):
        t = hits[h]
        value = bits[t]
        for k in range(leaders):
            r = spans.leader[k]
            kept[spans.end[k]] = value  # one too far at most, where a span has one place to spare
            spans.end[k] += np.int64(spans.low[r] <= value) & np.int64(value <= spans.high[r])
        if bins[t] >= gate and len(heap):
            size = offer(heap, places, size, block[t], first + t)
    return size
