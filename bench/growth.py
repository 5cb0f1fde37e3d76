"""How the cost of a record grows: with sources, flows per source, partitions and message size.

Each point is a worker over a small load of its own. Cost is CPU time of the worker process. Linear means that twice as
much costs twice as much: the cost per record stays, or, for the message size, the cost per byte. The ratio compares
a point with the cheapest smaller one; what is above ``WORSE`` is flagged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.ground import Ground, between, check_nothing_lost
from bench.load import Load
from bench.report import BenchError, count, markdown_table
from bench.rows.throughput import APPLIED, CONSUMED, SUMS

WORSE = 1.25  # repeats of a point differ by up to a fifth on a shared machine
WINDOW_RECORDS = 100_000
DISTANCES = {"analyses": ["distances"], "distances": {"flows_max": 20_000}}


@dataclass(frozen=True, slots=True)
class Point:
    """One load; ``at`` is its place on the axis."""

    at: int
    load: Load
    options: Mapping[str, Any]
    agents: str = "ingest,analyses"


@dataclass(frozen=True, slots=True)
class Axis:
    """What grows, and where it is measured. ``by_size``: linear means as the axis, not constant, per record."""

    name: str
    points: tuple[Point, ...]
    by_size: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """A measured point. ``ratio`` is to linear growth from the cheapest smaller point."""

    at: int
    us_per_record: float
    ratio: float

    @property
    def worse(self) -> bool:
        """Whether it is flagged."""
        return self.ratio > WORSE


def axes(*, quick: bool = False) -> tuple[Axis, ...]:
    """Return what is measured; each load has few enough records to take seconds."""
    part = 4 if quick else 1

    def flows(per_source: int, options: Mapping[str, Any]) -> Point:
        load = Load(2 * WINDOW_RECORDS, WINDOW_RECORDS // per_source, interval_ns=3 * 10**9 // WINDOW_RECORDS)
        return Point(per_source, load, options)

    def partitioned(number: int) -> Point:
        load = Load(1_000_000 // part, partitions=number)
        return Point(number, load, {**SUMS, "topics": {"partitions": number}})

    sources = [10**n for n in range(1, 6 if quick else 7)]
    per_source = [1, 10, 100, 1000, 5000] + ([] if quick else [20_000])
    sizes = [80, 150, 400, 1500]
    return (
        Axis("sources per window", tuple(Point(n, Load(1_000_000 // part, n, 3000), SUMS) for n in sources)),
        Axis("flows of a source in a window, sums", tuple(flows(n, SUMS) for n in per_source)),
        Axis("flows of a source in a window, distances", tuple(flows(n, DISTANCES) for n in per_source)),
        Axis("partitions", tuple(partitioned(n) for n in ((1, 4, 16) if quick else (1, 4, 16, 64)))),
        Axis(
            "bytes of a message, ingest",
            tuple(Point(n, Load(600_000 // part, message_bytes=n), SUMS, "ingest") for n in sizes),
            by_size=True,
        ),
    )


def ratios(places: Sequence[int], costs: Sequence[float], *, by_size: bool) -> list[float]:
    """Return each point's cost per unit over the least of the points before it; the first has 1."""
    units = [cost / (place if by_size else 1) for place, cost in zip(places, costs, strict=True)]
    return [unit / min(units[: at or 1]) for at, unit in enumerate(units)]


def _us_per_record(ground: Ground, point: Point) -> float:
    app = ground.app("growth", point.options)
    load = point.load
    app.publish(load, load.closing())
    records = load.records + load.partitions
    counter = APPLIED if "analyses" in point.agents else CONSUMED
    with app.worker(point.agents) as worker:
        first = worker.until(lambda s: s.get(counter) > 0)
        last = worker.until(lambda s: s.get(counter) >= records and s.get("rows_open") <= load.partitions)
    check_nothing_lost(last)
    # The first look may find much done already: what was not timed is not counted.
    figures = between(first, last, counter)
    if figures["records"] < records / 4:
        raise BenchError(f"only {figures['records']:,.0f} records lay between the first look and the last")
    return figures["cpu_s"] / figures["records"] * 1e6


def measure_growth(ground: Ground, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure every point of every axis; return them as plain values."""
    told = []
    for axis in axes(quick=ground.quick):
        done: list[tuple[int, float]] = []
        failed: list[dict[str, Any]] = []
        for point in axis.points:
            try:
                # The least of two: what the neighbours disturbed less.
                costs_us = [_us_per_record(ground, point) for _ in range(1 if ground.quick else 2)]
                done.append((point.at, min(costs_us)))
                say(f"{axis.name}: {point.at:,}: {done[-1][1]:.2f} us/record")
            except BenchError as error:
                failed.append({"at": point.at, "why": " ".join(str(error).split())[:600]})
                say(f"{axis.name}: {point.at:,}: failed: {failed[-1]['why']}")
        places, costs = [at for at, _ in done], [us for _, us in done]
        found = zip(places, costs, ratios(places, costs, by_size=axis.by_size), strict=True)
        points = [Cost(at, us, ratio) for at, us, ratio in found]
        told.append({
            "axis": axis.name, "by_size": axis.by_size, "failed": failed,
            "points": [{**asdict(p), "worse": p.worse} for p in points],
        })  # fmt: skip
    return told


def _cells(axis: Mapping[str, Any]) -> list[tuple[str, ...]]:
    measured = [
        (f"{p['at']:,}", count(p["us_per_record"]), f"{p['ratio']:.2f}", "worse than linear" if p["worse"] else "")
        for p in axis["points"]
    ]
    return measured + [(f"{f['at']:,}", "-", "-", f"failed: {f['why']}") for f in axis["failed"]]


def _headings(axis: Mapping[str, Any]) -> tuple[str, ...]:
    return axis["axis"], "us/record (CPU)", "ratio to linear", ""


def growth_markdown(told: Sequence[Mapping[str, Any]]) -> str:
    """Return a table per axis as Markdown."""
    return "\n\n".join(markdown_table(_headings(axis), _cells(axis)) for axis in told) + "\n"


def show_growth(out: Console, told: Sequence[Mapping[str, Any]]) -> None:
    """Print a table per axis."""
    for axis in told:
        table = Table(*_headings(axis))
        for row in _cells(axis):
            table.add_row(*row)
        out.print(table)
