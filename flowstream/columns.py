"""Batches of rows as columns, one numpy array each: what ``FlowBatch`` and other batches of rows have in common.

Rule 1: nothing here works row by row.
Rule 2: the columns of a kind of batch are its ``LAYOUT``. Four are in each: ``time_ns``, the event time, and
        ``origin_id``, ``origin_offset``, ``origin_row``, where the row came from; together they order rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from operator import is_
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from flowstream.ordering import time_order

Array = NDArray[Any]  # a column: its type is in the layout
#: Makes a column by its name: in the array that it is given, or in one of its own.
Source = Callable[[str, Array | None], Array]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type, how many numbers wide a row is, and what it means."""

    dtype: str
    meaning: str
    width: int = 1

    def shape(self, rows: int) -> tuple[int, ...]:
        """Return the shape of its array."""
        return (rows,) if self.width == 1 else (rows, self.width)

    def zeros(self, rows: int) -> Array:
        """Return it with every number zero."""
        return np.zeros(self.shape(rows), self.dtype)

    def empty(self, rows: int) -> Array:
        """Return it to be filled in."""
        return np.empty(self.shape(rows), self.dtype)


def picked(column: Array, index: Array | slice) -> Array:
    """Return the rows of a column by position, by mask, or by slice (a slice copies nothing).

    It is what ``column[index]`` gives, which takes ten times as long for rows of two words and more.
    """
    if isinstance(index, slice):
        return column[index]
    return column.compress(index, axis=0) if index.dtype == np.bool_ else column.take(index, axis=0)


class ColumnBatch:
    """Rows, column by column. Columns are attributes; every one has ``len(batch)`` rows.

    A batch may have a ``source`` that makes a column when it is first asked for: an analysis that looks at
    five columns then pays for five, all the way from the block they came in.
    """

    LAYOUT: ClassVar[Mapping[str, Column]] = {}

    __slots__ = ("__weakref__", "_columns", "_rows", "_source", "_unsorted")

    def __init__(
        self,
        columns: dict[str, Array],
        rows: int | None = None,
        source: Source | None = None,
        unsorted: Self | None = None,
    ) -> None:
        self._columns = columns
        self._rows = len(columns["time_ns"]) if rows is None else rows
        self._source = source
        self._unsorted = unsorted

    def __getattr__(self, name: str) -> Array:
        if name not in self.LAYOUT:
            raise AttributeError(name)
        return self.column(name)

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} rows)"

    def column(self, name: str) -> Array:
        """Return a column by name, and keep it."""
        if name not in self._columns:
            self._columns[name] = self.peek(name)
        return self._columns[name]

    @property
    def is_lazy(self) -> bool:
        """Whether columns may still have to be made."""
        return self._source is not None

    def peek(self, name: str) -> Array:
        """Return a column without keeping it: for batches made from this one, which keep what is theirs."""
        if name in self._columns or self._source is None:
            return self._columns[name]
        return self._source(name, None)

    def put(self, name: str, out: Array) -> None:
        """Write a column, without keeping it."""
        made = self._columns[name] if name in self._columns or self._source is None else self._source(name, out)
        if made is not out:
            out[:] = made

    @property
    def columns(self) -> Mapping[str, Array]:
        """All columns by name, in the order of the layout."""
        return {name: self.column(name) for name in self.LAYOUT}

    @classmethod
    def zeros(cls, rows: int) -> Self:
        """Return a batch of ``rows`` rows with every column zero, to be filled in."""
        return cls({name: c.zeros(rows) for name, c in cls.LAYOUT.items()}, rows)

    @classmethod
    def none(cls) -> Self:
        """Return a batch without rows, the same one each time."""
        if cls not in _WITHOUT_ROWS:
            _WITHOUT_ROWS[cls] = cls.zeros(0)
        return cast("Self", _WITHOUT_ROWS[cls])

    @classmethod
    def of(cls, rows: int, columns: Mapping[str, Array]) -> Self:
        """Build a batch from some columns, cast to their types; the others are zero.

        Raises ValueError where a column is unknown or has another shape.
        """
        given = cls._checked(rows, columns)
        return cls({name: given[name] if name in given else c.zeros(rows) for name, c in cls.LAYOUT.items()}, rows)

    @classmethod
    def concat(cls, batches: Iterable[Self]) -> Self:
        """Join batches end to end."""
        parts = [b for b in batches if len(b)]
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.zeros(0)
        if any(p.is_lazy for p in parts):
            rows, inner = sum(map(len, parts)), [p.in_any_order for p in parts]
            unsorted = None if all(map(is_, inner, parts)) else cls.concat(inner)
            return cls({}, rows, partial(_end_to_end, cls.LAYOUT, parts), unsorted)
        return cls({name: np.concatenate([p.column(name) for p in parts]) for name in cls.LAYOUT})

    def take(self, index: Array | slice) -> Self:
        """Select rows by position, by mask, or by slice (a slice copies nothing)."""
        if not isinstance(index, slice) and index.dtype == np.bool_:
            index = np.flatnonzero(index)  # once, not again for every column
        if self._source is None:
            return type(self)({name: picked(column, index) for name, column in self._columns.items()})
        rows = len(range(len(self))[index]) if isinstance(index, slice) else len(index)
        return type(self)({}, rows, lambda name, _out: picked(self.peek(name), index))

    def split(self, cuts: Sequence[int]) -> list[Self]:
        """Return the rows between cuts that follow each other; a column is made once for all of them."""
        parts = list(pairwise(cuts))
        if self._source is None:
            return [self.take(slice(a, b)) for a, b in parts]
        return [type(self)({}, b - a, partial(self._part, slice(a, b))) for a, b in parts]

    def _part(self, rows: slice, name: str, _out: Array | None) -> Array:
        return self.column(name)[rows]

    def replace(self, **columns: Array) -> Self:
        """Return the same rows with some columns replaced."""
        return type(self)({**self._columns, **self._checked(len(self), columns)}, self._rows, self._source)

    def in_time_order(self) -> Self:
        """Sort by (event time, source partition, source offset, row in message): one order for one set."""
        return type(self)({}, len(self), _InTimeOrder(self), self)

    @property
    def in_any_order(self) -> Self:
        """The same rows in whatever order costs nothing: for what does not depend on it, such as a sum."""
        return self if self._unsorted is None else self._unsorted

    def arranged(self, values: Array) -> Array:
        """Return what goes with the rows of ``in_any_order`` in the order of these, which are those of one pane."""
        if self._unsorted is None:
            return values
        if not isinstance(self._source, _InTimeOrder):
            raise TypeError("rows of several panes, each of which has an order of its own")
        return np.asarray(values[self._source.order])

    @classmethod
    def _checked(cls, rows: int, columns: Mapping[str, Array]) -> dict[str, Array]:
        unknown = set(columns) - set(cls.LAYOUT)
        if unknown:
            raise ValueError(f"unknown columns {sorted(unknown)}")
        cast: dict[str, Array] = {}
        for name, column in columns.items():
            array = np.ascontiguousarray(column, dtype=cls.LAYOUT[name].dtype)
            if array.shape != cls.LAYOUT[name].shape(rows):
                raise ValueError(f"column {name} has shape {array.shape}, not {cls.LAYOUT[name].shape(rows)}")
            cast[name] = array
        return cast


def _end_to_end(layout: Mapping[str, Column], parts: Sequence[ColumnBatch], name: str, out: Array | None) -> Array:
    """Make a column of the parts: each writes its own, so that what is packed is unpacked where it is wanted."""
    joined, end = layout[name].empty(sum(map(len, parts))) if out is None else out, 0
    for part in parts:
        begin, end = end, end + len(part)
        part.put(name, joined[begin:end])
    return joined


_WITHOUT_ROWS: dict[type[ColumnBatch], ColumnBatch] = {}


class _InTimeOrder:
    """Makes the columns of a batch in time order; the order is made with the first of them."""

    def __init__(self, batch: ColumnBatch) -> None:
        self._batch = batch

    def __call__(self, name: str, _out: Array | None) -> Array:
        return picked(self._batch.peek(name), self.order)

    @cached_property
    def order(self) -> NDArray[np.int64] | slice:
        return time_order(*map(self._batch.peek, ("time_ns", "origin_id", "origin_offset", "origin_row")))
