"""Top talkers alone, without Kafka: many concurrent flows, a window of a minute that slides by a pane of a second.

``python -m bench.talkers_alone STEPS`` prints the figures as JSON: in a process of its own, on one thread. Each second
has partials of every flow and what they come to by every other way to group, from four flows partitions; a fifth of
the flows end and others begin. Time is that of a step for all ways to group, step tables packed for the topic included.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import numpy as np

from bench.generate import START_NS
from bench.report import BenchError
from flowstream.operators import Pane
from flowstream.partials import KEYS, PartialBatch
from flowstream.talker_results import WAYS
from flowstream.talkers import TalkersConfig, TopTalkers

PANE_NS = 10**9
FLOWS, SOURCES, PORTS, PARTITIONS = 12_000, 2000, 200, 4
AS = np.uint64(500)
WINDOW = 60
ENDING = FLOWS // 5


def panes(steps: int, seed: int = 1) -> Iterator[Pane[PartialBatch]]:
    """Yield a pane for each second."""
    rng = np.random.default_rng(seed)
    flow, next_flow = np.arange(FLOWS, dtype=np.uint64), FLOWS
    for step in range(steps):
        flow[rng.choice(FLOWS, ENDING, replace=False)] = np.arange(next_flow, next_flow + ENDING, dtype=np.uint64)
        next_flow += ENDING
        yield _pane(START_NS // PANE_NS + step, flow, (rng.pareto(1.1, FLOWS) * 1000).astype(np.int64) + 64)


def _pane(index: int, flow: np.ndarray[tuple[int], np.dtype[np.uint64]], sent: object) -> Pane[PartialBatch]:
    v4, zero = np.uint64(0xFFFF_0A00_0000), np.zeros_like(flow)
    source, destination = v4 + flow % np.uint64(SOURCES), v4 + flow * np.uint64(2654435761) % np.uint64(1 << 20)
    ports = (np.uint64(1024) + flow % np.uint64(60_000)) << np.uint64(32) | np.uint64(443 << 8 | 6)
    words = {
        "source": (zero, source), "destination": (zero, destination), "pair": (zero, source, zero, destination),
        "conversation": (zero, source, zero, destination, ports), "port": (flow % np.uint64(PORTS),),
        "protocol": (flow % np.uint64(3),), "as": (source % AS << np.uint64(32) | destination % AS,),
        "interface": (zero, source % np.uint64(40), flow % np.uint64(48)),
    }  # fmt: skip
    parts = []
    for by, key in words.items():
        columns = {
            "cube": np.full(FLOWS, int(WAYS[by].cube)), "bytes": sent, "packets": np.ones(FLOWS),
            "records": np.ones(FLOWS), "variance": np.square(np.asarray(sent, np.float64)), "weight_max": sent,
            "time_ns": np.full(FLOWS, index * PANE_NS), "origin_id": source % np.uint64(PARTITIONS),
            "origin_offset": np.full(FLOWS, index), **dict(zip(KEYS, key, strict=False)),
        }  # fmt: skip
        parts.append(_summed(PartialBatch.of(FLOWS, columns)))
    rows = PartialBatch.concat(parts)
    rows = rows.replace(origin_row=np.arange(len(rows))).in_time_order()
    return Pane(index, index * PANE_NS, (index + 1) * PANE_NS, PartialBatch(dict(rows.columns)))


def _summed(rows: PartialBatch) -> PartialBatch:
    """Return one row per flows partition and key, as flows partitions say them."""
    words = np.stack([rows.origin_id.astype(np.uint64), *(rows.column(name) for name in KEYS)], axis=1)
    _, firsts, of = np.unique(words, axis=0, return_index=True, return_inverse=True)
    sums = {
        name: np.bincount(of.ravel(), rows.column(name), len(firsts))
        for name in ("bytes", "packets", "records", "variance")
    }
    return rows.take(firsts).replace(**sums)


def measure(steps: int) -> dict[str, float]:
    """Measure steps after the window has been filled."""
    operator = TopTalkers(TalkersConfig(((WINDOW, 1),)), PANE_NS)
    times, rows = [], 0
    for pane in panes(WINDOW + 2 + steps):
        started = time.perf_counter(), time.process_time()
        said = operator.process([pane])
        times.append((time.perf_counter() - started[0], time.process_time() - started[1]))
        if sum(result.stream == "talkers" for result in said) != 3 * len(WAYS):
            raise BenchError("not one result per way to group and ranking")
        rows = len(pane.rows)
    measured = times[-steps:]
    return {
        "step_s": float(np.median([cpu_s for _, cpu_s in measured])),
        "worst_s": max(cpu_s for _, cpu_s in measured),
        "wall_s": float(np.median([wall_s for wall_s, _ in measured])),
        "rows": rows,
        "keys_held": operator.keys_held,
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
