"""Two workers of one group on two cores against one worker on one, each over a load published once they are ready."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack

from bench.ground import Ground, Sample, Worker, between, check_nothing_lost, limited_by
from bench.report import BenchError
from bench.rows.row import Row
from bench.rows.throughput import APPLIED, SUMS, WARM, load_of
from bench.verdict import Outcome, Target


def scaling(ground: Ground) -> Outcome:
    """Run one worker, then two, each over all of the load."""
    if ground.core is None or ground.own_core is None:
        raise BenchError("there is only one core")
    one, two = (_run(ground, cores) for cores in ((ground.core,), (ground.core, ground.own_core)))
    ratio = two["per_s"] / one["per_s"]
    by_cpu = 2 * two["per_cpu_s"] / one["per_cpu_s"]
    taken = two["broker_busy"] + two["others_busy"]
    limits = (
        f"{limited_by(two)}; of the two cores broker and others took {taken:.0%}, so that {2 - taken:.2f} were left"
    )
    return Outcome([ratio, by_cpu], limits, {"one": one, "two": two, "by_cpu_time": by_cpu})


def _run(ground: Ground, cores: tuple[int, ...]) -> dict[str, float]:
    app = ground.app("scaling", {**SUMS, "kafka": {"session_timeout_s": 120.0}})
    load = load_of(ground)
    with ExitStack() as stack:
        # All workers hold their partitions before there is a record: a rebalance would have some read twice.
        workers = [stack.enter_context(app.worker(core=core)) for core in cores]
        _until_shared(workers, app.topic("flows"), load.partitions)
        # Publishing takes a core: the workers stand still meanwhile, and keep their partitions.
        for worker in workers:
            worker.signal(signal.SIGSTOP)
        app.publish(load)
        for worker in workers:
            worker.signal(signal.SIGCONT)
        firsts = _until(workers, WARM * load.records)
        lasts = _until(workers, load.records)
    for last in lasts:
        check_nothing_lost(last)
    figures = [between(first, last, APPLIED) for first, last in zip(firsts, lasts, strict=True)]
    records_done = sum(f["records"] for f in figures)
    cpu_s, wall_s = sum(f["cpu_s"] for f in figures), max(f["wall_s"] for f in figures)
    broker = figures[0]["broker_busy"]
    return {
        "records": records_done, "wall_s": wall_s, "cpu_s": cpu_s, "per_s": records_done / wall_s,
        "per_cpu_s": records_done / cpu_s, "worker_busy": cpu_s / wall_s, "broker_busy": broker,
        "others_busy": max(0.0, figures[0]["others_busy"] - sum(f["worker_busy"] for f in figures[1:])),
        "rebalances": sum(last.get("rebalances_total") for last in lasts),
    }  # fmt: skip


def _until_shared(workers: list[Worker], topic: str, partitions: int, limit_s: float = 90.0) -> None:
    """Wait until every worker holds its part of a topic."""
    deadline = time.perf_counter() + limit_s
    while time.perf_counter() < deadline:
        for worker in workers:
            worker.look()
        states = [json.loads(worker.get("/health") or b"{}") for worker in workers]
        held = [len(s.get("assigned", {}).get(topic, ())) if s.get("status") == "ok" else 0 for s in states]
        if sum(held) == partitions and min(held) == partitions // len(workers):
            return
        time.sleep(0.1)  # the interval of looking
    raise BenchError(f"{len(workers)} workers do not share the partitions: {workers[-1].said()}")


def _until(workers: list[Worker], rows: float, limit_s: float = 300.0) -> list[Sample]:
    """Return samples of the moment when the workers together have applied so many rows."""
    deadline = time.perf_counter() + limit_s
    while time.perf_counter() < deadline:
        samples = [s for worker in workers if (s := worker.look()) is not None]
        if len(samples) == len(workers) and sum(s.get(APPLIED) for s in samples) >= rows:
            return samples
        time.sleep(0.1)  # the interval of looking
    raise BenchError(f"{len(workers)} workers have not applied {rows:,.0f} rows: {workers[-1].said()}")


ROWS = (
    Row(
        "scaling",
        (
            Target("two workers on two cores against one, by the clock", 1.8, "x", at_least=True),
            Target("the same by the workers' CPU time", 1.8, "x", at_least=True),
        ),
        scaling,
    ),
)
