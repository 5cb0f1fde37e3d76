"""Packet paths: through which switches a flow went, by which interface in and by which out.

All sightings of a flow are in the flows partition of its source, so a path needs no other partition. Per window the
flows with most bytes are told, and elephants always; an elephant also at once, when it becomes one. Flows that took
the same way are put together once: there are few ways. ``docs/paths.md`` says what is promised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import FlowBatch
from flowstream.cabling import Cabling, LatestCabling
from flowstream.errors import SettingsError
from flowstream.flow_keys import FLOW_WORDS, ElephantFlows, among, flow_fields, flow_key, rows_among
from flowstream.links import LinkTable
from flowstream.operators import Pane, Result
from flowstream.path_changes import PathChanges, WholePath
from flowstream.path_joining import join
from flowstream.path_shapes import Hop, Path
from flowstream.path_sightings import Sighting, Sightings, sightings_of
from flowstream.topology import Topology
from flowstream.windows import Window, Windowing

STREAM, EVENTS, WINDOWS = "paths", "path-events", "path-windows"
WAYS_REMEMBERED = 1 << 14


@dataclass(frozen=True, slots=True)
class PathsConfig:
    """Window length in panes; how many flows are told per window and partition, elephants aside."""

    size_panes: int = 10
    flows_max: int = 1000

    def __post_init__(self) -> None:
        if self.flows_max < 1:
            raise SettingsError(f"paths.flows_max is {self.flows_max}; set 1 or more")


@dataclass(frozen=True, slots=True)
class _Way:
    """What is said of all flows whose sightings are alike; the counts are each flow's own."""

    paths: tuple[Path, ...]
    ambiguous: bool
    told: tuple[dict[str, Any], ...]
    route: dict[str, Any]  # of the first path


class PathsOperator:
    """Say the paths of a window's flows, what changed, and how much was left out.

    ``links`` and ``topology`` may be replaced between two panes. ``elephants`` is asked after it has processed the
    same pane. Raises SettingsError for a pane without length.
    """

    name = STREAM

    def __init__(
        self,
        config: PathsConfig,
        pane_ns: int,
        links: LinkTable,
        topology: Topology,
        elephants: ElephantFlows | None = None,
    ) -> None:
        if pane_ns <= 0:
            raise SettingsError(f"a pane of {pane_ns} ns is not positive; set time.pane_s above 0")
        self.config = config
        self._windowing = Windowing(config.size_panes, config.size_panes)
        self.lookback = self._windowing.lookback
        self._window_ns = config.size_panes * pane_ns
        self._elephants = elephants
        self._changes = PathChanges(config.flows_max)
        self._ways: dict[tuple[tuple[Any, ...], ...], _Way] = {}
        self.links, self.topology = links, topology
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
        window = self._windowing.closing(panes)
        if window is not None:
            return self._window(window)
        end_ns = panes[-1].end_ns
        if self._elephants is None or len(self._elephants.begun) == 0 or end_ns % self._window_ns == 0:
            return []
        begun = self._elephants.begun
        rows = FlowBatch.concat(rows_among(p.rows, begun) for p in panes if p.start_ns >= end_ns - self._window_ns)
        seen, window = sightings_of(rows), Window(end_ns - self._window_ns, end_ns, rows)
        flows = ((flow, list(seen.of(flow))) for flow in range(len(seen)))
        return [self._told(window, seen, flow, s, self._way(s), elephant=True) for flow, s in flows]

    def _window(self, window: Window) -> list[Result]:
        seen = sightings_of(window.rows)
        if len(seen) == 0:
            return []
        active = np.zeros((0, FLOW_WORDS), np.uint64) if self._elephants is None else self._elephants.active
        elephants = among(seen.flows, active)
        chosen = seen.largest(self.config.flows_max) | elephants
        results: list[Result] = []
        ways = []
        for flow in np.flatnonzero(chosen).tolist():
            sightings, elephant = list(seen.of(flow)), bool(elephants[flow])
            way = self._way(sightings)
            ways.append(way)
            results.append(self._told(window, seen, flow, sightings, way, elephant=elephant))
            results += self._changed(window, seen, flow, way, elephant=elephant)
        self._changes.shrink()
        return [_summary(window, seen, chosen, ways), *results]

    def _way(self, sightings: Sequence[Sighting]) -> _Way:
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
            told = tuple(map(_path_fields, paths))
            self._ways[alike] = _Way(paths, ambiguous, told, _route(told[0]))
        return self._ways[alike]

    def _told(
        self, window: Window, seen: Sightings, flow: int, sightings: Sequence[Sighting], way: _Way, *, elephant: bool
    ) -> Result:
        fields = flow_fields(seen.flows[flow])
        value = {
            "window_start_ns": window.start_ns,
            "window_end_ns": window.end_ns,
            "flow": fields,
            "elephant": elephant,
            "bytes": int(seen.bytes[flow]),
            "ambiguous": way.ambiguous,
            "paths": [
                {
                    **told,
                    "hops": [
                        {
                            **hop_told,
                            "samples": sum(sightings[part].samples for part in hop.parts),
                            "ip_ttl": max((sightings[part].ip_ttl for part in hop.parts), default=0),
                        }
                        for hop, hop_told in zip(path.hops, told["hops"], strict=True)
                    ],
                }
                for path, told in zip(way.paths, way.told, strict=True)
            ],
        }
        return Result(STREAM, f"{window.start_ns}|{flow_key(fields)}", window.end_ns, value)

    def _changed(self, window: Window, seen: Sightings, flow: int, way: _Way, *, elephant: bool) -> list[Result]:
        if way.ambiguous or not way.paths[0].complete:
            return []
        words = tuple(seen.flows[flow].tolist())
        whole = WholePath(words, window.start_ns, int(seen.bytes[flow]), elephant, way.route)
        before = self._changes.take(whole)
        if before is None:
            return []
        fields = flow_fields(seen.flows[flow])
        value = {
            "window_start_ns": window.start_ns,
            "window_end_ns": window.end_ns,
            "flow": fields,
            "elephant": elephant,
            "bytes": whole.bytes,
            "before_window_start_ns": before.window_start_ns,
            "before": dict(before.path),
            "after": dict(whole.path),
        }
        return [Result(EVENTS, f"{window.start_ns}|{flow_key(fields)}", window.end_ns, value)]


def _summary(window: Window, seen: Sightings, chosen: NDArray[np.bool_], ways: Sequence[_Way]) -> Result:
    """Return how much of a window the records of its paths tell."""
    value = {
        "window_start_ns": window.start_ns,
        "window_end_ns": window.end_ns,
        "flows": len(seen),
        "flows_told": int(np.count_nonzero(chosen)),
        "bytes": min(sum(seen.bytes.tolist()), 2**63 - 1),
        "bytes_told": min(sum(seen.bytes[chosen].tolist()), 2**63 - 1),
        "complete": sum(not way.ambiguous and way.paths[0].complete for way in ways),
        "ambiguous": sum(way.ambiguous for way in ways),
    }
    return Result(WINDOWS, f"{window.start_ns}", window.end_ns, value)


def _path_fields(path: Path) -> dict[str, Any]:
    return {
        "ordered_by": path.ordered_by.value,
        "complete": path.complete,
        "first_known": path.first_known,
        "last_known": path.last_known,
        "hops_seen": path.hops_seen,
        "hops_expected": path.hops_expected,
        "entered_from": path.entered_from,
        "left_to": path.left_to,
        "hops": [_hop_fields(hop) for hop in path.hops],
    }


def _hop_fields(hop: Hop) -> dict[str, Any]:
    exporters = [hop.exporter, *(way.exporter for way in (hop.into, hop.out) if way)]
    return {
        "node": hop.node,
        "exporter": next(filter(None, exporters), None),
        "in_if": (hop.into and hop.into.if_index) or None,
        "out_if": (hop.out and hop.out.if_index) or None,
        "in_port": (hop.into and hop.into.port) or None,
        "out_port": (hop.out and hop.out.port) or None,
        "inferred": not hop.parts,
        "missing_after": hop.missing_after,
    }


def _route(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a path what makes it another one: its nodes and interfaces."""
    names = ("node", "in_if", "out_if", "in_port", "out_port")
    return {
        "entered_from": told["entered_from"],
        "left_to": told["left_to"],
        "hops": [{name: hop[name] for name in names} for hop in told["hops"]],
    }
