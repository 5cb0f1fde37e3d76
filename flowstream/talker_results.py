"""What is said of a window's talkers: per cube and ranking the largest keys, readable, with how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import address_text
from flowstream.estimate import estimates
from flowstream.operators import Result
from flowstream.partials import Cube
from flowstream.talker_tables import MEASURES, Table, spread_of

STREAM = "talkers"
COUNT_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class By:
    """A way to group: its cube, how many words a key has, and the fields they are."""

    cube: Cube
    words: int
    fields: Callable[[Sequence[int]], dict[str, Any]]


def _conversation(key: Sequence[int]) -> dict[str, Any]:
    ends = {"src_addr": address_text(*key[:2]), "dst_addr": address_text(*key[2:4])}
    return ends | {"src_port": key[4] >> 32 & 0xFFFF, "dst_port": key[4] >> 8 & 0xFFFF, "proto": key[4] & 0xFF}


WAYS: Mapping[str, By] = {
    "source": By(Cube.SOURCE, 2, lambda key: {"src_addr": address_text(*key)}),
    "destination": By(Cube.DESTINATION, 2, lambda key: {"dst_addr": address_text(*key)}),
    "pair": By(
        Cube.PAIR, 4, lambda key: {"src_addr": address_text(*key[:2]), "dst_addr": address_text(*key[2:])}
    ),
    "conversation": By(Cube.CONVERSATION, 5, _conversation),
    "port": By(Cube.PORT, 1, lambda key: {"proto": key[0] >> 16 & 0xFF, "port": key[0] & 0xFFFF}),
    "protocol": By(Cube.PROTOCOL, 1, lambda key: {"proto": key[0] & 0xFF}),
    "as": By(Cube.AS, 1, lambda key: {"src_as": key[0] >> 32, "dst_as": key[0] & 0xFFFF_FFFF}),
    "interface": By(
        Cube.EXPORTER_INTERFACE, 3, lambda key: {"exporter": address_text(*key[:2]), "in_if": key[2]}
    ),
}  # fmt: skip
#: Every field that a key may have; a key's others are null.
FIELDS = (
    "src_addr", "dst_addr", "src_port", "dst_port", "proto", "port", "src_as", "dst_as", "exporter", "in_if",
)  # fmt: skip
_NO_FIELDS = dict.fromkeys(FIELDS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """By what keys are ranked, how many are said, and on how many samples of equal weight a number must rest."""

    rank: tuple[str, ...] = MEASURES
    count: int = 20
    samples_min: float = 4.0


@dataclass(frozen=True, slots=True)
class Span:
    """A window in nanoseconds, and from when on its rows are known: later where the log began within it."""

    start_ns: int
    end_ns: int
    covered_from_ns: int


def seconds_text(length_ns: int) -> str:
    """Return a length in seconds as short as it goes: ``60``, ``0.25``."""
    whole, rest = divmod(length_ns, 1_000_000_000)
    return f"{whole}.{rest:09d}".rstrip("0") if rest else str(whole)


def said(by: str, span: Span, window: Table, steps: Sequence[Table], wanted: Wanted) -> list[Result]:
    """Return the results of a window, one per ranking; ``steps`` are the tables it is the sum of, in time order."""
    tops = [window.top(MEASURES.index(ranking), wanted.count) for ranking in wanted.rank]
    places = np.unique(np.concatenate(tops))
    entries = _entries(WAYS[by], window, places, steps, wanted.samples_min)
    return [
        _result(by, span, window, ranking, [entries[at] for at in np.searchsorted(places, top).tolist()])
        for ranking, top in zip(wanted.rank, tops, strict=True)
    ]


def _entries(
    way: By, window: Table, places: NDArray[np.int64], steps: Sequence[Table], samples_min: float
) -> list[dict[str, Any]]:
    keys, sums = window.keys[places], window.sums[places]
    spread = spread_of(keys, steps)
    sure = estimates(sums[:, 2], sums[:, 0], spread[:, 0], spread[:, 1], samples_min)
    is_sure = (~np.isnan(sure.estimate)).tolist()
    bounds = np.stack([np.floor(sure.low), np.ceil(sure.high)], axis=1).tolist()
    entries = []
    for key, (sent, packets, records), named, (low, high) in zip(
        keys.tolist(), sums.tolist(), is_sure, bounds, strict=True
    ):
        figures = {
            "bytes": sent if named else None, "bytes_low": int(low), "bytes_high": int(high) + window.errors[0],
            "packets": packets if named else None, "records": records,
        }  # fmt: skip
        entries.append({**_NO_FIELDS, **way.fields(key), **figures})
    return entries


def _result(by: str, span: Span, window: Table, ranking: str, entries: Sequence[dict[str, Any]]) -> Result:
    total = window.totals[MEASURES.index(ranking)]
    value: dict[str, Any] = {
        "window_start_ns": span.start_ns,
        "window_end_ns": span.end_ns,
        "covered_from_ns": span.covered_from_ns,
        "by": by,
        "ranked_by": ranking,
        "keys": len(window),
    }
    for measure, sent, error in zip(MEASURES, window.totals, window.errors, strict=True):
        value |= {measure: min(sent, COUNT_MAX), f"{measure}_error_max": min(error, COUNT_MAX)}
    value["top"] = [{**entry, "share": None if entry[ranking] is None else entry[ranking] / total} for entry in entries]
    key = f"{span.start_ns}|{seconds_text(span.end_ns - span.start_ns)}|{by}|{ranking}"
    return Result(STREAM, key, span.end_ns, value)
