"""How long after the last event its results are there to be read.

The last events are those that close every window, one for each raw partition; the clock starts when the broker has
acknowledged them. The worker has computed such windows before. The time is the median of some repeats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from bench.generate import START_NS
from bench.ground import App, Ground, Worker, check_nothing_lost
from bench.load import Load
from bench.report import BenchError, LostError
from bench.rows.row import Row
from bench.verdict import Outcome, Target
from bench.wire import Reader
from flowstream import schemas

SOURCES, FLOWS = 25, 401
WINDOW_S = 3.0
ONE_WINDOW = Load(SOURCES * FLOWS, SOURCES, interval_ns=250_000)  # 2.5 s
FEW_PAIRS = replace(ONE_WINDOW, records=SOURCES * 41)
MANY_WINDOWS = Load(50_000, SOURCES, interval_ns=18_000_000)  # 15 minutes
APART_NS = 3600 * 10**9  # event time from one repeat to the next
LIMIT_S = 120.0


def pairs_of(load: Load) -> int:
    """Return how many pairs the sources of one window have."""
    flows = load.records // load.sources
    return load.sources * flows * (flows - 1) // 2


PAIRS = pairs_of(ONE_WINDOW)


def options(**distances: Any) -> dict[str, Any]:
    """Return settings: distances only, and a watermark close behind the records, which come in order."""
    return {
        "analyses": ["distances"],
        "time": {"out_of_orderness_s": 0.01, "idle_after_s": 3600.0},
        "distances": {"size_s": WINDOW_S, "step_s": WINDOW_S, **distances},
    }


@dataclass(frozen=True, slots=True)
class Turns:
    """Seconds of each turn, and the CPU seconds of one on the average, from its first event to its last result."""

    seconds: list[float]
    worker_cpu_s: float
    broker_cpu_s: float

    def outcome(self, **details: Any) -> Outcome:
        """Return the median, with what else there is to say."""
        said = (
            f"{len(self.seconds)} times, {min(self.seconds) * 1e3:,.0f} to {max(self.seconds) * 1e3:,.0f} ms; "
            f"CPU a time from the first event: worker {self.worker_cpu_s:.2f} s, broker {self.broker_cpu_s:.2f} s"
        )
        return Outcome([float(np.median(self.seconds))], said, {**asdict(self), **details})


def repeated(
    app: App, worker: Worker, load: Load, wait: Callable[[Load], float], repeats: int, warming: Load | None = None
) -> Turns:
    """Publish the load and what closes it, again and again; the time is from there to what ``wait`` returns."""
    worker.until_ready()
    taken, sent = [], 0
    warm = worker.until(lambda _: True)
    warming = load if warming is None else warming
    for turn in range(repeats + 1):  # the first one is for warming up
        each = replace(load if turn else warming, start_ns=START_NS + turn * APART_NS)
        *_, closed_at = app.publish(each, each.closing())
        taken.append(wait(each) - closed_at)
        sent += each.records + each.partitions
        if turn == 0:
            warm = worker.until(lambda s, sent=sent: s.get("rows_applied_total") >= sent)  # type: ignore[misc]
    last = worker.until(lambda s: s.get("rows_applied_total") >= sent)
    check_nothing_lost(last)
    worker_s, broker_s = last.cpu_s - warm.cpu_s, last.broker_cpu_s - warm.broker_cpu_s
    return Turns(taken[1:], worker_s / repeats, broker_s / repeats)


def _summaries(ground: Ground, load: Load, count: int, pairs: int | None) -> Outcome:
    """Time until all summaries are read; their pairs must add up."""
    app = ground.app("summaries", options())
    found: dict[bytes, bytes] = {}
    with app.worker() as worker, Reader(ground.bootstrap, app.topic("distances")) as reader:

        def wait(load: Load) -> float:
            found.clear()

            def complete(messages: list[Any]) -> bool:
                # The closing records of the turn before lie in windows of their own.
                starts = ((int(m.key().partition(b"|")[0]), m) for m in messages)
                found.update((m.key(), m.value()) for at, m in starts if load.start_ns <= at < load.end_ns)
                return len(found) >= count

            return reader.until(complete, LIMIT_S, f"{count} summaries")

        turns = repeated(app, worker, load, wait, 3 if ground.quick else 7)
        told = sum(schemas.single_object_decode(value)[1]["pairs"] for value in found.values())
    if pairs is not None and told != pairs:
        raise LostError(f"the summaries tell of {told:,} pairs of {pairs:,}")
    return turns.outcome(summaries=count, pairs=told)


def summaries(ground: Ground) -> Outcome:
    """One window of 10,025 events, 2,005,000 pairs."""
    return _summaries(ground, ONE_WINDOW, SOURCES, PAIRS)


def many_windows(ground: Ground) -> Outcome:
    """50,000 events over 300 windows."""
    return _summaries(ground, MANY_WINDOWS, SOURCES * 300, None)


def pair_blocks(ground: Ground) -> Outcome:
    """Every pair of one window, in Avro blocks."""
    app = ground.app("blocks", options(pairs="all", pair_form="blocks"))
    blocks: dict[bytes, Mapping[str, Any]] = {}
    with app.worker() as worker, Reader(ground.bootstrap, app.topic("distance-pair-blocks")) as reader:

        def complete(messages: list[Any]) -> bool:
            blocks.update((m.key(), schemas.single_object_decode(m.value())[1]) for m in messages)
            return sum(len(b["distances"]) for b in blocks.values()) >= 8 * PAIRS

        def wait(_: Load) -> float:
            blocks.clear()
            return reader.until(complete, LIMIT_S, f"{PAIRS:,} pairs in blocks")

        turns = repeated(app, worker, ONE_WINDOW, wait, 3 if ground.quick else 7)
    told = sum(len(b["distances"]) for b in blocks.values()) // 8
    if told != PAIRS:
        raise LostError(f"the blocks hold {told:,} pairs of {PAIRS:,}")
    return turns.outcome(blocks=len(blocks))


def pair_records(ground: Ground) -> Outcome:
    """Every pair of one window as a JSON message of its own, acknowledged."""
    app = ground.app(
        "pairs", {**options(pairs="all", pair_form="records", flows_max=2001), "output": {"format": "json"}}
    )
    with app.worker() as worker, Reader(ground.bootstrap, app.topic("distance-pairs"), counting=True) as reader:
        due = 0

        def wait(load: Load) -> float:
            nonlocal due
            due += pairs_of(load)
            deadline = time.perf_counter() + LIMIT_S
            while reader.readable() < due:
                worker.check()
                if time.perf_counter() > deadline:
                    raise BenchError(f"{reader.readable():,} pairs of {due:,} after {LIMIT_S:g} s: {worker.said()}")
                time.sleep(0.01)  # the interval of looking
            return time.perf_counter()

        turns = repeated(app, worker, ONE_WINDOW, wait, 1 if ground.quick else 2, FEW_PAIRS)
    readable = distinct_pairs(ground, app)
    if readable != due:
        raise LostError(f"{readable:,} different pairs were published of {due:,}")
    return turns.outcome(pairs=readable)


def distinct_pairs(ground: Ground, app: App) -> int:
    """Return how many different keys the pairs topic holds."""
    keys: set[int] = set()
    with Reader(ground.bootstrap, app.topic("distance-pairs"), from_beginning=True) as reader:
        due, read = reader.readable(), 0
        while read < due:
            messages = reader.poll(1.0, 100_000)
            keys.update(hash(m.key()) for m in messages)
            read += len(messages)
    return len(keys)


ROWS = (
    Row(
        "summaries",
        (Target("10,025 events, 2,005,000 pairs, one window: to summaries", 0.1, "s"),),
        summaries,
    ),
    Row("pair-records", (Target("the same, every pair its own JSON message, acknowledged", 5.0, "s"),), pair_records),
    Row("pair-blocks", (Target("the same, every pair in Avro blocks", 0.3, "s"),), pair_blocks),
    Row("many-windows", (Target("50,000 events over 300 windows: to the last summary", 0.5, "s"),), many_windows),
)
