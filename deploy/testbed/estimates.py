"""What the samples of a run say of its sources, counted once: the figures that are held against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.testbed.truth import Flow
from flowstream.batch import Array, FlowBatch, address_text
from flowstream.counting import count_once
from flowstream.decode import Payloads, decode
from flowstream.estimate import rate_interval
from flowstream.grouping import group_rows
from flowstream.links import LinkTable
from flowstream.normalise import Normalisation, normalise
from flowstream.recordings import Recording

FRAME_BYTES = 1518  # a full Ethernet frame with its check sequence
SAMPLES_MIN = 5.0  # as talkers': below so many samples of equal weight no number is stated


@dataclass(frozen=True, slots=True)
class SourceEstimate:
    """Bytes that a source sent in a window: estimate, 95 % interval, samples; ``stated`` where they are enough."""

    bytes: float
    low: float
    high: float
    samples: int
    stated: bool


def read_rows(messages: Path) -> FlowBatch:
    """Return the flow records of recorded messages, as the worker has them; FlowstreamError for another file."""
    values = list(Recording(messages, "goflow").messages())
    return normalise(decode("goflow", Payloads.from_values(values)).flows, Normalisation(), None)[0]


def summed_over_agents(rows: FlowBatch) -> dict[str, int]:
    """Return the bytes of every source as the common mistake has them: each switch on the way counts them anew."""
    groups = group_rows(rows.src_addr)
    sums = groups.sum(rows.bytes * rows.sampling_rate.astype(np.int64))
    return {_text(rows.src_addr[first]): int(total) for first, total in zip(groups.firsts, sums, strict=True)}


def source_estimates(rows: FlowBatch, links: LinkTable, window_ns: int) -> Mapping[tuple[int, str], SourceEstimate]:
    """Return the estimates by (window start, source), of the rows that count; ``window_ns`` 0 is one window."""
    rows = rows.take(count_once(rows, links.lookup(rows.exporter, rows.in_if)[1]).counts)
    window = rows.time_ns // window_ns if window_ns else np.zeros(len(rows), np.int64)
    groups = group_rows(window.astype(np.uint64), rows.src_addr)
    rate = rows.sampling_rate.astype(np.float64)
    weight = rows.bytes * rate
    total, squares = groups.sum(weight), groups.sum(weight * weight)
    most = np.maximum.reduceat(weight[groups.order], groups.bounds[:-1]) if len(groups) else weight[:0]
    # One more sample could have been of a full frame, whatever the few that were seen are of: with the largest of
    # those in its place, 91.6 % of stated source-windows hold the truth instead of 96.0 % (docs/testbed.md).
    full = np.maximum.reduceat(rate[groups.order], groups.bounds[:-1]) * FRAME_BYTES if len(groups) else most
    low, high = rate_interval(total, squares, np.maximum(most, full))
    return {
        (int(window[first]) * window_ns, _text(rows.src_addr[first])): SourceEstimate(
            float(total[g]),
            float(low[g]),
            float(high[g]),
            int(groups.sizes[g]),
            bool(total[g] ** 2 >= SAMPLES_MIN * squares[g]),
        )
        for g, first in enumerate(groups.firsts)
    }


def sampled_paths(rows: FlowBatch) -> dict[Flow, list[tuple[str, int, int]]]:
    """Return where each flow was sampled, as (exporter, in_if, out_if) by falling time to live."""
    groups = group_rows(
        rows.src_addr, rows.dst_addr, rows.proto, rows.src_port, rows.dst_port,
        255 - rows.ip_ttl, rows.exporter, rows.in_if, rows.out_if,
    )  # fmt: skip
    found: dict[Flow, list[tuple[str, int, int]]] = {}
    for row in groups.firsts.tolist():
        ports = int(rows.proto[row]), int(rows.src_port[row]), int(rows.dst_port[row])
        flow = Flow(_text(rows.src_addr[row]), _text(rows.dst_addr[row]), *ports)
        found.setdefault(flow, []).append((_text(rows.exporter[row]), int(rows.in_if[row]), int(rows.out_if[row])))
    return found


def _text(words: Array) -> str:
    return address_text(int(words[0]), int(words[1]))
