"""Where flows were seen in a window: of each flow the exporters, with the interfaces it came in and left by.

And how much of each flow there was: the sum of its rows that count, whichever switch they are of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import bare_njit
from flowstream.batch import FlowBatch, address_text
from flowstream.cube_sums import COUNTS, SPREAD, Integers, Sums, weights
from flowstream.flow_keys import Words, flow_words
from flowstream.hashing import number_groups
from flowstream.normalise import PSEUDO_IF_MIN

SIGHTINGS_MAX = 64  # of a flow: no path is that long, and exporters can be made up
_SEEN = ("samples", "first_ns", "ttl")


@dataclass(frozen=True, slots=True)
class Sighting:
    """A flow at one exporter; an interface is 0 where it is unknown, ``ip_ttl`` too."""

    exporter: str
    in_if: int
    out_if: int
    ip_ttl: int
    samples: int


@dataclass(frozen=True, slots=True)
class Sightings:
    """Sightings, those of a flow side by side; flows in the order of their words."""

    flows: Words  # (flows, 5)
    bounds: NDArray[np.int64]  # sightings of flow f are bounds[f] to bounds[f + 1]
    place: NDArray[np.int64]  # of each sighting, its row in ``places``
    counts: NDArray[np.int64]  # (sightings, 3): samples, first time, highest time to live
    places: Words  # (places, 3): exporter, in_if << 32 | out_if; in order
    sums: Sums  # of each flow's rows that count; without any, the largest weight is that of the others

    def __len__(self) -> int:
        return len(self.flows)

    @property
    def bytes(self) -> Integers:
        """Return the bytes of each flow, as counted once, times the sampling rate: what flows are ranked by."""
        return self.sums.counts[:, COUNTS.index("bytes")]

    def largest(self, count: int) -> NDArray[np.bool_]:
        """Mark the ``count`` flows with most bytes, of equal ones those first in order."""
        if len(self) <= count:
            return np.ones(len(self), np.bool_)
        bar = np.partition(self.bytes, len(self) - count)[len(self) - count]
        marked = self.bytes > bar
        marked[np.flatnonzero(self.bytes == bar)[: count - np.count_nonzero(marked)]] = True
        return np.asarray(marked)

    def of(self, flow: int) -> Iterator[Sighting]:
        """Yield a flow's sightings by falling time to live, then as they were first seen."""
        inside = slice(int(self.bounds[flow]), int(self.bounds[flow + 1]))
        counts, place = self.counts[inside], self.place[inside]
        if len(place) > 1:  # most flows are seen once
            order = np.lexsort((place, counts[:, 1], -counts[:, 2]))[:SIGHTINGS_MAX]
            counts, place = counts[order], place[order]
        for (high, low, ifs), (samples, _, ttl) in zip(self.places[place].tolist(), counts.tolist(), strict=True):
            yield Sighting(address_text(high, low), ifs >> 32, ifs & 0xFFFF_FFFF, ttl, samples)


def sightings_of(rows: FlowBatch, counts: NDArray[np.bool_]) -> Sightings:
    """Join rows per flow, exporter and interfaces; ``counts`` marks those that count, which are summed up in order.

    Rows without an exporter are no sightings, and flows without any are left out.
    """
    flow, flows = number_groups(flow_words(rows))
    sums = _sums(rows, counts, flow, len(flows))
    exporter = rows.exporter
    known = (exporter[:, 0] | exporter[:, 1]) != 0
    if not known.all():
        seen_flows, flow = np.unique(flow[known], return_inverse=True)
        rows, flows, sums = rows.take(known), flows[seen_flows], sums.take(seen_flows)
    place, places = number_groups(np.column_stack([rows.exporter, _interfaces(rows)]))
    seen, pairs = number_groups(np.column_stack([flow, place]).astype(np.uint64))
    found = np.zeros((len(pairs), len(_SEEN)), np.int64)
    found[:, 1] = np.iinfo(np.int64).max
    _count(seen, rows.time_ns, rows.ip_ttl, found)
    own_flow, own_place = pairs.T.astype(np.int64)
    bounds = np.searchsorted(own_flow, np.arange(len(flows) + 1)).astype(np.int64)
    return Sightings(flows, bounds, own_place, found, places, sums)


def _sums(rows: FlowBatch, counts: NDArray[np.bool_], flow: Integers, flows: int) -> Sums:
    """Return the sums of the rows that count, by flow."""
    each = weights(rows)
    sums = each.take(counts).by(flow[counts], flows)
    missed = sums.counts[:, COUNTS.index("records")] == 0
    at = np.flatnonzero(missed[flow])
    if len(at):
        # Of a flow of which nothing counts it is still known how large a sample could have been.
        largest = SPREAD.index("weight_max")
        sums.spread[missed, largest] = each.take(at).by(flow[at], flows).spread[missed, largest]
    return sums


def _interfaces(rows: FlowBatch) -> Words:
    """Return ``in_if << 32 | out_if`` of each row; what is no interface is 0."""
    ways = [np.where(way >= PSEUDO_IF_MIN, 0, way).astype(np.uint64) for way in (rows.in_if, rows.out_if)]
    return np.asarray(ways[0] << np.uint64(32) | ways[1])


@bare_njit
def _count(seen, time_ns, ttl, found):  # type: ignore[no-untyped-def]
    """Add every row to its sighting: one more, its time and time to live."""
    for row in range(len(seen)):
        own = seen[row]
        found[own, 0] += 1
        found[own, 1] = min(found[own, 1], time_ns[row])
        found[own, 2] = max(found[own, 2], np.int64(ttl[row]))
