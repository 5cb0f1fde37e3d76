"""Event time of one flows partition: watermarks of its source partitions, and rows waiting in their panes.

    source partition watermarks --min--> partition watermark --passes a pane's end--> the pane closes

A source partition that was never heard of holds time back until it is heard of or said to be idle, because
rows of any age may still come from it. Where all are idle, the furthest one leads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from flowstream.batch import FlowBatch
from flowstream.blocks import Block, SourcePartition
from flowstream.columns import Array, ColumnBatch
from flowstream.operators import Pane, Rows
from flowstream.ordering import stable_order


@dataclass(frozen=True, slots=True)
class SourceState:
    """What is known of one source partition: offsets below ``applied`` (None: not known) have been taken in."""

    applied: int | None
    watermark_ns: int | None
    idle: bool

    def after(self, block: Block[Any]) -> SourceState:
        """Return the state once a block has been taken in; nothing in it ever goes back."""
        marks = [w for w in (self.watermark_ns, block.watermark_ns) if w is not None]
        applied = self.applied
        if block.from_offset < block.to_offset:  # an idle block covers nothing, and may not know where it is
            applied = block.to_offset if applied is None else max(applied, block.to_offset)
        return SourceState(applied, max(marks, default=None), block.idle)


class Watermarks:
    """The source partitions of a flows partition, and the minimum of their watermarks."""

    def __init__(self) -> None:
        self.states: dict[SourcePartition, SourceState] = {}
        self.expected: tuple[tuple[str, int], ...] = ()

    def take(self, block: Block[Any]) -> None:
        """Take in a block's header."""
        self.expected = block.sources
        before = self.states.get(block.source) or SourceState(None, None, block.idle)
        self.states[block.source] = before.after(block)

    def applied(self, source: SourcePartition) -> int | None:
        """Return how far a source partition has been taken in, None before its first block."""
        state = self.states.get(source)
        return None if state is None else state.applied

    @property
    def watermark_ns(self) -> int | None:
        """The event time up to which every row has come, None while that is not known."""
        awaited = sum(count for _, count in self.expected)
        if not self.expected or len(self.states) < awaited:
            return None
        holding = [s.watermark_ns for s in self.states.values() if not s.idle]
        if any(w is None for w in holding):
            return None
        if holding:
            return min(w for w in holding if w is not None)
        return max((s.watermark_ns for s in self.states.values() if s.watermark_ns is not None), default=None)


class PaneAssembly(Generic[Rows]):
    """Rows by pane until they close. Panes below ``closed`` are closed and take no more."""

    def __init__(
        self,
        pane_ns: int,
        closed: int | None = None,
        kind: type[Rows] = FlowBatch,  # type: ignore[assignment]
    ) -> None:
        self.pane_ns = pane_ns
        self._kind = kind
        self.closed = closed
        self._open: dict[int, list[Rows]] = {}

    def index(self, time_ns: Array) -> int:
        """Return the pane of a time."""
        return int(time_ns) // self.pane_ns

    def is_closed(self, time_ns: Array) -> Array:
        """Return which times are in panes that are closed."""
        if self.closed is None:
            return np.zeros(len(time_ns), np.bool_)
        return np.asarray(time_ns < self.closed * self.pane_ns)

    def add(self, rows: Rows, time_ns: Array) -> None:
        """Put rows into their panes, none of which may be closed; ``time_ns`` are the times of the rows."""
        if not len(rows):
            return
        first, last = self.index(time_ns.min()), self.index(time_ns.max())
        if self.closed is not None and first < self.closed:
            raise ValueError(f"a row for pane {first}, which closed before pane {self.closed}")
        if first == last:
            self._open.setdefault(first, []).append(rows)
            return
        pane = time_ns // self.pane_ns
        if bool(np.any(pane[1:] < pane[:-1])):
            order = stable_order(pane)
            pane, rows = pane[order], rows.take(order)
        # Where time goes forward, as it mostly does, the parts are slices, which copy nothing.
        cuts = np.append(np.flatnonzero(np.diff(pane, prepend=pane[0] - 1)), len(pane)).tolist()
        for index, part in zip(pane[cuts[:-1]].tolist(), rows.split(cuts), strict=True):
            self._open.setdefault(index, []).append(part)

    @property
    def rows_open(self) -> int:
        """Rows waiting in open panes."""
        return sum(len(part) for parts in self._open.values() for part in parts)

    @property
    def last_open(self) -> int | None:
        """The last pane that holds rows."""
        return max(self._open, default=None)

    def close_before(self, watermark_ns: int) -> Iterator[Pane[Rows]]:
        """Yield, in order, the panes with rows that end at or before the watermark, and close up to there."""
        bound = watermark_ns // self.pane_ns
        if self.closed is not None and bound <= self.closed:
            return
        for index in sorted(i for i in self._open if i < bound):
            # In the order of their origin, in which most panes need sorting by time alone.
            parts = sorted(self._open.pop(index), key=_origin)
            yield self.pane(index, self._kind.concat(parts).in_time_order())
        self.closed = bound

    def pane(self, index: int, rows: Rows | None = None) -> Pane[Rows]:
        """Return pane ``index`` with the given rows."""
        start_ns = index * self.pane_ns
        return Pane(index, start_ns, start_ns + self.pane_ns, self._kind.none() if rows is None else rows)


def _origin(rows: ColumnBatch) -> tuple[int, int]:
    return int(rows.peek("origin_id")[0]), int(rows.peek("origin_offset")[0])
