"""Windows as runs of panes, tumbling and hopping.

A window is half-open, ``[start, end)``: a row exactly at the end belongs to the next one. Windows are aligned
to the epoch: window ``k`` starts at ``k * step``. Lengths are whole numbers of panes (sub-second panes
give sub-second windows). Panes after Li et al., "No pane, no gain", SIGMOD Record 34(1), 2005.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowstream.batch import FlowBatch
from flowstream.operators import Pane


@dataclass(frozen=True, slots=True)
class Window:
    """A closed window and its rows, in time order."""

    start_ns: int
    end_ns: int
    rows: FlowBatch


@dataclass(frozen=True, slots=True)
class Windowing:
    """How long windows are and how often one starts, in panes. ``step == size`` is tumbling.

    Raises ValueError where a step is longer than the size, which would leave rows in no window.
    """

    size: int
    step: int

    def __post_init__(self) -> None:
        if not 1 <= self.step <= self.size:
            raise ValueError(f"a window of {self.size} panes cannot step by {self.step}")

    @property
    def lookback(self) -> int:
        """Panes before the closing one that a window needs."""
        return self.size - 1

    def closing(self, panes: Sequence[Pane]) -> Window | None:
        """Return the window that ends with ``panes[-1]``, or None if none does or it holds no row."""
        last = panes[-1]
        if (last.index + 1 - self.size) % self.step:
            return None
        first = last.index + 1 - self.size
        run = [p for p in panes if p.index >= first]
        if not any(len(p.rows) for p in run):
            return None
        start_ns = last.end_ns - self.size * (last.end_ns - last.start_ns)
        return Window(start_ns, last.end_ns, FlowBatch.concat(p.rows for p in run))
