"""Passes over the pairs of a group: count them in log-linear bins, then gather what a few ranks need.

A rank is bracketed by a span of float64 bits, at first that of its bin. A span too full to be gathered is
split until it is not, so memory stays bounded for any input.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from flowstream.bare_kernel import bare_njit
from flowstream.histogram import BINS, EDGES
from flowstream.pair_kernels import fill
from flowstream.selection_kernels import offer

SPLIT_BITS = 12
WORDS = (BINS + 63) // 64  # of the bitmap of occupied bins

_EDGE_BITS = EDGES.view(np.int64)  # non-negative floats compare as their bits do
_LOWEST = np.zeros(64, np.uint8)  # position of the lowest set bit by de Bruijn multiplication (Leiserson 1998)
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
for _bit in range(64):
    _LOWEST[((1 << _bit) * int(_DE_BRUIJN) & 0xFFFF_FFFF_FFFF_FFFF) >> 58] = _bit


# What is known of each wanted rank (ascending): one row of an int64 array each. A tuple of arrays would have its
# references counted at every access, which took longer than the arithmetic on small groups.
RANK = 0  # number of the value among all, from 0
LOW = 1  # the value's bits lie between low
HIGH = 2  # and high, both included
BELOW = 3  # values below the span
INSIDE = 4  # values in it
BIN = 5  # the bin that holds the span
START = 6  # where its values are gathered, -1 where it is one value
BITS = 7  # the value, in the end
RANK_OF = 8  # by quantile, two each: which rank holds its lower and its upper neighbour
LEADER = 9  # by gathered span: first rank in it
END = 10  # by gathered span: where its next value goes
SPAN_ROWS = 11


@bare_njit
def count_few(bins, filled, table, occupied):  # type: ignore[no-untyped-def]
    """Count a block's bins in the first of the tables, and note which are occupied in a bitmap."""
    for t in range(np.uint64(filled)):
        k = np.uint64(bins[t])
        occupied[k >> np.uint64(6)] |= np.uint64(1) << (k & np.uint64(63))
        table[k] += np.uint32(1)


@bare_njit
def count_many(bins, filled, table):  # type: ignore[no-untyped-def]
    """Count a block's bins in four tables, one after the other in ``table``."""
    # Four: neighbouring pairs often share a bin, and one table would wait for its own last store.
    size = np.uint64(BINS)
    quads = np.uint64(filled // 4 * 4)
    for t in range(np.uint64(0), quads, np.uint64(4)):
        table[np.uint64(bins[t])] += np.uint32(1)
        table[size + np.uint64(bins[t + np.uint64(1)])] += np.uint32(1)
        table[size * np.uint64(2) + np.uint64(bins[t + np.uint64(2)])] += np.uint32(1)
        table[size * np.uint64(3) + np.uint64(bins[t + np.uint64(3)])] += np.uint32(1)
    for t in range(quads, np.uint64(filled)):
        table[np.uint64(bins[t])] += np.uint32(1)


@bare_njit
def merge_tables(table, lowest, highest, occupied):  # type: ignore[no-untyped-def]
    """Add up the four tables in the first, from bin ``lowest`` to ``highest``, and note which are occupied."""
    size = np.uint64(BINS)
    for k in range(np.uint64(lowest), np.uint64(highest) + np.uint64(1)):
        a, b, c = k + size, k + size * np.uint64(2), k + size * np.uint64(3)
        table[k] += (table[a] + table[b]) + table[c]
        table[a] = 0
        table[b] = 0
        table[c] = 0
        if table[k]:
            occupied[k >> np.uint64(6)] |= np.uint64(1) << (k & np.uint64(63))


@bare_njit
def drain_table(table, lowest, highest, occupied, bins, counts, first):  # type: ignore[no-untyped-def]
    """Move what was counted to ascending (bin, count) from ``first`` on, leave zeros; return how many bins."""
    found = np.uint64(first)
    for w in range(np.uint64(lowest >> 6), np.uint64(highest >> 6) + np.uint64(1)):
        word = occupied[w]
        occupied[w] = 0
        while word:
            lowest_bit = word & (~word + np.uint64(1))
            k = (w << np.uint64(6)) + np.uint64(_LOWEST[(lowest_bit * _DE_BRUIJN) >> np.uint64(58)])
            bins[found] = k
            counts[found] = table[k]
            table[k] = 0
            found += np.uint64(1)
            word ^= lowest_bit
    return np.int64(found) - first


@bare_njit
def list_ranks(quantiles, pairs, spans):  # type: ignore[no-untyped-def]
    """List the ranks that the quantiles (ascending) interpolate, ascending, each once; return how many."""
    used = 0
    for q in range(len(quantiles)):
        low = np.int64(quantiles[q] * (pairs - 1))
        for side in range(2):
            rank = min(low + side, pairs - 1)
            at = used
            while at > 0 and spans[RANK, at - 1] > rank:
                at -= 1
            if at == 0 or spans[RANK, at - 1] != rank:
                spans[RANK, used] = rank
                used += 1
                at = used
            spans[RANK_OF, 2 * q + side] = at - 1
    return used


@bare_njit
def bracket_ranks(spans, used, bins, counts, first):  # type: ignore[no-untyped-def]
    """Set the span of each rank to its bin; the histogram begins at ``first``."""
    k = first
    below = 0
    for r in range(used):
        while spans[RANK, r] >= below + counts[k]:
            below += counts[k]
            k += 1
        spans[LOW, r] = _EDGE_BITS[bins[k]]
        spans[HIGH, r] = _EDGE_BITS[np.int64(bins[k]) + 1] - 1
        spans[BELOW, r] = below
        spans[INSIDE, r] = counts[k]
        spans[BIN, r] = bins[k]


@bare_njit
def widest_span(spans, used):  # type: ignore[no-untyped-def]
    """Return the values to be gathered in all, and the fullest span; one single value is not gathered."""
    total = 0
    widest = -1
    for r in range(used):
        if spans[LOW, r] == spans[HIGH, r] or (r > 0 and spans[LOW, r] == spans[LOW, r - 1]):
            continue
        total += spans[INSIDE, r]
        if widest < 0 or spans[INSIDE, r] > spans[INSIDE, widest]:
            widest = r
    return total, widest


@njit(nogil=True, cache=True, error_model="numpy")
def split_span(flat, width, dims, n, spans, used, widest, block, bits, bins):  # type: ignore[no-untyped-def]
    """Narrow the span of a rank (and of those that share it) to a 4,096th, or to the values really there."""
    low, high, below = spans[LOW, widest], spans[HIGH, widest], spans[BELOW, widest]
    shift = 0
    while (high - low) >> shift >= 1 << SPLIT_BITS:
        shift += 1
    counts = np.zeros(1 << SPLIT_BITS, np.int64)
    least = np.full(1 << SPLIT_BITS, high)
    greatest = np.full(1 << SPLIT_BITS, low)
    i, j = 0, 1
    while i < n - 1:
        i, j, filled = fill(flat, width, dims, n, i, j, block, bins)
        for t in range(filled):
            value = bits[t]
            if low <= value <= high:
                digit = (value - low) >> shift
                counts[digit] += 1
                least[digit] = min(least[digit], value)
                greatest[digit] = max(greatest[digit], value)
    for r in range(used):
        if spans[LOW, r] == low and spans[HIGH, r] == high:
            digit = 0
            under = below
            while spans[RANK, r] >= under + counts[digit]:
                under += counts[digit]
                digit += 1
            spans[LOW, r] = least[digit]
            spans[HIGH, r] = greatest[digit]
            spans[BELOW, r] = under
            spans[INSIDE, r] = counts[digit]


@bare_njit
def place_spans(spans, used):  # type: ignore[no-untyped-def]
    """Give each span its place among the gathered values; return how many are gathered."""
    leaders = 0
    at = 0
    for r in range(used):
        spans[START, r] = -1
        if spans[LOW, r] == spans[HIGH, r]:
            continue
        if r > 0 and spans[LOW, r] == spans[LOW, r - 1]:
            spans[START, r] = spans[START, r - 1]
            continue
        spans[START, r] = at
        spans[END, leaders] = at
        spans[LEADER, leaders] = r
        leaders += 1
        at += spans[INSIDE, r] + 1  # collect() writes one place too far
    return leaders


@bare_njit
def gate_of(bins, counts, first, last, wanted):  # type: ignore[no-untyped-def]
    """Return the lowest bin such that it and those above hold ``wanted`` pairs; beyond all bins for none."""
    gate = np.uint16(0xFFFF)
    reached = 0
    k = last
    while reached < wanted and k > first:
        k -= 1
        gate = bins[k]
        reached += counts[k]
    return gate


@bare_njit
def mark(bins, filled, spans, leaders, gate, mask):  # type: ignore[no-untyped-def]
    """Set ``mask`` where a bin holds a gathered span, or is at or above ``gate``; zero up to the stride."""
    padded = np.uint64((filled + 15) // 16 * 16)
    for t in range(padded):
        mask[t] = bins[t] >= gate
    before = -1
    for k in range(leaders):
        wanted = spans[BIN, spans[LEADER, k]]
        if wanted != before:
            narrow = np.uint16(wanted)
            for t in range(padded):
                mask[t] |= bins[t] == narrow
        before = wanted
    for t in range(np.uint64(filled), padded):
        mask[t] = 0


@bare_njit
def list_marked(words, mask, filled, hits):  # type: ignore[no-untyped-def]
    """List the places where ``mask`` is set, whose words are ``words``; return how many there are."""
    found = np.uint64(0)
    for w in range(np.uint64((filled + 7) // 8)):
        if words[w]:
            # Eight unconditional stores cost less than eight branches that nobody can predict.
            for t in range(np.uint64(8) * w, np.uint64(8) * w + np.uint64(8)):
                hits[found] = t
                found += np.uint64(mask[t])
    return np.int64(found)


@bare_njit
def collect(bits, hits, found, spans, leaders, kept):  # type: ignore[no-untyped-def]
    """Take a block's marked values into their spans."""
    for k in range(leaders):
        low, high = spans[LOW, spans[LEADER, k]], spans[HIGH, spans[LEADER, k]]
        end = np.uint64(spans[END, k])
        for h in range(np.uint64(found)):
            value = bits[np.uint64(hits[h])]
            kept[end] = value  # one too far at most, where a span has one place to spare
            end += np.uint64((low <= value) & (value <= high))
        spans[END, k] = end


@bare_njit
def offer_marked(block, bins, hits, found, first, gate, heap, places, wanted, size):  # type: ignore[no-untyped-def]
    """Offer a block's values at or above the gate to the heap of the farthest; return its size."""
    for h in range(np.uint64(found)):
        t = hits[h]
        if bins[t] >= gate:
            size = offer(heap, places, wanted, size, block[t], first + t)
    return size
