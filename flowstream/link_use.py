"""Link use: bits per second on the wire by interface and direction, percentiles, and links that are over a threshold.

It merges the partials of cube ``INTERFACE`` (``flowstream/wire_load.py``). An interval is told when nothing can come
for it any more: at its end for exporters of packet samples, ``spread_max_s`` later for those that send flow records,
whose totals come after the fact. What comes for an interval already told is counted in the exporter's next record.
``docs/link-use.md`` says what is promised, and what the words in the results mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream import narrow
from flowstream.cube_sums import Sums
from flowstream.errors import SettingsError
from flowstream.estimate import estimates
from flowstream.link_periods import DAY_NS, HOUR_NS, SECOND_NS, SPAN_NS, Period, add_interval, end_spans, percentiles
from flowstream.link_ports import Ports
from flowstream.link_results import Told, events, uses
from flowstream.link_state import NAME, NEVER, LinkState
from flowstream.links import LinkTable
from flowstream.operators import Pane, Result
from flowstream.partials import Cube, PartialBatch
from flowstream.recent_losses import Missing
from flowstream.wire_load import LIFE_MAX_NS, RECORDS, SAMPLES


@dataclass(frozen=True, slots=True)
class LinkUseConfig:
    """Shares of the capacity, seconds of event time; SettingsError, naming the field, for what makes no sense."""

    interval_s: float = 10.0
    spread_max_s: float = 120.0
    threshold: float = 0.8
    hysteresis: float = 0.1
    for_intervals: int = 3
    samples_min: float = 4.0
    ports_max: int = 20_000
    active_timeout_s: float | None = None

    def __post_init__(self) -> None:
        ports_max = narrow.ROWS_MAX // self.hour_values
        for name, holds, fix in (
            ("interval_s", self.interval_ns > 0 and SPAN_NS % self.interval_ns == 0, "seconds that divide 300"),
            ("spread_max_s", self.reach_ns > 0, "seconds above 0"),
            ("active_timeout_s", self.life_max_ns > 0, "seconds above 0"),
            ("threshold", self.threshold > 0.0, "a share above 0"),
            ("hysteresis", 0.0 <= self.hysteresis < self.threshold, "a share from 0 to below the threshold"),
            ("for_intervals", self.for_intervals >= 1, "1 or more"),
            ("samples_min", self.samples_min >= 0.0, "0 or more"),
            ("ports_max", 1 <= self.ports_max * self.hour_values <= narrow.ROWS_MAX, f"1 to {ports_max:,}"),
        ):
            if not holds:
                raise SettingsError(f"link_use.{name} is {getattr(self, name)}; set {fix}")

    @property
    def interval_ns(self) -> int:
        """Length of an interval in nanoseconds."""
        return round(self.interval_s * SECOND_NS)

    @property
    def reach_ns(self) -> int:
        """How far from its pane a part of a flow may lie, in nanoseconds."""
        return round(self.spread_max_s * SECOND_NS)

    @property
    def life_max_ns(self) -> int:
        """How long before its end a flow record tells of at the most, in nanoseconds."""
        return LIFE_MAX_NS if self.active_timeout_s is None else round(self.active_timeout_s * SECOND_NS)

    @property
    def hour_values(self) -> int:
        """How many of the largest values of an hour tell its 95th percentile."""
        return HOUR_NS // max(1, self.interval_ns) // 20 + 1


class LinkUse:
    """Says ``link-use``, ``link-events`` and ``link-use-percentiles``.

    ``links`` may be replaced between two panes. ``refused`` counts rows of ports over ``ports_max``. Raises
    SettingsError where an interval is no whole number of panes.
    """

    name = NAME
    lookback = 0

    def __init__(self, config: LinkUseConfig, pane_ns: int, links: LinkTable) -> None:
        if pane_ns <= 0 or config.interval_ns % pane_ns:
            raise SettingsError(f"link_use.interval_s is {config.interval_s:g}; set a multiple of time.pane_s")
        self.config = config
        self.links = links
        self.refused = 0
        self._kept = (config.hour_values, DAY_NS // SPAN_NS // 20 + 1)
        self._state = LinkState.none(*self._kept)
        self._table = Ports(links)
        self._bundle = np.zeros(0, np.int64)  # place of each port's bundle, -1: in none
        self._link_bps = np.zeros(0, np.int64)
        self._labels: list[dict[str, Any]] = []

    @property
    def quiet(self) -> bool:
        """Whether an empty pane changes nothing: nothing waits to be told, and no port is busy or over."""
        return not self._state.slots and not self._owed().any()

    def snapshot(self) -> bytes:
        """Return the state."""
        return self._state.to_bytes((self.config.interval_ns, self.config.reach_ns))

    def restore(self, state: bytes) -> None:
        """Take a snapshot's state; StateError where it is not one, or was made with other settings."""
        self._state = LinkState.from_bytes(state, (self.config.interval_ns, self.config.reach_ns), self._kept)
        self._table = Ports(self.links)
        self._admit(np.zeros((0, 3), np.uint64))

    def process(self, panes: Sequence[Pane[PartialBatch]]) -> list[Result]:
        """Take in ``panes[-1]`` and tell the intervals that are complete with it."""
        pane, length_ns = panes[-1], self.config.interval_ns
        if not len(pane.rows) and self.quiet:
            return []
        if self._table.links is not self.links:
            self._table = Ports(self.links)
            self._admit(np.zeros((0, 3), np.uint64))
        self._state.losses.take(pane.rows, pane.start_ns // length_ns)
        rows = pane.rows.take(pane.rows.cube == Cube.INTERFACE)
        if len(rows):
            self._take(rows)
        results = self._tell_complete(pane.end_ns)
        self._state.losses.forget((pane.end_ns - self.config.reach_ns) // length_ns)
        return results

    def _admit(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the place of each port, making places for new ones and for the bundles of all."""
        state, known = self._state, len(self._state.ports)
        place = state.admit(keys, self.config.ports_max)
        if len(state.ports) != known or not len(keys):
            own = state.ports["key"]
            words = self._table.bundles(own)
            of_bundle = np.concatenate([own[:, :2], words[:, None]], axis=1)[words > 0]
            state.admit(of_bundle, self.config.ports_max)
            if len(keys):
                place = state.admit(keys, 0)
            self._index()
        return place

    def _index(self) -> None:
        """Note what the table of links says of each port."""
        keys = self._state.ports["key"]
        words = self._table.bundles(keys)
        bundled = np.concatenate([keys[:, :2], words[:, None]], axis=1)[words > 0]
        self._bundle = np.full(len(keys), -1)
        self._bundle[words > 0] = self._state.admit(bundled, 0)
        self._link_bps, self._labels = self._table.link_bps(keys), self._table.labels(keys)

    def _take(self, rows: PartialBatch) -> None:
        place = self._admit(np.stack([rows.key_0, rows.key_1, rows.key_2], axis=1))
        known = place >= 0
        self.refused += int(np.count_nonzero(~known))
        place = place[known]
        sums = Sums.of_partials(rows).take(known)
        start_ns = rows.key_3[known].astype(np.int64)
        state, exporter = self._state, self._state.exporter_of[place]
        exporters, number = state.exporters, start_ns // self.config.interval_ns
        exporters["records"][exporter[rows.key_4[known] == RECORDS]] = 1
        late = (start_ns == 0) | (number < exporters["told"][exporter])
        behind = Sums.zeros(len(exporters))
        behind.counts[:, 0] = exporters["late_bytes"]
        behind.add(exporter[late], sums.take(late))
        exporters["late_bytes"] = behind.counts[:, 0]

        bundle = self._bundle[place]
        timely, bundled = np.flatnonzero(~late), np.flatnonzero(~late & (bundle >= 0))
        row = np.concatenate([timely, bundled])
        place = np.concatenate([place[timely], bundle[bundled]])
        first = np.array(state.ports["first"])
        np.minimum.at(first, place, number[row])
        state.ports["first"] = first
        for interval in np.unique(number[row]).tolist():
            inside = number[row] == interval
            state.slot(interval).add(place[inside], sums.take(row[inside]))

    def _owed(self) -> NDArray[np.bool_]:
        """Mark the ports that will be told of in the next interval, with traffic or without."""
        ports = self._state.ports
        return np.asarray((ports["busy"] > 0) | (ports["onset"] > 0) | (ports["run"] > 0))

    def _tell_complete(self, end_ns: int) -> list[Result]:
        results = []
        for kind, until_ns in ((SAMPLES, end_ns), (RECORDS, end_ns - self.config.reach_ns)):
            while (number := self._next(kind)) * self.config.interval_ns + self.config.interval_ns <= until_ns:
                results += self._tell(kind, number)
        return results

    def _next(self, kind: int) -> int:
        """Return the next interval that exporters of a kind have something to say of."""
        state = self._state
        own = (state.exporters["records"] == kind)[state.exporter_of]
        waiting = [number for number, slot in state.slots.items() if slot.counts[own, 2].any()]
        owed = state.exporters["told"][state.exporter_of[own & self._owed()]]
        return min([*waiting, int(owed.min(initial=NEVER))])

    def _tell(self, kind: int, number: int) -> list[Result]:
        """Tell an interval of all exporters of a kind, and what it makes of periods and thresholds."""
        results = self._end_periods(kind, number)
        state, length_ns = self._state, self.config.interval_ns
        telling = (state.exporters["records"] == kind) & (state.exporters["told"] <= number)
        slot = state.slot(number)
        at = np.flatnonzero(telling[state.exporter_of] & ((slot.counts[:, 2] > 0) | self._owed()))
        sums, ports = slot.take(at), state.ports[at]
        busy = sums.counts[:, 2] > 0
        ports["weight_max"] = np.where(busy, sums.spread[:, 1], ports["weight_max"])
        missing, exporter = state.losses.since(number, state.exporters["key"]), state.exporter_of[at]
        of_ports = Missing(missing.correction[exporter], missing.widening[exporter])
        bits = 8.0 * SECOND_NS / length_ns
        load = estimates(
            sums.counts[:, 2], sums.counts[:, 0] * bits, sums.spread[:, 0] * bits * bits, ports["weight_max"] * bits,
            self.config.samples_min, *of_ports,
        )  # fmt: skip
        start_ns = number * length_ns
        labels = [self._labels[place] for place in at.tolist()]
        told = Told(ports["key"], labels, load, self._link_bps[at], start_ns, start_ns + length_ns)
        crossings = self._crossings(told, ports)
        results += uses(told, ports["onset"], state.exporters, exporter, missing, self._table)
        results += crossings
        ports["busy"] = busy
        add_interval(state, at, ports, sums, of_ports, length_ns)
        state.ports[at] = ports
        state.exporters["late_bytes"][np.unique(exporter)] = 0
        state.exporters["told"][telling] = number + 1
        slot.counts[at], slot.spread[at] = 0, 0.0
        if not slot.counts[:, 2].any():
            del state.slots[number]
        return results

    def _crossings(self, told: Told, ports: NDArray[np.void]) -> list[Result]:
        """Follow the thresholds, and return the events.

        An onset takes estimates over the threshold, each from enough samples to be one. For an offset it is enough
        that the upper bound is under the level, as it is where there are too few samples for an estimate.
        """
        over, level = ports["onset"] > 0, self.config.threshold - self.config.hysteresis
        ending = (told.share < level) | (told.load.high < level * told.link_bps) | (told.link_bps == 0)
        ports["run"] = np.where(np.where(over, ending, told.share >= self.config.threshold), ports["run"] + 1, 0)
        crossed = np.flatnonzero(ports["run"] >= self.config.for_intervals)
        ports["run"][crossed] = 0
        onset_ns = np.where(over, ports["onset"], told.end_ns)[crossed]
        ports["onset"][crossed] = np.where(over[crossed], 0, told.end_ns)
        names = np.where(over[crossed], "offset", "onset").tolist()
        return events(told, crossed, onset_ns, names, self._table)

    def _end_periods(self, kind: int, number: int) -> list[Result]:
        """End the spans, hours and days that the interval ``number`` is beyond, of the exporters of a kind."""
        state, start_ns = self._state, number * self.config.interval_ns
        telling = (state.exporters["records"] == kind) & (state.exporters["told"] <= number)
        results: list[Result] = []
        gone = np.zeros(len(state.ports), np.bool_)
        for name, length_ns in (("span", SPAN_NS), ("hour", HOUR_NS), ("day", DAY_NS)):
            begun, now = state.exporters[name], start_ns // length_ns
            over = telling & (begun >= 0) & (begun < now)
            ports = np.flatnonzero(over[state.exporter_of])
            if name == "span":
                end_spans(state, ports)
            elif len(ports):
                largest, value_ns = (state.hours, self.config.interval_ns) if name == "hour" else (state.days, SPAN_NS)
                for place in np.flatnonzero(over).tolist():
                    period = Period(name, int(begun[place]) * length_ns, int(begun[place] + 1) * length_ns, value_ns)
                    results += self._percentiles(place, period, largest)
                if name == "day":
                    gone[ports] = state.ports["day_busy"][ports] == 0
                largest[ports] = 0
                state.ports[f"{name}_busy"][ports] = 0
            state.exporters[name][telling] = now
        self._forget(gone)
        return results

    def _percentiles(self, place: int, period: Period, largest: NDArray[np.int64]) -> list[Result]:
        state = self._state
        begun = state.ports["first"] < period.end_ns // self.config.interval_ns  # that of none yet is NEVER
        own = np.flatnonzero(begun & (state.exporter_of == place))
        first_ns = state.ports["first"][own] * self.config.interval_ns
        return [percentiles(period, state.ports[own], first_ns, largest[own], self._table)] if len(own) else []

    def _forget(self, gone: NDArray[np.bool_]) -> None:
        """Drop ports that had no traffic in a whole day, unless they have some now."""
        for slot in self._state.slots.values():
            gone &= slot.counts[:, 2] == 0
        gone &= ~self._owed()
        if gone.any():
            self._state.forget(gone)
            self._index()
