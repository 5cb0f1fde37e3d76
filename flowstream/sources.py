"""The table of sources: what each source address sent in a window, in sorted columnar blocks.

A flow that several exporters have seen counts once (``flowstream/counting.py``); ``records`` alone is of all that was
exported.

A window of a partition is one block, and so one message, up to ``SOURCES_PER_BLOCK`` sources; more are in further
blocks, in address order. A lookup by address is a binary search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream import narrow
from flowstream.bare_kernel import bare_njit
from flowstream.batch import Array, FlowBatch, address_text
from flowstream.counting import CountOnce
from flowstream.distance_kernels import QUANTILES
from flowstream.distances import DistancesConfig, restore_stateless, stateless_snapshot
from flowstream.errors import StateError
from flowstream.features import feature_matrix, sample_groups
from flowstream.grouping import group_rows
from flowstream.hashing import count_distinct, number_groups
from flowstream.operators import Pane, Result
from flowstream.saturation import plus, scaled
from flowstream.summaries import Wanted, summarise
from flowstream.windows import Window, Windowing

STREAM = "sources"
#: At up to 88 bytes a source, or 400 in JSON, a block stays below the 16 MB that a message may have.
SOURCES_PER_BLOCK = 1 << 15
COLUMNS: Mapping[str, str] = {
    "records": "<i8",
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


_BITS = {"<i8": "<i8", "<f8": "<u8"}  # what a type's bits are packed as
_SUMS = ("records", "flows", "packets", "bytes", "estimated_packets", "estimated_bytes", "in_bytes", "in_packets")


@bare_njit
def _add_rows(group, counts, packets, sent, rate, in_bytes, in_packets, sums):  # type: ignore[no-untyped-def]
    """Add the rows that count to the sums of their groups, in the order of ``_SUMS``; the first is of all rows."""
    for row in range(len(group)):
        own = group[row]
        sums[own, 0] += 1
        if not counts[row]:
            continue
        times = np.int64(rate[row])
        sums[own, 1] += 1
        sums[own, 2] = plus(sums[own, 2], packets[row])
        sums[own, 3] = plus(sums[own, 3], sent[row])
        sums[own, 4] = plus(sums[own, 4], scaled(packets[row], times))
        sums[own, 5] = plus(sums[own, 5], scaled(sent[row], times))
        sums[own, 6] = plus(sums[own, 6], in_bytes[row])
        sums[own, 7] = plus(sums[own, 7], in_packets[row])


class SourcesOperator:
    """Says ``sources`` once per window with rows, in as many parts as it takes. Keeps no state but its rows."""

    name = "sources"

    def __init__(self, config: SourcesConfig, pane_ns: int, counting: CountOnce) -> None:
        if pane_ns <= 0:
            raise ValueError(f"a pane of {pane_ns} ns has no length")
        self.config = config
        self._windowing = config.windowing()
        self.lookback = self._windowing.lookback
        self._counting = counting
        self._counts: dict[int, NDArray[np.bool_]] = {}  # by the index of a pane of the lookback

    @property
    def quiet(self) -> bool:
        """Whether an empty pane changes nothing: always, a window without rows says nothing."""
        return True

    def process(self, panes: Sequence[Pane]) -> list[Result]:
        """Decide what counts of the last pane, and sum up the window that ends with it, if one does."""
        known = self._counts
        # After a restart there are panes of the lookback that this life has not decided about.
        self._counts = {
            p.index: known[p.index] if p.index in known else self._counting.of(p.rows).counts
            for p in panes
            if len(p.rows)
        }
        window = self._windowing.closing(panes)
        if window is None:
            return []
        rows = window.rows.in_any_order
        group, addresses = number_groups(rows.src_addr)
        counts = np.concatenate([self._counts[p.index] for p in panes if p.start_ns >= window.start_ns and len(p.rows)])
        columns = self._sums(rows, counts, group, len(addresses))
        columns["dst_addrs"] = count_distinct(group, len(addresses), rows.dst_addr)
        columns["distance_p999"] = self._p999(window.rows, len(addresses))
        starts = range(0, len(addresses), SOURCES_PER_BLOCK)
        return [_part(window, number, start, addresses, columns) for number, start in enumerate(starts)]

    def _sums(self, rows: FlowBatch, counts: Array, group: NDArray[np.int64], groups: int) -> dict[str, Array]:
        sums = np.zeros((groups, len(_SUMS)), np.int64)
        _add_rows(group, counts, rows.packets, rows.bytes, rows.sampling_rate, rows.in_bytes, rows.in_packets, sums)
        return dict(zip(_SUMS, np.ascontiguousarray(sums.T), strict=True))

    def _p999(self, rows: FlowBatch, sources: int) -> Array:
        """Return the p99.9 of each source's distances, NaN below two flows; large sources are sampled."""
        found = np.full(sources, np.nan)
        config = self.config.distances
        if config is None:
            return found
        kept = sample_groups(rows, group_rows(rows.src_addr), config.flows_max)
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


def _part(window: Window, number: int, start: int, addresses: Array, columns: Mapping[str, Array]) -> Result:
    """Return the sources of a window from ``start`` on, as many as a block may hold."""
    part = slice(start, start + SOURCES_PER_BLOCK)
    value: dict[str, Any] = {
        "window_start_ns": window.start_ns,
        "window_end_ns": window.end_ns,
        "count": len(addresses[part]),
        "src_addr": narrow.pack_words(addresses[part]),
    }
    for name, dtype in COLUMNS.items():
        # A distance is packed by its bits: whole numbers that are alike where distances are not wanted.
        value[name] = narrow.pack(columns[name][part].astype(dtype, copy=False).view(_BITS[dtype]))
    key = f"{window.start_ns}|{number}" if number else f"{window.start_ns}"
    return Result(STREAM, key, window.end_ns, value)


@dataclass(frozen=True, slots=True)
class SourceBlock:
    """Sources of a window, in address order, read from a result's value."""

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
            narrow.check_words(value["src_addr"], count)
            for name, dtype in COLUMNS.items():
                narrow.check(value[name], count, dtype)
            start_ns, end_ns = int(value["window_start_ns"]), int(value["window_end_ns"])
        except (KeyError, TypeError, ValueError, StateError) as error:
            raise StateError(f"not a block of sources: {error}") from None
        if count > len(value["src_addr"]):  # no two are the same, so each takes a byte at least
            raise StateError(f"not a block of sources: {count} in {len(value['src_addr'])} bytes")
        addresses = narrow.unpack_words(value["src_addr"], count)
        columns = {n: narrow.unpack(value[n], count, _BITS[dtype]).view(dtype) for n, dtype in COLUMNS.items()}
        high, low = addresses[:, 0], addresses[:, 1]
        after = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
        if not bool(after.all()):
            raise StateError("a block of sources that is not in address order")
        return cls(start_ns, end_ns, addresses, columns)

    @classmethod
    def merged(cls, blocks: Sequence[SourceBlock]) -> SourceBlock:
        """Join blocks of one window: its parts, or those of several partitions.

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
