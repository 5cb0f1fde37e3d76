"""Link use alone, without Kafka: 10,000 interfaces, as samples and as flow records, from four flows partitions.

``python -m bench.links_alone INTERVALS`` prints the figures as JSON: in a process of its own, on one thread. Time is
CPU time: of an interval of ten panes, spread and summed up in the first stage, merged and told in the second.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field

import numpy as np

from bench.generate import START_NS
from bench.report import BenchError
from flowstream.batch import FlowBatch, FlowType
from flowstream.link_use import LinkUse, LinkUseConfig
from flowstream.links import LinkTable
from flowstream.operators import Pane
from flowstream.partials import Cube, PartialBatch
from flowstream.wire_load import WireLoadConfig, interface_partials

PANE_NS = 10**9
FLOWS, EXPORTERS, INTERFACES, PARTITIONS = 12_000, 100, 100, 4
LIFE_NS = 60 * PANE_NS
PANES = 10  # of an interval


def links() -> LinkTable:
    """Return the table of links."""
    return LinkTable.from_rows(
        {"exporter": f"10.1.{exporter}.1", "if_index": port, "name": f"p{port}", "speed_bps": 10**10}
        for exporter in range(EXPORTERS)
        for port in range(1, INTERFACES + 1)
    )


def flows(rng: np.random.Generator, start_ns: int, records: bool, rows: int) -> FlowBatch:
    """Return rows of a pane: packet samples, or flow records that lived up to a minute."""
    times = start_ns + np.sort(rng.integers(0, PANE_NS, rows))
    exporter = np.zeros((rows, 2), np.uint64)
    exporter[:, 1] = (0xFFFF_0A01_0001 + (rng.integers(0, EXPORTERS, rows) << 8)).astype(np.uint64)
    return FlowBatch.of(rows, {
        "time_ns": times, "time_flow_end_ns": times, "exporter": exporter, "sampling_rate": np.full(rows, 1000),
        "time_flow_start_ns": times - (rng.integers(0, LIFE_NS, rows) if records else 0),
        "in_if": rng.integers(1, INTERFACES + 1, rows), "out_if": rng.integers(1, INTERFACES + 1, rows),
        "bytes": rng.integers(64, 1500, rows), "packets": np.ones(rows),
        "flow_type": np.full(rows, FlowType.IPFIX if records else FlowType.SFLOW_5),
    })  # fmt: skip


@dataclass
class Run:
    """Intervals of one kind of rows, and what they took."""

    records: bool
    operator: LinkUse = field(default_factory=lambda: LinkUse(LinkUseConfig(), PANE_NS, links()))
    spread_s: list[float] = field(default_factory=list)
    merge_s: list[float] = field(default_factory=list)
    ports: int = 0

    def go(self, intervals: int) -> None:
        """Run so many intervals."""
        rng = np.random.default_rng(1)
        first = START_NS // PANE_NS // PANES * PANES
        for interval in range(intervals):
            spread_s = merge_s = 0.0
            self.ports = 0
            for index in range(first + interval * PANES, first + (interval + 1) * PANES):
                batches = [flows(rng, index * PANE_NS, self.records, FLOWS // PARTITIONS) for _ in range(PARTITIONS)]
                began = time.process_time()
                merged = _merged(index, [_partials(index, p, batch) for p, batch in enumerate(batches)])
                spread = time.process_time()
                said = self.operator.process([merged])
                merge_s += time.process_time() - spread
                spread_s += spread - began
                self.ports += sum(len(r.value["interfaces"]) for r in said if r.stream == "link-use")
            self.spread_s.append(spread_s)
            self.merge_s.append(merge_s)


def _partials(index: int, partition: int, rows: FlowBatch) -> PartialBatch:
    pane = Pane(index, index * PANE_NS, (index + 1) * PANE_NS, rows)
    columns = interface_partials(pane, WireLoadConfig())
    made = len(columns["bytes"])
    return PartialBatch.of(made, {
        **columns, "cube": np.full(made, Cube.INTERFACE), "time_ns": np.full(made, pane.start_ns),
        "origin_id": np.full(made, partition), "origin_offset": np.full(made, index), "origin_row": np.arange(made),
    })  # fmt: skip


def _merged(index: int, parts: list[PartialBatch]) -> Pane[PartialBatch]:
    rows = PartialBatch.concat(parts).in_time_order()
    return Pane(index, index * PANE_NS, (index + 1) * PANE_NS, rows)


def measure(intervals: int) -> dict[str, float]:
    """Measure intervals after those that flow records wait for are filled."""
    found: dict[str, float] = {}
    for kind, records in (("samples", False), ("records", True)):
        run = Run(records)
        run.go(14 + intervals)
        if run.ports < 2 * EXPORTERS * INTERFACES * 0.9:
            raise BenchError(f"{run.ports} ports were told of 20,000")
        found[f"{kind}_spread_s"] = float(np.median(run.spread_s[-intervals:]))
        found[f"{kind}_merge_s"] = float(np.median(run.merge_s[-intervals:]))
        found[f"{kind}_ports"] = run.ports
        found[f"{kind}_state_bytes"] = len(run.operator.snapshot())
    return found


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
