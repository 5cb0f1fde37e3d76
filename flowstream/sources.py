"""The table of sources: what each source address sent in a window, in sorted columnar blocks.

A flow that several exporters have seen counts once (``flowstream/counting.py``); ``records`` alone is of all that was
exported.

A window of a partition is one block (``flowstream/source_blocks.py``), and so one message, up to ``SOURCES_PER_BLOCK``
sources; more are in further blocks, in address order.

All sums are of whole numbers, so that no order of the rows changes them: the variance too, which is of 126 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import bare_njit, inline_njit
from flowstream.batch import Array, FlowBatch
from flowstream.counting import CountOnce
from flowstream.distance_kernels import QUANTILES
from flowstream.distances import DistancesConfig, restore_stateless, stateless_snapshot
from flowstream.features import feature_matrix, sample_groups
from flowstream.grouping import group_rows
from flowstream.hashing import count_distinct, number_groups
from flowstream.operators import Pane, Result
from flowstream.saturation import COUNT_MAX, plus, scaled
from flowstream.source_blocks import pack
from flowstream.spread import by_packets, samples_of, variance_of, weight_max_of
from flowstream.summaries import Wanted, summarise
from flowstream.windows import Window, Windowing

STREAM = "sources"
#: At up to 112 bytes a source, or 480 in JSON, a block stays below the 16 MB that a message may have.
SOURCES_PER_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class SourcesConfig:
    """Window length and step in panes; ``distances`` None leaves out the distance column (all NaN).

    An estimate that rests on less than ``samples_min`` samples of equal weight is not read as a number.
    """

    size_panes: int = 10
    step_panes: int | None = None  # None: tumbling
    distances: DistancesConfig | None = field(default_factory=DistancesConfig)
    samples_min: float = 4.0

    def windowing(self) -> Windowing:
        """Return the windows; ValueError where there can be none."""
        return Windowing(self.size_panes, self.size_panes if self.step_panes is None else self.step_panes)


_SUMS = ("records", "flows", "packets", "bytes", "estimated_packets", "estimated_bytes", "in_bytes", "in_packets")
#: Behind those: the words of the variance, the higher first, the largest weight of one more sample (a float), and bits.
_HIGH, _LOW, _LARGEST, _RULES = range(len(_SUMS), len(_SUMS) + 4)
_WORD = 2.0**63
_COUNTS = 0x80  # of what was decided about a row: that it counts; the other bits are 1 << Rule


@bare_njit
def _add_rows(group, decided, packets, sent, rate, by_packet, in_bytes, in_packets, sums, floats):  # type: ignore[no-untyped-def]
    """Add the rows that count to the sums of their groups, in the order of ``_SUMS``; the first is of all rows.

    So are the rules. ``floats`` is ``sums``, read as such.
    """
    for row in range(len(group)):
        own, times = group[row], np.int64(rate[row])
        sums[own, 0] += 1
        sums[own, _RULES] |= decided[row] & ~_COUNTS
        if not decided[row] & _COUNTS:
            # Of a source of which nothing counts it is still known how large a sample could have been.
            if sums[own, 1] == 0:
                weight, samples = float(sent[row]) * float(times), samples_of(packets[row], by_packet[row])
                floats[own, _LARGEST] = max(floats[own, _LARGEST], weight_max_of(weight, samples, times))
            continue
        if sums[own, 1] == 0:
            floats[own, _LARGEST] = 0.0
        if times > 1:
            weight, samples = float(sent[row]) * float(times), samples_of(packets[row], by_packet[row])
            _add_variance(sums[own], variance_of(weight, samples, times))
            floats[own, _LARGEST] = max(floats[own, _LARGEST], weight_max_of(weight, samples, times))
        sums[own, 1] += 1
        sums[own, 2] = plus(sums[own, 2], packets[row])
        sums[own, 3] = plus(sums[own, 3], sent[row])
        sums[own, 4] = plus(sums[own, 4], scaled(packets[row], times))
        sums[own, 5] = plus(sums[own, 5], scaled(sent[row], times))
        sums[own, 6] = plus(sums[own, 6], in_bytes[row])
        sums[own, 7] = plus(sums[own, 7], in_packets[row])


@inline_njit
def _add_variance(sums, variance):  # type: ignore[no-untyped-def]
    """Add a variance, rounded down, to one in two words of 63 bits."""
    variance = min(variance, _WORD * (_WORD / 2))
    high = np.int64(variance / _WORD)
    low = sums[_LOW] + np.int64(variance - float(high) * _WORD)
    if low < 0:  # the word was full, and the sum has gone into the sign
        low, high = low & np.int64(COUNT_MAX), high + 1
    sums[_LOW], sums[_HIGH] = low, plus(sums[_HIGH], high)


class _Known(NamedTuple):
    """What was found out about a pane's rows, in any order, when it closed."""

    decided: NDArray[np.uint8]
    number: NDArray[np.uint32]  # each row's source, which is a place in ``addresses``
    addresses: Array


def _joined(panes: Sequence[_Known]) -> tuple[NDArray[np.uint8], NDArray[np.int64], Array]:
    """Return what was decided about the rows of panes, their sources in address order, and the addresses."""
    source, addresses = number_groups(np.concatenate([pane.addresses for pane in panes]))
    ends = np.cumsum([len(pane.addresses) for pane in panes])[:-1]
    numbers = [own[pane.number] for own, pane in zip(np.split(source, ends), panes, strict=True)]
    return np.concatenate([pane.decided for pane in panes]), np.concatenate(numbers), addresses


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
        self._known: dict[int, _Known] = {}  # by the index of a pane of the lookback

    @property
    def quiet(self) -> bool:
        """Whether an empty pane changes nothing: always, a window without rows says nothing."""
        return True

    def process(self, panes: Sequence[Pane]) -> list[Result]:
        """Decide what counts of the last pane, and sum up the window that ends with it, if one does."""
        known = self._known
        # After a restart there are panes of the lookback that this life has not decided about.
        self._known = {
            p.index: known[p.index] if p.index in known else self._learn(p.rows) for p in panes if len(p.rows)
        }
        window = self._windowing.closing(panes)
        if window is None:
            return []
        rows = window.rows.in_any_order
        decided, group, addresses = _joined(
            [self._known[p.index] for p in panes if p.start_ns >= window.start_ns and len(p.rows)]
        )
        columns = _sums(rows, decided, group, len(addresses))
        columns["dst_addrs"] = count_distinct(group, len(addresses), rows.dst_addr)
        columns["distance_p999"] = self._p999(window.rows, len(addresses))
        starts = range(0, len(addresses), SOURCES_PER_BLOCK)
        return [self._part(window, number, start, addresses, columns) for number, start in enumerate(starts)]

    def _learn(self, rows: FlowBatch) -> _Known:
        sources, counted = self._counting.sources(rows), self._counting.of(rows)
        decided = np.uint8(1) << counted.rule | np.where(counted.counts, np.uint8(_COUNTS), np.uint8(0))
        return _Known(decided, sources.number.astype(np.uint32), sources.addresses)

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

    def _part(self, window: Window, number: int, start: int, addresses: Array, columns: Mapping[str, Array]) -> Result:
        """Return the sources of a window from ``start`` on, as many as a block may hold."""
        part = slice(start, start + SOURCES_PER_BLOCK)
        value = {
            "window_start_ns": window.start_ns,
            "window_end_ns": window.end_ns,
            "samples_min": self.config.samples_min,
            **pack(addresses[part], {name: column[part] for name, column in columns.items()}),
        }
        key = f"{window.start_ns}|{number}" if number else f"{window.start_ns}"
        return Result(STREAM, key, window.end_ns, value)

    def snapshot(self) -> bytes:
        """Return the state: there is none beside the rows of the lookback."""
        return stateless_snapshot(self.name)

    def restore(self, state: bytes) -> None:
        """Take a snapshot; StateError where it is not this operator's."""
        restore_stateless(self.name, state)


def _sums(rows: FlowBatch, decided: Array, group: NDArray[np.int64], groups: int) -> dict[str, Array]:
    sums = np.zeros((groups, _RULES + 1), np.int64)
    _add_rows(
        group, decided, rows.packets, rows.bytes, rows.sampling_rate, by_packets(rows), rows.in_bytes, rows.in_packets,
        sums, sums.view(np.float64),
    )  # fmt: skip
    columns = np.ascontiguousarray(sums.T)
    variance = columns[_HIGH] * _WORD + columns[_LOW]
    return dict(zip(_SUMS, columns, strict=False)) | {
        "variance": variance, "weight_max": columns[_LARGEST].view(np.float64), "counted_by": columns[_RULES],
    }  # fmt: skip
