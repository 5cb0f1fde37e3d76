"""Top talkers: who sent most, by source, destination, conversation and so on, in windows that slide by a step.

Panes are summed up to tables of a step; those of short steps to tables of longer ones. So a window of a day costs
memory by the keys of its steps, and no rows. A window is the sum of its steps: by definition that of adding them in
time order and cutting what grows beyond ``keys_max``; where nothing was cut, a running sum that the newest step is
added to and the oldest is subtracted from is the same to the last bit, and is what is kept.

What was lost on the way is known of exporters, not of keys: a step and a window say it of all their keys together.

A window is said when the step that ends it brought rows. ``docs/talkers.md`` says what is exact and what is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from flowstream import talker_results, talker_steps
from flowstream.errors import SettingsError, StateError
from flowstream.export_loss import Loss, overall
from flowstream.operators import Pane, Result
from flowstream.partials import PartialBatch
from flowstream.sequence_gaps import LossTracker
from flowstream.talker_results import WAYS, Span, Wanted
from flowstream.talker_tables import MEASURES, STEPS_MAX, Table, folded, merged_step

VERSION = 2


@dataclass(frozen=True, slots=True)
class TalkersConfig:
    """Windows as (size, step) in panes, by what rows are grouped, and what is said of each.

    Raises SettingsError, naming the setting, where windows cannot be put together.
    """

    windows: tuple[tuple[int, int], ...] = ((60, 10), (3600, 60), (86_400, 900))
    by: tuple[str, ...] = tuple(WAYS)
    keys_max: int = 1_000_000
    wanted: Wanted = Wanted()  # noqa: RUF009 - it is frozen

    def __post_init__(self) -> None:
        for size, step in self.windows:
            if not 1 <= step <= size or size % step or size // step > STEPS_MAX:
                raise SettingsError(
                    f"talkers.windows has a window of {size} panes that slides by {step}; "
                    f"set a size that is 1 to {STEPS_MAX} steps of a pane or more"
                )
        for shorter, longer in zip(self.steps, self.steps[1:], strict=False):
            if longer % shorter:
                raise SettingsError(
                    f"talkers.windows slide by {shorter} and by {longer} panes; set steps of which each is a "
                    "multiple of the shorter ones"
                )
        for name, chosen, known in (("by", self.by, tuple(WAYS)), ("rank", self.wanted.rank, MEASURES)):
            if unknown := [each for each in chosen if each not in known]:
                raise SettingsError(f"talkers.{name} has {unknown[0]!r}; set some of {', '.join(known)}")
        if not (self.windows and self.by and self.wanted.rank):
            raise SettingsError("talkers.windows, talkers.by and talkers.rank need one or more; or leave out talkers")
        if self.wanted.count < 1 or self.keys_max < len(MEASURES):
            raise SettingsError(
                f"talkers.count is {self.wanted.count}, talkers.keys_max {self.keys_max}; set 1 and 3 or more"
            )

    @property
    def steps(self) -> tuple[int, ...]:
        """The lengths of steps, ascending."""
        return tuple(sorted({step for _, step in self.windows}))

    def kept(self, step: int) -> int:
        """Return over how many panes tables of a step length are kept: for windows, and for longer steps."""
        longer = [other for other in self.steps if other > step][:1]
        return max([size for size, own in self.windows if own == step] + longer)


class _Snapshot(msgspec.Struct, frozen=True):
    version: int
    windows: list[tuple[int, int]]
    closed: int
    since: dict[str, int]  # the pane from which on rows are known, by cube
    held: dict[str, list[list[int]]]  # by cube, per step length: the first panes of the steps that have a table
    counters: bytes  # of exporters, as of the last step that ended


@dataclass(slots=True)
class _CubeState:
    """The tables of a cube: per step length by the first pane of the step, and the running sums of windows."""

    steps: list[dict[int, Table]]
    since: int | None = None  # the pane from which on rows are known: the first one with any, where nothing was before
    running: dict[int, tuple[int, Table]] = field(default_factory=dict)  # by window: the first pane, and the sum


class TopTalkers:
    """Says ``talkers``, and its step tables as ``talker-steps``, which it wants back by ``load`` after a restart."""

    name = "talkers"
    kept_stream = talker_steps.STREAM

    def __init__(self, config: TalkersConfig, pane_ns: int, whole_from_ns: int | None = None) -> None:
        """Before ``whole_from_ns`` there were rows that do not come; None: there was nothing."""
        if pane_ns <= 0:
            raise ValueError(f"a pane of {pane_ns} ns has no length")
        self.config = config
        self._pane_ns = pane_ns
        self._steps = config.steps
        self.lookback = self._steps[0] - 1  # rows of the shortest step are read again; longer ones are tables
        # Of a pane that is whole in part it is not known which rows came.
        since = None if whole_from_ns is None else -(-whole_from_ns // pane_ns)
        self._cubes = {by: _CubeState([{} for _ in self._steps], since) for by in config.by}
        self._closed = 0
        self._tracker = LossTracker()
        self._restored: _Snapshot | None = None
        self._loaded = talker_steps.Parts()

    @property
    def quiet(self) -> bool:
        """Whether no step that has rows waits for its end; those of the lookback apart."""
        return self._restored is None and not any(
            start >= self._closed // longer * longer
            for state in self._cubes.values()
            for tables, longer in zip(state.steps, self._steps[1:], strict=False)
            for start in tables
        )

    @property
    def keys_held(self) -> int:
        """Keys in tables of steps and of windows: what memory goes by."""
        return sum(
            len(table)
            for state in self._cubes.values()
            for table in (
                *(table for tables in state.steps for table in tables.values()),
                *(table for _, table in state.running.values()),
            )
        )

    def process(self, panes: Sequence[Pane[PartialBatch]]) -> list[Result]:
        """Take in a pane; where it ends a step, say the step's tables and the windows that end with it."""
        self._settle()
        self._closed = end = panes[-1].index + 1
        if end % self._steps[0]:
            return []
        parts = [pane.rows for pane in panes if pane.index >= end - self._steps[0]]
        factors = overall(Loss.merged([self._tracker.take(rows) for rows in parts]))
        rows = PartialBatch.concat(parts)
        return [result for by, state in self._cubes.items() for result in self._ended(by, state, end, rows, factors)]

    def _ended(
        self, by: str, state: _CubeState, end: int, rows: PartialBatch, factors: tuple[float, float]
    ) -> list[Result]:
        results: list[Result] = []
        words = WAYS[by].words
        for level, step in enumerate(self._steps):
            if end % step:
                break
            if level == 0:
                of_cube = np.flatnonzero(rows.cube == int(WAYS[by].cube))
                # Most cubes are merged in other partitions: no column need be made to find that out.
                own = rows.take(of_cube) if len(of_cube) else PartialBatch.none()
                if state.since is None and len(own):
                    state.since = int(own.time_ns[0]) // self._pane_ns
                table = Table.of_rows(own, words, factors).cut(self.config.keys_max)
            else:
                shorter = state.steps[level - 1]
                inside = [shorter[start] for start in sorted(shorter) if end - step <= start < end]
                table = merged_step(inside, words, self.config.keys_max)
            if not any(table.totals):
                continue
            kept = self.config.kept(step)
            state.steps[level][end - step] = table
            place = (step * self._pane_ns, (end - step) * self._pane_ns, kept // step)
            results += talker_steps.said(table, by, *place)
            for number, (size, own_step) in enumerate(self.config.windows):
                if own_step == step:
                    results += self._window(by, state, level, number, end - size, end)
            state.steps[level] = {start: t for start, t in state.steps[level].items() if start >= end - kept}
        return results

    def _window(self, by: str, state: _CubeState, level: int, number: int, start: int, end: int) -> list[Result]:
        """Say the window of panes from ``start`` to ``end``, of which the newest step is there."""
        tables = state.steps[level]
        inside = [tables[first] for first in sorted(tables) if first >= start]
        total = self._slid(state, number, start, end - self._steps[level], tables)
        was_cut = total is None
        if total is None:
            total, was_cut = folded(inside, Table.empty(WAYS[by].words, 0), self.config.keys_max)
        state.running.pop(number, None)
        if not was_cut:
            state.running[number] = (start, total)
        covered = max(start, start if state.since is None else state.since)
        span = Span(*(pane * self._pane_ns for pane in (start, end, covered)))
        return talker_results.said(by, span, total, inside, self.config.wanted)

    def _slid(
        self, state: _CubeState, number: int, start: int, newest: int, tables: Mapping[int, Table]
    ) -> Table | None:
        """Return the running sum with the newest step and without those before ``start``; None where it will not do."""
        if number not in state.running:
            return None
        since, total = state.running[number]
        leaving = [tables[first] for first in sorted(tables) if since <= first < start]
        nothing = Table.empty(total.keys.shape[1], 0)
        total = total.slid(tables[newest], leaving[0] if leaving else nothing)
        for table in leaving[1:]:
            total = total.slid(nothing, table)
        return total if len(total) <= self.config.keys_max else None

    def load(self, values: Iterable[Mapping[str, Any]]) -> None:
        """Take the values of ``talker-steps``, in their order, before the first pane; those not needed are let go.

        Raises StateError where one is no step table.
        """
        self._loaded.add(values)

    def snapshot(self) -> bytes:
        """Return which step tables there are, not the tables: those have been said."""
        if self._restored is not None:
            return msgspec.msgpack.encode(self._restored)
        since = {by: state.since for by, state in self._cubes.items() if state.since is not None}
        held = {by: [sorted(tables) for tables in state.steps] for by, state in self._cubes.items()}
        windows, counters = list(self.config.windows), self._tracker.snapshot()
        return msgspec.msgpack.encode(_Snapshot(VERSION, windows, self._closed, since, held, counters))

    def restore(self, state: bytes) -> None:
        """Take a snapshot; StateError where it is none. Other windows than those it was made for begin anew."""
        try:
            restored = msgspec.msgpack.decode(state, type=_Snapshot)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise StateError(f"not a state of talkers: {error}") from error
        if restored.version != VERSION:
            raise StateError(f"a state of talkers of version {restored.version}, not {VERSION}")
        tracker = LossTracker()
        tracker.restore(restored.counters)
        if restored.windows == list(self.config.windows):
            self._restored, self._tracker = restored, tracker

    def _settle(self) -> None:
        """Put the tables that a snapshot names in their places; what lies before one that is lost is let go."""
        restored, self._restored = self._restored, None
        loaded, self._loaded = self._loaded, talker_steps.Parts()
        if restored is None:
            return
        self._closed = restored.closed
        for by, state in self._cubes.items():
            state.since = restored.since.get(by)
            lost = 0  # where the last step ends whose table is lost
            for tables, step, starts in zip(state.steps, self._steps, restored.held.get(by, []), strict=False):
                for start in starts:
                    table = loaded.table(by, step * self._pane_ns, start * self._pane_ns, WAYS[by].words)
                    lost = lost if table is not None else max(lost, start + step)
                    tables.update({} if table is None else {start: table})
            if lost:
                state.since = lost
                state.steps = [{at: t for at, t in tables.items() if at >= lost} for tables in state.steps]
