"""Sums of rows for partials: estimated bytes and packets, records, and how sure the bytes are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import bare_njit
from flowstream.batch import Array, FlowBatch
from flowstream.columns import picked
from flowstream.partials import PartialBatch
from flowstream.saturation import plus, scaled
from flowstream.spread import by_packets, samples_of, variance_of, weight_max_of

COUNTS: Final = ("bytes", "packets", "records")
SPREAD: Final = ("variance", "weight_max")

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of rows, or rows as sums of one each: ``counts`` are bytes, packets, records; ``spread`` the other two."""

    counts: Integers  # (n, 3)
    spread: Floats  # (n, 2)

    @classmethod
    def zeros(cls, rows: int) -> Sums:
        """Return sums of nothing."""
        return cls(np.zeros((rows, len(COUNTS)), np.int64), np.zeros((rows, len(SPREAD))))

    @classmethod
    def concat(cls, parts: Sequence[Sums]) -> Sums:
        """Join sums end to end."""
        return cls(np.concatenate([p.counts for p in parts]), np.concatenate([p.spread for p in parts]))

    @classmethod
    def of_partials(cls, rows: PartialBatch) -> Sums:
        """Return the sums that partials hold."""
        counts = np.stack([rows.column(name) for name in COUNTS], axis=1)
        return cls(counts, np.stack([rows.column(name) for name in SPREAD], axis=1))

    def take(self, index: Array) -> Sums:
        """Select rows by position or mask."""
        return Sums(picked(self.counts, index), picked(self.spread, index))

    def by(self, group: Integers, groups: int) -> Sums:
        """Add up per group, in the order of the rows."""
        summed = Sums.zeros(groups)
        summed.add(group, self)
        return summed

    def add(self, group: Integers, rows: Sums) -> None:
        """Add rows to the sums of their groups, in the order of the rows."""
        _add(group, rows.counts, rows.spread, self.counts, self.spread)

    def columns(self) -> dict[str, Array]:
        """Return them as columns of partials."""
        counts, spread = np.ascontiguousarray(self.counts.T), np.ascontiguousarray(self.spread.T)
        return dict(zip((*COUNTS, *SPREAD), (*counts, *spread), strict=True))


def weights(rows: FlowBatch) -> Sums:
    """Return what each row adds: estimated bytes and packets, one record, variance of the bytes, largest weight.

    Of the last two see ``flowstream/spread.py``.
    """
    sums = Sums(np.empty((len(rows), len(COUNTS)), np.int64), np.empty((len(rows), len(SPREAD))))
    _weigh(rows.bytes, rows.packets, rows.sampling_rate, by_packets(rows), sums.counts, sums.spread)
    return sums


def united(group: Integers, bits: Array, groups: int) -> Array:
    """Return the union of the bits of each group."""
    joined = np.zeros(groups, np.uint64)
    _unite(group, bits, joined)
    return joined


@bare_njit
def _weigh(sent, packets, rate, by_packet, counts, spread):  # type: ignore[no-untyped-def]
    for row in range(len(sent)):
        times = max(np.int64(rate[row]), np.int64(1))
        counts[row, 0] = scaled(sent[row], times)
        counts[row, 1] = scaled(packets[row], times)
        counts[row, 2] = 1
        weight = float(sent[row]) * float(times)
        samples = samples_of(packets[row], by_packet[row])
        spread[row, 0] = variance_of(weight, samples, times)
        spread[row, 1] = weight_max_of(weight, samples, times)


@bare_njit
def _add(group, counts, spread, count_sums, spread_sums):  # type: ignore[no-untyped-def]
    for row in range(len(group)):
        own = group[row]
        for column in range(3):
            count_sums[own, column] = plus(count_sums[own, column], counts[row, column])
        spread_sums[own, 0] += spread[row, 0]
        spread_sums[own, 1] = max(spread_sums[own, 1], spread[row, 1])


@bare_njit
def _unite(group, bits, united):  # type: ignore[no-untyped-def]
    for row in range(len(group)):
        united[group[row]] |= bits[row]
