"""More than a worker can do, and the same for a long time."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby

import numpy as np

from tests.faults.brokers import back
from tests.faults.rig import Rig
from tests.faults.scenario import scenario
from tests.faults.watch import Usage
from tests.faults.workers import crew, each_owned_once, processed, some_way_on
from tests.integration.lab import Worker
from tests.waiting import wait_for

#: Of a worker under overload and in the soak.
RSS_BYTES_MAX = 1 << 30
#: A turn of a throttled worker: it runs for a part of it.
TURN_S = 0.05


@contextmanager
def throttled(worker: Worker, share: float) -> Iterator[None]:
    """Let a worker run for a share of the time only: what a processor many times slower would do."""
    ended = threading.Event()

    def go() -> None:
        while not ended.is_set():
            worker.pause()
            ended.wait(TURN_S * (1 - share))
            worker.resume()
            ended.wait(TURN_S * share)

    thread = threading.Thread(target=go, name="throttle", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        worker.resume()


@scenario(22, "overload", fault="five times the capacity of a worker, which runs 3 % of the time, for 5 minutes")
def overload(rig: Rig) -> None:
    rig.session_timeout(10)
    rig.prepare(raw_partitions=2)
    worker = rig.lab.worker()
    rebalances = worker.metric("rebalances_total")
    rig.produce(2_000)
    wait_for(lambda: processed(rig) >= 2_000, "the kernels to be loaded", 90)
    with throttled(worker, 0.03):
        # Capacity is what the throttled worker gets done of a backlog.
        rig.produce(30_000, seconds_of_event_time=300)
        wait_for(lambda: processed(rig) >= 8_000, "the worker to be at it", 300)
        began, before = time.monotonic(), processed(rig)
        wait_for(lambda: processed(rig) >= 30_000, "the backlog to be done", 600)
        capacity = (processed(rig) - before) / (time.monotonic() - began)
        rig.fault("five times the capacity")
        with rig.producing(5 * capacity, speed=10):
            time.sleep(20 if rig.quick else min(300.0, rig.minutes * 60))  # the length is the fault
        peak = rig.lag()
    rig.row.figures["capacity, flows/s"] = round(capacity)
    rig.row.figures["lag at the end of the overload"] = peak
    assert peak > 2 * capacity, "the worker kept up: that was no overload"
    rig.within(rig.drain(600), 600, "the lag drained within, s")
    rig.verify(pipeline=False)
    assert worker.alive
    assert worker.metric("rebalances_total") == rebalances, "the worker was put out of its group"
    assert max(usage.rss_bytes for usage in rig.watch.seen.usage) < RSS_BYTES_MAX


#: Between two faults of the soak, what is there has to be processed.
SOAK_RATE = 500
#: A worker's memory may grow so much over the soak, from the time when kernels are loaded and windows kept are full. A
#: closed client for every rebalance, which the garbage collector had not come to, made 27 MB of 20 minutes.
GROWTH_BYTES_MAX = 12 << 20
WARM_S = 600
#: How often the report says what a worker took.
TOLD_EVERY_S = 300


@scenario(25, "soak", fault="kills, joins and leaves, broker restarts, for 30 minutes (--minutes)", own_broker=True)
def soak(rig: Rig) -> None:
    if rig.lab.settings().is_merging:  # windows that are full when the memory is first looked at
        rig.lab.change(talkers={"windows": [{"size_s": 60, "step_s": 10}, {"size_s": 600, "step_s": 60}]})
    rig.prepare(raw_partitions=3)
    witness, *others = crew(rig, 3)
    pid = witness.process.pid
    began = time.monotonic()
    with rig.supervised(), rig.producing(SOAK_RATE, speed=10):
        while time.monotonic() - began < rig.minutes * 60:
            for fault in _kill, _join_and_leave, _restart:
                some_way_on(rig, 10 * SOAK_RATE)
                fault(rig, others)
                wait_for(lambda: each_owned_once(rig), "every partition to have one owner", 120)
    assert witness.process.pid == pid, "the worker that nobody harmed has ended"
    ended = time.monotonic()
    rig.row.figures["minutes"] = round((ended - began) / 60, 1)
    rig.drain(180)
    rig.verify()
    _flat(rig, [usage for usage in rig.watch.seen.usage if usage.pid == pid and usage.at_s < ended])


def _kill(rig: Rig, others: list[Worker]) -> None:
    rig.fault("kill -9 of a worker")
    rig.draw.choice([worker for worker in rig.lab.workers if worker.number in {o.number for o in others}]).kill()
    rig.recovered(120)


def _join_and_leave(rig: Rig, _others: list[Worker]) -> None:
    rig.fault("a worker joins and leaves")
    guest = rig.lab.worker()
    assert guest.stop() == 0
    rig.lab.workers.remove(guest)
    rig.recovered(120)


def _restart(rig: Rig, _others: list[Worker]) -> None:
    rig.fault("the broker is stopped and started after 10 s")
    began = time.monotonic()
    rig.broker.stop()
    time.sleep(10)  # the length is the fault
    rig.start_broker()
    back(rig, time.monotonic() - began)


def _flat(rig: Rig, usage: list[Usage]) -> None:
    """Memory and descriptors of a worker that ran all the time: their slopes over the time after the warm-up."""
    began_s = usage[0].at_s
    turns = groupby(usage, lambda u: (u.at_s - began_s) // TOLD_EVERY_S)
    medians = [np.median([u.rss_bytes / 1e6 for u in turn]) for _, turn in turns]
    rig.row.figures[f"RSS, MB: medians of every {TOLD_EVERY_S} s"] = ", ".join(f"{median:.1f}" for median in medians)
    warm = [u for u in usage if u.at_s - began_s > min(WARM_S, rig.minutes * 30)]
    hours = np.array([u.at_s for u in warm]) / 3600
    figures = defaultdict(float)
    for name, values in ("RSS, MB", [u.rss_bytes / 1e6 for u in warm]), ("descriptors", [u.descriptors for u in warm]):
        slope, _ = np.polyfit(hours, values, 1)
        figures[name] = slope * (hours[-1] - hours[0])
        rig.row.figures[f"{name}: slope per hour"] = round(float(slope), 1)
        rig.row.figures[f"{name}: first, last"] = f"{values[0]:.0f}, {values[-1]:.0f}"
    assert figures["RSS, MB"] < GROWTH_BYTES_MAX / 1e6, f"memory grew by {figures['RSS, MB']:.0f} MB"
    assert abs(figures["descriptors"]) < 10, f"descriptors grew by {figures['descriptors']:.0f}"
