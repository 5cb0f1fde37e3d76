"""Pairwise Euclidean distances between the flows of a source, per window, with exact statistics.

Per source and window: least, greatest, mean, quantiles as ``numpy.quantile`` gives them over all pairs, a
mergeable histogram, the farthest pairs, and the flows with most pairs in the tail. On request the pairs of
the tail, or all of them. A source with more than ``flows_max`` flows is sampled, and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flowstream.distance_encoding import NO_LIMIT, Sources, SummaryEncoder, packed_names
from flowstream.distance_kernels import GREATEST, LEAST, MEAN, QUANTILES, THRESHOLD
from flowstream.errors import StateError
from flowstream.features import (
    DEFAULT_FEATURES,
    Scaling,
    check_scaling,
    feature_matrix,
    feature_names,
    sample_groups,
)
from flowstream.grouping import group_rows
from flowstream.operators import Pane, Results
from flowstream.pair_encoding import MS, Flows
from flowstream.pairs import all_blocks, all_records, tail_records, with_distinct_ids
from flowstream.summaries import FLOWS_MAX, Summaries, Wanted, summarise
from flowstream.text_kernels import packed_addresses
from flowstream.windows import Window, Windowing

Pairs = Literal["none", "tail", "all"]
PairForm = Literal["blocks", "records"]
REPORTED = (0.5, 0.9, 0.99, 0.999)  # p50, p90, p99, p999
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
        quantiles = tuple(sorted({*REPORTED, self.tail_quantile}))
        fixed = self.tail_distance is not None
        return Wanted(
            quantiles,
            tail_at=-1 if fixed else quantiles.index(self.tail_quantile),
            threshold=math.inf if self.tail_distance is None else self.tail_distance,
            farthest=self.top_k,
            tail_pairs=self.pairs_max if self.pairs == "tail" else 0,
            busiest=self.tails_max,
        )

    def encoder(self) -> SummaryEncoder:
        """Return what writes the summaries of ``wanted`` as records."""
        quantiles = self.wanted().quantiles
        reported = [QUANTILES + quantiles.index(q) for q in REPORTED]
        figures = (LEAST, GREATEST, MEAN, *reported, THRESHOLD)
        tail_max = self.pairs_max if self.pairs == "tail" else NO_LIMIT
        return SummaryEncoder(self.features, self.scaling, figures, self.top_k, tail_max)


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
        self._encoder = config.encoder()

    @property
    def quiet(self) -> bool:
        """Whether an empty pane changes nothing: always, a window without rows says nothing."""
        return True

    def process(self, panes: Sequence[Pane]) -> list[Results]:
        """Compute the window that ends with the last pane, if one does."""
        window = self._windowing.closing(panes)
        return [] if window is None else list(self._results(window))

    def snapshot(self) -> bytes:
        """Return the state: there is none beside the rows of the lookback."""
        return stateless_snapshot(self.name)

    def restore(self, state: bytes) -> None:
        """Take a snapshot; StateError where it is not this operator's."""
        restore_stateless(self.name, state)

    def _results(self, window: Window) -> Iterator[Results]:
        rows = window.rows
        seen = group_rows(rows.src_addr)
        groups = sample_groups(rows, seen, self.config.flows_max)
        features = feature_matrix(rows, groups, self.config.features, self.config.scaling)
        named = with_distinct_ids(rows, groups)
        packed, bounds = packed_addresses(rows.src_addr[groups.firsts])
        sources = Sources(packed, bounds, groups.bounds, seen.sizes)
        for part in summarise(features, groups.bounds, self._wanted):
            run = slice(part.first_group, part.first_group + len(part.pairs) + 1)
            own = slice(groups.bounds[run][0], groups.bounds[run][-1])
            index = groups.order[own]
            names = packed_names(named, index, self._origin_names)
            yield from self._encoder.results(window, sources, part, *names)
            if self.config.pairs != "none":
                flows = Flows(
                    packed, bounds[run], groups.bounds[run] - own.start, *names, rows.time_ns[index] // MS
                )  # fmt: skip
                yield from self._pairs(window, flows, part, features[:, own])

    def _pairs(self, window: Window, flows: Flows, part: Summaries, features: NDArray[np.float64]) -> Iterator[Results]:
        if self.config.pairs == "tail":
            return tail_records(window, flows, part, self.config.pairs_max)
        every = all_blocks if self.config.pair_form == "blocks" else all_records
        return every(window, flows, features)


def stateless_snapshot(name: str) -> bytes:
    """Return the snapshot of an operator whose only state is the rows it looks back on."""
    return f'{{"operator":"{name}","version":1}}'.encode()


def restore_stateless(name: str, state: bytes) -> None:
    """Raise StateError unless the snapshot is ``stateless_snapshot``'s."""
    if state != stateless_snapshot(name):
        raise StateError(f"not a snapshot of the operator {name}, version 1: {state[:80]!r}")
