"""Datagrams that were exported and never came, told by the gaps in their sequence numbers.

What a number counts differs by export, and so does what a gap means:

    NetFlow v5   flow records: what is missing is lost, exactly
    IPFIX        data records, those of options too: what is missing is lost or was no flow
    NetFlow v9   datagrams, those of templates and options too: likewise
    sFlow        datagrams, those of counters alone too: likewise (on an idle switch one in twenty)

Lost flow records are like those that came, so what is lost exactly multiplies an estimate by 1 + lost / received
(``correction``). Where a gap may also mean that there was nothing to lose, it only moves the upper bound
(``widening``). The gaps themselves are found by ``flowstream/sequence_gaps.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowstream.batch import Array, FlowType
from flowstream.errors import StateError
from flowstream.estimate import Floats
from flowstream.grouping import Groups, group_rows

EXACT = (FlowType.NETFLOW_V5,)
LossRow = tuple[int, int, int, int, int, int]  # address words, flow type, received, lost, bytes
SUM_MAX = 1 << 62  # bytes, that is
BY_RECORDS = (FlowType.NETFLOW_V5, FlowType.IPFIX)  # their numbers count flow records, not datagrams


@dataclass(frozen=True, slots=True)
class Loss:
    """What came and what did not, by exporter and flow type, in their order: arrays with a row for each.

    ``received`` and ``lost`` are flow records where numbers count those (``BY_RECORDS``), datagrams otherwise.
    ``bytes`` is what the exporter adds to totals (estimated): the weight of its factor in one for all. In a single
    pane ``lost`` may be negative, where datagrams came that an earlier pane gave up.
    """

    exporter: NDArray[np.uint64]  # (n, 2)
    flow_type: NDArray[np.uint8]
    received: NDArray[np.int64]
    lost: NDArray[np.int64]
    bytes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.flow_type)

    @classmethod
    def none(cls) -> Loss:
        """Return that of no exporter."""
        nothing = np.zeros(0, np.int64)
        return cls(np.zeros((0, 2), np.uint64), np.zeros(0, np.uint8), nothing, nothing, nothing)

    @classmethod
    def merged(cls, losses: Iterable[Loss]) -> Loss:
        """Add up the losses of panes: that of a run of panes."""
        parts = [loss for loss in losses if len(loss)]
        if not parts:
            return cls.none()
        exporter, flow_type, *sums = (np.concatenate([getattr(p, name) for p in parts]) for name in cls.__slots__)
        groups = group_rows(exporter, flow_type)
        return cls(exporter[groups.firsts], flow_type[groups.firsts], *(saturated_sum(groups, s) for s in sums))

    def to_rows(self) -> list[LossRow]:
        """Return it as plain numbers, for a snapshot."""
        columns = (*self.exporter.T, self.flow_type, self.received, self.lost, self.bytes)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    @classmethod
    def of_rows(cls, rows: Iterable[LossRow]) -> Loss:
        """Return what ``to_rows`` wrote; StateError where it cannot have."""
        every = list(rows)
        try:
            words = np.array([row[:2] for row in every], np.uint64).reshape(-1, 2)
            kinds = np.array([FlowType(row[2]) for row in every], np.uint8)
            sums = np.array([row[3:] for row in every], np.int64).reshape(-1, 3).T.copy()
        except (OverflowError, ValueError) as error:
            raise StateError(f"a snapshot of losses that cannot be: {error}") from None
        return cls(words, kinds, *sums)

    @property
    def is_exact(self) -> NDArray[np.bool_]:
        """Whether what is missing is known to be lost."""
        return np.isin(self.flow_type, EXACT)

    @property
    def per_received(self) -> Floats:
        """How much was lost, at the most, for each that was received; never negative."""
        return np.maximum(self.lost, 0) / np.maximum(self.received, 1)

    @property
    def share(self) -> Floats:
        """Which share of what was exported was lost, at the most."""
        lost = np.maximum(self.lost, 0)
        return np.asarray(lost / np.maximum(self.received + lost, 1))


def correction(loss: Loss, exporters: Array) -> Floats:
    """Return by what to multiply estimates of ``exporters``, (n, 2) address words: 1 + lost / received where exact.

    Exporters with several flow types get the mean of their factors, weighted by bytes; unknown ones get 1.
    """
    return _by_exporter(loss, exporters, np.where(loss.is_exact, loss.per_received, 0.0))


def widening(loss: Loss, exporters: Array) -> Floats:
    """Return by what to multiply upper bounds of ``exporters``, likewise: all that may have been lost."""
    return _by_exporter(loss, exporters, loss.per_received)


def overall(loss: Loss) -> tuple[float, float]:
    """Return (correction, widening) of what all exporters say together, weighted by their bytes.

    For totals that carry no exporter: exact for the sum over all keys, and for each key that its exporters' shares
    of it are their shares of the whole.
    """
    if not len(loss):
        return 1.0, 1.0
    weight = np.maximum(loss.bytes, 1).astype(np.float64)
    total = float(weight.cumsum()[-1])
    exact = np.where(loss.is_exact, loss.per_received, 0.0)
    sure, possible = (float((weight * extra).cumsum()[-1]) for extra in (exact, loss.per_received))
    return 1.0 + sure / total, 1.0 + possible / total


def corrected(came: NDArray[np.int64], factor: Floats) -> NDArray[np.int64]:
    """Return bytes times their ``correction``, at most ``SUM_MAX``; where nothing was lost, what came."""
    came = np.minimum(came, SUM_MAX)
    lost = np.minimum(np.rint(came * (factor - 1.0)), SUM_MAX).astype(np.int64)
    return came + np.minimum(lost, SUM_MAX - came)


def lost_share(widening: ArrayLike) -> Floats:
    """Return which share of what was exported never came, at the most, where upper bounds are widened so."""
    return np.asarray(1.0 - 1.0 / np.asarray(widening, np.float64))


def _by_exporter(loss: Loss, exporters: Array, extra: Floats) -> Floats:
    factors = np.ones(len(exporters))
    if not len(loss) or not len(exporters):
        return factors
    weight = np.maximum(loss.bytes, 1).astype(np.float64)
    groups = group_rows(loss.exporter)
    mean = 1.0 + groups.sum(weight * extra) / groups.sum(weight)
    known = loss.exporter[groups.firsts]
    joined = group_rows(np.concatenate([known, exporters]))
    # Where a group holds a known exporter, it is its first row: rows keep their order within a group.
    own = np.repeat(np.arange(len(joined)), joined.sizes)
    first = joined.firsts[own]
    found = first < len(known)
    every = np.ones(len(known) + len(exporters))
    every[joined.order[found]] = mean[first[found]]
    factors[:] = every[len(known) :]
    return factors


def saturated_sum(groups: Groups, column: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum per group; a sum beyond 63 bits stops at the limit (as floats tell, where it is near)."""
    total = groups.sum(column)
    rough = groups.sum(column.astype(np.float64))
    limit = np.int64(2**63 - 1)
    return np.where(rough >= 2.0**63, limit, np.where(rough <= -(2.0**63), -limit, total))
