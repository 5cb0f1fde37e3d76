"""Step tables of talkers as results of a compacted stream: what long windows are put together from again.

A key is ``cube|step length|slot|part``. Slots are used in turn, so that the topic holds as many tables as windows
reach back, and those of an hour more: so far a life that is over may have been ahead of what it wrote as its progress.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from flowstream import narrow
from flowstream.errors import StateError
from flowstream.operators import Result
from flowstream.talker_tables import MEASURES, Lost, Measured, Table, Whole

STREAM = "talker-steps"
#: At up to 80 bytes a key, 5 MB: below the 16 MB that a message may have.
KEYS_PER_PART = 1 << 16
AHEAD_NS = 3600 * 1_000_000_000


def said(table: Table, by: str, step_ns: int, start_ns: int, kept: int) -> list[Result]:
    """Return a step's table in as many parts as it takes; ``kept`` is how many steps windows reach back."""
    slot = start_ns // step_ns % (kept + max(kept, -(-AHEAD_NS // step_ns)))
    cuts = range(0, max(len(table), 1), KEYS_PER_PART)
    results = []
    for part, first in enumerate(cuts):
        rows = slice(first, first + KEYS_PER_PART)
        value: dict[str, Any] = {
            "by": by,
            "step_ns": step_ns,
            "start_ns": start_ns,
            "part": part,
            "parts": len(cuts),
            "count": len(table.keys[rows]),
            "keys": [narrow.pack(word) for word in table.keys[rows].T],
            "variance": narrow.pack(table.spread[rows, 0].copy().view(np.uint64)),
            "weight_max": narrow.pack(table.spread[rows, 1].copy().view(np.uint64)),
            "bytes_lost": table.lost.known,
            "bytes_lost_max": table.lost.possible,
            "counted_by": table.whole.rules,
            "variance_total": table.whole.variance,
            "weight_max_total": table.whole.weight_max,
        }
        for at, measure in enumerate(MEASURES):
            value[measure] = narrow.pack(table.sums[rows, at])
            value[f"{measure}_total"] = table.totals[at]
            value[f"{measure}_error_max"] = table.errors[at]
        results.append(Result(STREAM, f"{by}|{step_ns}|{slot}|{part}", start_ns + step_ns, value))
    return results


class Parts:
    """Parts of step tables as they are read back, the last one said of each standing."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int, int], dict[int, tuple[int, Mapping[str, Any]]]] = {}

    def add(self, values: Iterable[Mapping[str, Any]]) -> None:
        """Take in values; StateError where one is none of a step table."""
        for value in values:
            try:
                place = (str(value["by"]), int(value["step_ns"]), int(value["start_ns"]))
                number, parts = int(value["part"]), int(value["parts"])
                self._parts.setdefault(place, {})[number] = (parts, value)
            except (KeyError, TypeError, ValueError) as error:
                raise StateError(f"not a table of talkers: {error}") from None

    def table(self, by: str, step_ns: int, start_ns: int, words: int) -> Table | None:
        """Return a step's table; None where it, or a part, is not there. StateError where its bytes are none."""
        parts = self._parts.get((by, step_ns, start_ns), {})
        if 0 not in parts or any(number not in parts for number in range(parts[0][0])):
            return None
        try:
            read = [_read(parts[number][1], words) for number in range(parts[0][0])]
        except (KeyError, TypeError, ValueError, StateError) as error:
            raise StateError(f"not a table of talkers: {error}") from None
        keys, sums, spread = (
            np.concatenate([getattr(part, name) for part in read]) for name in ("keys", "sums", "spread")
        )
        return Table(keys, sums, spread, *(getattr(read[0], name) for name in ("totals", "errors", "lost", "whole")))


def _read(value: Mapping[str, Any], words: int) -> Table:
    count, keys = int(value["count"]), list(value["keys"])
    packed = [*keys, *(value[name] for name in (*MEASURES, "variance", "weight_max"))]
    for raw in packed:
        narrow.check(raw, count, "u8")
    if len(keys) != words:
        raise StateError(f"keys of {len(keys)} words, not {words}")
    columns = [narrow.unpack(raw, count, "<u8") for raw in packed]
    totals, errors = (_measured(value, suffix) for suffix in ("total", "error_max"))
    return Table(
        np.stack(columns[:words], axis=1),
        np.stack([column.astype(np.int64) for column in columns[words : words + 3]], axis=1),
        np.stack([column.view(np.float64) for column in columns[words + 3 :]], axis=1),
        totals,
        errors,
        Lost(int(value["bytes_lost"]), int(value["bytes_lost_max"])),
        Whole(int(value["counted_by"]), float(value["variance_total"]), float(value["weight_max_total"])),
    )


def _measured(value: Mapping[str, Any], suffix: str) -> Measured:
    sent, packets, records = (int(value[f"{measure}_{suffix}"]) for measure in MEASURES)
    return sent, packets, records
