"""The figures: what is computed from what was measured, the table in the terminal, the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


class BenchError(Exception):
    """A run that cannot be counted; the message says why, in one line or with the end of a log."""


@dataclass(frozen=True, slots=True)
class Run:
    """One process over a topic, between the first and the last record. Times in seconds."""

    name: str
    records: int
    wall_s: float  # until the last result was acknowledged
    cpu_s: float  # of this process, user and system
    consumed_s: float  # until the last record was read; the rest of wall_s is what was still in panes
    broker_cpu_s: float
    others_cpu_s: float  # of every other process on the machine: the load the run had to live with
    peak_rss_bytes: int
    results: int = 0
    startup_cpu_s: float = 0.0  # before the first record, not counted

    @property
    def per_s(self) -> float:
        """Records per second of wall-clock time."""
        return self.records / self.wall_s

    @property
    def per_cpu_s(self) -> float:
        """Records per second of the process's CPU time: what one core can do at the most."""
        return self.records / self.cpu_s

    @property
    def us_per_record(self) -> float:
        """CPU microseconds per record."""
        return self.cpu_s / self.records * 1e6

    def to_json(self) -> dict[str, Any]:
        """Return what was measured and what follows from it."""
        derived = {"per_s": self.per_s, "per_cpu_s": self.per_cpu_s, "us_per_record": self.us_per_record}
        return {**asdict(self), **derived}


@dataclass(frozen=True, slots=True)
class Stage:
    """One step in this process, without Kafka."""

    name: str
    records: int
    cpu_s: float  # the best of the repeats

    @property
    def us_per_record(self) -> float:
        """CPU microseconds per record."""
        return self.cpu_s / self.records * 1e6

    def to_json(self) -> dict[str, Any]:
        """Return what was measured and what follows from it."""
        return {**asdict(self), "us_per_record": self.us_per_record}


def times_faster(run: Run, peer: Run) -> float:
    """Return how many times more records a CPU second of ``run`` does than one of ``peer``."""
    return run.per_cpu_s / peer.per_cpu_s


def count(number: float) -> str:
    """Return a rate in three significant digits: 1,230,000; 98,700; 3.21."""
    if number >= 1000:
        digits = len(str(int(number))) - 3
        return f"{round(number / 10**digits) * 10**digits:,}"
    return f"{number:.3g}"


def show(
    out: Console, found: Mapping[str, Any], runs: Sequence[Run], peer: Run | None, stages: Sequence[Stage]
) -> None:
    """Print the tables."""
    facts, speed = found["machine"], found["calibration"]
    out.print(
        f"{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}; "
        f"one thread: {speed['gemm_gflops']:.1f} GFLOP/s, {speed['fill_gb_per_s']:.1f} GB/s; "
        f"load {found['load_before'][0]:.1f} before, {found['load_after'][0]:.1f} after",
        highlight=False,
    )
    if runs:
        out.print(_runs_table(runs, peer))
    if stages:
        table = Table("stage, no Kafka", title="In one process: CPU microseconds per record, best of repeats")
        for heading in ("us/record", "records/CPU s"):
            table.add_column(heading, justify="right")
        for stage in stages:
            table.add_row(stage.name, f"{stage.us_per_record:.3f}", count(1e6 / stage.us_per_record))
        out.print(table)


def _runs_table(runs: Sequence[Run], peer: Run | None) -> Table:
    table = Table("worker", title="One process over a real broker")
    headings = (
        "records",
        "records/s",
        "records/CPU s",
        "us/record",
        "results",
        "peak MB",
        "broker CPU",
        "others' CPU",
        "times peer",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for run in (*runs, *([peer] if peer is not None else [])):
        table.add_row(
            run.name, f"{run.records:,}", count(run.per_s), count(run.per_cpu_s), f"{run.us_per_record:.2f}",
            f"{run.results:,}", f"{run.peak_rss_bytes / 1e6:.0f}", f"{run.broker_cpu_s / run.wall_s:.0%}",
            f"{run.others_cpu_s / run.wall_s:.0%}", "" if peer is None else f"{times_faster(run, peer):.1f}",
        )  # fmt: skip
    return table


def write(path: Path, found: Mapping[str, Any], runs: Sequence[Run], peer: Run | None, stages: Sequence[Stage]) -> None:
    """Write everything as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        **found,
        "runs": [run.to_json() for run in runs],
        "peer": None if peer is None else peer.to_json(),
        "times_peer": {} if peer is None else {run.name: times_faster(run, peer) for run in runs},
        "stages": [stage.to_json() for stage in stages],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
