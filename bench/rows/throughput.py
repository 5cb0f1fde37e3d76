"""Ingest alone, and panes with sums per source alone: records per second of the worker's CPU time.

The clock starts when a twentieth is done, so that loading kernels and filling caches is outside.
"""

from __future__ import annotations

from typing import Any

from bench.ground import App, Ground, Sample, Worker, between, check_nothing_lost, limited_by
from bench.load import Load
from bench.report import LostError
from bench.rows.row import Row
from bench.verdict import Outcome, Target
from bench.wire import Reader
from flowstream import schemas
from flowstream.source_blocks import SourceBlock

SUMS = {"analyses": ["sources"], "sources": {"size_s": 3.0, "distances": False}}
CONSUMED, APPLIED = "records_consumed_total", "rows_applied_total"
WARM = 0.05


def timed(worker: Worker, counter: str, records: int) -> tuple[Sample, Sample]:
    """Return samples of when a twentieth was done and of when all was; BenchError where anything was lost."""
    first = worker.until(lambda s: s.get(counter) >= WARM * records)
    last = worker.until(lambda s: s.get(counter) >= records)
    check_nothing_lost(last)
    return first, last


def load_of(ground: Ground) -> Load:
    """Return what both rows are measured over: 50,000 sources, 10 us of event time from record to record."""
    return Load(1_000_000 if ground.quick else 8_000_000, jitter_ns=200_000_000)


def published(ground: Ground) -> tuple[App, int]:
    """Return an app whose raw topic holds the load and what closes its windows, and how many records that is."""
    if "published" not in ground.shared:
        load = load_of(ground)
        app = ground.app("sums", SUMS)
        began, published_at, _ = app.publish(load, load.closing())
        ground.shared["published"] = app, load.records + load.partitions
        ground.shared["published_per_s"] = load.records / (published_at - began)
    found: tuple[App, int] = ground.shared["published"]
    return found


def ingested(ground: Ground) -> tuple[App, dict[str, Any]]:
    """Run ingest over the load once; return its app, whose flows topic is full then, and the figures."""
    if "ingested" not in ground.shared:
        app, records = published(ground)
        with app.worker("ingest") as worker:
            first, last = timed(worker, CONSUMED, records)
        figures: dict[str, Any] = between(first, last, CONSUMED)
        figures |= {"peak_rss_bytes": worker.peak_rss_bytes, "published_per_s": ground.shared["published_per_s"]}
        ground.shared["ingested"] = app, figures
    found: tuple[App, dict[str, Any]] = ground.shared["ingested"]
    return found


def ingest(ground: Ground) -> Outcome:
    """Raw goflow2 messages to blocks on the flows topic."""
    _, figures = ingested(ground)
    return Outcome([figures["per_cpu_s"]], limited_by(figures), figures)


def sums(ground: Ground) -> Outcome:
    """Blocks of the flows topic to sums per source and window."""
    app, _ = ingested(ground)
    records = published(ground)[1]
    with app.worker("analyses") as worker:
        first, last = timed(worker, APPLIED, records)
        # Blocks are taken in before the last windows are said; the records that close them stay open.
        last = worker.until(lambda s: s.get("rows_open") <= 4)
    figures: dict[str, Any] = between(first, last, APPLIED)
    counted = flows_in(app)
    if counted != records - 4:
        raise LostError(f"the windows hold {counted:,} flows of {records - 4:,}")
    return Outcome([figures["per_cpu_s"]], limited_by(figures), {**figures, "peak_rss_bytes": worker.peak_rss_bytes})


def flows_in(app: App) -> int:
    """Return how many flows the windows on the sources topic hold together; each counts once, by its key."""
    found: dict[tuple[int, bytes], int] = {}
    with Reader(app.ground.bootstrap, app.topic("sources"), from_beginning=True) as reader:
        due, read = reader.readable(), 0
        while read < due:
            for message in reader.poll(1.0):
                block = SourceBlock.from_value(schemas.single_object_decode(message.value())[1])
                found[message.partition(), message.key()] = int(block.columns["records"].sum())
                read += 1
    return sum(found.values())


ROWS = (
    Row("ingest", (Target("raw protobuf to flows topic", 1_000_000, "records/CPU s", at_least=True),), ingest),
    Row("sums", (Target("flows topic to sums per source", 5_000_000, "rows/CPU s", at_least=True),), sums),
)
