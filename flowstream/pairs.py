"""Pairs of flows one by one: names for flows, records for the pairs of a tail, blocks for all pairs.

Times are in milliseconds and come from the flows; ``ts_output`` is the end of the window, not a clock's time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import FlowBatch
from flowstream.grouping import Groups, group_rows
from flowstream.operators import Result
from flowstream.pair_kernels import PAD, condensed
from flowstream.windows import Window

PAIRS_STREAM = "distance-pairs"
BLOCKS_STREAM = "distance-pair-blocks"
BLOCK_BYTES_MAX = 512_000  # half of Kafka's default limit of a message
MS = 1_000_000


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


def flow_ids(rows: FlowBatch, index: NDArray[np.int64], origin_names: Mapping[int, str]) -> list[str]:
    """Name rows: by their own record id, else ``topic-partition-offset``, with ``-row`` if that is not 0."""
    columns = (rows.record_id, rows.origin_id, rows.origin_offset, rows.origin_row)
    return [
        str(record) if record else _origin_text(origin_names.get(origin) or str(origin), offset, row)
        for record, origin, offset, row in zip(*(c[index].tolist() for c in columns), strict=True)
    ]


def _origin_text(name: str, offset: int, row: int) -> str:
    return f"{name}-{offset}-{row}" if row else f"{name}-{offset}"


@dataclass(frozen=True, slots=True)
class SourceFlows:
    """The flows of one source in a window, in time order: names and event times, one each."""

    window: Window
    src_addr: str
    ids: Sequence[str]
    times_ms: Sequence[int]

    def pair(self, first: int, second: int, distance: float) -> Result:
        """Return the record of a pair of flows, given by their places."""
        id_1, id_2 = self.ids[first], self.ids[second]
        value = {
            "eventid_1": id_1,
            "ts_flow1": self.times_ms[first],
            "eventid_2": id_2,
            "ts_flow2": self.times_ms[second],
            "distance": distance,
            "ts_output": self.window.end_ns // MS,
        }
        key = f"{self.window.start_ns}|{self.src_addr}|{id_1}|{id_2}"
        return Result(PAIRS_STREAM, key, self.window.end_ns, value)

    def all_pairs(self, features: NDArray[np.float64]) -> Iterator[Result]:
        """Yield the record of every pair, in condensed order; ``features`` is (dimensions, flows)."""
        first, second = np.triu_indices(len(self.ids), 1)
        distances = distances_of(features)
        for i, j, distance in zip(first.tolist(), second.tolist(), distances.tolist(), strict=True):
            yield self.pair(i, j, distance)

    def blocks(self, features: NDArray[np.float64]) -> Iterator[Result]:
        """Yield the names of the flows once, then every distance in condensed order, in blocks."""
        if len(self.ids) < 2:
            return
        for first, ids in self._runs_of_ids():
            yield self._block(f"flows|{first}", first, ids, 0, b"")
        packed = distances_of(features).astype("<f8", copy=False)
        step = BLOCK_BYTES_MAX // packed.itemsize
        for at in range(0, len(packed), step):
            yield self._block(f"pairs|{at}", 0, [], at, packed[at : at + step].tobytes())

    def _runs_of_ids(self) -> Iterator[tuple[int, list[str]]]:
        # An Avro string is preceded by its length, two bytes up to 8,191, and a time takes six.
        sizes = np.cumsum([len(name.encode()) + 8 for name in self.ids])
        first = 0
        while first < len(self.ids):
            before = int(sizes[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(sizes, before + BLOCK_BYTES_MAX, "right")))
            yield first, list(self.ids[first:last])
            first = last

    def _block(self, part: str, first_flow: int, ids: list[str], first: int, distances: bytes) -> Result:
        flows = len(self.ids)
        value = {
            "src_addr": self.src_addr,
            "window_start_ns": self.window.start_ns,
            "window_end_ns": self.window.end_ns,
            "flows": flows,
            "pairs": flows * (flows - 1) // 2,
            "first_flow": first_flow,
            "ids": ids,
            "times_ms": list(self.times_ms[first_flow : first_flow + len(ids)]),
            "first": first,
            "distances": distances,
        }
        key = f"{self.window.start_ns}|{self.src_addr}|{part}"
        return Result(BLOCKS_STREAM, key, self.window.end_ns, value)


def distances_of(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return all distances between the columns of (dimensions, flows), in scipy's condensed order."""
    dims, flows = features.shape
    pairs = flows * (flows - 1) // 2
    padded = np.zeros((dims, flows + PAD))
    padded[:, :flows] = features
    out = np.empty(pairs + PAD)
    condensed(padded, dims, flows, out)
    return out[:pairs]
