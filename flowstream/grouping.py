"""Group rows by key columns, in key order, without a Python statement per row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import Array


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
    order = np.lexsort(words[::-1]).astype(np.int64, copy=False)
    if rows == 0:
        return Groups(order, np.zeros(1, np.int64))
    changed = np.zeros(rows, np.bool_)
    changed[0] = True
    for word in words:
        ordered = word[order]
        changed[1:] |= ordered[1:] != ordered[:-1]
    return Groups(order, np.append(np.flatnonzero(changed), rows).astype(np.int64))
