"""From sightings to the records of the ``elephants`` stream: Python, but per event, never per flow record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import address_text
from flowstream.cusum import Estimate, by_samples, estimate
from flowstream.elephant_state import Floats, Sightings
from flowstream.flow_keys import flow_fields, flow_key
from flowstream.links import EDGE_YES
from flowstream.operators import Result

STREAM = "elephants"
SIGHTINGS_MAX = 64  # listed in a record: no path is that long


@dataclass(slots=True)
class Scene:
    """The sightings of one pane in key order, and what is known of their links.

    ``link_bps`` and ``edge`` are as in ``LinkTable.lookup``; ``level_bps`` is the rate that a flow is
    compared with, 0 where there is none; ``bounds`` are where each flow begins, and the number of sightings.
    Rates that rest on less than ``samples_min`` samples of equal weight are not named; ``onset_samples_min`` is the
    floor of onsets.
    """

    state: Sightings
    link_bps: NDArray[np.int64]
    edge: NDArray[np.int8]
    level_bps: Floats
    bounds: NDArray[np.int64]
    tick_ns: int
    window_ns: int
    confidence: float
    samples_min: float
    onset_samples_min: float

    def any_of_flow(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Spread a mark on one sighting to all of its flow."""
        if len(mask) == 0:
            return mask
        return np.repeat(np.logical_or.reduceat(mask, self.bounds[:-1]), np.diff(self.bounds))

    def flow_of(self, place: int) -> slice:
        """Return where the sightings of the flow of a sighting are."""
        flow = int(np.searchsorted(self.bounds, place, "right")) - 1
        return slice(int(self.bounds[flow]), int(self.bounds[flow + 1]))

    def live(self, inside: slice, end_ns: int) -> NDArray[np.bool_]:
        """Mark sightings that hold now: sampled within the window, or with the next record not overdue."""
        state = self.state.take(inside)
        recent = state.rows["last_ns"] >= end_ns - self.window_ns
        return np.where(by_samples(state), recent, state.rows["due_ns"] > end_ns)

    def entering(self, inside: slice, tick: int) -> int | None:
        """Return where a flow enters the fabric, among its live sightings that have a level.

        An edge port, else the highest TTL, else the largest estimate; then the order of (exporter, in_if).
        """
        live = self.live(inside, (tick + 1) * self.tick_ns) & (self.level_bps[inside] > 0.0)
        at = np.flatnonzero(live) + inside.start
        if len(at) == 0:
            return None
        rate_bps = estimate(self.state, at, tick, self.tick_ns).rate_bps
        ttl = self.state.rows["ttl"][at].astype(np.int64)
        order = np.lexsort((at, -rate_bps, -ttl, self.edge[at] != EDGE_YES))
        return int(at[order[0]])

    def events(self, at: NDArray[np.int64], told: Estimate, names: list[str], tick: int) -> list[Result]:
        """Return one result for each of the sightings ``at``, which ``told`` estimates: of onsets, or of others."""
        rows = self.state.rows
        time_ns = (tick + 1) * self.tick_ns
        floor = self.onset_samples_min if "onset" in names else self.samples_min
        rates = self._rates(told, floor)
        results = []
        for place, event, rate in zip(at.tolist(), names, rates, strict=True):
            flow = flow_fields(rows["key"][place])
            link_bps, rate_bps = int(self.link_bps[place]) or None, rate["rate_bps"]
            value = {
                "flow": flow,
                "event": event,
                **_place(rows["key"][place]),
                **rate,
                "link_bps": link_bps,
                "share": rate_bps / link_bps if link_bps and rate_bps is not None else None,
                "first_ns": int(rows["first_ns"][place]),
                "last_ns": int(rows["last_ns"][place]),
                "time_ns": time_ns,
                "sightings": self._sightings(place, tick, floor),
            }
            key = f"{time_ns}|{flow_key(flow)}|{event}"
            results.append(Result(STREAM, key, time_ns, value))
        return results

    def _rates(self, told: Estimate, samples_min: float) -> list[dict[str, Any]]:
        """Return estimates as fields; the rate is null where there are not enough samples to name it."""
        columns = (told.rate_bps, told.enough(samples_min), *told.bounds_bps(self.confidence), told.samples)
        return [
            {"rate_bps": rate if named else None, "low_bps": low, "high_bps": high, "samples": int(samples)}
            for rate, named, low, high, samples in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def _sightings(self, place: int, tick: int, samples_min: float) -> list[dict[str, Any]]:
        """Return the live sightings of a flow, and the published one, by falling TTL, then exporter.

        ``SIGHTINGS_MAX`` of them: exporter addresses can be made up, and a message must not grow with them.
        """
        inside = self.flow_of(place)
        listed = self.live(inside, (tick + 1) * self.tick_ns)
        listed[place - inside.start] = True
        at = np.flatnonzero(listed) + inside.start
        rows = self.state.rows[at]
        rates = self._rates(estimate(self.state, at, tick, self.tick_ns), samples_min)
        order = np.lexsort((at, -rows["ttl"].astype(np.int64)))
        first = order[:SIGHTINGS_MAX]
        if not np.any(at[first] == place):
            first[-1] = np.flatnonzero(at == place)[0]
        return [
            {
                **_place(rows["key"][n]),
                "out_if": int(rows["out_if"][n]),
                **rates[n],
                "ip_ttl": int(rows["ttl"][n]),
            }
            for n in first.tolist()
        ]


def _place(key: NDArray[np.uint64]) -> dict[str, Any]:
    return {"exporter": address_text(int(key[5]), int(key[6])), "in_if": int(key[7]) & 0xFFFF_FFFF}
