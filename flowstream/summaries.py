"""What is computed of all pairs of each group of flows, and the columns it comes back in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowstream.distance_kernels import QUANTILES, Outputs, summarise_groups
from flowstream.histogram import BINS

CHUNK_MAX = 1 << 20  # numbers of output per call: 24 MB at most, one group alone may have more
FLOWS_MAX = 1 << 16  # of one group: its pairs are counted in 32 bits


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to compute of every group.

    ``quantiles`` ascend. The tail threshold is quantile number ``tail_at``, or ``threshold`` where that is
    negative. The farthest pairs are listed: ``farthest`` of them, or ``tail_pairs`` of those in the tail if
    that is more. ``busiest`` is how many flows are listed by their pairs above the threshold.
    """

    quantiles: tuple[float, ...]
    tail_at: int = -1
    threshold: float = np.inf
    farthest: int = 0
    tail_pairs: int = 0
    busiest: int = 0

    def farthest_of(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many pairs to list for groups of so many pairs."""
        tail = np.minimum(pairs, self.tail_pairs)
        if self.tail_at >= 0:
            tail = np.minimum(tail, pairs - (self.quantiles[self.tail_at] * (pairs - 1)).astype(np.int64))
        return np.minimum(pairs, np.maximum(tail, self.farthest))


@dataclass(frozen=True, slots=True)
class Summaries:
    """Statistics of a run of groups from ``first_group`` on; see ``Outputs`` for the columns."""

    first_group: int
    pairs: NDArray[np.int64]
    bin_bounds: NDArray[np.int64]
    columns: Outputs


def _bounds(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def summarise(
    features: NDArray[np.float64], bounds: NDArray[np.int64], wanted: Wanted, chunk_max: int = CHUNK_MAX
) -> Iterator[Summaries]:
    """Summarise the pairs of each group ``features[:, bounds[g]:bounds[g + 1]]``, in runs of bounded output.

    ``features`` is (dimensions, flows), finite. ValueError where a group has more than ``FLOWS_MAX`` flows.
    """
    sizes = np.diff(bounds)
    if len(sizes) and int(sizes.max()) > FLOWS_MAX:
        raise ValueError(f"a group of {int(sizes.max())} flows is above the limit of {FLOWS_MAX}")
    pairs = sizes * (sizes - 1) // 2
    farthest = wanted.farthest_of(pairs)
    busiest = np.minimum(sizes, wanted.busiest)
    size_of_output = np.cumsum(np.minimum(pairs, BINS) + farthest + busiest)
    first = 0
    while first < len(sizes):
        before = size_of_output[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(size_of_output, before + chunk_max, "right")))
        run = slice(first, last)
        yield _run(features, bounds[first : last + 1], wanted, first, pairs[run], farthest[run], busiest[run])
        first = last


def _run(
    features: NDArray[np.float64],
    bounds: NDArray[np.int64],
    wanted: Wanted,
    first_group: int,
    pairs: NDArray[np.int64],
    farthest: NDArray[np.int64],
    busiest: NDArray[np.int64],
) -> Summaries:
    groups = len(pairs)
    room = int(np.minimum(pairs, BINS).sum())
    far, busy = int(farthest.sum()), int(busiest.sum())
    out = Outputs(
        statistics=np.full((groups, QUANTILES + len(wanted.quantiles)), np.nan),
        above=np.zeros(groups, np.int64),
        bins_used=np.zeros(groups, np.int64),
        bins=np.empty(room, np.uint16),
        counts=np.empty(room, np.uint32),
        far_bounds=_bounds(farthest),
        far_distance=np.empty(far),
        far_first=np.empty(far, np.int64),
        far_second=np.empty(far, np.int64),
        busy_bounds=_bounds(busiest),
        busy_used=np.zeros(groups, np.int64),
        busy_flow=np.empty(busy, np.int64),
        busy_pairs=np.empty(busy, np.int64),
    )
    quantiles = np.array(wanted.quantiles, np.float64)
    summarise_groups(features, bounds, quantiles, wanted.tail_at, wanted.threshold, out)
    return Summaries(first_group, pairs, _bounds(out.bins_used), out)
