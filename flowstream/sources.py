"""The table of sources: what each source address sent in a window, one sorted columnar block per window.

A block is one message however many sources it holds, and a lookup by address is a binary search in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream.batch import Array, FlowBatch, address_text, packed_to_words, words_to_packed
from flowstream.distance_kernels import QUANTILES
from flowstream.distances import DistancesConfig, restore_stateless, stateless_snapshot
from flowstream.errors import StateError
from flowstream.features import feature_matrix, sample_groups
from flowstream.grouping import Groups, group_rows
from flowstream.operators import Pane, Result
from flowstream.summaries import Wanted, summarise
from flowstream.windows import Windowing

STREAM = "sources"
COLUMNS: Mapping[str, str] = {
    "flows": "<i8",
    "packets": "<i8",
    "bytes": "<i8",
    "estimated_packets": "<i8",
    "estimated_bytes": "<i8",
    "in_bytes": "<i8",
    "in_packets": "<i8",
    "dst_addrs": "<i8",
    "distance_p999": "<f8",
}


@dataclass(frozen=True, slots=True)
class SourcesConfig:
    """Window length and step in panes; ``distances`` None leaves out the distance column (all NaN)."""

    size_panes: int = 10
    step_panes: int | None = None  # None: tumbling
    distances: DistancesConfig | None = field(default_factory=DistancesConfig)

    def windowing(self) -> Windowing:
        """Return the windows; ValueError where there can be none."""
        return Windowing(self.size_panes, self.size_panes if self.step_panes is None else self.step_panes)


@njit(nogil=True, cache=True, error_model="numpy")
def _weighted_sums(column, weight, order, bounds):  # type: ignore[no-untyped-def]
    """Sum ``column * weight`` (int64, weight >= 0) per group; what exceeds 63 bits stops at the limit."""
    limit = np.int64(0x7FFF_FFFF_FFFF_FFFF)
    sums = np.zeros(len(bounds) - 1, np.int64)
    for g in range(len(sums)):
        total = np.int64(0)
        for at in range(bounds[g], bounds[g + 1]):
            value = column[order[at]]
            times = weight[order[at]]
            if times and value > limit // times:
                product = limit
            elif times and value < -(limit // times):
                product = -limit
            else:
                product = value * times
            if product > 0 and total > limit - product:
                total = limit
            elif product < 0 and total < -limit - product:
                total = -limit
            else:
                total += product
        sums[g] = total
    return sums


def distinct_destinations(rows: FlowBatch, sources: Groups) -> NDArray[np.int64]:
    """Count the distinct destination addresses of each source, exactly."""
    pairs = group_rows(rows.src_addr, rows.dst_addr)
    starts = rows.src_addr[pairs.firsts]
    new = np.ones(len(pairs), np.bool_)
    new[1:] = np.any(starts[1:] != starts[:-1], axis=1)
    at = np.flatnonzero(new)
    return np.diff(np.append(at, len(pairs))).astype(np.int64) if len(sources) else np.zeros(0, np.int64)


class SourcesOperator:
    """Says ``sources`` once per window with rows. Keeps no state but its rows."""

    name = "sources"

    def __init__(self, config: SourcesConfig, pane_ns: int) -> None:
        if pane_ns <= 0:
            raise ValueError(f"a pane of {pane_ns} ns has no length")
        self.config = config
        self._windowing = config.windowing()
        self.lookback = self._windowing.lookback

    @property
    def quiet(self) -> bool:
        """Whether an empty pane changes nothing: always, a window without rows says nothing."""
        return True

    def process(self, panes: Sequence[Pane]) -> list[Result]:
        """Sum up the window that ends with the last pane, if one does."""
        window = self._windowing.closing(panes)
        if window is None:
            return []
        groups = group_rows(window.rows.src_addr)
        value = {
            "window_start_ns": window.start_ns,
            "window_end_ns": window.end_ns,
            "count": len(groups),
            "src_addr": words_to_packed(window.rows.src_addr[groups.firsts]),
        }
        columns = self._columns(window.rows, groups)
        value |= {name: columns[name].astype(dtype, copy=False).tobytes() for name, dtype in COLUMNS.items()}
        return [Result(STREAM, f"{window.start_ns}", window.end_ns, value)]

    def _columns(self, rows: FlowBatch, groups: Groups) -> dict[str, Array]:
        once = np.ones(len(rows), np.int64)
        rate = rows.sampling_rate.astype(np.int64)

        def total(column: Array, weight: NDArray[np.int64]) -> Array:
            return np.asarray(_weighted_sums(column, weight, groups.order, groups.bounds))

        return {
            "flows": groups.sizes,
            "packets": total(rows.packets, once),
            "bytes": total(rows.bytes, once),
            "estimated_packets": total(rows.packets, rate),
            "estimated_bytes": total(rows.bytes, rate),
            "in_bytes": total(rows.in_bytes, once),
            "in_packets": total(rows.in_packets, once),
            "dst_addrs": distinct_destinations(rows, groups),
            "distance_p999": self._p999(rows, groups),
        }

    def _p999(self, rows: FlowBatch, groups: Groups) -> Array:
        """Return the p99.9 of each source's distances, NaN below two flows; large sources are sampled."""
        found = np.full(len(groups), np.nan)
        config = self.config.distances
        if config is None:
            return found
        kept = sample_groups(rows, groups, config.flows_max)
        features = feature_matrix(rows, kept, config.features, config.scaling)
        for part in summarise(features, kept.bounds, Wanted((0.999,), tail_at=-1)):
            run = slice(part.first_group, part.first_group + len(part.pairs))
            found[run] = part.columns.statistics[:, QUANTILES]
        return found

    def snapshot(self) -> bytes:
        """Return the state: there is none beside the rows of the lookback."""
        return stateless_snapshot(self.name)

    def restore(self, state: bytes) -> None:
        """Take a snapshot; StateError where it is not this operator's."""
        restore_stateless(self.name, state)


@dataclass(frozen=True, slots=True)
class SourceBlock:
    """The sources of a window, in address order, read from a result's value."""

    window_start_ns: int
    window_end_ns: int
    addresses: NDArray[np.uint64]  # (sources, 2)
    columns: Mapping[str, Array]  # by the names of COLUMNS

    def __len__(self) -> int:
        return len(self.addresses)

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> SourceBlock:
        """Read a block; StateError where lengths disagree, a field is missing, or addresses do not ascend."""
        try:
            count = int(value["count"])
            addresses = packed_to_words(value["src_addr"])
            columns = {name: np.frombuffer(value[name], dtype) for name, dtype in COLUMNS.items()}
            start_ns, end_ns = int(value["window_start_ns"]), int(value["window_end_ns"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"not a block of sources: {error}") from None
        if {len(addresses), *map(len, columns.values())} != {count}:
            raise StateError(f"a block of {count} sources whose columns have other lengths")
        high, low = addresses[:, 0], addresses[:, 1]
        after = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
        if not bool(after.all()):
            raise StateError("a block of sources that is not in address order")
        return cls(start_ns, end_ns, addresses, columns)

    @classmethod
    def merged(cls, blocks: Sequence[SourceBlock]) -> SourceBlock:
        """Join the blocks of one window from several partitions.

        ValueError where there is none, windows differ, or a source is in two of them: distinct
        destinations and distances of two halves cannot be put together.
        """
        if len({(b.window_start_ns, b.window_end_ns) for b in blocks}) != 1:
            raise ValueError("only blocks of one window can be merged")
        addresses = np.concatenate([b.addresses for b in blocks])
        order = np.lexsort((addresses[:, 1], addresses[:, 0]))
        addresses = addresses[order]
        if bool(np.any(np.all(addresses[1:] == addresses[:-1], axis=1))):
            raise ValueError("a source is in two of the blocks")
        columns = {name: np.concatenate([b.columns[name] for b in blocks])[order] for name in COLUMNS}
        return cls(blocks[0].window_start_ns, blocks[0].window_end_ns, addresses, columns)

    def lookup(self, address: tuple[int, int]) -> dict[str, Any] | None:
        """Return one source's row by its address words (high, low), None where it is not there."""
        high, low = np.uint64(address[0]), np.uint64(address[1])
        first = int(np.searchsorted(self.addresses[:, 0], high, "left"))
        last = int(np.searchsorted(self.addresses[:, 0], high, "right"))
        at = first + int(np.searchsorted(self.addresses[first:last, 1], low, "left"))
        if at == last or self.addresses[at, 1] != low:
            return None
        return next(self._rows(np.array([at])))

    def top(self, count: int, by: str = "estimated_bytes") -> list[dict[str, Any]]:
        """Return the ``count`` sources with most of a column, ties by address; KeyError without it."""
        column = np.asarray(self.columns[by], np.float64 if by == "distance_p999" else np.int64)
        # A stable ascending sort of the negated values leaves equal ones in address order and NaN at the end.
        return list(self._rows(np.argsort(-column, kind="stable")[: max(count, 0)]))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield every source as plain values, in address order; a distance that is not there is None."""
        return self._rows(np.arange(len(self)))

    def _rows(self, index: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        figures = [self.columns[name][index].tolist() for name in COLUMNS]
        for (high, low), *values in zip(self.addresses[index].tolist(), *figures, strict=True):
            row = dict(zip(COLUMNS, values, strict=True))
            if np.isnan(row["distance_p999"]):
                row["distance_p999"] = None
            yield {"src_addr": address_text(high, low), **row}
