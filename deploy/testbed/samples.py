"""What a run's samples say by themselves: the mistake of summing over agents, and paths as sampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deploy.testbed.truth import Flow
from flowstream.batch import Array, FlowBatch, address_text
from flowstream.decode import Payloads, decode
from flowstream.grouping import group_rows
from flowstream.normalise import Normalisation, normalise
from flowstream.recordings import Recording


def read_rows(messages: Path) -> FlowBatch:
    """Return the flow records of recorded messages, as the worker has them; FlowstreamError for another file."""
    values = list(Recording(messages, "goflow").messages())
    return normalise(decode("goflow", Payloads.from_values(values)).flows, Normalisation(), None)[0]


def summed_over_agents(rows: FlowBatch) -> dict[str, int]:
    """Return the bytes of every source as the common mistake has them: each switch on the way counts them anew."""
    groups = group_rows(rows.src_addr)
    sums = groups.sum(rows.bytes * rows.sampling_rate.astype(np.int64))
    return {_text(rows.src_addr[first]): int(total) for first, total in zip(groups.firsts, sums, strict=True)}


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
