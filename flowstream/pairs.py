"""The pairs of flows that are asked for beside the summaries: those of the tail, or all of them.

Times are in milliseconds and come from the flows; ``ts_output`` is the end of the window, not a clock's time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream.batch import FlowBatch
from flowstream.grouping import Groups, group_rows
from flowstream.operators import Results
from flowstream.pair_encoding import Flows, Pairs, blocks, records
from flowstream.pair_kernels import PAD, condensed
from flowstream.summaries import Summaries
from flowstream.windows import Window

RECORDS_AT_ONCE = 1 << 14  # their keys and bodies stay in the processor's cache until they are on their way
PAIRS_AT_ONCE = 1 << 18  # distances computed in one call, or those of one source


def with_distinct_ids(rows: FlowBatch, groups: Groups) -> FlowBatch:
    """Take their record id from rows that share it with another row of their group: it names neither.

    A message that was delivered twice, or an exporter that counts from 1 again, would otherwise give pairs of
    different flows the same key.
    """
    if not rows.record_id.any():
        return rows
    record_ids = rows.record_id.astype(np.uint64)
    group = np.repeat(np.arange(len(groups)), groups.sizes)
    same = group_rows(group, record_ids[groups.order])
    shared = np.repeat(same.sizes > 1, same.sizes)
    record_ids[groups.order[same.order[shared]]] = 0
    return rows.replace(record_id=record_ids)


def tail_records(window: Window, flows: Flows, part: Summaries, pairs_max: int) -> Iterator[Results]:
    """Yield the records of the farthest pairs above the threshold, ``pairs_max`` of each source at the most."""
    out = part.columns
    listed = np.minimum(out.above, pairs_max)
    source = np.repeat(np.arange(len(listed)), listed)
    within = np.arange(len(source)) - np.repeat(np.cumsum(listed) - listed, listed)
    at = out.far_bounds[source] + within
    yield from _records(window, flows, Pairs(source, out.far_first[at], out.far_second[at], out.far_distance[at]))


def all_records(window: Window, flows: Flows, features: NDArray[np.float64]) -> Iterator[Results]:
    """Yield the record of every pair, in condensed order; ``features`` is (dimensions, flows)."""
    for sources, distances in distances_of_groups(flows.bounds, features):
        bounds = flows.bounds[sources.start : sources.stop + 1]
        places = np.empty((3, len(distances)), np.int64)
        _put_places(bounds, sources.start, *places)
        yield from _records(window, flows, Pairs(places[0], places[1], places[2], distances))


def all_blocks(window: Window, flows: Flows, features: NDArray[np.float64]) -> Iterator[Results]:
    """Yield the names of each source's flows once, then every distance in condensed order, in blocks."""
    for sources, distances in distances_of_groups(flows.bounds, features):
        if len(distances):
            bounds = slice(sources.start, sources.stop + 1)
            own = flows._replace(address_bounds=flows.address_bounds[bounds], bounds=flows.bounds[bounds])
            yield blocks(window, own, distances)


def _records(window: Window, flows: Flows, pairs: Pairs) -> Iterator[Results]:
    for start in range(0, len(pairs.source), RECORDS_AT_ONCE):
        yield records(window, flows, pairs.take(start, start + RECORDS_AT_ONCE))


def distances_of_groups(
    bounds: NDArray[np.int64], features: NDArray[np.float64]
) -> Iterator[tuple[range, NDArray[np.float64]]]:
    """Yield the distances of runs of sources, each source's in condensed order (scipy's)."""
    sizes = np.diff(bounds)
    ends = np.cumsum(sizes * (sizes - 1) // 2)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + PAIRS_AT_ONCE, "right")))
        out = np.empty(int(ends[last - 1]) - before + PAD)
        _condensed_groups(features, bounds[first : last + 1], out)
        yield range(first, last), out[: len(out) - PAD]
        first = last


@njit(nogil=True, cache=True, error_model="numpy")
def _condensed_groups(features, bounds, out):  # type: ignore[no-untyped-def]
    dims, most = features.shape[0], 0
    for g in range(len(bounds) - 1):
        most = max(most, bounds[g + 1] - bounds[g])
    own = np.zeros((dims, most + PAD))
    at = 0
    for g in range(len(bounds) - 1):
        first, count = bounds[g], bounds[g + 1] - bounds[g]
        for d in range(dims):
            for f in range(count):
                own[d, f] = features[d, first + f]
        condensed(own, dims, count, out[at:])
        at += count * (count - 1) // 2


@njit(nogil=True, cache=True, error_model="numpy")
def _put_places(bounds, first_source, source, first, second):  # type: ignore[no-untyped-def]
    at = 0
    for g in range(len(bounds) - 1):
        count = bounds[g + 1] - bounds[g]
        for i in range(count):
            for j in range(i + 1, count):
                source[at], first[at], second[at] = first_source + g, i, j
                at += 1
