"""Elephant flows: flows that take more than a share of the link by which they enter the fabric.

The definition is that of sFlow-RT's fabric-view: 10 % of the link's speed, at the edge, in about a second.
The test is a CUSUM (``cusum.py``): a point estimate over a second of samples is a coin flip near the bar.
Rates are of the bytes as the exporter counted them: sFlow frames with FCS, NetFlow layer-3 octets.
``docs/elephants.md`` says what is promised, and what the words in the results mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowstream.cusum import Cusum, Estimate, by_samples, estimate
from flowstream.elephant_events import STREAM, Scene
from flowstream.elephant_state import (
    SECOND_NS,
    Cells,
    Floats,
    Sightings,
    cells_of,
    from_bytes,
    suspects,
    to_bytes,
    usable_rows,
)
from flowstream.errors import SettingsError
from flowstream.flow_keys import FLOW_WORDS, Words
from flowstream.links import LinkTable
from flowstream.operators import Pane, Result

TICK_NS = SECOND_NS // 4


@dataclass(frozen=True, slots=True)
class ElephantsConfig:
    """What counts as an elephant. Shares are of the link's capacity, times in seconds of event time.

    Raises SettingsError, naming the field, where a value makes no test.
    """

    threshold: float = 0.10
    low: float = 0.7  # the test decides between low x threshold (7 %)
    high: float = 1.5  # and high x threshold (15 %)
    decision: float = 5.0  # h: the statistic above which a flow is an elephant
    # ceil(h / ln(high / low)): the samples that the test takes anyway where all weigh the same. It is asked
    # of sum(w)^2 / sum(w^2), so that one jumbo frame among small ones does not pass for seven.
    samples_min: float = 7.0
    confidence: float = 0.95
    window_s: float = 5.0  # estimates look back this far at most
    offset: float = 0.8  # over when the upper bound stays below offset x threshold
    offset_s: float = 3.0  # for this long
    update_s: float = 1.0
    rate_bps_min: float | None = None  # threshold where the capacity is unknown; None: not published
    flows_max: int = 1_000_000  # sightings remembered per partition
    named_min: float = 4.0  # samples of equal weight that name a rate: sampling.samples_min, for all results

    def __post_init__(self) -> None:
        for name, holds, fix in (
            ("threshold", 0.0 < self.threshold <= 1.0, "a share in (0, 1]"),
            ("low", 0.0 < self.low < 1.0, "a factor below 1"),
            ("high", self.high > 1.0, "a factor above 1"),
            ("decision", self.decision > 0.0, "a number above 0"),
            ("samples_min", self.samples_min >= 0.0, "0 or more"),
            ("confidence", 0.0 < self.confidence < 1.0, "a level in (0, 1)"),
            ("window_s", 0.25 <= self.window_s <= 600.0, "0.25 to 600 seconds"),
            ("offset", 0.0 < self.offset < 1.0, "a factor below 1"),
            ("offset_s", 0.0 < self.offset_s <= 600.0, "up to 600 seconds"),
            ("update_s", 0.0 < self.update_s <= 3600.0, "up to an hour"),
            ("rate_bps_min", self.rate_bps_min is None or self.rate_bps_min > 0.0, "bits per second above 0"),
            ("flows_max", self.flows_max >= 1, "1 or more"),
            ("named_min", self.named_min >= 0.0, "0 or more"),
        ):
            if not holds:
                raise SettingsError(f"elephants.{name} is {getattr(self, name)}; set {fix}")


class ElephantsOperator:
    """Say when a flow becomes an elephant (``onset``), goes on (``update``) and ends (``offset``).

    ``links`` may be replaced between two panes. ``evicted`` counts sightings forgotten over ``flows_max``,
    ``untimed`` the records left out because their start and end are unknown. ``begun`` are the flows (``flow_keys``)
    that became elephants in the last pane. Raises SettingsError for a pane length that is not positive.
    """

    name = STREAM
    lookback = 0

    def __init__(self, config: ElephantsConfig, pane_ns: int, links: LinkTable) -> None:
        if pane_ns <= 0:
            raise SettingsError(f"a pane of {pane_ns} ns is not positive; set time.pane_s above 0")
        self.config = config
        self.links = links
        self.evicted = 0
        self.untimed = 0
        self.begun: Words = np.zeros((0, FLOW_WORDS), np.uint64)
        self._tick_ns = TICK_NS if pane_ns % TICK_NS == 0 else pane_ns
        self._window_ticks = max(1, round(config.window_s * SECOND_NS / self._tick_ns))
        self._window_ns = self._window_ticks * self._tick_ns
        self._hold_ns = round(config.offset_s * SECOND_NS)
        self._update_ticks = max(1, round(config.update_s * SECOND_NS / self._tick_ns))
        self._cusum = Cusum(config.low, config.high, self._tick_ns)
        self._state = Sightings.none(self._window_ticks)

    @property
    def quiet(self) -> bool:
        """Whether nothing is remembered, so that an empty pane would change and say nothing."""
        return len(self._state) == 0

    @property
    def active(self) -> Words:
        """The flows that are elephants after the last pane, in order."""
        return np.asarray(self._state.rows["key"][self._state.rows["active"] > 0, :FLOW_WORDS])

    def snapshot(self) -> bytes:
        """Return the state; of the rings only ticks that hold samples."""
        return to_bytes(self._state, self._tick_ns)

    def restore(self, state: bytes) -> None:
        """Take a snapshot's state; StateError where it is not one, or was made with other ticks."""
        self._state = from_bytes(state, self._tick_ns, self._window_ticks)

    def process(self, panes: Sequence[Pane]) -> list[Result]:
        """Take in ``panes[-1]``, tick by tick, and return its events in the order of (tick, flow)."""
        pane = panes[-1]
        self.begun = self.begun[:0]
        if len(pane.rows) == 0 and self.quiet:
            return []
        rows, untimed = usable_rows(pane.rows)
        self.untimed += untimed
        if len(rows) == 0 and self.quiet:
            return []
        tick = rows.time_ns // self._tick_ns
        level_bps = self._levels(self.links.lookup(rows.keys[:, 5:7], rows.in_if)[0])
        span_s = np.where(rows.sampled, self._tick_ns / SECOND_NS, rows.paid_s)
        keep = suspects(rows, tick, self._cusum.load(rows.weight, level_bps, span_s), self._state.rows["key"])
        rows = rows.take(keep)
        state, place = self._state.with_keys(rows.keys)
        cells = cells_of(rows, place, tick[keep])
        link_bps, edge = self.links.lookup(state.rows["key"][:, 5:7], state.in_if)
        scene = Scene(
            state,
            link_bps,
            edge,
            self._levels(link_bps),
            state.flow_bounds(),
            self._tick_ns,
            self._window_ns,
            self.config.confidence,
            self.config.named_min,
            min(self.config.named_min, self.config.samples_min),
        )
        results: list[Result] = []
        for now in range(pane.start_ns // self._tick_ns, pane.end_ns // self._tick_ns):
            results += self._tick(scene, cells.at(now), now)
        self._state = self._remembered(scene, pane.end_ns)
        return results

    def _levels(self, link_bps: NDArray[np.int64]) -> Floats:
        """Return the rates that the flows of links are compared with; 0 where there is none."""
        unknown = self.config.rate_bps_min or 0.0
        return np.where(link_bps > 0, self.config.threshold * link_bps, unknown)

    def _tick(self, scene: Scene, cells: Cells, tick: int) -> list[Result]:
        state = scene.state
        if len(state) == 0:
            return []
        busy = scene.any_of_flow(state.rows["active"] > 0)
        level_bps = np.where(busy, 0.0, scene.level_bps)  # an active flow is followed, not tested again
        sampled = by_samples(state)[cells.place]
        self._cusum.advance_samples(state, cells.take(sampled), tick, level_bps)
        records = cells.take(~sampled)
        new_ns = np.zeros(len(state), np.int64)
        new_ns[records.place] = self._cusum.advance_records(state, records, tick, level_bps, self._hold_ns)
        given_up = state.rows["due_ns"] <= (tick + 1) * self._tick_ns
        state.rows["s"][given_up] = 0.0
        results = self._onsets(scene, tick)
        return results + self._followed(scene, new_ns, tick)

    def _onsets(self, scene: Scene, tick: int) -> list[Result]:
        """Publish the flows whose entering sighting has crossed; once each, whatever the others say."""
        state = scene.state
        crossed = state.rows["s"] > self.config.decision
        flows = np.unique(np.searchsorted(scene.bounds, np.flatnonzero(crossed), "right") - 1)
        results = []
        for flow in flows.tolist():
            inside = slice(int(scene.bounds[flow]), int(scene.bounds[flow + 1]))
            place = scene.entering(inside, tick)
            if place is None or not crossed[place]:
                continue
            at = np.array([place])
            told = estimate(state, at, tick, self._tick_ns)
            if told.weight[0] ** 2 < self.config.samples_min * told.variance[0]:
                continue
            state.rows["active"][place] = 1
            self.begun = np.concatenate([self.begun, state.rows["key"][at, :FLOW_WORDS]])
            state.rows["below_ns"][place] = 0
            state.rows["s"][inside] = state.rows["s_base"][inside] = 0.0
            results += self._told(scene, at, told, ["onset"], tick)
        return results

    def _followed(self, scene: Scene, new_ns: NDArray[np.int64], tick: int) -> list[Result]:
        """Publish what active elephants have to say: an update when one is due, or their end."""
        rows = scene.state.rows
        at = np.flatnonzero(rows["active"])
        if len(at) == 0:
            return []
        told = estimate(scene.state, at, tick, self._tick_ns)
        level_bps = scene.level_bps[at]
        under = (told.bounds_bps(self.config.confidence)[1] < self.config.offset * level_bps) | (level_bps <= 0.0)
        sampled = by_samples(scene.state)[at]
        passed_ns = np.where(sampled, self._tick_ns, new_ns[at])
        below_ns = np.where(under, rows["below_ns"][at] + passed_ns, np.where(passed_ns > 0, 0, rows["below_ns"][at]))
        rows["below_ns"][at] = below_ns
        over = (below_ns >= self._hold_ns) | (rows["due_ns"][at] <= (tick + 1) * self._tick_ns)
        due = ~over & (tick - rows["told_tick"][at] >= self._update_ticks) & (sampled | (rows["fresh"][at] > 0))
        say = over | due
        names = np.where(over[say], "offset", "update").tolist()
        results = self._told(scene, at[say], told.take(say), names, tick)
        for place in at[over].tolist():
            inside = scene.flow_of(place)
            # The flow begins anew: what was seen of it while it was active is no evidence for another onset.
            # Its statistics are zero already, an active flow being followed and not tested.
            rows["active"][inside], rows["hull"][inside] = 0, 0.0
        return results

    def _remembered(self, scene: Scene, end_ns: int) -> Sightings:
        """Return the sightings worth keeping: of flows under suspicion or active, flows_max at most."""
        rows = scene.state.rows
        held = (rows["s"] > 0.0) | (rows["active"] > 0)
        kept = held | (scene.any_of_flow(held) & scene.live(slice(0, len(rows)), end_ns))
        excess = int(np.count_nonzero(kept)) - self.config.flows_max
        if excess > 0:
            busy = scene.any_of_flow(rows["active"] > 0)
            order = np.lexsort((np.arange(len(rows)), -rows["s"], ~busy, ~kept))
            kept = np.zeros(len(rows), np.bool_)
            kept[order[: self.config.flows_max]] = True
            self.evicted += excess
        return scene.state.take(kept)

    def _told(self, scene: Scene, at: NDArray[np.int64], told: Estimate, names: list[str], tick: int) -> list[Result]:
        scene.state.rows["told_tick"][at], scene.state.rows["fresh"][at] = tick, 0
        return scene.events(at, told, names, tick)
