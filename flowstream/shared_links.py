"""Elephants that share a link, merged over all flows partitions: two that ECMP has put on the same one of several.

A hash puts flows on links whatever their rate, so two elephants may share one while another of equal cost is free.
Who wants to move one needs to know which they are, and where there is room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from flowstream.batch import address_text
from flowstream.cabling import Cabling, Interface, LatestCabling
from flowstream.cube_sums import COUNTS, SPREAD, Sums
from flowstream.errors import StateError
from flowstream.estimate import Estimates, estimates
from flowstream.flow_keys import flow_fields
from flowstream.grouping import group_rows
from flowstream.hashing import number_groups
from flowstream.links import LinkTable
from flowstream.operators import Pane, Result
from flowstream.partials import KEYS, Cube, PartialBatch
from flowstream.recent_losses import Missing, RecentLosses
from flowstream.topology import Port, Topology

STREAM = "elephant-links"
VERSION = 2
LINK_WORDS = 3  # exporter and out_if; the others are the flow

Words = NDArray[np.uint64]


class _Snapshot(msgspec.Struct, frozen=True):
    version: int
    keys: bytes
    counts: bytes
    spread: bytes
    losses: bytes


class SharedLinks:
    """Say per window and link which elephants share it. ``links`` and ``topology`` may be replaced between panes.

    A rate is named where it rests on ``samples_min`` samples of equal weight or more.
    """

    name = STREAM
    lookback = 0

    def __init__(self, size_panes: int, links: LinkTable, topology: Topology, samples_min: float) -> None:
        if size_panes < 1:
            raise ValueError(f"a window of {size_panes} panes has no length")
        self.links, self.topology = links, topology
        self._samples_min = samples_min
        self._losses = RecentLosses()
        self._latest = LatestCabling()
        self._size = size_panes
        self._keys: Words
        self._sums: Sums
        self._forget()

    @property
    def quiet(self) -> bool:
        """Whether an empty pane changes nothing: no elephant was seen in this window."""
        return len(self._keys) == 0

    def process(self, panes: Sequence[Pane[PartialBatch]]) -> list[Result]:
        """Add a pane to its window, and say the window that ends with it."""
        pane = panes[-1]
        window = pane.index // self._size
        self._losses.forget(window)
        self._losses.take(pane.rows, window)
        rows = pane.rows.take(pane.rows.cube == Cube.ELEPHANT_HOP)
        if len(rows):
            self._add(rows)
        if (pane.index + 1) % self._size or self.quiet:
            return []
        end_ns, length_ns = pane.end_ns, self._size * (pane.end_ns - pane.start_ns)
        results = self._shared(end_ns - length_ns, end_ns, self._losses.since(window, self._keys[:, :2]))
        self._forget()
        return results

    def snapshot(self) -> bytes:
        """Return the sums of the window so far, and where the counters of exporters stand."""
        parts = (self._keys.astype("<u8"), self._sums.counts.astype("<i8"), self._sums.spread.astype("<f8"))
        keys, counts, spread = (part.tobytes() for part in parts)
        return msgspec.msgpack.encode(_Snapshot(VERSION, keys, counts, spread, self._losses.snapshot()))

    def restore(self, state: bytes) -> None:
        """Take a snapshot's state; StateError where it is not one."""
        try:
            told = msgspec.msgpack.decode(state, type=_Snapshot)
            keys = np.frombuffer(told.keys, "<u8").reshape(-1, len(KEYS))
            counts = np.frombuffer(told.counts, "<i8").reshape(len(keys), len(COUNTS))
            spread = np.frombuffer(told.spread, "<f8").reshape(len(keys), len(SPREAD))
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise StateError(f"{STREAM}: the snapshot is not one of ours: {error}") from error
        if told.version != VERSION:
            raise StateError(f"{STREAM}: the snapshot is of version {told.version}, not {VERSION}")
        self._losses.restore(told.losses)
        self._keys, self._sums = keys, Sums(counts, spread)

    def _forget(self) -> None:
        self._keys = np.zeros((0, len(KEYS)), np.uint64)
        self._sums = Sums(np.zeros((0, len(COUNTS)), np.int64), np.zeros((0, len(SPREAD))))

    def _add(self, rows: PartialBatch) -> None:
        """Add rows to the window's, in their order."""
        keys = np.concatenate([self._keys, np.column_stack([rows.column(key) for key in KEYS])])
        group, self._keys = number_groups(keys)
        counts = np.column_stack([rows.column(name) for name in COUNTS])
        spread = np.column_stack([rows.column(name) for name in SPREAD])
        both = Sums(np.concatenate([self._sums.counts, counts]), np.concatenate([self._sums.spread, spread]))
        self._sums = both.by(group, len(self._keys))

    def _rates(self, sums: Sums, length_ns: int, missing: Missing) -> Estimates:
        """Return sums of a window as bits per second."""
        bits = 8e9 / length_ns
        counts, spread = sums.counts, sums.spread
        return estimates(
            counts[:, COUNTS.index("records")], counts[:, 0] * bits, spread[:, 0] * bits * bits, spread[:, 1] * bits,
            self._samples_min, missing.correction, missing.widening,
        )  # fmt: skip

    def _shared(self, start_ns: int, end_ns: int, missing: Missing) -> list[Result]:
        """Say a window; ``missing`` is by key what its exporter has sent and never came."""
        cabling = self._latest.of(self.links, self.topology)
        sent = self._sums.counts[:, 0]
        groups = group_rows(*self._keys[:, :LINK_WORDS].T)
        link_of = np.repeat(np.arange(len(groups)), groups.sizes)  # keys are in the order of their links
        lost = Missing(*(each[groups.firsts] for each in missing))
        rates = self._rates(self._sums, end_ns - start_ns, missing)
        together = self._rates(self._sums.by(link_of, len(groups)), end_ns - start_ns, lost)
        ways = [_interface(self._keys[first], cabling) for first in groups.firsts.tolist()]
        busy = {cabling.whole(way.end) for way in ways}
        leads = self._leads(ways, groups.bounds, cabling)
        results = []
        for at, way in enumerate(ways):
            inside = range(int(groups.bounds[at]), int(groups.bounds[at + 1]))
            if len(inside) < 2:
                continue
            told = [
                {"flow": flow_fields(self._keys[n, LINK_WORDS:]), **_rate(rates, n)}
                for n in sorted(inside, key=lambda n: (-int(sent[n]), n))
            ]
            flows = {tuple(self._keys[n, LINK_WORDS:].tolist()) for n in inside}
            idle = idle_links(way, {leads[flow, way] for flow in flows if (flow, way) in leads}, busy, cabling)
            load = _rate(together, at) | {
                "correction": float(lost.correction[at]), "lost_share": float(lost.lost_share[at]),
            }  # fmt: skip
            results.append(_result(way, load, told, idle, start_ns, end_ns))
        return results

    def _leads(
        self, ways: Sequence[Interface], bounds: NDArray[np.int64], cabling: Cabling
    ) -> dict[tuple[tuple[int, ...], Interface], str]:
        """Return by flow and link the last node that the flow is known to have gone to beyond the link's far end."""
        left: dict[tuple[tuple[int, ...], str], Interface] = {}
        flows = [tuple(words) for words in self._keys[:, LINK_WORDS:].tolist()]
        for at, way in enumerate(ways):
            for flow in flows[int(bounds[at]) : int(bounds[at + 1])]:
                left[flow, way.node] = way
        leads = {}
        for at, way in enumerate(ways):
            for flow in flows[int(bounds[at]) : int(bounds[at + 1])]:
                last = _last_node(flow, way, left, cabling)
                if last is not None:
                    leads[flow, way] = last
        return leads


def _last_node(
    flow: tuple[int, ...], way: Interface, left: Mapping[tuple[tuple[int, ...], str], Interface], cabling: Cabling
) -> str | None:
    """Follow a flow from a link's far end by the links on which it was seen; None where it was not seen there."""
    far, passed, last = cabling.peer(way), {way.node}, None
    while far is not None and far.node not in passed and (flow, far.node) in left:
        passed.add(far.node)
        far = cabling.peer(left[flow, far.node])
        last = last if far is None or far.node in passed else far.node
    return last


def idle_links(way: Interface, leads_to: set[str], busy: set[Port], cabling: Cabling) -> list[dict[str, Any]]:
    """Return the links of equal cost beside ``way`` that are not ``busy``, by name.

    Of equal cost is a link to the same node, and one to a node from where all of ``leads_to``, which the flows go to,
    are as near as from the far end; where these are not known, all switches at the edge that the far end is nearer to.
    So a link to another plane of three tiers is found, whose switches have no neighbour in common.
    """
    far = cabling.peer(way)
    if far is None or cabling.is_host(far):
        return []
    onward = {goal: _nearer(far.node, way.node, goal, cabling) for goal in leads_to or cabling.edge_switches}
    goals = {goal: distance for goal, distance in onward.items() if distance or leads_to}
    found = []
    for near, other in cabling.cables(way.node):
        if near == cabling.whole(way.end) or near in busy or not near.is_named or cabling.is_host(other):
            continue
        is_equal = [_nearer(other.node, way.node, goal, cabling) == goals[goal] is not None for goal in goals]
        if other.node == far.node or (is_equal and all(is_equal)):
            one = cabling.named(near)
            found.append(
                {
                    "port": near.name,
                    "if_index": one.if_index or None,
                    "peer": other.node,
                    "link_bps": one.speed_bps or None,
                }
            )
    return found


def _nearer(node: str, before: str, goal: str, cabling: Cabling) -> int | None:
    """Return how far a node is from a goal, None where it is no nearer than the node before."""
    distance, from_before = cabling.distance(node, goal), cabling.distance(before, goal)
    return distance if distance is not None and from_before is not None and distance < from_before else None


def _interface(key: Words, cabling: Cabling) -> Interface:
    exporter = address_text(int(key[0]), int(key[1]))
    return cabling.interface(exporter, int(key[2])) or Interface(exporter, "", exporter, 0, None, 0)


def _rate(rates: Estimates, at: int) -> dict[str, Any]:
    """Return one as fields; null where there are not enough samples to name a rate."""
    rate_bps = float(rates.estimate[at])
    return {
        "rate_bps": None if isnan(rate_bps) else rate_bps,
        "low_bps": float(rates.low[at]),
        "high_bps": float(rates.high[at]),
        "samples": int(rates.samples[at]),
    }


def _result(
    way: Interface,
    load: dict[str, Any],
    told: list[dict[str, Any]],
    idle: list[dict[str, Any]],
    start_ns: int,
    end_ns: int,
) -> Result:
    is_known = way.speed_bps > 0 and load["rate_bps"] is not None
    value = {
        "window_start_ns": start_ns,
        "window_end_ns": end_ns,
        "exporter": way.exporter,
        "out_if": way.if_index,
        "node": way.node if way.port else None,
        "port": way.port or None,
        "link_bps": way.speed_bps or None,
        **load,
        "share": load["rate_bps"] / way.speed_bps if is_known else None,
        "elephants": told,
        "idle_links": idle,
    }
    return Result(STREAM, f"{start_ns}|{way.exporter}|{way.if_index}", end_ns, value)
