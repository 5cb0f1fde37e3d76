"""Packet paths: through which switches a flow went, by which interface in and by which out.

All sightings of a flow are in the flows partition of its source, so a path needs no other partition. Per window the
flows with most bytes are told, and elephants always; an elephant also at once, when it becomes one. Flows that took
the same way are put together once: there are few ways. How much of a flow there was is a sum of the rows that count
(``flowstream/counting.py``). ``docs/paths.md`` says what is promised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream import path_results
from flowstream.batch import FlowBatch
from flowstream.cabling import Cabling, LatestCabling
from flowstream.counting import CountOnce
from flowstream.errors import SettingsError
from flowstream.flow_keys import FLOW_WORDS, ElephantFlows, Words, among, places_among
from flowstream.operators import Pane, Result
from flowstream.path_changes import PathChanges, WholePath
from flowstream.path_joining import join
from flowstream.path_results import Way
from flowstream.path_sightings import Sighting, sightings_of
from flowstream.topology import Topology
from flowstream.windows import Window, Windowing

WAYS_REMEMBERED = 1 << 14


@dataclass(frozen=True, slots=True)
class PathsConfig:
    """Window length in panes; how many flows are told per window and partition, elephants aside.

    An estimate that rests on less than ``samples_min`` samples of equal weight is not named.
    """

    size_panes: int = 10
    flows_max: int = 1000
    samples_min: float = 4.0

    def __post_init__(self) -> None:
        if self.flows_max < 1:
            raise SettingsError(f"paths.flows_max is {self.flows_max}; set 1 or more")


class PathsOperator:
    """Say the paths of a window's flows, what changed, and how much was left out.

    ``links``, those of the counting at first, and ``topology`` may be replaced between two panes. ``elephants`` is
    asked after it has processed the same pane. Raises SettingsError for a pane without length.
    """

    name = path_results.STREAM

    def __init__(
        self,
        config: PathsConfig,
        pane_ns: int,
        counting: CountOnce,
        topology: Topology,
        elephants: ElephantFlows | None = None,
    ) -> None:
        if pane_ns <= 0:
            raise SettingsError(f"a pane of {pane_ns} ns is not positive; set time.pane_s above 0")
        self.config = config
        self._windowing = Windowing(config.size_panes, config.size_panes)
        self.lookback = self._windowing.lookback
        self._window_ns = config.size_panes * pane_ns
        self._counting = counting
        self._counts: dict[int, NDArray[np.bool_]] = {}  # which rows count, in any order, by pane of the lookback
        self._elephants = elephants
        self._changes = PathChanges(config.flows_max)
        self._ways: dict[tuple[tuple[Any, ...], ...], Way] = {}
        self.links, self.topology = counting.links, topology
        self._latest = LatestCabling()
        self._ways_of: Cabling | None = None

    @property
    def quiet(self) -> bool:
        """Whether an empty pane changes nothing: always, what is remembered does not age."""
        return True

    def snapshot(self) -> bytes:
        """Return the state: the last whole paths."""
        return self._changes.snapshot()

    def restore(self, state: bytes) -> None:
        """Take a snapshot's state; StateError where it is not one."""
        self._changes.restore(state)

    def process(self, panes: Sequence[Pane]) -> list[Result]:
        """Say the window that ends with the last pane, if one does, else the paths of elephants that began in it."""
        counts = self._counts
        # After a restart there are panes of the lookback that this life has not decided about.
        self._counts = {
            p.index: counts[p.index] if p.index in counts else self._counting.of(p.rows).counts
            for p in panes
            if len(p.rows)
        }
        window = self._windowing.closing(panes)
        if window is not None:
            run = [p for p in panes if p.start_ns >= window.start_ns and len(p.rows)]
            return self._window(window, np.concatenate([self._counts_of(p) for p in run]))
        end_ns = panes[-1].end_ns
        if self._elephants is None or len(self._elephants.begun) == 0 or end_ns % self._window_ns == 0:
            return []
        return self._begun([p for p in panes if p.start_ns >= end_ns - self._window_ns], self._elephants.begun)

    def _counts_of(self, pane: Pane) -> NDArray[np.bool_]:
        """Return which rows of a pane with rows count, in their order."""
        return pane.rows.arranged(self._counts[pane.index])

    def _begun(self, panes: Sequence[Pane], flows: Words) -> list[Result]:
        """Say the paths of elephants, by the rows of panes up to the last."""
        at = [(p, places_among(p.rows, flows)) for p in panes if len(p.rows)]
        if not at:
            return []
        rows = FlowBatch.concat(p.rows.take(own) for p, own in at)
        seen = sightings_of(rows, np.concatenate([self._counts_of(p)[own] for p, own in at]))
        end_ns = panes[-1].end_ns
        window = Window(end_ns - self._window_ns, end_ns, rows)
        results = []
        for flow, figures in enumerate(path_results.bytes_fields(seen.sums, self.config.samples_min)):
            sightings = list(seen.of(flow))
            head = path_results.head_of(window, seen.flows[flow], figures, elephant=True)
            results.append(path_results.told(window, head, sightings, self._way(sightings)))
        return results

    def _window(self, window: Window, counts: NDArray[np.bool_]) -> list[Result]:
        seen = sightings_of(window.rows, counts)
        if len(seen) == 0:
            return []
        active = np.zeros((0, FLOW_WORDS), np.uint64) if self._elephants is None else self._elephants.active
        elephants = among(seen.flows, active)
        chosen = seen.largest(self.config.flows_max) | elephants
        results: list[Result] = []
        ways = []
        at = np.flatnonzero(chosen)
        every_figures = path_results.bytes_fields(seen.sums.take(at), self.config.samples_min)
        for flow, figures in zip(at.tolist(), every_figures, strict=True):
            sightings, elephant = list(seen.of(flow)), bool(elephants[flow])
            way = self._way(sightings)
            ways.append(way)
            head = path_results.head_of(window, seen.flows[flow], figures, elephant=elephant)
            results.append(path_results.told(window, head, sightings, way))
            words = tuple(seen.flows[flow].tolist())
            whole = WholePath(words, window.start_ns, int(seen.bytes[flow]), elephant, way.route)
            results += self._changed(window, head, whole, way)
        self._changes.shrink()
        return [path_results.summary(window, seen, chosen, ways, self.config.samples_min), *results]

    def _way(self, sightings: Sequence[Sighting]) -> Way:
        """Return the paths that sightings make, put together once for all flows that are seen alike."""
        # Only differences of times to live count, so hosts that begin with different ones are alike.
        least = min((s.ip_ttl for s in sightings if s.ip_ttl), default=1) - 1
        alike = tuple((s.exporter, s.in_if, s.out_if, max(s.ip_ttl - least, 0)) for s in sightings)
        cabling = self._latest.of(self.links, self.topology)
        if cabling is not self._ways_of or len(self._ways) == WAYS_REMEMBERED:
            self._ways.clear()
            self._ways_of = cabling
        if alike not in self._ways:
            paths, ambiguous = join((Sighting(*one, samples=0) for one in alike), cabling)
            self._ways[alike] = Way.of(paths, ambiguous=ambiguous)
        return self._ways[alike]

    def _changed(self, window: Window, head: Mapping[str, Any], whole: WholePath, way: Way) -> list[Result]:
        if not way.whole:
            return []
        before = self._changes.take(whole)
        return [] if before is None else [path_results.changed(window, head, before, whole)]
