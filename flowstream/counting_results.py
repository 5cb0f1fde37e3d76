"""What counting once made of the flows: per window and rule, what counted, and what was removed."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from flowstream.counting import Rule
from flowstream.errors import StateError
from flowstream.estimate import enough, rate_interval
from flowstream.operators import Result
from flowstream.partials import Cube, PartialBatch
from flowstream.running_windows import VERSION, RunningWindows, WindowSnapshot
from flowstream.saturation import COUNT_MAX, whole_bounds

STREAM = "counting"
KINDS = ("removed", "counted")  # by the last bit of a key of the cube


class _Sums(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Columns of partials, summed up."""

    records: int = 0
    bytes: int = 0
    packets: int = 0
    variance: float = 0.0
    weight_max: float = 0.0

    def plus(self, other: _Sums) -> _Sums:
        """Add others, in the order in which this is called."""
        return _Sums(
            min(self.records + other.records, COUNT_MAX),
            min(self.bytes + other.bytes, COUNT_MAX),
            min(self.packets + other.packets, COUNT_MAX),
            self.variance + other.variance,
            max(self.weight_max, other.weight_max),
        )

    def named(self, samples_min: float) -> bool:
        """Whether the bytes rest on so many samples of equal weight, or were not sampled."""
        return bool(enough(np.array(float(self.bytes)), np.array(self.variance), samples_min))

    @property
    def bounds(self) -> tuple[int, int]:
        """The 95 % gamma interval of the bytes; 0 to 0 of nothing."""
        low, high = rate_interval(self.bytes, self.variance, self.weight_max)
        return whole_bounds(float(low), float(np.nan_to_num(high)), self.bytes)

    @property
    def can_be(self) -> bool:
        """Whether rows can have these sums."""
        counts = (self.records, self.bytes, self.packets)
        return all(abs(n) <= COUNT_MAX for n in counts) and min(self.variance, self.weight_max) >= 0.0


class _Snapshot(WindowSnapshot, frozen=True, array_like=True, forbid_unknown_fields=True):
    sums: list[tuple[int, _Sums]]  # by rule << 1 | counts


class CountingResults(RunningWindows):
    """Merges cube COUNTING, and says ``counting`` once per window with rows.

    Numbers are named from ``samples_min`` samples of equal weight on.
    """

    name = STREAM

    def __init__(self, size_panes: int, pane_ns: int, samples_min: float = 4.0) -> None:
        super().__init__(size_panes, pane_ns)
        self._samples_min = samples_min
        self._sums: dict[int, _Sums] = {}

    @property
    def quiet(self) -> bool:
        """Whether no row of the open window was counted."""
        return not self._sums

    def add(self, rows: PartialBatch) -> None:
        """Add a pane's rows of the cube."""
        rows = rows.take(rows.cube == Cube.COUNTING)
        columns = (rows.key_0, *(rows.column(name) for name in _Sums.__struct_fields__))
        for key, *added in zip(*(column.tolist() for column in columns), strict=True):
            self._sums[key] = self._sums.get(key, _Sums()).plus(_Sums(*added))

    def told(self, start_ns: int, end_ns: int) -> list[Result]:
        """Return the window's result: a row for every rule that decided something, in the order of the rules."""
        rules: list[dict[str, Any]] = []
        everything = {kind: _Sums() for kind in KINDS}
        for rule in Rule:
            own = {kind: self._sums.get(rule << 1 | counts, _Sums()) for counts, kind in enumerate(KINDS)}
            if any(sums.records for sums in own.values()):
                figures = [self._figures(sums, f"_{kind}") for kind, sums in own.items()]
                rules.append({"rule": rule.name, **figures[0], **figures[1]})
                everything = {kind: everything[kind].plus(sums) for kind, sums in own.items()}
        counted, whole = everything["counted"], everything["counted"].plus(everything["removed"])
        is_sure = counted.bytes > 0 and counted.named(self._samples_min) and whole.named(self._samples_min)
        value = {
            "window_start_ns": start_ns,
            "window_end_ns": end_ns,
            "rules": rules,
            "sum_over_exporters": whole.bytes / counted.bytes if is_sure else None,
        }
        self._sums = {}
        return [Result(STREAM, f"{start_ns}", end_ns, value)]

    def _figures(self, sums: _Sums, kind: str) -> dict[str, int | None]:
        is_sure = sums.named(self._samples_min)
        low, high = sums.bounds
        return {
            f"records{kind}": sums.records,
            f"bytes{kind}": sums.bytes if is_sure else None,
            f"bytes{kind}_low": low,
            f"bytes{kind}_high": high,
            f"packets{kind}": sums.packets if is_sure else None,
        }

    def snapshot(self) -> bytes:
        """Return the sums of the open window."""
        return msgspec.msgpack.encode(
            _Snapshot(self.name, VERSION, self.size_ns, self.window, sorted(self._sums.items()))
        )

    def restore(self, state: bytes) -> None:
        """Take a snapshot's sums; StateError where it is not one, or of windows of another length."""
        taken = self.taken(state, _Snapshot)
        for key, sums in taken.sums:
            if key >> 1 not in set(Rule) or not sums.can_be:
                raise StateError("a snapshot of sums that cannot be")
        self.window = taken.window
        self._sums = dict(taken.sums)
