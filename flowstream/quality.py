"""Doubtful input, counted per exporter and window: the rows with each ``Quality`` flag.

The windows are long, so their rows are not kept: the state is a few counts per exporter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from flowstream.batch import Quality, address_text
from flowstream.errors import StateError
from flowstream.grouping import group_rows
from flowstream.operators import Pane, Result

VERSION = 1
# Late rows reach no window and hence no operator; they are published on their own.
FLAGS: tuple[tuple[str, int], ...] = tuple(
    (flag.name.lower(), int(flag)) for flag in Quality if flag.name and flag is not Quality.LATE
)


@dataclass(frozen=True, slots=True)
class QualityConfig:
    """``size_panes`` is the length of the (tumbling) windows; ValueError unless positive."""

    size_panes: int = 60

    def __post_init__(self) -> None:
        if self.size_panes < 1:
            raise ValueError(f"a window of {self.size_panes} panes has no length")


class _Counted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One exporter's address words, its rows and its rows with each flag, in the order of ``FLAGS``."""

    high: int
    low: int
    rows: int
    flagged: list[int]


class _Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    operator: str
    version: int
    window: int  # index of the window: its start divided by its length
    size_ns: int
    flags: list[str]
    exporters: list[_Counted]


class QualityOperator:
    """Says ``input-quality`` once per window for every exporter that sent a doubtful row."""

    name = "quality"
    lookback = 0

    def __init__(self, config: QualityConfig, pane_ns: int) -> None:
        if pane_ns <= 0:
            raise ValueError(f"a pane of {pane_ns} ns has no length")
        self._size_ns = config.size_panes * pane_ns
        self._window = 0
        self._counts: dict[tuple[int, int], list[int]] = {}  # rows, then rows with each flag

    @property
    def quiet(self) -> bool:
        """Whether an empty pane changes nothing: while no row of an open window was counted."""
        return not self._counts

    def process(self, panes: Sequence[Pane]) -> list[Result]:
        """Count the last pane's rows, and speak if it ends a window."""
        pane = panes[-1]
        window = pane.start_ns // self._size_ns
        # Panes come without holes while anything is counted; if they did not, the counts would not be mixed.
        results = self._close() if self._counts and window != self._window else []
        if len(pane.rows):
            self._window = window
            self._count(pane)
        if pane.end_ns % self._size_ns == 0:
            results += self._close()
        return results

    def _count(self, pane: Pane) -> None:
        rows = pane.rows
        groups = group_rows(rows.exporter)
        sums = [groups.sizes.tolist()]
        quality = rows.quality.astype(np.int64)
        sums += [groups.sum((quality & bit) // bit).tolist() for _, bit in FLAGS]
        for (high, low), *added in zip(rows.exporter[groups.firsts].tolist(), *sums, strict=True):
            before = self._counts.get((high, low), [0] * len(added))
            self._counts[high, low] = [a + b for a, b in zip(before, added, strict=True)]

    def _close(self) -> list[Result]:
        start_ns = self._window * self._size_ns
        end_ns = start_ns + self._size_ns
        results = []
        for (high, low), (rows, *flagged) in sorted(self._counts.items()):
            if any(flagged):
                exporter = address_text(high, low)
                value = {
                    "exporter": exporter,
                    "window_start_ns": start_ns,
                    "window_end_ns": end_ns,
                    "rows": rows,
                    **dict(zip((name for name, _ in FLAGS), flagged, strict=True)),
                }
                results.append(Result("input-quality", f"{start_ns}|{exporter}", end_ns, value))
        self._counts = {}
        self._window = 0
        return results

    def snapshot(self) -> bytes:
        """Return the counts of the open window, exporters in address order."""
        exporters = [_Counted(*words, rows, flagged) for words, (rows, *flagged) in sorted(self._counts.items())]
        names = [name for name, _ in FLAGS]
        return msgspec.json.encode(_Snapshot(self.name, VERSION, self._window, self._size_ns, names, exporters))

    def restore(self, state: bytes) -> None:
        """Take a snapshot's counts; StateError where it is not one, or of windows of another length."""
        try:
            taken = msgspec.json.decode(state, type=_Snapshot)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateError(f"not a snapshot of the operator {self.name}: {error}") from None
        if (taken.operator, taken.version) != (self.name, VERSION) or taken.flags != [n for n, _ in FLAGS]:
            raise StateError(f"a snapshot of {taken.operator} version {taken.version}, not {self.name} {VERSION}")
        if taken.size_ns != self._size_ns:
            raise StateError(f"a snapshot of windows of {taken.size_ns} ns, not {self._size_ns}")
        for counted in taken.exporters:
            numbers = (counted.rows, *counted.flagged)
            words = (counted.high, counted.low)
            possible = all(0 <= n < 1 << 63 for n in numbers) and all(0 <= w < 1 << 64 for w in words)
            if len(counted.flagged) != len(FLAGS) or not possible:
                raise StateError("a snapshot of counts that cannot be")
        self._window = taken.window
        self._counts = {(c.high, c.low): [c.rows, *c.flagged] for c in taken.exporters}
