"""The windowed table of a million sources: update and changelog per window, and reading it back."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from bench.generate import START_NS
from bench.ground import App, Ground, Worker, check_nothing_lost
from bench.load import Load
from bench.report import BenchError
from bench.rows.row import Row
from bench.verdict import Outcome, Target
from bench.wire import Reader
from flowstream import schemas

PARTITIONS = 8
WINDOW_S = 10.0
SOURCES = 1_000_000
APART_NS = 600 * 10**9
FIRST_ADDRESS = "10.0.0.1"
LIMIT_S = 120.0


def table(ground: Ground) -> Outcome:
    """Close some windows one after the other, then start the worker again."""
    kept = 2 if ground.quick else 4  # beside the one for warming up
    app = ground.app("table", {
        "analyses": ["sources"], "time": {"out_of_orderness_s": 0.01, "idle_after_s": 3600.0},
        "sources": {"size_s": WINDOW_S, "distances": False, "windows_kept": 2 * kept + 2},
        "topics": {"partitions": PARTITIONS},
    })  # fmt: skip
    began = time.perf_counter()
    with app.worker() as worker:
        started_s = worker.until_ready() - began
        taken = _windows(app, worker, kept)
        peak_bytes = worker.peak_rss_bytes
    began = time.perf_counter()
    with app.worker() as worker:
        restarted_s = _read_back(worker, kept) - began
    limits = (
        f"windows {', '.join(f'{s:.2f}' for s in taken)} s; worker {peak_bytes / 1e6:,.0f} MB; "
        f"a start takes {started_s:.1f} s with empty tables, {restarted_s:.1f} s with {kept + 1} windows"
    )
    details = {"window_s": taken, "start_s": started_s, "restart_s": restarted_s, "kept": kept + 1}
    restore_s = max(0.0, restarted_s - started_s)
    return Outcome([float(np.median(taken)), restore_s], limits, {**details, "peak_rss_bytes": peak_bytes})


def _windows(app: App, worker: Worker, kept: int) -> list[float]:
    """Fill and close windows; return the seconds from closing each to its changelog being readable."""
    changelog = f"{app.options['app']}-sources-changelog"
    taken, sent = [], 0
    with Reader(app.ground.bootstrap, changelog) as reader:
        for turn in range(kept + 1):
            load = Load(
                SOURCES, SOURCES, interval_ns=int(WINDOW_S * 1e9) // SOURCES, partitions=PARTITIONS,
                start_ns=START_NS + turn * APART_NS,
            )  # fmt: skip
            app.publish(load)
            sent += load.records + (PARTITIONS if turn else 0)
            worker.until(lambda s, sent=sent: s.get("rows_applied_total") >= sent)  # type: ignore[misc]
            closed_at = app.publish(load.closing())[-1]
            deadline = time.perf_counter() + LIMIT_S
            key, seen = f"{load.start_ns}".encode(), 0
            # The closing records of the turn before lie in a window of their own, which comes first.
            while (seen := seen + sum(_sources(m, key) for m in reader.poll(0.02, 100))) < SOURCES:
                worker.check()
                if time.perf_counter() > deadline:
                    raise BenchError(f"the changelog of a window did not come within {LIMIT_S:g} s: {worker.said()}")
            taken.append(time.perf_counter() - closed_at)
    check_nothing_lost(worker.until(lambda _: True))
    return taken[1:]  # the first one was for warming up


def _sources(message: Any, window: bytes) -> int:
    """Return how many sources a message of the changelog holds of a window, which may come in parts."""
    mine = window in (message.key() or b"") and message.value() is not None
    return int(schemas.single_object_decode(message.value())[1]["count"]) if mine else 0


def _read_back(worker: Worker, kept: int) -> float:
    """Wait until the worker answers for all kept windows of a source; return when that was."""
    due = {START_NS + turn * APART_NS for turn in range(kept + 1)}
    deadline = time.perf_counter() + LIMIT_S
    while time.perf_counter() < deadline:
        worker.check()
        answer = json.loads(worker.get(f"/sources/{FIRST_ADDRESS}?limit={2 * kept + 2}", 10.0) or b"{}")
        if due <= {window["window_start_ns"] for window in answer.get("windows", ())}:
            return time.perf_counter()
        time.sleep(0.02)  # the interval of looking
    raise BenchError(f"the table was not read back within {LIMIT_S:g} s: {worker.said()}")


ROWS = (
    Row(
        "table",
        (
            Target("windowed table of 1,000,000 sources: update and changelog of a window", 1.0, "s"),
            Target("reading it back after a restart", 5.0, "s"),
        ),
        table,
    ),
)
