"""Walk all pairs of a group in condensed order (row-major, i < j, as scipy's ``pdist``), block by block.

Distances come from direct differences in float64. The identity ``|a|^2 + |b|^2 - 2ab`` is never used: at
1e9 bytes it loses every digit of the near pairs. Coordinates are (dimensions, flows + PAD), one row each.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from flowstream.bare_kernel import bare_njit

BLOCK = 2048  # pairs: a block, its bins and its mask fit the first-level cache
PAD = 16  # a row of pairs is computed in whole strides of 16, the excess is overwritten by the next row


@bare_njit
def squares_of_row(flat, width, dims, i, j, count, out, at):  # type: ignore[no-untyped-def]
    """Write the squared distances of flow ``i`` to ``count`` flows from ``j`` on to ``out[at:]``.

    ``flat`` holds ``dims`` or more features of ``width`` places each, PAD of them beyond the flows.
    Whole strides of 16 are written, so ``out`` needs PAD places beyond the last one asked for.
    """
    # Unsigned indices: for signed ones numba must allow for counting from the end, and LLVM does not vectorise.
    # Slices bound before the loop vectorise as well, but making them takes longer than a short row.
    o, a, ai, w = np.uint64(at), np.uint64(j), np.uint64(i), np.uint64(width)
    padded = np.uint64((count + 15) // 16 * 16)
    b, c, d, e = a + w, a + w * np.uint64(2), a + w * np.uint64(3), a + w * np.uint64(4)
    bi, ci, di, ei = ai + w, ai + w * np.uint64(2), ai + w * np.uint64(3), ai + w * np.uint64(4)
    done = 0
    if dims >= 5:
        done = 5
        p, q, r, s, u = flat[ai], flat[bi], flat[ci], flat[di], flat[ei]
        for t in range(padded):
            f, g, h, k, m = (
                flat[a + t] - p,
                flat[b + t] - q,
                flat[c + t] - r,
                flat[d + t] - s,
                flat[e + t] - u,
            )
            out[o + t] = (((f * f + g * g) + h * h) + k * k) + m * m
    elif dims >= 3:
        done = 3
        p, q, r = flat[ai], flat[bi], flat[ci]
        for t in range(padded):
            f, g, h = flat[a + t] - p, flat[b + t] - q, flat[c + t] - r
            out[o + t] = (f * f + g * g) + h * h
    elif dims >= 1:
        done = 1
        p = flat[ai]
        for t in range(padded):
            f = flat[a + t] - p
            out[o + t] = f * f
    else:
        for t in range(padded):
            out[o + t] = 0.0
    for more in range(done, dims):
        x = a + w * np.uint64(more)
        p = flat[ai + w * np.uint64(more)]
        for t in range(padded):
            f = flat[x + t] - p
            out[o + t] += f * f


@bare_njit
def bin_of(square):  # type: ignore[no-untyped-def]
    """Return the histogram's bin of a squared distance."""
    return np.uint16(np.float32(square).view(np.uint32) >> np.uint32(16))


@bare_njit
def fill(flat, width, dims, n, i, j, block, bins):  # type: ignore[no-untyped-def]
    """Write the next block of squares from pair (i, j) on, and their bins; return the next pair, how many."""
    filled = 0
    while filled < BLOCK and i < n - 1:
        count = min(n - j, BLOCK - filled)
        squares_of_row(flat, width, dims, i, j, count, block, filled)
        filled += count
        j += count
        if j == n:
            i += 1
            j = i + 1
    for t in range(np.uint64((filled + 15) // 16 * 16)):
        bins[t] = bin_of(block[t])
    return i, j, filled


@bare_njit
def sum_of_roots(block, filled, folded):  # type: ignore[no-untyped-def]
    """Return the sum of the distances of a block of squares, by folding halves."""
    half = np.uint64((filled + 1) // 2)
    rest = np.uint64(filled) - half
    for t in range(half):
        folded[t] = math.sqrt(block[t])
    for t in range(rest):
        folded[t] += math.sqrt(block[half + t])
    while half > np.uint64(1):
        middle = (half + np.uint64(1)) >> np.uint64(1)
        for t in range(half - middle):
            folded[t] += folded[middle + t]
        half = middle
    return folded[0]


@bare_njit
def range_of(bits, filled):  # type: ignore[no-untyped-def]
    """Return the least and the greatest of a block's squares, both by their bits."""
    # The bits of floats that are not negative are ordered as they are, and unlike floats they vectorise.
    least = greatest = bits[0]
    for t in range(np.uint64(filled)):
        least = min(least, bits[t])
        greatest = max(greatest, bits[t])
    return least, greatest


@njit(nogil=True, cache=True, error_model="numpy")
def condensed(x, dims, n, out):  # type: ignore[no-untyped-def]
    """Write all distances of a group to ``out``, n * (n - 1) / 2 of them and PAD more that mean nothing."""
    flat, width = x.reshape(-1), x.shape[1]
    at = 0
    for i in range(n - 1):
        squares_of_row(flat, width, dims, i, i + 1, n - 1 - i, out, at)
        at += n - 1 - i
    for t in range(at):
        out[t] = math.sqrt(out[t])


@bare_njit
def count_above(flat, width, dims, n, cut, counts, row):  # type: ignore[no-untyped-def]
    """Set ``counts[i]`` to the pairs of flow ``i`` with squares above ``cut``; return how many there are in all."""
    for i in range(n):
        counts[i] = 0
    pairs = np.int64(0)
    for i in range(n - 1):
        own = np.int64(0)
        for j in range(i + 1, n, BLOCK):
            count = min(n - j, BLOCK)
            squares_of_row(flat, width, dims, i, j, count, row, 0)
            first = np.uint64(j)
            for t in range(np.uint64(count)):
                above = np.int64(row[t] > cut)
                counts[first + t] += above
                own += above
        counts[i] += own
        pairs += own
    return pairs


@bare_njit
def pair_at(place, n):  # type: ignore[no-untyped-def]
    """Return (i, j) of a place in condensed order."""
    guess = int(n - 0.5 - math.sqrt(max((n - 0.5) * (n - 0.5) - 2.0 * place, 0.0)))
    i = max(0, min(guess, n - 2))
    while i > 0 and i * n - i * (i + 1) // 2 > place:
        i -= 1
    while (i + 1) * n - (i + 1) * (i + 2) // 2 <= place:
        i += 1
    return i, i + 1 + place - (i * n - i * (i + 1) // 2)
