"""From what link use remembers to the records of its streams: Python, but per port told, never per flow record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import address_text
from flowstream.estimate import Estimates
from flowstream.link_ports import Ports
from flowstream.link_state import Integers
from flowstream.operators import Result
from flowstream.recent_losses import Missing

USE, PERCENTILES, EVENTS = "link-use", "link-use-percentiles", "link-events"


@dataclass(frozen=True, slots=True)
class Told:
    """Ports of an interval, in key order, with what is known of their load: a row for each in every array."""

    keys: NDArray[np.uint64]
    labels: list[dict[str, Any]]  # which port it is
    load: Estimates  # bits per second
    link_bps: Integers  # 0 where unknown
    start_ns: int
    end_ns: int

    @property
    def share(self) -> NDArray[np.float64]:
        """Load over capacity; NaN where there are not enough samples, or no capacity to compare with."""
        known = self.link_bps > 0
        return np.asarray(np.where(known, np.rint(self.load.estimate) / np.where(known, self.link_bps, 1), np.nan))

    def figures(self, at: Integers) -> Iterator[dict[str, Any]]:
        """Yield, for each of some ports, the fields that speak of its load: bounds are rounded outwards."""
        load, link_bps, share = self.load, self.link_bps[at].tolist(), self.share[at].tolist()
        rate_bps = np.rint(load.estimate[at]).tolist()
        low_bps, high_bps = np.floor(load.low[at]).tolist(), np.ceil(load.high[at]).tolist()
        columns = (rate_bps, low_bps, high_bps, load.samples[at].tolist(), link_bps, share)
        for rate, low, high, samples, capacity, part in zip(*columns, strict=True):
            yield {
                "rate_bps": None if isnan(rate) else int(rate),
                "low_bps": int(low),
                "high_bps": int(high),
                "samples": samples,
                "link_bps": capacity or None,
                "share": None if isnan(part) else part,
            }


def uses(
    told: Told,
    onset_ns: Integers,
    exporters: NDArray[np.void],
    exporter_of: Integers,
    missing: Missing,
    ports: Ports,
) -> list[Result]:
    """Return a record for each exporter; ``exporter_of`` gives the place of each port's, in ``missing`` too.

    ``onset_ns`` is when each port came over the threshold, 0 where it is not over.
    """
    results = []
    correction, lost = missing.correction.tolist(), missing.lost_share.tolist()
    bounds = np.searchsorted(exporter_of, np.arange(len(exporters) + 1)).tolist()
    figures = told.figures(np.arange(len(told.keys)))
    every = [
        {**label, **load, "onset_ns": began_ns or None}
        for label, load, began_ns in zip(told.labels, figures, onset_ns.tolist(), strict=True)
    ]
    for place in np.flatnonzero(np.diff(bounds)).tolist():
        inside = slice(bounds[place], bounds[place + 1])
        high, low = exporters["key"][place].tolist()
        exporter = address_text(high, low)
        value = {
            "exporter": exporter,
            "node": ports.node(high, low),
            "window_start_ns": told.start_ns,
            "window_end_ns": told.end_ns,
            "late_bytes": int(exporters["late_bytes"][place]),
            "correction": correction[place],
            "lost_share": lost[place],
            "interfaces": every[inside],
        }
        results.append(Result(USE, f"{told.start_ns}|{exporter}", told.end_ns, value))
    return results


def events(told: Told, at: Integers, onset_ns: Integers, names: list[str], ports: Ports) -> list[Result]:
    """Return the events of the ports ``at``, which ``names`` calls ``onset`` or ``offset``."""
    results = []
    rows = zip(at.tolist(), onset_ns.tolist(), names, told.figures(at), strict=True)
    for place, began_ns, event, figures in rows:
        high, low = told.keys[place, :2].tolist()
        exporter, port = address_text(high, low), told.labels[place]
        value = {
            "event": event,
            "exporter": exporter,
            "node": ports.node(high, low),
            **port,
            **figures,
            "onset_ns": began_ns,
            "time_ns": told.end_ns,
        }
        text = f"{began_ns}|{exporter}|{port['if_index']}|{port['direction']}|{event}"
        results.append(Result(EVENTS, text, told.end_ns, value))
    return results
