"""Where flows were seen in a window: of each flow the exporters, with the interfaces it came in and left by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import bare_njit
from flowstream.batch import FlowBatch, address_text
from flowstream.flow_keys import Words, flow_words
from flowstream.hashing import number_groups
from flowstream.normalise import PSEUDO_IF_MIN
from flowstream.saturation import plus, scaled

SIGHTINGS_MAX = 64  # of a flow: no path is that long, and exporters can be made up
_COUNTS = ("samples", "bytes", "first_ns", "ttl")


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
    counts: NDArray[np.int64]  # (sightings, 4): samples, estimated bytes, first time, highest time to live
    places: Words  # (places, 3): exporter, in_if << 32 | out_if; in order
    bytes: NDArray[np.int64]  # of each flow: at the exporter that saw most of it

    def __len__(self) -> int:
        return len(self.flows)

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
            order = np.lexsort((place, counts[:, 2], -counts[:, 3]))[:SIGHTINGS_MAX]
            counts, place = counts[order], place[order]
        for (high, low, ifs), (samples, _, _, ttl) in zip(self.places[place].tolist(), counts.tolist(), strict=True):
            yield Sighting(address_text(high, low), ifs >> 32, ifs & 0xFFFF_FFFF, ttl, samples)


def sightings_of(rows: FlowBatch) -> Sightings:
    """Join the rows per flow, exporter and interfaces; those without an exporter are left out."""
    exporter = rows.exporter
    known = (exporter[:, 0] | exporter[:, 1]) != 0
    if not known.all():
        rows = rows.take(known)
        exporter = rows.exporter
    flow, flows = number_groups(flow_words(rows))
    place, places = number_groups(np.column_stack([exporter, _interfaces(rows)]))
    seen, pairs = number_groups(np.column_stack([flow, place]).astype(np.uint64))
    counts = np.zeros((len(pairs), len(_COUNTS)), np.int64)
    counts[:, 2] = np.iinfo(np.int64).max
    _count(seen, rows.bytes, rows.sampling_rate, rows.time_ns, rows.ip_ttl, counts)
    own_flow, own_place = pairs.T.astype(np.int64)
    most = np.zeros(len(flows), np.int64)
    _most(own_flow, own_place, places, counts, most)
    bounds = np.searchsorted(own_flow, np.arange(len(flows) + 1)).astype(np.int64)
    return Sightings(flows, bounds, own_place, counts, places, most)


def _interfaces(rows: FlowBatch) -> Words:
    """Return ``in_if << 32 | out_if`` of each row; what is no interface is 0."""
    ways = [np.where(way >= PSEUDO_IF_MIN, 0, way).astype(np.uint64) for way in (rows.in_if, rows.out_if)]
    return np.asarray(ways[0] << np.uint64(32) | ways[1])


@bare_njit
def _count(seen, sent, rate, time_ns, ttl, counts):  # type: ignore[no-untyped-def]
    """Add every row to its sighting: one more, its bytes times the sampling rate, its time and time to live."""
    for row in range(len(seen)):
        own = seen[row]
        counts[own, 0] += 1
        weight = scaled(max(sent[row], np.int64(0)), max(np.int64(rate[row]), np.int64(1)))
        counts[own, 1] = plus(counts[own, 1], weight)
        counts[own, 2] = min(counts[own, 2], time_ns[row])
        counts[own, 3] = max(counts[own, 3], np.int64(ttl[row]))


@bare_njit
def _most(flow, place, places, counts, most):  # type: ignore[no-untyped-def]
    """Write of each flow the bytes at the exporter that saw most of it; an exporter's places are side by side."""
    total = np.int64(0)
    for seen in range(len(flow)):
        here = place[seen]
        before = place[seen - 1] if seen and flow[seen - 1] == flow[seen] else np.int64(-1)
        if before < 0 or places[before, 0] != places[here, 0] or places[before, 1] != places[here, 1]:
            total = np.int64(0)
        total = plus(total, counts[seen, 1])
        most[flow[seen]] = max(most[flow[seen]], total)
