"""Tumbling windows of partials, kept as running sums instead of rows: for windows too long to keep what they hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

from flowstream.operators import Pane, Result
from flowstream.partials import PartialBatch


class RunningWindows(ABC):
    """An operator over partials that says something of every window of ``size_panes`` in which it summed up rows.

    ValueError where windows or panes have no length.
    """

    name: str
    lookback = 0

    def __init__(self, size_panes: int, pane_ns: int) -> None:
        if size_panes < 1 or pane_ns < 1:
            raise ValueError(f"windows of {size_panes} panes of {pane_ns} ns have no length")
        self.size_ns = size_panes * pane_ns
        self.window = 0  # start of the open window divided by its length; 0 while nothing is summed up

    @property
    @abstractmethod
    def quiet(self) -> bool:
        """Whether nothing is summed up, so that an empty pane changes nothing."""

    @abstractmethod
    def add(self, rows: PartialBatch) -> None:
        """Add a pane's rows to the open window."""

    @abstractmethod
    def told(self, start_ns: int, end_ns: int) -> list[Result]:
        """Return what there is to say of the open window, and forget it."""

    def process(self, panes: Sequence[Pane]) -> list[Result]:
        """Add the last pane, and speak if it ends a window."""
        pane = panes[-1]
        window = pane.start_ns // self.size_ns
        # Panes come without holes while anything is summed up; if they did not, windows would not be mixed.
        results = self._close() if window != self.window else []
        if len(pane.rows):
            self.add(cast("PartialBatch", pane.rows))
            self.window = 0 if self.quiet else window
        if pane.end_ns % self.size_ns == 0:
            results += self._close()
        return results

    def _close(self) -> list[Result]:
        results = [] if self.quiet else self.told(self.window * self.size_ns, (self.window + 1) * self.size_ns)
        self.window = 0
        return results
