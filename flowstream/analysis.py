"""The analysis of a partition of flows, or of partials: blocks in, results out, and a record to start again from.

    block -> duplicates dropped by origin -> late rows diverted -> panes -> operators -> results

Everything here is a function of the blocks in their order. ``progress()`` names the position from which a
reader must go on, with the state as it was there; ``restore`` followed by the blocks from that position on
gives the same results as never having stopped, and says nothing twice below the panes already closed.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import msgspec

from flowstream.batch import FlowBatch, Quality
from flowstream.blocks import Block, SourcePartition
from flowstream.columns import Array
from flowstream.errors import StateError
from flowstream.operators import Keeps, Operator, Pane, Rows, Said
from flowstream.panes import PaneAssembly, SourceState, Watermarks

PROGRESS_VERSION = 1


class SourceProgress(msgspec.Struct, frozen=True, array_like=True):
    """A source partition as of ``Progress.position``."""

    topic: str
    partition: int
    applied: int | None
    watermark_ns: int | None
    idle: bool


class Progress(msgspec.Struct, frozen=True):
    """Where and with what to start again."""

    version: int
    pane_ns: int  # closed counts panes of this length
    position: int  # first offset that still holds rows of an open or looked-back pane
    next_offset: int  # first offset not yet read when this was written
    closed: int | None  # panes below are closed and their results sent
    closed_at_position: int | None  # what closed was when the block at position was taken in
    expected: list[tuple[str, int]]
    sources: list[SourceProgress]  # as of position
    operators: dict[str, bytes]  # snapshots, as of closed

    def encode(self) -> bytes:
        """Return the record's bytes."""
        return zlib.compress(msgspec.msgpack.encode(self), 1)

    @classmethod
    def decode(cls, raw: bytes) -> Progress:
        """Read the record; StateError if this version cannot."""
        try:
            progress = msgspec.msgpack.decode(zlib.decompress(raw), type=cls)
        except (msgspec.DecodeError, ValueError, RecursionError, zlib.error) as error:
            raise StateError(f"not a progress record: {error}") from error
        if progress.version != PROGRESS_VERSION:
            raise StateError(f"a progress record of version {progress.version}, not {PROGRESS_VERSION}")
        return progress


class Bounds(msgspec.Struct, frozen=True):
    """Which panes of a flows partition are wanted, where not all are: of a replay, and of an app until a cut-over.

    Panes that end at or before ``silent_before_ns`` warm up what looks back: they are processed, and say nothing but
    what operators keep, nor do late rows before it. Panes from the one that holds ``until_ns`` on are left for a later
    life: neither processed nor kept, while the position stays before them. Before ``whole_from_ns`` rows are not read.
    """

    silent_before_ns: int | None = None
    until_ns: int | None = None
    whole_from_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Rows]):
    """What came of one block. ``len(block.rows) == applied + late + duplicate``."""

    results: list[Said]
    late: Rows
    applied: int
    duplicate: int
    gap: int  # source offsets that were skipped: lost, and said so
    panes: int  # panes closed


@dataclass(slots=True)
class _Retained:
    offset: int
    last_pane: int | None  # None: holds no row that a pane needs
    block: Block[Any]  # header only


class Analysis(Generic[Rows]):
    """All operators over the rows of one partition; ``kind`` is their class."""

    def __init__(
        self,
        operators: Sequence[Operator[Rows]],
        pane_ns: int,
        progress: Progress | None = None,
        bounds: Bounds = Bounds(),  # noqa: B008 - it is frozen
        kind: type[Rows] = FlowBatch,  # type: ignore[assignment]
    ) -> None:
        silent_ns, until_ns = bounds.silent_before_ns, bounds.until_ns
        self._silent_ns = None if silent_ns is None else silent_ns // pane_ns * pane_ns
        self._until = None if until_ns is None else until_ns // pane_ns
        self.operators = tuple(operators)
        self._kept_streams = frozenset(o.kept_stream for o in operators if isinstance(o, Keeps))
        self._lookback = max((o.lookback for o in operators), default=0)
        self._watermarks = Watermarks()
        self._trailing = Watermarks()  # as of the position
        self._trailing_closed: int | None = None
        self._panes = PaneAssembly(pane_ns, kind=kind)
        self.closed: int | None = None  # panes below went through the operators: those closed, up to the bound
        self._history: deque[Pane[Rows]] = deque(maxlen=self._lookback + 1)
        self._retained: deque[_Retained] = deque()
        self._next_offset = 0
        self._said_before = 0  # results of panes below were sent by an earlier life
        self._read_before = 0
        if progress is not None:
            self._restore(progress)

    @property
    def watermark_ns(self) -> int | None:
        """The partition's watermark."""
        return self._watermarks.watermark_ns

    @property
    def rows_open(self) -> int:
        """Rows waiting for their pane to close."""
        return self._panes.rows_open

    def apply(self, offset: int, block: Block[Rows]) -> Outcome[Rows]:
        """Take in the block at an offset, which must be at or after the position."""
        self._next_offset = offset + 1
        applied_to = self._watermarks.applied(block.source)
        fresh, gap = block.rows, 0
        if applied_to is not None:
            gap = max(0, block.from_offset - applied_to)
            if block.from_offset < applied_to:
                fresh = fresh.take(fresh.origin_offset >= applied_to)
        time_ns = fresh.peek("time_ns")  # rows that wait for their pane stay packed
        late = ((fresh.peek("quality") & Quality.LATE) != 0) | self._panes.is_closed(time_ns)
        on_time, late_rows = fresh, fresh.take(slice(0))
        if late.any():
            on_time, late_rows, time_ns = fresh.take(~late), fresh.take(late), time_ns[~late]
        self._panes.add(*self._wanted(on_time, time_ns))
        self._watermarks.take(block)
        last_pane = self._panes.index(time_ns.max()) if len(on_time) else None
        self._retained.append(_Retained(offset, last_pane, block.header))
        watermark_ns = self._watermarks.watermark_ns
        results: list[Said] = []
        panes = 0
        if watermark_ns is not None:
            for pane in self._closing(watermark_ns):
                panes += 1
                results.extend(self._process(pane))
            self._release()
        told = self._told(late_rows) if offset >= self._read_before else late_rows.take(slice(0))
        return Outcome(results, told, len(on_time), len(block.rows) - len(fresh), gap, panes)

    def pass_over(self, offset: int) -> None:
        """Go past an offset that holds no block."""
        self._next_offset = offset + 1

    def finish(self) -> list[Said]:
        """Close every pane that holds rows, and go on until the operators have nothing more to say."""
        last = self._panes.last_open
        results: list[Said] = []
        if last is not None:
            for pane in self._closing((last + 1) * self._panes.pane_ns):
                results.extend(self._process(pane))
        while not self._quiet and self.closed is not None and not self.finished:
            for pane in self._closing((self.closed + 1) * self._panes.pane_ns):
                results.extend(self._process(pane))
        return results

    @property
    def finished(self) -> bool:
        """Whether every pane before the bound has gone through the operators; False where there is no bound."""
        return self._until is not None and self.closed is not None and self.closed >= self._until

    @property
    def position(self) -> int:
        """The first offset that still holds rows of an open or looked-back pane."""
        return self._retained[0].offset if self._retained else self._next_offset

    def progress(self) -> Progress:
        """Return what to store once all results so far have been sent."""
        return Progress(
            PROGRESS_VERSION,
            self._panes.pane_ns,
            self.position,
            # Also while a resumed life catches up, it has said what was said and has the operators as they were.
            max(self._next_offset, self._read_before),
            max(self._said_before, self.closed or 0) or self.closed,
            self._trailing_closed,
            list(self._trailing.expected),
            [SourceProgress(*of, s.applied, s.watermark_ns, s.idle) for of, s in sorted(self._trailing.states.items())],
            {o.name: o.snapshot() for o in self.operators},
        )

    def _closing(self, watermark_ns: int) -> Iterator[Pane[Rows]]:
        """Yield every pane up to the watermark, or the bound; empty ones only as long as an operator waits for them."""
        next_index = self.closed
        for pane in self._panes.close_before(watermark_ns):
            if next_index is not None:
                yield from self._empty_until(next_index, pane.index)
            yield pane
            next_index = pane.index + 1
        closed = self._panes.closed
        if closed is not None:
            end = closed if self._until is None else min(closed, self._until)
            if next_index is not None:
                yield from self._empty_until(next_index, end)
            self.closed = end if self.closed is None else max(end, self.closed)

    def _wanted(self, rows: Rows, time_ns: Array) -> tuple[Rows, Array]:
        """Return the rows before the bound, and their times."""
        if self._until is None:
            return rows, time_ns
        inside = time_ns < self._until * self._panes.pane_ns
        return (rows, time_ns) if inside.all() else (rows.take(inside), time_ns[inside])

    def _told(self, late_rows: Rows) -> Rows:
        """Return the late rows that are not before what is wanted."""
        if self._silent_ns is None or not len(late_rows):
            return late_rows
        return late_rows.take(late_rows.peek("time_ns") >= self._silent_ns)

    def _empty_until(self, index: int, end: int) -> Iterator[Pane[Rows]]:
        while index < end and not self._quiet:
            yield self._panes.pane(index)
            index += 1

    @property
    def _quiet(self) -> bool:
        return not any(len(p.rows) for p in self._history) and all(o.quiet for o in self.operators)

    def _process(self, pane: Pane[Rows]) -> list[Said]:
        while self._history and self._history[0].index < pane.index - self._lookback:
            self._history.popleft()
        self._history.append(pane)
        if pane.index < self._said_before:
            return []
        results: list[Said] = []
        for operator in self.operators:
            first = pane.index - operator.lookback
            results.extend(operator.process([p for p in self._history if p.index >= first]))
        if self._silent_ns is None or pane.start_ns >= self._silent_ns:
            return results
        return [said for said in results if said.stream in self._kept_streams]

    def _release(self) -> None:
        """Move the position past blocks none of whose rows is in an open or looked-back pane."""
        closed = self.closed
        if closed is None:
            return
        keep_from = closed - self._lookback
        while self._retained and (self._retained[0].last_pane is None or self._retained[0].last_pane < keep_from):
            self._trailing.take(self._retained.popleft().block)
            watermark_ns = self._trailing.watermark_ns
            if watermark_ns is not None:
                # The watermark goes back when an idle source partition returns; what is closed stays closed.
                bound = watermark_ns // self._panes.pane_ns
                self._trailing_closed = max(bound, self._trailing_closed or bound)

    def _restore(self, progress: Progress) -> None:
        if progress.pane_ns != self._panes.pane_ns:
            raise StateError(
                f"the stored progress is of panes of {progress.pane_ns / 1e9:g} s, time.pane_s is "
                f"{self._panes.pane_ns / 1e9:g}; set it back, or recompute under another app name"
            )
        states = {
            SourcePartition(s.topic, s.partition): SourceState(s.applied, s.watermark_ns, s.idle)
            for s in progress.sources
        }
        for marks in (self._watermarks, self._trailing):
            marks.states = dict(states)
            marks.expected = tuple((topic, count) for topic, count in progress.expected)
        self._next_offset = progress.position
        self._read_before = progress.next_offset
        self._said_before = progress.closed or 0
        self._panes.closed = self._trailing_closed = self.closed = progress.closed_at_position
        if self.closed is not None and progress.closed is not None:
            self.closed = min(self.closed, progress.closed)  # a bound may have held it back
        for operator in self.operators:
            if operator.name in progress.operators:
                operator.restore(progress.operators[operator.name])
