"""A histogram of distances that merges exactly: log-linear bins, integer counts.

The bin of a distance ``d`` is the upper half of the bits of ``float32(d * d)``: 8 bits of exponent and 7 of
mantissa, so no square root and no logarithm is taken, and a bin is at most 0.39 % wide in ``d``. Bins
are ordered as the distances are. Merging adds integers, hence it is associative and commutative to the
last bit, with the empty histogram as identity; the sum over panes, partitions or hours is one histogram.
The layout is that of HdrHistogram and of DDSketch (Masson, Rim, Lee, VLDB 2019) with powers of two for bases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import Array
from flowstream.errors import StateError

BINS = 0x7F81  # non-negative float32 values, upper halves: zero to infinity


def _edges() -> NDArray[np.float64]:
    """Return the smallest squared distance (float64) of each bin, and infinity after the last.

    Rounding to float32 is to the nearest, ties to the even mantissa. The first float32 of a bin has an even
    one, so a bin starts half-way between it and the float32 before it. 2**128 stands for the infinity
    that float32 overflows to.
    """
    first = (np.arange(1, BINS, dtype=np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    first[-1] = 2.0**128
    before = ((np.arange(1, BINS, dtype=np.uint32) << np.uint32(16)) - np.uint32(1)).view(np.float32)
    middle = (first + before.astype(np.float64)) / 2
    return np.concatenate([[0.0], middle, [math.inf]])


EDGES = _edges()  # squared; bin b holds EDGES[b] <= d * d < EDGES[b + 1]
EDGES.setflags(write=False)


def bins_of_squares(squares: Array) -> NDArray[np.uint16]:
    """Return the bins of squared distances (float64, any shape, neither negative nor NaN)."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = np.asarray(squares, np.float64).astype(np.float32)
    return (narrow.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


@dataclass(frozen=True, slots=True, eq=False)
class LogLinearHistogram:
    """Counts by bin, sparse: ``bins`` ascending (uint16), ``counts`` beside it, all positive (int64)."""

    bins: NDArray[np.uint16]
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls) -> LogLinearHistogram:
        """Return the histogram of no values: the identity of ``merge``."""
        return cls(np.zeros(0, np.uint16), np.zeros(0, np.int64))

    @classmethod
    def of_squares(cls, squares: Array) -> LogLinearHistogram:
        """Count distances given by their squares; ValueError where one is negative or not a number."""
        flat = np.asarray(squares, np.float64).ravel()
        if not bool(np.all(flat >= 0.0)):
            raise ValueError("a squared distance is negative or not a number")
        # Adding zero turns a negative zero into a positive one, whose bits have no sign.
        dense = np.bincount(bins_of_squares(flat + 0.0), minlength=BINS)
        return cls._of_dense(dense)

    @classmethod
    def of(cls, distances: Array) -> LogLinearHistogram:
        """Count distances; ValueError where one is negative or not a number."""
        flat = np.asarray(distances, np.float64).ravel()
        if not bool(np.all(flat >= 0.0)):
            raise ValueError("a distance is negative or not a number")
        with np.errstate(over="ignore", under="ignore"):
            return cls.of_squares(flat * flat)

    @classmethod
    def _of_dense(cls, dense: Array) -> LogLinearHistogram:
        occupied = np.flatnonzero(dense)
        return cls(occupied.astype(np.uint16), dense[occupied].astype(np.int64))

    def add(self, distances: Array) -> LogLinearHistogram:
        """Return this histogram with more distances counted."""
        return self.merge(LogLinearHistogram.of(distances))

    def merge(self, other: LogLinearHistogram) -> LogLinearHistogram:
        """Add two histograms, bin by bin. Exact as long as a bin's count fits 63 bits."""
        bins, position = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        counts = np.zeros(len(bins), np.int64)
        np.add.at(counts, position, np.concatenate([self.counts, other.counts]))
        return LogLinearHistogram(bins, counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LogLinearHistogram):
            return NotImplemented
        return np.array_equal(self.bins, other.bins) and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.bins.tobytes(), self.counts.tobytes()))

    @property
    def total(self) -> int:
        """How many distances were counted."""
        return int(self.counts.sum())

    def bracket(self, quantile: float) -> tuple[float, float]:
        """Return distances between which the quantile lies, for certain; ValueError where none was counted.

        The quantile is numpy's default (linear between two neighbouring values); the bracket reaches from the
        lower edge of the bin of the one to the upper edge of the bin of the other, infinity in the last bin.
        """
        total = self.total
        if total == 0:
            raise ValueError("an empty histogram has no quantiles")
        if not 0.0 <= quantile <= 1.0:
            raise ValueError(f"quantile {quantile} is not between 0 and 1")
        rank = min(int(quantile * (total - 1)), total - 1)
        reached = np.cumsum(self.counts)
        low = self.bins[np.searchsorted(reached, rank, "right")]
        high = self.bins[np.searchsorted(reached, min(rank + 1, total - 1), "right")]
        return math.sqrt(EDGES[int(low)]), math.sqrt(EDGES[int(high) + 1])

    def to_value(self) -> dict[str, Any]:
        """Return the Avro form: ``bins`` as little-endian uint16, ``counts`` as little-endian int64."""
        return {"bins": self.bins.astype("<u2").tobytes(), "counts": self.counts.astype("<i8").tobytes()}

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> LogLinearHistogram:
        """Read ``to_value``'s form; StateError where it is not one."""
        try:
            bins = np.frombuffer(value["bins"], "<u2").astype(np.uint16)
            counts = np.frombuffer(value["counts"], "<i8").astype(np.int64)
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"not a histogram: {error}") from None
        ascending = bool(np.all(bins[1:] > bins[:-1])) and bool(np.all(bins < BINS))
        if len(bins) != len(counts) or not ascending or not bool(np.all(counts > 0)):
            raise StateError("not a histogram: bins must ascend, one positive count each")
        return cls(bins, counts)
