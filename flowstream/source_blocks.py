"""Blocks of sources: the windows of the table of sources as sorted columns, one row per source.

A block holds sums, so that they can be added up further; what is read from it are estimates with their bounds. A lookup
by address is a binary search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowstream import narrow
from flowstream.batch import Array, address_text
from flowstream.counting import Rule
from flowstream.errors import StateError
from flowstream.estimate import enough_counted, estimates
from flowstream.saturation import whole_bounds

COLUMNS: Final[Mapping[str, str]] = {
    "records": "<i8",
    "flows": "<i8",
    "packets": "<i8",
    "bytes": "<i8",
    "estimated_packets": "<i8",
    "estimated_bytes": "<i8",
    "variance": "<f8",
    "weight_max": "<f8",
    "counted_by": "<i8",
    "in_bytes": "<i8",
    "in_packets": "<i8",
    "dst_addrs": "<i8",
    "distance_p999": "<f8",
}
#: What sources can be ranked by.
FIGURES: Final = tuple(name for name in COLUMNS if name not in ("variance", "weight_max", "counted_by"))
_ESTIMATES: Final = ("estimated_packets", "estimated_bytes")
_BOUNDS: Final = ("estimated_bytes_low", "estimated_bytes_high")
_TOLD: Final = (*FIGURES[:6], *_BOUNDS, "counted_by", *FIGURES[6:])  # of a row, in this order
_SPREAD_MAX: Final = 2.0**127  # what the sums stop below
_BITS: Final = {"<i8": "<i8", "<f8": "<u8"}  # what a type's bits are packed as


def pack(addresses: Array, columns: Mapping[str, Array]) -> dict[str, Any]:
    """Return addresses, ascending, and columns by the names of ``COLUMNS`` as the fields of a block."""
    packed: dict[str, Any] = {"count": len(addresses), "src_addr": narrow.pack_words(addresses)}
    for name, dtype in COLUMNS.items():
        # Numbers with a fraction are packed by their bits: whole numbers that are alike where all are none.
        packed[name] = narrow.pack(columns[name].astype(dtype, copy=False).view(_BITS[dtype]))
    return packed


@dataclass(frozen=True, slots=True)
class SourceBlock:
    """Sources of a window, in address order, read from a result's value."""

    window_start_ns: int
    window_end_ns: int
    samples_min: float  # fewer samples of equal weight make no number
    addresses: NDArray[np.uint64]  # (sources, 2)
    columns: Mapping[str, Array]  # by the names of COLUMNS

    def __len__(self) -> int:
        return len(self.addresses)

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> SourceBlock:
        """Read a block; StateError where lengths disagree, a field is missing, or addresses do not ascend."""
        try:
            count, samples_min = int(value["count"]), float(value["samples_min"])
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
        spread = (np.array(samples_min), columns["variance"], columns["weight_max"])
        if not all(bool(np.all((part >= 0.0) & (part < _SPREAD_MAX))) for part in spread):
            raise StateError("a block of sources with a spread or a floor that is no number of 0 or more")
        high, low = addresses[:, 0], addresses[:, 1]
        after = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
        if not bool(after.all()):
            raise StateError("a block of sources that is not in address order")
        return cls(start_ns, end_ns, samples_min, addresses, columns)

    @classmethod
    def merged(cls, blocks: Sequence[SourceBlock]) -> SourceBlock:
        """Join blocks of one window: its parts, or those of several partitions.

        ValueError where there is none, windows differ, or a source is in two of them: distinct
        destinations and distances of two halves cannot be put together.
        """
        if len({(b.window_start_ns, b.window_end_ns, b.samples_min) for b in blocks}) != 1:
            raise ValueError("only blocks of one window can be merged")
        addresses = np.concatenate([b.addresses for b in blocks])
        order = np.lexsort((addresses[:, 1], addresses[:, 0]))
        addresses = addresses[order]
        if bool(np.any(np.all(addresses[1:] == addresses[:-1], axis=1))):
            raise ValueError("a source is in two of the blocks")
        columns = {name: np.concatenate([b.columns[name] for b in blocks])[order] for name in COLUMNS}
        first = blocks[0]
        return cls(first.window_start_ns, first.window_end_ns, first.samples_min, addresses, columns)

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
        """Return the ``count`` sources with most of a figure, ties by address; KeyError if it is none of ``FIGURES``.

        Those of which it is not known come last, in address order.
        """
        if by not in FIGURES:
            raise KeyError(by)
        column, known = self.columns[by], np.ones(len(self), np.bool_)
        if by in _ESTIMATES:
            known = self._enough()
        elif by == "distance_p999":
            known = ~np.isnan(column)
        # The sort is stable: equal ones stay in address order. Whole numbers of 63 bits do not fit a float.
        least = -np.inf if column.dtype.kind == "f" else np.iinfo(np.int64).min + 1
        return list(self._rows(np.argsort(-np.where(known, column, least), kind="stable")[: max(count, 0)]))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield every source as plain values, in address order; what is not known of it is None."""
        return self._rows(np.arange(len(self)))

    def _enough(self) -> NDArray[np.bool_]:
        """Return of which sources there are enough samples to name a number."""
        sums, variance, weight_max = (self.columns[name] for name in ("estimated_bytes", "variance", "weight_max"))
        return enough_counted(self.columns["flows"], sums.astype(np.float64), variance, weight_max, self.samples_min)

    def _rows(self, index: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        own = {name: column[index] for name, column in self.columns.items()}
        sums, variance, weight_max = (own[name] for name in ("estimated_bytes", "variance", "weight_max"))
        sure = estimates(own["flows"], sums, variance, weight_max, self.samples_min)
        bounds = list(map(whole_bounds, sure.low.tolist(), sure.high.tolist(), sums.tolist()))
        unknown = dict.fromkeys(_ESTIMATES, ~self._enough()[index])
        unknown["distance_p999"] = np.isnan(own["distance_p999"])
        told = {name: own[name].tolist() for name in FIGURES}
        for name, absent in unknown.items():
            told[name] = [None if no else value for value, no in zip(told[name], absent.tolist(), strict=True)]
        for side, name in enumerate(_BOUNDS):
            told[name] = [both[side] for both in bounds]
        told["counted_by"] = [[rule.name for rule in Rule if bits >> rule & 1] for bits in own["counted_by"].tolist()]
        rows = zip(*(told[name] for name in _TOLD), strict=True)
        for (high, low), figures in zip(self.addresses[index].tolist(), rows, strict=True):
            yield {"src_addr": address_text(high, low), **dict(zip(_TOLD, figures, strict=True))}
