"""Tables of talkers: what each key of a cube sent in a step or a window, and what is sure where keys were dropped.

Sums are whole numbers, so adding a step and subtracting it again leaves no trace. A table has at most ``keys_max``
keys. Where there are more, each measure (bytes, packets, records) is a Misra-Gries summary of ``keys_max // 3``
counters, all in one table: the (counters + 1)-th largest count is subtracted from all, and keys left with nothing go.
A count is then too small by the sum of what was subtracted at the most, which is at most (total) / (counters + 1)
however often summaries were merged: Misra and Gries, "Finding repeated elements", 1982; Agarwal et al., "Mergeable
summaries", PODS 2012.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowstream.grouping import group_rows
from flowstream.partials import KEYS, PartialBatch
from flowstream.talker_kernels import add_spread, slide, sum_rows

MEASURES = ("bytes", "packets", "records")
#: What a key can have sent in a step, 1 PB: the sums of ``STEPS_MAX`` steps then stay below 63 bits.
SUM_MAX = 1 << 50
STEPS_MAX = 4096
_TOTAL_MAX = 1 << 62

Words = NDArray[np.uint64]
Sums = NDArray[np.int64]
Spread = NDArray[np.float64]
Measured = tuple[int, int, int]  # bytes, packets, records
NOTHING: Measured = (0, 0, 0)


class Lost(NamedTuple):
    """How many bytes of all keys together never came, by the gaps in sequence numbers: surely, and at the most."""

    known: int
    possible: int


NONE_LOST = Lost(0, 0)


class Whole(NamedTuple):
    """What is known of all rows of a step, whatever their keys, and of those dropped: no running sum can let it go."""

    rules: int = 0  # 1 << Rule of those by which rows count
    variance: float = 0.0  # of their bytes
    weight_max: float = 0.0  # the largest weight of a sample

    @classmethod
    def of(cls, tables: Iterable[Table]) -> Whole:
        """Return that of a run of steps, given in time order."""
        rules, variance, weight_max = cls()
        for table in tables:
            rules |= table.whole.rules
            variance += table.whole.variance
            weight_max = max(weight_max, table.whole.weight_max)
        return cls(rules, variance, weight_max)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Keys in ascending order with their sums; ``spread`` is that of a step, of a window it has no columns."""

    keys: Words  # (keys, words)
    sums: Sums  # (keys, 3): MEASURES
    spread: Spread  # (keys, 2): variance of the bytes, largest weight of a sample; or (keys, 0)
    totals: Measured = NOTHING  # of all keys, also those dropped
    errors: Measured = NOTHING  # how much too small a sum is at the most; a key that is not there sent no more
    lost: Lost = NONE_LOST  # in no sum and no total
    whole: Whole = Whole()  # noqa: RUF009 - it is a tuple; of a step, a window has none

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def empty(cls, words: int, spread: int) -> Table:
        """Return a table without keys."""
        return cls(np.empty((0, words), np.uint64), np.empty((0, 3), np.int64), np.empty((0, spread)))

    @classmethod
    def of_rows(cls, rows: PartialBatch, words: int, factors: tuple[float, float] = (1.0, 1.0)) -> Table:
        """Sum up rows of one cube by their key, in their order; ``factors`` are those of loss (``overall``)."""
        groups = group_rows(*(rows.column(name) for name in KEYS[:words]))
        sums, spread = np.zeros((len(groups), 3), np.int64), np.zeros((len(groups), 2))
        columns = np.stack([rows.column(name) for name in MEASURES])
        weights = np.stack([rows.variance, rows.weight_max])
        sum_rows(groups.order, groups.bounds, columns, weights, SUM_MAX, sums, spread)
        keys = np.stack([rows.column(name)[groups.firsts] for name in KEYS[:words]], axis=1)
        held = sums.any(axis=1)
        table = cls(keys[held], sums[held], spread[held])
        totals = _measured(min(_exact(column), _TOTAL_MAX) for column in table.sums.T)
        lost = Lost(*(min(round(totals[0] * (factor - 1.0)), _TOTAL_MAX) for factor in factors))
        # One after the other: numpy's sum adds in an order that is the machine's.
        variance = float(rows.variance.cumsum()[-1]) if len(rows) else 0.0
        whole = Whole(int(np.bitwise_or.reduce(rows.bits)), variance, float(rows.weight_max.max(initial=0.0)))
        return replace(table, totals=totals, lost=lost, whole=whole)

    def slid(self, added: Table, leaving: Table) -> Table:
        """Return this table plus one, minus another that had been added to it."""
        most, words = len(self) + len(added), self.keys.shape[1]
        keys, sums = np.empty((most, words), np.uint64), np.empty((most, 3), np.int64)
        spread = np.empty((most, self.spread.shape[1]))
        rows = slide(
            self.keys, self.sums, self.spread, added.keys, added.sums, added.spread, leaving.keys, leaving.sums,
            keys, sums, spread,
        )  # fmt: skip
        totals, errors = (
            _measured(a + b - c for a, b, c in zip(*parts, strict=True))
            for parts in (
                (self.totals, added.totals, leaving.totals),
                (self.errors, added.errors, leaving.errors),
            )
        )
        lost = Lost(*(a + b - c for a, b, c in zip(self.lost, added.lost, leaving.lost, strict=True)))
        return Table(keys[:rows], sums[:rows], spread[:rows], totals, errors, lost)

    def cut(self, keys_max: int) -> Table:
        """Return it as it is up to ``keys_max`` keys, else its Misra-Gries summary."""
        if len(self) <= keys_max:
            return self
        place = len(self) - keys_max // len(MEASURES) - 1
        cuts = np.array([np.partition(column, place)[place] for column in np.ascontiguousarray(self.sums.T)])
        sums = np.maximum(self.sums - cuts, 0)
        held = sums.any(axis=1)
        errors = _measured(a + int(b) for a, b in zip(self.errors, cuts, strict=True))
        return replace(self, keys=self.keys[held], sums=sums[held], spread=self.spread[held], errors=errors)

    def top(self, measure: int, count: int) -> NDArray[np.int64]:
        """Return where the keys with most of a measure are: the largest first, equal ones in the order of keys."""
        column = np.ascontiguousarray(self.sums[:, measure])
        least = np.partition(column, len(column) - count)[len(column) - count] if len(column) > count else 0
        chosen = np.flatnonzero((column >= least) & (column > 0))
        return chosen[np.argsort(-column[chosen], kind="stable")][:count]


def folded(tables: Iterable[Table], empty: Table, keys_max: int) -> tuple[Table, bool]:
    """Add tables in their order, cutting what grows beyond ``keys_max``; return the sum and whether it was cut.

    Exact where the keys of all of them are ``keys_max`` at the most.
    """
    total, was_cut = empty, False
    nothing = Table.empty(empty.keys.shape[1], empty.spread.shape[1])
    for table in tables:
        sums = total.slid(table, nothing)
        total = sums.cut(keys_max)
        was_cut |= total is not sums
    return total, was_cut


def merged_step(tables: Iterable[Table], words: int, keys_max: int) -> Table:
    """Return the table of a step from those of the shorter steps in it, in time order."""
    steps = list(tables)
    table, _ = folded(steps, Table.empty(words, 2), keys_max)
    totals = _measured(min(total, _TOTAL_MAX) for total in table.totals)
    lost = Lost(*(min(part, _TOTAL_MAX) for part in table.lost))
    # Copies: the arrays that tables were added in are longer than what came of it.
    keys, sums, spread = table.keys.copy(), np.minimum(table.sums, SUM_MAX), table.spread.copy()
    return Table(keys, sums, spread, totals, table.errors, lost, Whole.of(steps))


def spread_of(wanted: Words, tables: Iterable[Table]) -> Spread:
    """Return the variance and the largest weight of keys over tables, added in their order."""
    spread = np.zeros((len(wanted), 2))
    for table in tables:
        add_spread(wanted, table.keys, table.spread, spread)
    return spread


def _measured(numbers: Iterable[int]) -> Measured:
    sent, packets, records = numbers
    return sent, packets, records


def _exact(column: Sums) -> int:
    """Return the sum of numbers from 0 to ``SUM_MAX``, which may exceed 63 bits."""
    return (int((column >> 32).sum()) << 32) + int((column & 0xFFFF_FFFF).sum())
