"""What counting once made of the flows: per window and rule, what counted, and what was removed."""

from __future__ import annotations

from typing import Any

import msgspec

from flowstream.counting import Rule
from flowstream.errors import StateError
from flowstream.operators import Result
from flowstream.partials import Cube, PartialBatch
from flowstream.running_windows import VERSION, RunningWindows, WindowSnapshot
from flowstream.saturation import COUNT_MAX

STREAM = "counting"
SUMS = ("records", "bytes", "packets")


class _Snapshot(WindowSnapshot, frozen=True, array_like=True, forbid_unknown_fields=True):
    sums: list[tuple[int, list[int]]]  # by rule << 1 | counts, in the order of SUMS


class CountingResults(RunningWindows):
    """Merges cube COUNTING, and says ``counting`` once per window with rows."""

    name = STREAM

    def __init__(self, size_panes: int, pane_ns: int) -> None:
        super().__init__(size_panes, pane_ns)
        self._sums: dict[int, list[int]] = {}

    @property
    def quiet(self) -> bool:
        """Whether no row of the open window was counted."""
        return not self._sums

    def add(self, rows: PartialBatch) -> None:
        """Add a pane's rows of the cube."""
        rows = rows.take(rows.cube == Cube.COUNTING)
        columns = (rows.key_0, *(rows.column(name) for name in SUMS))
        for key, *added in zip(*(column.tolist() for column in columns), strict=True):
            before = self._sums.get(key, [0] * len(SUMS))
            self._sums[key] = [min(a + b, COUNT_MAX) for a, b in zip(before, added, strict=True)]

    def told(self, start_ns: int, end_ns: int) -> list[Result]:
        """Return the window's result: a row for every rule that decided something, in the order of the rules."""
        nothing = [0] * len(SUMS)
        rules: list[dict[str, Any]] = []
        for rule in Rule:
            removed, counted = (self._sums.get(rule << 1 | counts) for counts in (0, 1))
            if removed or counted:
                sums = {"counted": counted or nothing, "removed": removed or nothing}
                rules.append(
                    {
                        "rule": rule.name,
                        **{f"{name}_{kind}": sums[kind][n] for n, name in enumerate(SUMS) for kind in sums},
                    }
                )
        counted_bytes, removed_bytes = (sum(r[f"bytes_{kind}"] for r in rules) for kind in ("counted", "removed"))
        value = {
            "window_start_ns": start_ns,
            "window_end_ns": end_ns,
            "rules": rules,
            "sum_over_exporters": (counted_bytes + removed_bytes) / counted_bytes if counted_bytes else None,
        }
        self._sums = {}
        return [Result(STREAM, f"{start_ns}", end_ns, value)]

    def snapshot(self) -> bytes:
        """Return the sums of the open window."""
        return msgspec.msgpack.encode(
            _Snapshot(self.name, VERSION, self.size_ns, self.window, sorted(self._sums.items()))
        )

    def restore(self, state: bytes) -> None:
        """Take a snapshot's sums; StateError where it is not one, or of windows of another length."""
        taken = self.taken(state, _Snapshot)
        for key, sums in taken.sums:
            if key >> 1 not in set(Rule) or len(sums) != len(SUMS) or not all(abs(n) <= COUNT_MAX for n in sums):
                raise StateError("a snapshot of sums that cannot be")
        self.window = taken.window
        self._sums = dict(taken.sums)
