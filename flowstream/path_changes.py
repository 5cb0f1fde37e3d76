"""Path changes: of each flow that is published, the last path that was known whole, and what differs from it.

Only whole paths are compared, one of a flow in a window: what is missing in a path, or two paths at once, is no
evidence that another one is taken. So a change within a window is told with the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from flowstream.errors import StateError

VERSION = 1


class _Known(msgspec.Struct, frozen=True, array_like=True):
    """The last whole path of a flow; ``path`` is its number among the paths of the snapshot."""

    flow: tuple[int, ...]
    window_start_ns: int
    bytes: int
    elephant: bool
    path: int


class _Snapshot(msgspec.Struct, frozen=True):
    version: int
    paths: list[bytes]
    known: list[_Known]


@dataclass(frozen=True, slots=True)
class WholePath:
    """A whole path of a flow in a window. ``path`` is its record without what differs from window to window."""

    flow: tuple[int, ...]
    window_start_ns: int
    bytes: int
    elephant: bool
    path: Mapping[str, Any]


class PathChanges:
    """Remembers the last whole path of so many flows: those seen last, then elephants, then those with most bytes."""

    def __init__(self, flows_max: int) -> None:
        self._flows_max = flows_max
        self._known: dict[tuple[int, ...], WholePath] = {}
        self._snapshot: bytes | None = None

    def __len__(self) -> int:
        return len(self._known)

    def take(self, told: WholePath) -> WholePath | None:
        """Take in a path of now; return the one before where it was another."""
        self._snapshot = None
        before = self._known.get(told.flow)
        self._known[told.flow] = told
        return before if before is not None and before.path != told.path else None

    def shrink(self) -> None:
        """Forget what is too much."""
        if len(self._known) <= self._flows_max:
            return
        kept = sorted(self._known.values(), key=lambda w: (-w.window_start_ns, not w.elephant, -w.bytes, w.flow))
        self._known = {whole.flow: whole for whole in kept[: self._flows_max]}

    def snapshot(self) -> bytes:
        """Return the state in bytes; the same state gives the same bytes."""
        if self._snapshot is None:
            numbers: dict[bytes, int] = {}
            known = []
            for flow, whole in sorted(self._known.items()):
                path = numbers.setdefault(msgspec.msgpack.encode(whole.path), len(numbers))
                known.append(_Known(flow, whole.window_start_ns, whole.bytes, whole.elephant, path))
            self._snapshot = msgspec.msgpack.encode(_Snapshot(VERSION, list(numbers), known))
        return self._snapshot

    def restore(self, state: bytes) -> None:
        """Take a snapshot's state; StateError where it is not one."""
        try:
            told = msgspec.msgpack.decode(state, type=_Snapshot)
            paths = [msgspec.msgpack.decode(path, type=dict[str, Any]) for path in told.paths]
            known = [WholePath(k.flow, k.window_start_ns, k.bytes, k.elephant, paths[k.path]) for k in told.known]
        except (msgspec.DecodeError, RecursionError, IndexError) as error:
            raise StateError(f"paths: the snapshot is not one of ours: {error}") from error
        if told.version != VERSION:
            raise StateError(f"paths: the snapshot is of version {told.version}, not {VERSION}")
        self._known = {whole.flow: whole for whole in known}
        self._snapshot = None
