"""From the record that moves the watermark past a pane's end to that pane's result, under a paced load.

The clock of a pane starts when the broker has acknowledged the request after which every raw partition is past the
pane's end, and stops when a plain consumer has its result from every flows partition.
"""

from __future__ import annotations

import asyncio
import time

import numpy as np

from bench.ground import App, Background, Ground, Worker, between, check_nothing_lost, limited_by
from bench.load import Load
from bench.report import BenchError
from bench.rows.row import Row
from bench.verdict import Outcome, Target
from bench.wire import Reader, Sender

PER_S = 100_000
TICK_S = 0.02
WARM_PANES = 6
PARTITIONS = 4
OUT_OF_ORDERNESS_S = 0.01


class Arrivals:
    """Notes when the result of each window was there in all partitions."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._partitions: dict[int, set[int]] = {}
        self.at_s: dict[int, float] = {}  # by window start

    def read(self) -> None:
        """Read what has come."""
        for message in self._reader.poll(0.02, 100):
            start_ns = int(message.key().split(b"|")[0])
            there = self._partitions.setdefault(start_ns, set())
            there.add(message.partition())
            if len(there) == PARTITIONS:
                self.at_s.setdefault(start_ns, time.perf_counter())


async def _paced(app: App, load: Load) -> list[tuple[int, float]]:
    """Publish a load at its own pace; return event times with when all partitions up to there were acknowledged."""
    acknowledged: list[tuple[int, float]] = []
    per_tick = round(TICK_S * 1e9 / load.interval_ns)
    async with Sender(app.ground.bootstrap) as sender:
        began = time.perf_counter()
        for tick in range(load.records // per_tick):
            part = Load(
                per_tick, load.sources, load.interval_ns, start_ns=load.start_ns, first=tick * per_tick,
                partitions=load.partitions,
            )  # fmt: skip
            await asyncio.sleep(max(0.0, began + (tick + 1) * TICK_S - time.perf_counter()))
            await sender.send(app.raw, dict(part.batches()))
            slowest = np.arange(part.first + per_tick - load.partitions, part.first + per_tick)
            acknowledged.append((int(load.times_ns(slowest).min()), time.perf_counter()))
        behind_s = time.perf_counter() - began - load.records / PER_S
    if behind_s > 1.0:
        raise BenchError(f"the load was published {behind_s:.1f} s late: the machine is too busy")
    return acknowledged


def panes(ground: Ground) -> Outcome:
    """Publish for a little more than 60 panes and compare when they closed with when their results came."""
    pane_s = 0.25 if ground.quick else 1.0
    count = 62 + WARM_PANES
    app = ground.app("panes", {
        "analyses": ["sources"], "sources": {"size_s": pane_s, "distances": False},
        "time": {"pane_s": pane_s, "out_of_orderness_s": OUT_OF_ORDERNESS_S, "idle_after_s": 3600.0},
    })  # fmt: skip
    ticks = round((count + 1) * pane_s / TICK_S)
    load = Load(ticks * round(TICK_S * PER_S), interval_ns=10**9 // PER_S)
    with app.worker() as worker, Reader(ground.bootstrap, app.topic("sources")) as reader:
        worker.until_ready()
        arrivals = Arrivals(reader)
        with Background(arrivals.read):
            first = worker.until(lambda _: True)
            acknowledged = asyncio.run(_paced(app, load))
            last = worker.until(lambda s: s.get("rows_applied_total") >= load.records)
            _await_last(arrivals, load.start_ns + round((count - 1) * pane_s * 1e9), worker)
    check_nothing_lost(last)
    figures = between(first, last, "rows_applied_total")
    latencies = np.array([
        arrivals.at_s[start_ns] - _passed_at_s(acknowledged, start_ns + round((pane_s + OUT_OF_ORDERNESS_S) * 1e9))
        for start_ns in (load.start_ns + round(k * pane_s * 1e9) for k in range(WARM_PANES, count))
    ])  # fmt: skip
    p50_s, p99_s, worst_s = (float(np.quantile(latencies, q)) for q in (0.5, 0.99, 1.0))
    limits = (
        f"{len(latencies)} panes of {pane_s:g} s: p50 {p50_s * 1e3:.0f}, worst {worst_s * 1e3:.0f} ms; "
        f"{limited_by(figures)}; requests of {TICK_S * 1e3:.0f} ms"
    )
    return Outcome([p99_s], limits, {**figures, "p50_s": p50_s, "p99_s": p99_s, "latencies_s": latencies.tolist()})


def _await_last(arrivals: Arrivals, start_ns: int, worker: Worker, limit_s: float = 30.0) -> None:
    deadline = time.perf_counter() + limit_s
    while start_ns not in arrivals.at_s:
        if time.perf_counter() > deadline:
            raise BenchError(f"{len(arrivals.at_s)} panes came, not the last: {worker.said()}")
        time.sleep(0.02)  # the interval of looking


def _passed_at_s(acknowledged: list[tuple[int, float]], time_ns: int) -> float:
    """Return when every partition's event time was first known to the broker to be at or past a time."""
    return next(at_s for reached_ns, at_s in acknowledged if reached_ns >= time_ns)


ROWS = (Row("panes", (Target("watermark past a pane's end to its result, p99, 100,000 records/s", 0.25, "s"),), panes),)
