"""What is said of a window's talkers: per cube and ranking the largest keys, readable, with how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import address_text
from flowstream.counting import Rule
from flowstream.estimate import estimates
from flowstream.export_loss import lost_share
from flowstream.operators import Result
from flowstream.partials import Cube
from flowstream.saturation import COUNT_MAX, whole_bounds
from flowstream.talker_tables import MEASURES, Table, Whole, spread_of

STREAM = "talkers"


@dataclass(frozen=True, slots=True)
class By:
    """A way to group: its cube, how many words a key has, and the fields they are."""

    cube: Cube
    words: int
    fields: Callable[[Sequence[int]], dict[str, Any]]


def _conversation(key: Sequence[int]) -> dict[str, Any]:
    ends = {"src_addr": address_text(*key[:2]), "dst_addr": address_text(*key[2:4])}
    return ends | {"src_port": key[4] >> 32 & 0xFFFF, "dst_port": key[4] >> 8 & 0xFFFF, "proto": key[4] & 0xFF}


WAYS: Mapping[str, By] = {
    "source": By(Cube.SOURCE, 2, lambda key: {"src_addr": address_text(*key)}),
    "destination": By(Cube.DESTINATION, 2, lambda key: {"dst_addr": address_text(*key)}),
    "pair": By(
        Cube.PAIR, 4, lambda key: {"src_addr": address_text(*key[:2]), "dst_addr": address_text(*key[2:])}
    ),
    "conversation": By(Cube.CONVERSATION, 5, _conversation),
    "port": By(Cube.PORT, 1, lambda key: {"proto": key[0] >> 16 & 0xFF, "port": key[0] & 0xFFFF}),
    "protocol": By(Cube.PROTOCOL, 1, lambda key: {"proto": key[0] & 0xFF}),
    "as": By(Cube.AS, 1, lambda key: {"src_as": key[0] >> 32, "dst_as": key[0] & 0xFFFF_FFFF}),
    "interface": By(
        Cube.EXPORTER_INTERFACE, 3, lambda key: {"exporter": address_text(*key[:2]), "in_if": key[2]}
    ),
}  # fmt: skip
#: Every field that a key may have; a key's others are null.
FIELDS = (
    "src_addr", "dst_addr", "src_port", "dst_port", "proto", "port", "src_as", "dst_as", "exporter", "in_if",
)  # fmt: skip
_NO_FIELDS = dict.fromkeys(FIELDS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """By what keys are ranked, how many are said, and on how many samples of equal weight a number must rest."""

    rank: tuple[str, ...] = MEASURES
    count: int = 20
    samples_min: float = 4.0


@dataclass(frozen=True, slots=True)
class Span:
    """A window in nanoseconds, and from when on its rows are known: later where the log began within it."""

    start_ns: int
    end_ns: int
    covered_from_ns: int


def seconds_text(length_ns: int) -> str:
    """Return a length in seconds as short as it goes: ``60``, ``0.25``."""
    whole, rest = divmod(length_ns, 1_000_000_000)
    return f"{whole}.{rest:09d}".rstrip("0") if rest else str(whole)


@dataclass(frozen=True, slots=True)
class Scale:
    """By what the sums of a window are multiplied for what never came, as ratios of bytes: the same for all keys.

    So ranks and shares are those of what came. Whole numbers, for the sums are, and stay exact where nothing was lost.
    """

    came: int
    known: int  # with what is known to be lost
    possible: int  # with all that may be

    @classmethod
    def of(cls, window: Table) -> Scale:
        """Return that of a window; one where no bytes came that it could be measured by."""
        came = window.totals[0]
        return cls(came, *(came + lost for lost in window.lost)) if came else _AS_THEY_CAME

    def estimate(self, total: int) -> int:
        """Return what was sent of something of which so much came, to the nearest; at most ``COUNT_MAX``."""
        return min((2 * total * self.known + self.came) // (2 * self.came), COUNT_MAX)

    def most(self, total: int) -> int:
        """Return how much it may have been, rounded up; likewise."""
        return min(-(-total * self.possible // self.came), COUNT_MAX)


_AS_THEY_CAME = Scale(1, 1, 1)


def said(by: str, span: Span, window: Table, steps: Sequence[Table], wanted: Wanted) -> list[Result]:
    """Return the results of a window, one per ranking; ``steps`` are the tables it is the sum of, in time order."""
    tops = [window.top(MEASURES.index(ranking), wanted.count) for ranking in wanted.rank]
    places = np.unique(np.concatenate(tops))
    scale, whole = Scale.of(window), Whole.of(steps)
    keys = window.keys[places]
    spread = np.concatenate([spread_of(keys, steps), [[whole.variance, whole.weight_max]]])
    *of_keys, of_all = _figures([*window.sums[places].tolist(), window.totals], spread, wanted.samples_min, scale)
    error = scale.most(window.errors[0])
    entries = [
        {**_NO_FIELDS, **WAYS[by].fields(key), **own, "bytes_high": min(own["bytes_high"] + error, COUNT_MAX)}
        for key, own in zip(keys.tolist(), of_keys, strict=True)
    ]
    header = _header(by, span, window, whole, scale) | of_all
    results = []
    for ranking, top in zip(wanted.rank, tops, strict=True):
        measure = MEASURES.index(ranking)
        total = None if of_all[ranking] is None else window.totals[measure]
        ranked = zip(np.searchsorted(places, top).tolist(), window.sums[top, measure].tolist(), strict=True)
        shown = [
            {**entries[at], "share": None if total is None or entries[at][ranking] is None else came / total}
            for at, came in ranked
        ]
        key = f"{span.start_ns}|{seconds_text(span.end_ns - span.start_ns)}|{by}|{ranking}"
        results.append(Result(STREAM, key, span.end_ns, {**header, "ranked_by": ranking, "top": shown}))
    return results


def _figures(
    sums: Sequence[Sequence[int]], spread: NDArray[np.float64], samples_min: float, scale: Scale
) -> list[dict[str, Any]]:
    """Return what is said of sums, each of bytes, packets and records, by the variance and largest weight of each."""
    samples = np.array([min(records, COUNT_MAX) for *_, records in sums], np.int64)
    sent = np.array([came for came, *_ in sums], np.float64)
    factors = (scale.known / scale.came, scale.possible / scale.came)
    sure = estimates(samples, sent, spread[:, 0], spread[:, 1], samples_min, *factors)
    is_sure = (~np.isnan(sure.estimate)).tolist()
    figures = []
    for (came, packets, records), named, low, high in zip(
        sums, is_sure, sure.low.tolist(), sure.high.tolist(), strict=True
    ):
        estimate = scale.estimate(came)
        bounds = whole_bounds(low, high, estimate)
        figures.append({
            "bytes": estimate if named else None,
            "bytes_low": bounds[0],
            "bytes_high": bounds[1],
            "packets": scale.estimate(packets) if named else None,
            "records": min(records, COUNT_MAX),
        })  # fmt: skip
    return figures


def _header(by: str, span: Span, window: Table, whole: Whole, scale: Scale) -> dict[str, Any]:
    errors = zip(MEASURES, (scale, scale, _AS_THEY_CAME), window.errors, strict=True)
    return {
        "window_start_ns": span.start_ns,
        "window_end_ns": span.end_ns,
        "covered_from_ns": span.covered_from_ns,
        "by": by,
        "counted_by": [rule.name for rule in Rule if whole.rules >> rule & 1],
        "keys": len(window),
        "correction": scale.known / scale.came,
        "lost_share": float(lost_share(scale.possible / scale.came)),
        **{f"{measure}_error_max": own.most(error) for measure, own, error in errors},
    }
