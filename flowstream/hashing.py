"""Group rows and count distinct pairs by hashing: for sums, which need no order, several times faster than sorting.

Open addressing with linear probing. The outcome does not depend on the hash; addresses
chosen to collide only cost time, so the probes are bounded, and past the bound the rows are sorted instead.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import bare_njit, inline_njit
from flowstream.batch import Array
from flowstream.grouping import group_rows

PROBES_PER_ROW: Final = 8


def number_groups(words: Array) -> tuple[NDArray[np.int64], Array]:
    """Return each row's group, numbered in the order of their keys, and the keys; ``words`` is (rows, words)."""
    group, firsts = number_by_first(words)
    keys = words.take(firsts, axis=0)
    ordered = group_rows(*keys.T).order
    rank = np.empty(len(keys), np.int64)
    rank[ordered] = np.arange(len(keys))
    return rank[group], keys.take(ordered, axis=0)


def number_by_first(words: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each row's group, numbered in the order of their first rows, and those; ``words`` is (rows, words)."""
    rows = len(words)
    group, firsts = np.empty(rows, np.int64), np.empty(rows, np.int64)
    groups = _number(words, group, firsts, _table(rows), PROBES_PER_ROW * rows + 64)
    if groups >= 0:
        return group, firsts[:groups]
    by_key = group_rows(*words.T)
    order = np.argsort(by_key.firsts)
    rank = np.empty(len(by_key), np.int64)
    rank[order] = np.arange(len(by_key))
    group[by_key.order] = np.repeat(rank, by_key.sizes)
    return group, by_key.firsts[order]


def count_distinct(group: NDArray[np.int64], groups: int, words: Array) -> NDArray[np.int64]:
    """Return how many different ``words``, (rows, 2), the rows of each group hold."""
    rows = len(words)
    counts = np.zeros(groups, np.int64)
    if _count(group, words, counts, _table(rows), PROBES_PER_ROW * rows + 64):
        return counts
    pairs = group_rows(group, words)
    return np.bincount(group[pairs.firsts], minlength=groups).astype(np.int64)


def _table(rows: int) -> NDArray[Any]:
    """Return an empty table for so many keys, which fill three quarters of it at the most: numbers, -1 where free."""
    return np.full(1 << (rows + rows // 3 + 1).bit_length(), -1, np.int32 if rows < 1 << 31 else np.int64)


@inline_njit
def mix(high, low, more):  # type: ignore[no-untyped-def]
    """Mix two words and a number: MurmurHash3's 64-bit finaliser (Appleby)."""
    word = (high * np.uint64(0x9E3779B97F4A7C15)) ^ low ^ (more * np.uint64(0xD6E8FEB86659FD93))
    word = (word ^ (word >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    word = (word ^ (word >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return word ^ (word >> np.uint64(33))


@bare_njit
def _number(words, group, firsts, table, probes):  # type: ignore[no-untyped-def]
    """Give groups numbers in the order of their first rows; return how many, or -1 where the probes did not do."""
    mask = np.uint64(len(table) - 1)
    width = words.shape[1]
    groups = 0
    for row in range(len(words)):
        mixed = mix(words[row, 0], words[row, 1] if width > 1 else np.uint64(0), np.uint64(0))
        for column in range(2, width):
            mixed = mix(mixed, words[row, column], np.uint64(0))
        slot = mixed & mask
        while True:
            known = table[slot]
            if known < 0:
                table[slot] = groups
                firsts[groups] = row
                group[row] = groups
                groups += 1
                break
            first = firsts[known]
            same = True
            for column in range(width):
                same &= words[first, column] == words[row, column]
            if same:
                group[row] = known
                break
            slot = (slot + np.uint64(1)) & mask
            probes -= 1
            if probes < 0:
                return -1
    return groups


@bare_njit
def _count(group, words, counts, table, probes):  # type: ignore[no-untyped-def]
    """Count new (group, words) pairs per group; return whether the probes did."""
    mask = np.uint64(len(table) - 1)
    for row in range(len(words)):
        high, low = words[row, 0], words[row, 1]
        slot = mix(high, low, np.uint64(group[row]) + np.uint64(1)) & mask
        while True:
            other = table[slot]
            if other < 0:
                table[slot] = row
                counts[group[row]] += 1
                break
            if group[other] == group[row] and words[other, 0] == high and words[other, 1] == low:
                break
            slot = (slot + np.uint64(1)) & mask
            probes -= 1
            if probes < 0:
                counts[:] = 0
                return False
    return True
