"""Which links are fullest now: the newest interval of every interface, beside its last percentiles, in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flowstream.batch import address_text, address_words

#: What interfaces can be ranked by: columns of a row, and the percentiles of the last hour and day.
BY = ("share", "rate_bps", "low_bps", "high_bps", "samples", "hour", "day")
PERIODS = ("hour", "day")
#: What a row says of a period.
_OF_PERIOD = ("p95_bps", "p95_low_bps", "p95_high_bps", "max_bps", "max_low_bps", "max_high_bps", "share")
#: An interface that had traffic in the last hour or day and none in its exporter's newest interval.
_SILENT = {"rate_bps": 0, "low_bps": 0, "high_bps": None, "samples": 0, "share": None, "onset_ns": None}
_NO_PERIODS = dict.fromkeys(PERIODS)

Record = Mapping[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which interfaces: "" for all. An exporter is its address or node, an interface its ifIndex or name."""

    exporter: str = ""
    interface: str = ""
    by: str = "share"
    count: int = 20


def newest_links(uses: Iterable[Record], percentiles: Iterable[Record], wanted: Wanted) -> tuple[int, list[Row]]:
    """Return how many interfaces are as wanted, by direction, and the first of them.

    ``uses`` are the newest records of ``link_use``, one for each exporter, ``percentiles`` those of
    ``link_use_percentiles``, one for each exporter and period. Rows are in descending order of what is asked for,
    those without it last; equal ones likewise by share, rate and upper bound, then in the order of exporter (as a
    number), ifIndex, and in before out.
    """
    exporter = _address(wanted.exporter)
    kept = {use["exporter"]: use for use in uses if exporter in ("", use["exporter"], use["node"])}
    rows: dict[tuple[str, int, str], Row] = {}
    for address, use in kept.items():
        for port in use["interfaces"]:
            rows[address, port["if_index"], port["direction"]] = {**_of(use), **port, **_NO_PERIODS}
    for told in percentiles:
        if (of := kept.get(told["exporter"])) is None:
            continue
        for port in told["interfaces"]:
            key = (told["exporter"], port["if_index"], port["direction"])
            if key not in rows:
                label = {name: port[name] for name in ("if_index", "direction", "name", "link_bps")}
                rows[key] = {**_of(of), **label, **_SILENT, **_NO_PERIODS}
            rows[key][told["period"]] = {
                "window_start_ns": told["window_start_ns"],
                **{name: port[name] for name in _OF_PERIOD},
            }
    chosen = [row for row in rows.values() if wanted.interface in ("", str(row["if_index"]), row["name"])]
    numbers = {address: address_words(address) for address in kept}
    chosen.sort(
        key=lambda row: (
            *_descending(row, wanted.by),
            *(part for by in ("share", "rate_bps", "high_bps") for part in _largest_first(row[by])),
            numbers[row["exporter"]], row["if_index"], row["direction"],
        )
    )  # fmt: skip
    return len(chosen), chosen[: wanted.count]


def _address(text: str) -> str:
    """Return an address as records spell it; anything else as it is."""
    try:
        return address_text(*address_words(text))
    except ValueError:
        return text


def _of(use: Record) -> Row:
    return {name: use[name] for name in ("exporter", "node", "window_start_ns", "window_end_ns")}


def _descending(row: Row, by: str) -> tuple[float, ...]:
    """Return what sorts the largest first; of a period that is its share, then its rate."""
    if by in PERIODS:
        told = row[by] or {"share": None, "p95_bps": None}
        return (*_largest_first(told["share"]), *_largest_first(told["p95_bps"]))
    return _largest_first(row[by])


def _largest_first(number: float | None) -> tuple[float, ...]:
    return (1, 0) if number is None else (0, -number)
