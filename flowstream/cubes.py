"""Counted rows of a pane, summed up by cube: what a flows partition adds to totals that are not keyed by the source."""

from __future__ import annotations

import numpy as np

from flowstream.batch import FlowBatch
from flowstream.columns import Array
from flowstream.counting import count_once
from flowstream.grouping import group_rows
from flowstream.links import LinkTable
from flowstream.operators import Pane
from flowstream.partials import KEYS, Cube, PartialBatch

_KEYS = {Cube.SOURCE: ("src_addr",), Cube.DESTINATION: ("dst_addr",), Cube.PROTOCOL: ("proto",)}


class CubesOf:
    """Sums up what counts in a pane; ``links`` says where the edge is, and may be replaced."""

    def __init__(self, links: LinkTable) -> None:
        self.links = links

    def of(self, pane: Pane, partition: int) -> PartialBatch:
        """Return the sums of a pane of a flows partition, in the order of cubes and keys."""
        if not len(pane.rows):
            return PartialBatch.none()
        _, edge = self.links.lookup(pane.rows.exporter, pane.rows.in_if)
        rows = pane.rows.take(count_once(pane.rows, edge).counts)
        sums = PartialBatch.concat(_summed(cube, rows) for cube in _KEYS)
        count = len(sums)
        return sums.replace(
            origin_id=np.full(count, partition), origin_offset=np.full(count, pane.index),
            origin_row=np.arange(count), time_ns=np.full(count, pane.start_ns),
        )  # fmt: skip


def _summed(cube: Cube, rows: FlowBatch) -> PartialBatch:
    keys = [rows.column(name) for name in _KEYS[cube]]
    words = [w for key in keys for w in ((key[:, 0], key[:, 1]) if key.ndim == 2 else (key,))]
    groups = group_rows(*keys)
    rate = np.maximum(rows.sampling_rate, 1).astype(np.int64)
    weight = rows.bytes * rate
    variance = np.where(rate > 1, weight.astype(np.float64) ** 2, 0.0)
    columns: dict[str, Array] = {
        "cube": np.full(len(groups), int(cube)),
        "bytes": groups.sum(weight),
        "packets": groups.sum(rows.packets * rate),
        "records": groups.sizes,
        "variance": groups.sum(variance),
        "weight_max": np.maximum.reduceat(weight[groups.order], groups.bounds[:-1]) if len(groups) else np.zeros(0),
    }
    columns |= {KEYS[at]: word[groups.firsts] for at, word in enumerate(words)}
    return PartialBatch.of(len(groups), columns)
