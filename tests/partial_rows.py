"""Partials in tests: panes of flows summed up by cube, put together again, and read back as plain Python numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2

from flowstream.batch import FlowBatch
from flowstream.counting import CountOnce
from flowstream.cubes import CubesConfig, CubesOf
from flowstream.links import LinkTable
from flowstream.operators import Operator, Pane, Result
from flowstream.partials import KEYS, Cube, PartialBatch

SECOND = 10**9
Sums = dict[str, Any]


def pane_of(rows: Any, index: int = 0) -> Pane:
    """Return the pane of a second with these rows."""
    return Pane(index, index * SECOND, (index + 1) * SECOND, rows.in_time_order())


def summed(rows: FlowBatch, links: LinkTable | None = None, partition: int = 0, index: int = 0) -> PartialBatch:
    """Return what all cubes make of rows."""
    return CubesOf(CubesConfig(), CountOnce(links or LinkTable())).of(pane_of(rows, index), partition)


def interval(total: float, variance: float, weight_max: float) -> tuple[float, float]:
    """Return the bounds of a sum of samples in the terms of the paper that ``flowstream/estimate.py`` names."""
    if not total or not variance:
        return total, total
    low = variance / (2 * total) * chi2.ppf(0.025, 2 * total**2 / variance)
    total, variance = total + weight_max, variance + weight_max**2
    return low, variance / (2 * total) * chi2.ppf(0.975, 2 * total**2 / variance)


def merged(parts: Iterable[PartialBatch]) -> dict[tuple[Cube, tuple[int, ...]], Sums]:
    """Add up partials by cube and keys, one row after the other, as the words of partials.py say."""
    found: dict[tuple[Cube, tuple[int, ...]], Sums] = defaultdict(lambda: defaultdict(int))
    for part in parts:
        columns = {name: column.tolist() for name, column in part.columns.items()}
        for n in range(len(part)):
            sums = found[Cube(columns["cube"][n]), tuple(columns[key][n] for key in KEYS)]
            for name in ("bytes", "packets", "records", "variance"):
                sums[name] += columns[name][n]
            sums["weight_max"] = max(sums["weight_max"], columns["weight_max"][n])
            sums["bits"] |= columns["bits"][n]
    return {key: dict(sums) for key, sums in found.items()}


class OverCubes:
    """An operator over partials as one over flows, for tests of what all operators keep to."""

    lookback = 0

    def __init__(self, inner: Operator, links: LinkTable) -> None:
        self.inner = inner
        self.name = inner.name
        self._cubes = CubesOf(CubesConfig(), CountOnce(links))

    @property
    def quiet(self) -> bool:
        return self.inner.quiet

    def process(self, panes: Sequence[Pane]) -> Sequence[Result]:
        pane = panes[-1]
        partials: Any = self._cubes.of(pane, 0)
        return self.inner.process([Pane(pane.index, pane.start_ns, pane.end_ns, partials)])  # type: ignore[return-value]

    def snapshot(self) -> bytes:
        return self.inner.snapshot()

    def restore(self, state: bytes) -> None:
        self.inner.restore(state)


def numbers(
    given: Sequence[int], records: Sequence[int] | None = None, exporter: int = 1, kind: int = 1, index: int = 0
) -> FlowBatch:
    """Return flow records of datagrams with these sequence numbers, as many each as ``records`` says, else one."""
    counts = [1] * len(given) if records is None else list(records)
    rows = FlowBatch.zeros(sum(counts))
    rows.sequence_num[:] = np.repeat(np.array(given, np.int64) & 0xFFFF_FFFF, counts)
    rows.exporter[:, 1], rows.flow_type[:] = exporter, kind
    rows.src_addr[:, 1] = np.arange(len(rows)) % 7
    rows.bytes[:], rows.packets[:], rows.sampling_rate[:] = 100, 1, 1
    rows.time_ns[:] = rows.time_received_ns[:] = index * SECOND
    rows.origin_offset[:] = np.arange(len(rows))
    return rows
