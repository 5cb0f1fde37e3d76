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
        return marked

    def of(self, flow: int) -> Iterator[Sighting]:
        """Yield a flow's sightings by falling time to live, then as they were first seen."""
        inside = slice(int(self.bounds[flow]), int(self.bounds[flow + 1]))
        counts, place = self.counts[inside], self.place[inside]
        order = np.lexsort((place, counts[:, 2], -counts[:, 3]))[:SIGHTINGS_MAX]
        for (high, low, ifs), (samples, _, _, ttl) in zip(
            self.places[place[order]].tolist(), counts[order].tolist(), strict=True
        ):
            yield Sighting(address_text(high, low), ifs >> 32, ifs & 0xFFFF_FFFF, ttl, samples)


def sightings_of(rows: FlowBatch) -> Sightings:
    """Join the rows per flow, exporter and interfaces; those without an exporter are left out."""
    exporter = rows.exporter
    known = (exporter != 0).any(axis=1)
    if not known.all():
        rows = rows.take(known)
        exporter = rows.exporter
    words = flow_words(rows)
    flow, flows = _numbered(words)
    place, places = _numbered(np.column_stack([exporter, _interfaces(rows)]))
    seen, pairs = number_groups(np.column_stack([flow, place]).astype(np.uint64))
    counts = np.zeros((len(pairs), len(_COUNTS)), np.int64)
    counts[:, 2] = np.iinfo(np.int64).max
    _count(seen, rows.bytes, rows.sampling_rate, rows.time_ns, rows.ip_ttl, counts)
    own_flow, own_place = pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)
    bounds = np.searchsorted(own_flow, np.arange(len(flows) + 1)).astype(np.int64)
    return Sightings(flows, bounds, own_place, counts, places, _most(own_flow, places[own_place], counts[:, 1], bounds))


def _interfaces(rows: FlowBatch) -> Words:
    """Return ``in_if << 32 | out_if`` of each row; what is no interface is 0."""
    ways = [np.where(way >= PSEUDO_IF_MIN, 0, way).astype(np.uint64) for way in (rows.in_if, rows.out_if)]
    return np.asarray(ways[0] << np.uint64(32) | ways[1])


def _numbered(words: Words) -> tuple[NDArray[np.int64], Words]:
    """Return each row's key by number, in the order of keys, and the keys; ``words`` is (rows, 2 or more)."""
    number, keys = number_groups(np.ascontiguousarray(words[:, :2]))
    for at in range(2, words.shape[1]):
        pair = np.column_stack([number.astype(np.uint64), words[:, at]])
        number, pairs = number_groups(pair)
        keys = np.column_stack([keys[pairs[:, 0].astype(np.int64)], pairs[:, 1]])
    return number, keys


def _most(
    flow: NDArray[np.int64], places: Words, sent: NDArray[np.int64], bounds: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return of each flow the bytes at the exporter that saw most of it."""
    if len(flow) == 0:
        return np.zeros(0, np.int64)
    begins = np.ones(len(flow), np.bool_)
    begins[1:] = (flow[1:] != flow[:-1]) | (places[1:, :2] != places[:-1, :2]).any(axis=1)
    at = np.flatnonzero(begins)
    # Sums of floats: of whole numbers that may exceed 63 bits together, always in this order.
    at_exporter = np.add.reduceat(sent.astype(np.float64), at)
    most = np.maximum.reduceat(at_exporter, np.searchsorted(at, bounds[:-1]))
    return np.minimum(most, 2.0**62).astype(np.int64)


@bare_njit
def _count(seen, sent, rate, time_ns, ttl, counts):  # type: ignore[no-untyped-def]
    """Add every row to its sighting: one more, its bytes times the sampling rate, its time and time to live.

    Bytes stop at 2^62, which whole numbers that are not negative do in whatever order they come.
    """
    limit = np.int64(1) << np.int64(62)
    for row in range(len(seen)):
        own, weight, times = seen[row], max(sent[row], np.int64(0)), max(np.int64(rate[row]), np.int64(1))
        counts[own, 0] += 1
        weight = limit if weight > limit // times else weight * times
        counts[own, 1] = limit if weight > limit - counts[own, 1] else counts[own, 1] + weight
        counts[own, 2] = min(counts[own, 2], time_ns[row])
        counts[own, 3] = max(counts[own, 3], np.int64(ttl[row]))
