"""The distances operator alone, without Kafka: one large source, and many small ones in a pane.

``python -m bench.alone REPEATS`` prints the figures as JSON: in a process of its own, on one thread. Time is the best
of the repeats; memory is what the process grew by over the first full run.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.generate import START_NS
from bench.report import BenchError
from flowstream.batch import FlowBatch
from flowstream.counting import CountOnce
from flowstream.links import LinkTable
from flowstream.operators import Pane, one_by_one
from flowstream.pipeline import build_operators
from flowstream.settings import Settings

PANE_NS = 10**9
LARGE_FLOWS = 5000
SOURCES, FLOWS = 50_000, (2, 50)
SETTINGS = {"analyses": ("distances",), "distances": {"size_s": 1.0, "step_s": 1.0, "top_k": 100}}


def pane_of(sizes: Sequence[int], seed: int = 1) -> Pane:
    """Return a pane with a source of each of these sizes; the five default features of its flows differ."""
    rng = np.random.default_rng(seed)
    source = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(source)
    time_ns = np.sort(START_NS + rng.integers(0, PANE_NS, n))
    packets, in_packets = rng.integers(1, 1000, n), rng.integers(0, 1000, n)
    duration_ns = rng.integers(0, 5 * PANE_NS, n)

    def address(first: int, number: Any) -> Any:
        return np.stack([np.zeros(n, np.uint64), (0xFFFF_0000_0000 + first + number).astype(np.uint64)], axis=1)

    columns = {
        "origin_offset": np.arange(n), "time_ns": time_ns, "time_received_ns": time_ns,
        "time_flow_start_ns": time_ns - duration_ns, "time_flow_end_ns": time_ns,
        "src_addr": address(0x0A00_0001, source), "dst_addr": address(0x6400_0001, rng.integers(0, 1 << 22, n)),
        "src_port": 1024 + rng.integers(0, 60_000, n), "dst_port": np.full(n, 443), "proto": np.full(n, 6),
        "bytes": packets * rng.integers(64, 1500, n), "packets": packets,
        "in_bytes": in_packets * rng.integers(64, 1500, n), "in_packets": in_packets,
        "sampling_rate": np.ones(n),
    }  # fmt: skip
    return Pane(START_NS // PANE_NS, START_NS, START_NS + PANE_NS, FlowBatch.of(n, columns))


def operate(pane: Pane, top_k: int) -> int:
    """Compute a pane's summaries, encoded; return how many there are."""
    settings = Settings(**{**SETTINGS, "distances": {**SETTINGS["distances"], "top_k": top_k}})  # type: ignore[dict-item]
    operator = build_operators(settings, CountOnce(LinkTable()), {0: "bench-0"})[0]
    return sum(len(list(one_by_one([said]))) for said in operator.process([pane]))


def grown_by(work: Any) -> int:
    """Return by how many bytes the process's resident memory grew at its peak while working."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _status_bytes("VmRSS")
    work()
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def measure(repeats: int) -> dict[str, float]:
    """Measure both shapes."""
    operate(pane_of([60, 2, 3]), 100)  # loads or compiles the kernels
    found: dict[str, float] = {}
    rng = np.random.default_rng(2)
    many = rng.integers(FLOWS[0], FLOWS[1] + 1, SOURCES).tolist()
    for name, sizes, top_k in (("one", [LARGE_FLOWS], 100), ("many", many, 10)):
        pane, times = pane_of(sizes), []
        found[f"{name}_bytes"] = grown_by(lambda pane=pane, top_k=top_k: operate(pane, top_k))
        for _ in range(repeats):
            started = time.perf_counter(), time.process_time()
            if operate(pane, top_k) != len(sizes):
                raise BenchError(f"not one summary per source: {name}")
            times.append((time.perf_counter() - started[0], time.process_time() - started[1]))
        found[f"{name}_s"] = min(cpu_s for _, cpu_s in times)
        found[f"{name}_wall_s"] = min(wall_s for wall_s, _ in times)
        found[f"{name}_rows"] = len(pane.rows)
        found[f"{name}_pairs"] = sum(n * (n - 1) // 2 for n in sizes)
    return found


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
