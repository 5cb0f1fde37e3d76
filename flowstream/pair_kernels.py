"""Walk all pairs of a group in condensed order (row-major, i < j, as scipy's ``pdist``), block by block.

Distances come from direct differences in float64. The identity ``|a|^2 + |b|^2 - 2ab`` is never used: at
1e9 bytes it loses every digit of the near pairs. Coordinates are (dimensions, flows + PAD), one row each.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

BLOCK = 2048  # pairs: a block, its bins and its mask fit the first-level cache
PAD = 16  # a row of pairs is computed in whole strides of 16, the excess is overwritten by the next row


@njit(nogil=True, cache=True, error_model="numpy")
def squares_of_row(flat, width, dims, i, j, count, out, at):  # type: ignore[no-untyped-def]
    """Write the squared distances of flow ``i`` to ``count`` flows from ``j`` on to ``out[at:]``.

    ``flat`` holds ``dims`` or more features of ``width`` places each, PAD of them beyond the flows.
    Whole strides of 16 are written, so ``out`` needs PAD places beyond the last one asked for.
    """
    # Unsigned indices: for signed ones numba must allow for counting from the end, and LLVM does not vectorise.
    # Slices bound before the loop vectorise as well, but making them takes longer than a short row.
    o, a, ai, w = np.uint64(at), np.uint64(j), np.uint64(i), np.uint64(width)
    padded = np.uint64((count + 15) // 16 * 16)
    if dims == 0:
        for t in range(padded):
            out[o + t] = 0.0
        return
    b, c, d, e = a + w, a + w * np.uint64(2), a + w * np.uint64(3), a + w * np.uint64(4)
    bi, ci, di, ei = ai + w, ai + w * np.uint64(2), ai + w * np.uint64(3), ai + w * np.uint64(4)
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
    else:
        done = 1
        p = flat[ai]
        for t in range(padded):
            f = flat[a + t] - p
            out[o + t] = f * f
    for more in range(done, dims):
        x = a + w * np.uint64(more)
        p = flat[ai + w * np.uint64(more)]
        for t in range(padded):
            f = flat[x + t] - p
            out[o + t] += f * f


@njit(nogil=True, cache=True, error_model="numpy")
def fill(x, dims, n, i, j, block, narrow, bins):  # type: ignore[no-untyped-def]
    """Write the next block of squares from pair (i, j) on, and their bins; return the next pair, how many."""
    flat, width = x.reshape(-1), x.shape[1]
    filled = 0
    while filled < BLOCK and i < n - 1:
        count = min(n - j, BLOCK - filled)
        squares_of_row(flat, width, dims, i, j, count, block, filled)
        filled += count
        j += count
        if j == n:
            i += 1
            j = i + 1
    padded = (filled + 15) // 16 * 16
    v = block[:padded]
    f = narrow[:padded]
    for t in range(padded):
        f[t] = v[t]
    bits = narrow.view(np.uint32)[:padded]
    b = bins[:padded]
    for t in range(padded):
        b[t] = bits[t] >> np.uint32(16)
    return i, j, filled


@njit(nogil=True, cache=True, error_model="numpy")
def sum_and_range(block, filled, folded):  # type: ignore[no-untyped-def]
    """Return the sum of the distances of a block, and its least and greatest square, by folding halves."""
    half = (filled + 1) // 2
    rest = filled - half
    low = block[:half]
    high = block[half:filled]
    total = folded[0, :half]
    least = folded[1, :half]
    greatest = folded[2, :half]
    for t in range(half):
        total[t] = math.sqrt(low[t])
    for t in range(rest):
        total[t] += math.sqrt(high[t])
    if rest < half:
        least[rest] = low[rest]
        greatest[rest] = low[rest]
    for t in range(rest):
        least[t] = min(low[t], high[t])
        greatest[t] = max(low[t], high[t])
    while half > 1:
        middle = (half + 1) // 2
        a, b, c = total[middle:half], least[middle:half], greatest[middle:half]
        for t in range(half - middle):
            total[t] += a[t]
        for t in range(half - middle):
            least[t] = min(least[t], b[t])
        for t in range(half - middle):
            greatest[t] = max(greatest[t], c[t])
        half = middle
    return total[0], least[0], greatest[0]


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


@njit(nogil=True, cache=True, error_model="numpy")
def count_above(x, dims, n, cut, counts, row):  # type: ignore[no-untyped-def]
    """Set ``counts[i]`` to the pairs of flow ``i`` with squares above ``cut``; ``row`` is scratch."""
    flat, width = x.reshape(-1), x.shape[1]
    counts[:n] = 0
    for i in range(n - 1):
        own = np.int64(0)
        for j in range(i + 1, n, BLOCK):
            count = min(n - j, BLOCK)
            squares_of_row(flat, width, dims, i, j, count, row, 0)
            r = row[:count]
            c = counts[j : j + count]
            for t in range(count):
                above = np.int64(r[t] > cut)
                c[t] += above
                own += above
        counts[i] += own


@njit(nogil=True, cache=True, error_model="numpy")
def pair_at(place, n):  # type: ignore[no-untyped-def]
    """Return (i, j) of a place in condensed order."""
    guess = int(n - 0.5 - math.sqrt(max((n - 0.5) * (n - 0.5) - 2.0 * place, 0.0)))
    i = max(0, min(guess, n - 2))
    while i > 0 and i * n - i * (i + 1) // 2 > place:
        i -= 1
    while (i + 1) * n - (i + 1) * (i + 2) // 2 <= place:
        i += 1
    return i, i + 1 + place - (i * n - i * (i + 1) // 2)
