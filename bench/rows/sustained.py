"""Ingest and sums in one worker on one core for a minute: the rate, the lag, the web server, the memory.

The load is published before. Its event time goes as fast as a live stream of the target rate, so that open panes
hold as many rows as they then would.
"""

from __future__ import annotations

import json
import time

import numpy as np

from bench.ground import Background, Ground, Sample, Worker, between, check_nothing_lost, limited_by
from bench.load import Load
from bench.report import BenchError
from bench.rows.row import Row
from bench.rows.throughput import APPLIED, CONSUMED, SUMS, ingested
from bench.verdict import Outcome, Target

TARGET_PER_S = 800_000
HEALTH_EVERY_S = 0.05
SETTLE_S = 3.0  # after the first rows: kernels are loaded, fetches have filled up


class HealthPoll:
    """Asks ``/health`` every 50 ms, as a supervisor would, and notes how long each answer took."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.latencies_s: list[float] = []
        self.not_ok: list[str] = []

    def ask(self) -> None:
        """Ask once."""
        asked = time.perf_counter()
        answer = self._worker.get("/health", timeout_s=10.0)
        took_s = time.perf_counter() - asked
        self.latencies_s.append(took_s)
        status = "no answer" if answer is None else json.loads(answer)["status"]
        if status != "ok":
            self.not_ok.append(status)
        time.sleep(max(0.0, HEALTH_EVERY_S - took_s))  # the interval that is measured at


def sustained(ground: Ground) -> Outcome:
    """Run one worker for a minute, or to the end of what was published."""
    seconds = 12.0 if ground.quick else 60.0
    records = _enough(ground, seconds)
    app = ground.app("sustained", SUMS)
    load = Load(records, interval_ns=10**9 // TARGET_PER_S, jitter_ns=200_000_000)
    began, published_at = app.publish(load)
    with app.worker() as worker:
        worker.until(lambda s: s.get(APPLIED) > 0)
        settled_at = time.perf_counter() + SETTLE_S
        first = worker.until(lambda s: s.at_s >= settled_at)
        poll = HealthPoll(worker)
        samples = [first]

        def over(sample: Sample) -> bool:
            samples.append(sample)
            return sample.at_s - first.at_s >= seconds or sample.get(CONSUMED) >= records

        with Background(poll.ask):
            last = worker.until(over, every_s=0.5)
    check_nothing_lost(last)
    figures = between(first, last, APPLIED)
    if (moved := last.get("rebalances_total") - first.get("rebalances_total")) > 0:
        raise BenchError(f"{moved:.0f} rebalances while it ran")
    if poll.not_ok:
        raise BenchError(f"/health was not ok {len(poll.not_ok)} times: {poll.not_ok[0]}")
    behind = np.array([s.get(CONSUMED) - s.get(APPLIED) for s in samples])
    third = max(1, len(behind) // 3)
    latencies = np.array(poll.latencies_s)
    worst_s, p99_s = float(latencies.max()), float(np.quantile(latencies, 0.99))
    resident = np.array([s.rss_bytes for s in samples]) / 1e6
    early, late = float(behind[:third].mean()), float(behind[-third:].mean())
    steady = late <= 1.5 * early + 0.5 * TARGET_PER_S
    limits = (
        f"{limited_by(figures)}; {figures['per_s']:,.0f} records/s of the clock for {figures['wall_s']:.0f} s; "
        f"records between ingest and panes {early:,.0f} in the first third, {late:,.0f} in the last; "
        f"/health p99 {p99_s * 1e3:.0f} ms of {len(latencies)}; "
        f"resident {resident[:third].mean():,.0f} MB, then {resident[-third:].mean():,.0f} MB"
    )
    details = {
        **figures, "published_per_s": records / (published_at - began), "health_p99_s": p99_s,
        "health_asked": len(latencies), "behind_first": early, "behind_last": late, "steady": steady,
        "resident_mb": resident.tolist(),
    }  # fmt: skip
    failed = "" if steady else "the lag between ingest and panes grows"
    return Outcome([figures["per_cpu_s"], worst_s, worker.peak_rss_bytes / 1e6], limits, details, failed)


def _enough(ground: Ground, seconds: float) -> int:
    """Return how many records last for the time: from what ingest alone does where that was measured."""
    figures = ingested(ground)[1] if "ingested" in ground.shared else None
    per_s = 1.2 * TARGET_PER_S if figures is None else min(1.2 * TARGET_PER_S, figures["per_cpu_s"])
    return int(per_s * (seconds + 2 * SETTLE_S))


ROWS = (
    Row(
        "sustained",
        (
            Target("both in one worker on one core, sustained", TARGET_PER_S, "records/CPU s", at_least=True),
            Target("/health meanwhile, worst answer", 0.1, "s"),
            Target("resident memory meanwhile, most", 600, "MB"),
        ),
        sustained,
    ),
)
