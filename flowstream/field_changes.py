"""In which fields two decoded values differ, and by how much."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from math import inf, isinf, isnan
from typing import Any, NamedTuple

import numpy as np

_DEPTH_MAX = 16
#: What a decoder says of bytes that it cannot read, in place of fields.
_UNDECODABLE = "undecodable"


class FieldChange(NamedTuple):
    """How a field changed over all keys: of each key counts its largest relative change, ``|b - a| / |a|``."""

    name: str
    keys: int  # in which it changed
    median: float | None  # None: not a number, in none of them
    largest: float | None  # inf: from 0, or out of range


class FieldChanges:
    """Gathers which fields changed, over many keys."""

    def __init__(self) -> None:
        self._keys: dict[str, int] = {}
        self._relative: dict[str, array[float]] = {}

    def add(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float | None]:
        """Take in a key's two values, decoded; return the fields that changed, each with its relative change.

        {} where both say the same in other bytes. What cannot be decoded differs from everything.
        """
        largest: dict[str, float | None] = {}
        for name, relative in changes(before, after):
            known = largest.get(name)
            largest[name] = relative if known is None else known if relative is None else max(known, relative)
        if _UNDECODABLE in before or _UNDECODABLE in after:
            largest = {_UNDECODABLE: None}
        for name, relative in largest.items():
            self._keys[name] = self._keys.get(name, 0) + 1
            if relative is not None:
                self._relative.setdefault(name, array("d")).append(relative)
        return largest

    def __iter__(self) -> Iterator[FieldChange]:
        """Yield the fields, those that changed in most keys first."""
        for name in sorted(self._keys, key=lambda n: (-self._keys[n], n)):
            relative = np.frombuffer(self._relative.get(name, array("d")))
            known = len(relative) > 0
            yield FieldChange(
                name, self._keys[name], float(np.median(relative)) if known else None,
                float(relative.max()) if known else None,
            )  # fmt: skip


def changes(before: Any, after: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, float | None]]:
    """Yield the fields in which two decoded values differ, with the relative change where both are numbers.

    Rows of a list are put side by side by the texts in them (an address, an id), in their order where those repeat;
    a row that only one side has is a change of the list. Other lists of equal length are compared one by one.
    """
    if depth < _DEPTH_MAX and isinstance(before, Mapping) and isinstance(after, Mapping):
        for inner in dict.fromkeys([*before, *after]):
            yield from changes(
                before.get(inner), after.get(inner), f"{name}.{inner}" if name else str(inner), depth + 1
            )
    elif depth < _DEPTH_MAX and _are_rows(before) and _are_rows(after):
        rows, others = _by_name(before), _by_name(after)
        if rows.keys() != others.keys():
            yield name, None
        for which in (w for w in rows if w in others):
            yield from changes(rows[which], others[which], name, depth + 1)
    elif depth < _DEPTH_MAX and _are_lists(before, after):
        for one, other in zip(before, after, strict=True):
            yield from changes(one, other, name, depth + 1)
    elif _is_number(before) and _is_number(after):
        if before != after:
            yield name, _relative(before, after)
    elif not (_is_nothing(before) and _is_nothing(after)) and before != after:
        yield name, None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not _is_nothing(value)


def _is_nothing(value: Any) -> bool:
    """Say whether a value is null, as NaN is in JSON."""
    return value is None or (isinstance(value, float) and isnan(value))


def _relative(before: float, after: float) -> float:
    try:
        return inf if before == 0 or isinf(before) or isinf(after) else abs(after - before) / abs(before)
    except OverflowError:  # JSON has integers of any size
        return inf


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, Mapping) for row in value)


def _are_lists(before: Any, after: Any) -> bool:
    return isinstance(before, list) and isinstance(after, list) and len(before) == len(after)


def _by_name(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    named: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    seen: dict[tuple[str, ...], int] = {}
    for row in rows:
        texts = tuple(part for part in row.values() if isinstance(part, str))
        seen[texts] = seen.get(texts, 0) + 1
        named[texts, seen[texts]] = row
    return named
