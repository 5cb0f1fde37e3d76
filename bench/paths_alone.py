"""Packet paths alone, without Kafka: 12,000 flows a second over a CLOS fabric, each seen at three switches.

``python -m bench.paths_alone REPEATS`` prints the figures as JSON: in a process of its own, on one thread. Time is that
of all panes of a window, with what counts decided for paths alone, and of the state's snapshot; every repeat begins
with an operator that knows no way.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from bench.generate import START_NS
from bench.report import BenchError
from flowstream.batch import FlowBatch
from flowstream.counting import CountOnce
from flowstream.links import LinkTable
from flowstream.operators import Pane
from flowstream.paths import PathsConfig, PathsOperator
from flowstream.topology import Topology

PANE_NS, PANES = 10**9, 10
FLOWS_PER_S, SPINES, LEAVES = 12_000, 8, 32
FLOWS_TOLD = 1000
V4 = np.uint64(0xFFFF_0000_0000)
LEAF, SPINE = 0x0AFF_0000, 0x0AFE_0000  # exporters' addresses


def tables() -> tuple[LinkTable, Topology]:
    """Return the fabric: leaf l's port 1 is its host's, 2 + s leads to spine s, whose port 1 + l leads to leaf l."""
    links, cables = [], []
    for leaf in range(LEAVES):
        links += [_link("leaf", f"10.255.0.{leaf}", leaf, port) for port in range(1, SPINES + 2)]
        cables.append(("leaf", leaf, 1, f"host{leaf}", ""))
        cables += [("leaf", leaf, 2 + s, f"spine{s}", f"p{1 + leaf}") for s in range(SPINES)]
    for s in range(SPINES):
        links += [_link("spine", f"10.254.0.{s}", s, port) for port in range(1, LEAVES + 1)]
    rows = [
        {"node": f"{kind}{n}", "port": f"p{port}", "peer": peer, "peer_port": end}
        for kind, n, port, peer, end in cables
    ]
    return LinkTable.from_rows(links), Topology.from_rows(rows)


def _link(kind: str, exporter: str, number: int, port: int) -> dict[str, object]:
    edge = kind == "leaf" and port == 1
    return {"exporter": exporter, "if_index": port, "name": f"p{port}", "speed_bps": 10**10, "edge": edge,
            "node": f"{kind}{number}"}  # fmt: skip


def window() -> list[Pane]:
    """Return the panes of a window."""
    rng = np.random.default_rng(1)
    panes = []
    for index in range(START_NS // PANE_NS // PANES * PANES, START_NS // PANE_NS // PANES * PANES + PANES):
        flows = FLOWS_PER_S
        a, spine = rng.integers(0, LEAVES, flows), rng.integers(0, SPINES, flows)
        b = (a + rng.integers(1, LEAVES, flows)) % LEAVES
        hops = np.stack([LEAF + a, SPINE + spine, LEAF + b])
        into, out = np.stack([1 + 0 * a, 1 + a, 2 + spine]), np.stack([2 + spine, 1 + b, 1 + 0 * a])
        source, n = (0x0A00_0001 + a * 256 + rng.integers(0, 200, flows)), 3 * flows
        columns = {
            "time_ns": np.sort(index * PANE_NS + rng.integers(0, PANE_NS, n)), "origin_offset": np.arange(n),
            "src_addr": _addresses(np.tile(source, 3)), "dst_addr": _addresses(np.tile(0x0A00_0001 + b * 256, 3)),
            "src_port": np.tile(rng.integers(1024, 65_000, flows), 3), "dst_port": np.full(n, 443),
            "proto": np.full(n, 6), "exporter": _addresses(hops.ravel()), "in_if": into.ravel(),
            "out_if": out.ravel(), "ip_ttl": np.repeat([64, 63, 62], flows),
            "bytes": np.tile((rng.pareto(1.1, flows) * 1000).astype(np.int64) + 64, 3), "packets": np.ones(n),
            "sampling_rate": np.full(n, 1000), "flow_type": np.ones(n),
        }  # fmt: skip
        panes.append(Pane(index, index * PANE_NS, (index + 1) * PANE_NS, FlowBatch.of(n, columns)))
    return panes


def _addresses(numbers: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> object:
    return np.stack([np.zeros(len(numbers), np.uint64), V4 + numbers.astype(np.uint64)], axis=1)


def measure(repeats: int) -> dict[str, float]:
    """Measure windows; the first, which loads or compiles the kernels, does not count."""
    (links, topology), panes, times = tables(), window(), []
    for _ in range(repeats + 1):
        operator = PathsOperator(PathsConfig(PANES, FLOWS_TOLD), PANE_NS, CountOnce(links), topology)
        started = time.perf_counter(), time.process_time()
        for count in range(1, PANES + 1):  # what counts is decided pane by pane
            said = operator.process(panes[:count])
        operator.snapshot()
        times.append((time.process_time() - started[1], time.perf_counter() - started[0]))
        if len(said) != 1 + FLOWS_TOLD or said[0].value["complete"] != FLOWS_TOLD:
            raise BenchError("not every path is told whole")
    return {
        "window_s": min(cpu_s for cpu_s, _ in times[1:]),
        "wall_s": min(wall_s for _, wall_s in times[1:]),
        "rows": sum(len(pane.rows) for pane in panes),
        "flows": said[0].value["flows"],
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
