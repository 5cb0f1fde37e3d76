"""Tumbling windows of partials, kept as running sums instead of rows: for windows too long to keep what they hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from flowstream.errors import StateError
from flowstream.operators import Pane, Result
from flowstream.partials import PartialBatch

VERSION = 2


class WindowSnapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Whose state it is, and the open window; operators add what they have summed up."""

    operator: str
    version: int
    size_ns: int
    window: int


Snapshot = TypeVar("Snapshot", bound=WindowSnapshot)


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

    def process(self, panes: Sequence[Pane[PartialBatch]]) -> list[Result]:
        """Add the last pane, and speak if it ends a window."""
        pane = panes[-1]
        window = pane.start_ns // self.size_ns
        # Panes come without holes while anything is summed up; if they did not, windows would not be mixed.
        results = self._close() if window != self.window else []
        if len(pane.rows):
            self.add(pane.rows)
            self.window = 0 if self.quiet else window
        if pane.end_ns % self.size_ns == 0:
            results += self._close()
        return results

    def taken(self, state: bytes, kind: type[Snapshot]) -> Snapshot:
        """Read a snapshot; StateError where it is not one of this operator, or of windows of another length."""
        try:
            snapshot = msgspec.msgpack.decode(state, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateError(f"not a snapshot of the operator {self.name}: {error}") from None
        if (snapshot.operator, snapshot.version, snapshot.size_ns) != (self.name, VERSION, self.size_ns):
            raise StateError(
                f"a snapshot of {snapshot.operator} version {snapshot.version} over {snapshot.size_ns} ns, "
                f"not {self.name} {VERSION} over {self.size_ns} ns"
            )
        return snapshot

    def _close(self) -> list[Result]:
        results = [] if self.quiet else self.told(self.window * self.size_ns, (self.window + 1) * self.size_ns)
        self.window = 0
        return results
