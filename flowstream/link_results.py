"""From what link use remembers to the records of its streams: Python, but per port told, never per flow record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import address_text
from flowstream.estimate import Estimates
from flowstream.link_ports import Ports
from flowstream.link_state import Integers
from flowstream.operators import Result

USE, PERCENTILES, EVENTS = "link-use", "link-use-percentiles", "link-events"


@dataclass(frozen=True, slots=True)
class Told:
    """Ports of an interval, in key order, with what is known of their load: a row for each in every array."""

    keys: NDArray[np.uint64]
    estimates: Estimates  # bits per second
    link_bps: Integers  # 0 where unknown
    start_ns: int
    end_ns: int

    @property
    def share(self) -> NDArray[np.float64]:
        """Load over capacity; NaN where there are not enough samples, or no capacity to compare with."""
        known = self.link_bps > 0
        return np.asarray(np.where(known, np.rint(self.estimates.estimate) / np.where(known, self.link_bps, 1), np.nan))

    def figures(self, at: int) -> dict[str, Any]:
        """Return the fields of one port that speak of its load."""
        load = self.estimates.fields(at)
        link_bps, share = int(self.link_bps[at]), float(self.share[at])
        return {
            "rate_bps": load["estimate"],
            "low_bps": load["low"],
            "high_bps": load["high"],
            "samples": load["samples"],
            "link_bps": link_bps or None,
            "share": None if np.isnan(share) else share,
        }


def uses(told: Told, exporters: NDArray[np.void], exporter_of: Integers, ports: Ports) -> list[Result]:
    """Return a record for each exporter; ``exporter_of`` gives the place of each port's."""
    results = []
    bounds = np.searchsorted(exporter_of, np.arange(len(exporters) + 1)).tolist()
    names = ports.names(told.keys)
    for place in np.flatnonzero(np.diff(bounds)).tolist():
        inside = range(bounds[place], bounds[place + 1])
        words = exporters["key"][place].tolist()
        exporter = address_text(*words)
        value = {
            "exporter": exporter,
            "node": ports.node((words[0], words[1]), told.keys[inside.start : inside.stop]),
            "window_start_ns": told.start_ns,
            "window_end_ns": told.end_ns,
            "late_bytes": int(exporters["late_bytes"][place]),
            "interfaces": [{**_port(told.keys[n], names[n]), **told.figures(n)} for n in inside],
        }
        results.append(Result(USE, f"{told.start_ns}|{exporter}", told.end_ns, value))
    return results


def events(told: Told, at: Integers, onset_ns: Integers, names: list[str], ports: Ports) -> list[Result]:
    """Return the events of the ports ``at``, which ``names`` calls ``onset`` or ``offset``."""
    results = []
    for place, began_ns, event in zip(at.tolist(), onset_ns.tolist(), names, strict=True):
        key = told.keys[place]
        exporter, port = address_text(int(key[0]), int(key[1])), _port(key, ports.names(told.keys[place, None])[0])
        value = {
            "event": event,
            "exporter": exporter,
            "node": ports.node((int(key[0]), int(key[1])), told.keys[place, None]),
            **port,
            **told.figures(place),
            "onset_ns": began_ns,
            "time_ns": told.end_ns,
        }
        text = f"{began_ns}|{exporter}|{port['if_index']}|{port['direction']}|{event}"
        results.append(Result(EVENTS, text, told.end_ns, value))
    return results


@dataclass(frozen=True, slots=True)
class Period:
    """An hour or a day that is over, and the length of the values whose percentile is told, in nanoseconds."""

    name: str
    start_ns: int
    end_ns: int
    value_ns: int


def percentiles(
    period: Period,
    exporter: tuple[int, int],
    keys: NDArray[np.uint64],
    first_ns: Integers,
    largest: Integers,
    ports: Ports,
) -> Result:
    """Return the record of an exporter's ports, which had their first traffic at ``first_ns``.

    ``largest`` holds in each row the largest of a port's values, bytes, and zeros where there were fewer. The
    percentile is the nearest rank: of n values the ceil(0.95 n)-th smallest.
    """
    begun = np.maximum(first_ns, period.start_ns) // period.value_ns
    count = period.end_ns // period.value_ns - begun
    descending = -np.sort(-largest, axis=1)
    rank = descending[np.arange(len(keys)), np.minimum(count // 20, largest.shape[1] - 1)]
    link_bps, names = ports.link_bps(keys).tolist(), ports.names(keys)
    interfaces = []
    for n, (p95, most) in enumerate(zip(rank.tolist(), descending[:, 0].tolist(), strict=True)):
        p95_bps = rate_bps(p95, period.value_ns)
        interfaces.append({
            **_port(keys[n], names[n]),
            "p95_bps": p95_bps,
            "max_bps": rate_bps(most, period.value_ns),
            "values": int(count[n]),
            "link_bps": link_bps[n] or None,
            "share": p95_bps / link_bps[n] if link_bps[n] else None,
        })  # fmt: skip
    text = address_text(*exporter)
    value = {
        "exporter": text,
        "node": ports.node(exporter, keys),
        "period": period.name,
        "window_start_ns": period.start_ns,
        "window_end_ns": period.end_ns,
        "value_ns": period.value_ns,
        "interfaces": interfaces,
    }
    return Result(PERCENTILES, f"{period.start_ns}|{period.name}|{text}", period.end_ns, value)


def rate_bps(counted_bytes: int, length_ns: int) -> int:
    """Return bytes over a length of time as bits per second, to the nearest."""
    return (counted_bytes * 8 * 10**9 + length_ns // 2) // length_ns


def _port(key: NDArray[np.uint64], name: str) -> dict[str, Any]:
    port = int(key[2])
    return {"if_index": port >> 1, "direction": "out" if port & 1 else "in", "name": name}
