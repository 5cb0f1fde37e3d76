"""Pairwise Euclidean distances between the flows of a source, per window, with exact statistics.

Per source and window: least, greatest, mean, quantiles as ``numpy.quantile`` gives them over all pairs, a
mergeable histogram, the farthest pairs, and the flows with most pairs in the tail. On request the pairs of
the tail, or all of them. A source with more than ``flows_max`` flows is sampled, and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import FlowBatch, address_text
from flowstream.distance_kernels import QUANTILES
from flowstream.errors import StateError
from flowstream.features import (
    DEFAULT_FEATURES,
    Scaling,
    check_scaling,
    feature_matrix,
    feature_names,
    sample_groups,
)
from flowstream.grouping import Groups, group_rows
from flowstream.operators import Pane, Result
from flowstream.pairs import MS, SourceFlows, flow_ids, with_distinct_ids
from flowstream.summaries import FLOWS_MAX, Summaries, Wanted, summarise
from flowstream.windows import Window, Windowing

Pairs = Literal["none", "tail", "all"]
PairForm = Literal["blocks", "records"]
REPORTED = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
RECORDS_FLOWS_MAX = 2001  # two million pairs: beyond, one record per pair is a mistake, not a wish


@dataclass(frozen=True, slots=True)
class DistancesConfig:
    """What to compute. Raises ValueError, with the fix, where settings do not fit together.

    ``features`` are names out of ``features.FEATURES``, or ("all",). The tail are the pairs strictly above
    the ``tail_quantile``, or above ``tail_distance`` where that is given. ``pairs_max`` bounds the pairs of
    the tail that are published one by one, ``flows_max`` the flows of a source that are compared.
    """

    size_panes: int = 3
    step_panes: int = 3
    features: tuple[str, ...] = DEFAULT_FEATURES
    scaling: Scaling = "none"
    top_k: int = 10
    tails_max: int = 10
    pairs: Pairs = "none"
    pair_form: PairForm = "blocks"
    tail_quantile: float = 0.999
    tail_distance: float | None = None
    pairs_max: int = 1000
    flows_max: int = 5000

    def __post_init__(self) -> None:
        Windowing(self.size_panes, self.step_panes)
        object.__setattr__(self, "features", feature_names(self.features))
        check_scaling(self.scaling)
        if self.pairs not in get_args(Pairs):
            raise ValueError(f"pairs {self.pairs!r} is not one of {', '.join(get_args(Pairs))}")
        if self.pair_form not in get_args(PairForm):
            raise ValueError(f"pair_form {self.pair_form!r} is not one of {', '.join(get_args(PairForm))}")
        if not 0.0 < self.tail_quantile < 1.0:
            raise ValueError(f"tail_quantile {self.tail_quantile} is not between 0 and 1")
        if self.tail_distance is not None and not 0.0 <= self.tail_distance < math.inf:
            raise ValueError(f"tail_distance {self.tail_distance} is not a distance")
        if self.top_k < 0 or self.tails_max < 0 or self.pairs_max < 1:
            raise ValueError("top_k and tails_max cannot be negative, pairs_max must be 1 or more")
        if not 2 <= self.flows_max <= FLOWS_MAX:
            raise ValueError(f"flows_max {self.flows_max} is not between 2 and {FLOWS_MAX}")
        if self.pairs == "all" and self.pair_form == "records" and self.flows_max > RECORDS_FLOWS_MAX:
            raise ValueError(
                f"pairs = all as records needs flows_max <= {RECORDS_FLOWS_MAX}, not {self.flows_max}: "
                "lower it, or take pair_form = blocks"
            )

    def wanted(self) -> Wanted:
        """Return what the kernels must compute for this."""
        quantiles = tuple(sorted({*REPORTED.values(), self.tail_quantile}))
        fixed = self.tail_distance is not None
        return Wanted(
            quantiles,
            tail_at=-1 if fixed else quantiles.index(self.tail_quantile),
            threshold=math.inf if self.tail_distance is None else self.tail_distance,
            farthest=self.top_k,
            tail_pairs=self.pairs_max if self.pairs == "tail" else 0,
            busiest=self.tails_max,
        )


class DistancesOperator:
    """Says ``distances`` once per source and window, and the pairs asked for. Keeps no state but its rows."""

    name = "distances"

    def __init__(self, config: DistancesConfig, pane_ns: int, origin_names: Mapping[int, str] | None = None) -> None:
        """``origin_names`` gives ``topic-partition`` by origin id; it is read, not copied, and may grow."""
        if pane_ns <= 0:
            raise ValueError(f"a pane of {pane_ns} ns has no length")
        self.config = config
        self._windowing = Windowing(config.size_panes, config.step_panes)
        self.lookback = self._windowing.lookback
        self._origin_names: Mapping[int, str] = {} if origin_names is None else origin_names
        self._wanted = config.wanted()

    @property
    def quiet(self) -> bool:
        """Whether an empty pane changes nothing: always, a window without rows says nothing."""
        return True

    def process(self, panes: Sequence[Pane]) -> list[Result]:
        """Compute the window that ends with the last pane, if one does."""
        window = self._windowing.closing(panes)
        return [] if window is None else list(self._results(window))

    def snapshot(self) -> bytes:
        """Return the state: there is none beside the rows of the lookback."""
        return stateless_snapshot(self.name)

    def restore(self, state: bytes) -> None:
        """Take a snapshot; StateError where it is not this operator's."""
        restore_stateless(self.name, state)

    def _results(self, window: Window) -> Iterator[Result]:
        rows = window.rows
        seen = group_rows(rows.src_addr)
        groups = sample_groups(rows, seen, self.config.flows_max)
        features = feature_matrix(rows, groups, self.config.features, self.config.scaling)
        named = with_distinct_ids(rows, groups)
        flows_seen = seen.sizes.tolist()
        addresses = [address_text(high, low) for high, low in rows.src_addr[groups.firsts].tolist()]
        for part in summarise(features, groups.bounds, self._wanted):
            names = self._names(named, groups, part)
            values = _values(part, names, self.config)
            for g, value in enumerate(values, part.first_group):
                a, b = int(groups.bounds[g]), int(groups.bounds[g + 1])
                value |= {
                    "src_addr": addresses[g],
                    "window_start_ns": window.start_ns,
                    "window_end_ns": window.end_ns,
                    "flows": b - a,
                    "flows_seen": flows_seen[g],
                    "sampled": flows_seen[g] > b - a,
                }
                yield Result("distances", f"{window.start_ns}|{addresses[g]}", window.end_ns, value)
                if self.config.pairs != "none" and b - a > 1:
                    ids = flow_ids(named, groups.order[a:b], self._origin_names)
                    times_ms = (rows.time_ns[groups.order[a:b]] // MS).tolist()
                    own = SourceFlows(window, addresses[g], ids, times_ms)
                    yield from self._pairs(own, features[:, a:b], part, g - part.first_group)

    def _names(self, rows: FlowBatch, groups: Groups, part: Summaries) -> _Names:
        """Name the flows that a run of summaries speaks of, each once."""
        own, columns = np.arange(len(part.pairs)), part.columns
        starts = groups.bounds[part.first_group :]
        far = starts[np.repeat(own, np.diff(columns.far_bounds))]
        first, second = far + columns.far_first, far + columns.far_second
        busy = starts[np.repeat(own, np.diff(columns.busy_bounds))] + columns.busy_flow
        listed = np.arange(len(busy)) - np.repeat(columns.busy_bounds[:-1], np.diff(columns.busy_bounds))
        busy = np.where(listed < np.repeat(columns.busy_used, np.diff(columns.busy_bounds)), busy, 0)
        places, position = np.unique(np.concatenate([first, second, busy]), return_inverse=True)
        texts = flow_ids(rows, groups.order[places], self._origin_names)
        named = [texts[at] for at in position.tolist()]
        cut = len(first)
        return _Names(named[:cut], named[cut : 2 * cut], named[2 * cut :])

    def _pairs(self, flows: SourceFlows, features: NDArray[np.float64], part: Summaries, own: int) -> Iterator[Result]:
        if self.config.pairs == "all":
            yield from (flows.blocks(features) if self.config.pair_form == "blocks" else flows.all_pairs(features))
            return
        first = int(part.columns.far_bounds[own])
        run = slice(first, first + min(int(part.columns.above[own]), self.config.pairs_max))
        listed = (part.columns.far_first, part.columns.far_second, part.columns.far_distance)
        for i, j, distance in zip(*(c[run].tolist() for c in listed), strict=True):
            yield flows.pair(i, j, distance)


@dataclass(frozen=True, slots=True)
class _Names:
    far_first: list[str]
    far_second: list[str]
    busy: list[str]


def _values(part: Summaries, names: _Names, config: DistancesConfig) -> Iterator[dict[str, Any]]:
    """Yield the statistics of each group of a run as plain values."""
    wanted = config.wanted()
    out = part.columns
    columns = {name: QUANTILES + wanted.quantiles.index(q) for name, q in REPORTED.items()}
    columns = {"min": 0, "max": 1, "mean": 2, "tail_threshold": 3, **columns}
    statistics = out.statistics.tolist()
    pairs, above, used = part.pairs.tolist(), out.above.tolist(), out.busy_used.tolist()
    far, busy, packed = out.far_bounds.tolist(), out.busy_bounds.tolist(), part.bin_bounds.tolist()
    distances, busy_pairs = out.far_distance.tolist(), out.busy_pairs.tolist()
    bins = out.bins[: packed[-1]].astype("<u2").tobytes()
    counts = out.counts[: packed[-1]].astype("<i8").tobytes()
    features = list(config.features)
    for g, figures in enumerate(statistics):
        top = range(far[g], min(far[g] + config.top_k, far[g + 1]))
        a, b = packed[g], packed[g + 1]
        yield {
            "features": features,
            "scaling": config.scaling,
            "pairs": pairs[g],
            **{name: figures[at] if pairs[g] else None for name, at in columns.items()},
            "tail_pairs": above[g],
            "pairs_truncated": config.pairs == "tail" and above[g] > config.pairs_max,
            "histogram": {"bins": bins[2 * a : 2 * b], "counts": counts[8 * a : 8 * b]},
            "top": [{"id_1": names.far_first[t], "id_2": names.far_second[t], "distance": distances[t]} for t in top],
            "tails": [{"id": names.busy[t], "pairs": busy_pairs[t]} for t in range(busy[g], busy[g] + used[g])],
        }


def stateless_snapshot(name: str) -> bytes:
    """Return the snapshot of an operator whose only state is the rows it looks back on."""
    return f'{{"operator":"{name}","version":1}}'.encode()


def restore_stateless(name: str, state: bytes) -> None:
    """Raise StateError unless the snapshot is ``stateless_snapshot``'s."""
    if state != stateless_snapshot(name):
        raise StateError(f"not a snapshot of the operator {name}, version 1: {state[:80]!r}")
