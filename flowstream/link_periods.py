"""Hours and days of link use: the largest values of each port with their bounds, and what is told at the end.

Where low_i <= true_i <= high_i holds of every value, it holds of any rank as well: the r-th largest of the lows is not
above the r-th largest of the truth, nor is that above the r-th largest of the highs. So the largest of each are kept.

That all n values of a period lie within their bounds at once is to hold in 95 of 100 periods, so those of each are at
1 - 5 % / n (Bonferroni), whatever their dependence. At 95 % each, one of forty would be too high by chance, and the
largest of hundreds of a constant load almost surely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowstream.bare_kernel import bare_njit
from flowstream.batch import address_text
from flowstream.cube_sums import Sums
from flowstream.estimate import Floats, rate_interval
from flowstream.export_loss import SUM_MAX, corrected
from flowstream.link_ports import Ports
from flowstream.link_results import PERCENTILES
from flowstream.link_state import HIGH, LOAD, LOW, Integers, LinkState
from flowstream.operators import Result
from flowstream.recent_losses import Missing

SECOND_NS = 10**9
SPAN_NS, HOUR_NS, DAY_NS = 300 * SECOND_NS, 3600 * SECOND_NS, 86_400 * SECOND_NS
ERROR = 0.05  # of all bounds of a period together


@dataclass(frozen=True, slots=True)
class Period:
    """An hour or a day that is over, and the length of the values whose percentile is told, in nanoseconds."""

    name: str
    start_ns: int
    end_ns: int
    value_ns: int


def add_interval(
    state: LinkState, at: Integers, ports: NDArray[np.void], sums: Sums, missing: Missing, interval_ns: int
) -> None:
    """Add an interval of the ports ``at``, whose records are ``ports``, to their hours and to their running spans.

    ``sums`` and ``missing`` are of each port.
    """
    busy, factor = sums.counts[:, 2] > 0, missing.correction
    highest = np.maximum(factor, missing.widening)
    values = _values(sums.counts[:, 0], sums.spread[:, 0], ports["weight_max"], factor, highest, interval_ns, HOUR_NS)
    keep_largest(at[busy], values[busy], state.hours)
    ports["hour_busy"] += busy
    sent = corrected(sums.counts[:, 0], factor)
    ports["span_bytes"] = np.minimum(ports["span_bytes"], SUM_MAX - sent) + sent
    ports["span_variance"] += sums.spread[:, 0] * factor * factor
    ports["span_weight_max"] = np.maximum(ports["span_weight_max"], ports["weight_max"] * factor)
    ports["span_widening"] = np.maximum(ports["span_widening"], highest / factor)
    ports["silent_weight"] = ports["weight_max"] * highest


def end_spans(state: LinkState, at: Integers) -> None:
    """Add the running spans of the ports ``at`` to their days, as one value each, and begin new ones."""
    ports = state.ports[at]
    busy, spans = ports["span_bytes"] > 0, ("span_bytes", "span_variance", "span_weight_max", "span_widening")
    sent, variance, weight_max, widening = (ports[name] for name in spans)
    values = _values(sent, variance, weight_max, np.ones(len(at)), widening, SPAN_NS, DAY_NS)
    keep_largest(at[busy], values[busy], state.days)
    ports["day_busy"] += busy
    for name in spans:
        ports[name] = 0
    state.ports[at] = ports


def percentiles(period: Period, ports: NDArray[np.void], first_ns: Integers, largest: Integers, table: Ports) -> Result:
    """Return the record of one exporter's ports, which had their first traffic at ``first_ns``.

    ``largest`` holds of each port the largest of its values, and zeros where there were fewer. The percentile is the
    nearest rank: of n values the ceil(0.95 n)-th smallest. Of what was sampled a value without a sample is 0, but its
    upper bound is not.
    """
    begun = np.maximum(first_ns, period.start_ns) // period.value_ns
    count = period.end_ns // period.value_ns - begun
    kept = np.arange(largest.shape[2])
    nothing, one = np.zeros(len(ports)), np.ones(len(ports))
    lengths = period.value_ns, period.end_ns - period.start_ns
    silent_bps = _values(nothing, nothing, ports["silent_weight"], one, one, *lengths)[:, HIGH]
    is_silent = kept < (count - ports[f"{period.name}_busy"])[:, None]
    highs = np.concatenate([largest[:, HIGH], np.where(is_silent, silent_bps[:, None], 0)], axis=1)
    descending = [-np.sort(-values, axis=1)[:, : len(kept)] for values in (largest[:, LOAD], largest[:, LOW], highs)]
    rank = np.minimum(count // 20, len(kept) - 1)
    keys = ports["key"]
    figures = [values[np.arange(len(keys)), place].tolist() for place in (rank, rank * 0) for values in descending]
    names = [f"{figure}{bound}_bps" for figure in ("p95", "max") for bound in ("", "_low", "_high")]
    interfaces = []
    columns = (table.labels(keys), zip(*figures, strict=True), count.tolist(), table.link_bps(keys).tolist())
    for label, bits, values, link_bps in zip(*columns, strict=True):
        share = bits[0] / link_bps if link_bps else None
        told = dict(zip(names, bits, strict=True))
        interfaces.append({**label, **told, "values": values, "link_bps": link_bps or None, "share": share})
    high, low = keys[0, :2].tolist()
    text = address_text(high, low)
    value = {
        "exporter": text,
        "node": table.node(high, low),
        "period": period.name,
        "window_start_ns": period.start_ns,
        "window_end_ns": period.end_ns,
        "value_ns": period.value_ns,
        "interfaces": interfaces,
    }
    return Result(PERCENTILES, f"{period.start_ns}|{period.name}|{text}", period.end_ns, value)


def _values(
    sent: ArrayLike, variance: Floats, weight_max: Floats, factor: Floats, highest: Floats, value_ns: int, of_ns: int
) -> Integers:
    """Return values of a period of ``of_ns`` with their bounds, (n, 3), in bits per second, bounds rounded outwards.

    The value and its lower bound are multiplied by ``factor``, the upper one by ``highest``.
    """
    bits = 8.0 * SECOND_NS / value_ns
    rate, deviation = np.asarray(sent) * bits, variance * bits * bits
    low, high = rate_interval(rate, deviation, weight_max * bits, 1.0 - ERROR * value_ns / of_ns)
    # Without a sampled weight nothing was sampled, so a sum of zero is zero and not unknown.
    told = (np.rint(rate * factor), np.floor(low * factor), np.ceil(np.nan_to_num(high, nan=0.0) * highest))
    return np.asarray(np.minimum(np.stack(told, axis=1), SUM_MAX), np.int64)


@bare_njit
def keep_largest(place, values, largest):  # type: ignore[no-untyped-def]
    """Put each of a port's values in the place of the least of its own kind, where it is larger."""
    for n in range(len(place)):
        for kind in range(values.shape[1]):
            kept = largest[place[n], kind]
            least = 0
            for column in range(1, len(kept)):
                if kept[column] < kept[least]:
                    least = column
            kept[least] = max(kept[least], values[n, kind])
