"""Group rows by key columns, in key order, without a Python statement per row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import bare_njit
from flowstream.batch import Array

#: Fewer rows are compared sooner than their bytes are counted.
RADIX_ROWS_MIN: Final = 2048


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows sorted by key: group ``g`` is ``order[bounds[g]:bounds[g + 1]]``, in their first order within."""

    order: NDArray[np.int64]
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def firsts(self) -> NDArray[np.int64]:
        """Index of the first row of each group."""
        return self.order[self.bounds[:-1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows per group."""
        return np.diff(self.bounds)

    def sum(self, column: Array) -> Array:
        """Sum a column per group, in the column's own type."""
        if len(self) == 0:
            return np.zeros(0, column.dtype)
        return np.asarray(np.add.reduceat(column[self.order], self.bounds[:-1]))


def group_rows(*keys: Array) -> Groups:
    """Group by key columns, most significant first; a two-word address column counts as its two words."""
    words = [part for key in keys for part in ((key[:, 0], key[:, 1]) if key.ndim == 2 else (key,))]
    rows = len(words[0])
    if rows == 0:
        return Groups(np.zeros(0, np.int64), np.zeros(1, np.int64))
    # IPv4 addresses have one upper word between them: a word that is the same in all rows orders nothing.
    ranges = [(word, word.min(), word.max()) for word in words]
    ranges = [(word, low, high) for word, low, high in ranges if low != high]
    packed = _packed(rows, ranges)
    if packed is not None:
        packed.sort()
        place_bits = np.uint64((rows - 1).bit_length())
        order = (packed & np.uint64((1 << int(place_bits)) - 1)).astype(np.int64)
        return Groups(order, _bounds(rows, [packed >> place_bits]))
    if rows < RADIX_ROWS_MIN or any(word.dtype.kind not in "iu" for word, _, _ in ranges):
        order = np.lexsort([word for word, _, _ in reversed(ranges)]).astype(np.int64, copy=False)
    else:
        order = _wide_order(rows, ranges)
    return Groups(order, _bounds(rows, (word[order] for word, _, _ in ranges)))


def _wide_order(rows: int, ranges: list[tuple[Array, Any, Any]]) -> NDArray[np.int64]:
    """Return the stable order by whole numbers that do not fit into 64 bits together."""
    words = np.empty((len(ranges), rows), np.uint64)
    for place, (word, low, _) in enumerate(ranges):
        words[place] = word
        words[place] -= np.uint64(int(low) % (1 << 64))  # fewer bytes differ above the least
    order, keys = np.empty((2, rows), np.int64), np.empty((2, rows), np.uint64)
    order[0] = np.arange(rows)
    found: NDArray[np.int64] = order[_sort_bytes(words, order, keys, np.empty(256, np.int64))]
    return found


@bare_njit
def _sort_bytes(words, order, keys, places):  # type: ignore[no-untyped-def]
    """Sort ``order[0]`` by words, most significant first, and return which half of ``order`` is then sorted.

    Radix sort from the lowest byte on, from one half to the other; a byte that is 0 in all rows orders nothing.
    """
    rows = words.shape[1]
    now = 0
    for word in range(words.shape[0] - 1, -1, -1):
        used = np.uint64(0)
        for row in range(rows):
            value = words[word, order[now, row]]
            keys[now, row] = value
            used |= value
        for shift in range(0, 64, 8):
            by = np.uint64(shift)
            if (used >> by) & np.uint64(0xFF) == 0:
                continue
            places[:] = 0
            for row in range(rows):
                places[(keys[now, row] >> by) & np.uint64(0xFF)] += 1
            begin = 0
            for byte in range(256):
                count = places[byte]
                places[byte] = begin
                begin += count
            after = 1 - now
            for row in range(rows):
                byte = (keys[now, row] >> by) & np.uint64(0xFF)
                place = places[byte]
                places[byte] = place + 1
                keys[after, place] = keys[now, row]
                order[after, place] = order[now, row]
            now = after
    return now


def _packed(rows: int, ranges: list[tuple[Array, Any, Any]]) -> NDArray[np.uint64] | None:
    """Return keys and row number as one number per row, where 64 bits hold them: sorting those is a stable sort."""
    bits = [(int(high) - int(low)).bit_length() if word.dtype.kind in "iu" else 65 for word, low, high in ranges]
    place_bits = (rows - 1).bit_length()
    if sum(bits) + place_bits > 64:
        return None
    packed = np.zeros(rows, np.uint64)
    for (word, low, _), width in zip(ranges, bits, strict=True):
        packed <<= np.uint64(width)
        packed |= word.astype(np.uint64) - np.uint64(int(low) % (1 << 64))
    packed <<= np.uint64(place_bits)
    packed |= np.arange(rows, dtype=np.uint64)
    return packed


def _bounds(rows: int, ordered: Iterable[Array]) -> NDArray[np.int64]:
    changed = np.zeros(rows, np.bool_)
    changed[0] = True
    for word in ordered:
        changed[1:] |= word[1:] != word[:-1]
    return np.append(np.flatnonzero(changed), rows).astype(np.int64)
