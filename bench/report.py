"""The figures: what is computed from what was measured, in the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


class BenchError(Exception):
    """A run that cannot be counted; the message says why, in one line or with the end of a log."""


class LostError(BenchError):
    """Records were late, came twice, were rejected or are missing: no second attempt makes up for that."""


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


def count(number: float) -> str:
    """Return a rate in three significant digits: 1,230,000; 98,700; 3.21."""
    if number >= 1000:
        digits = len(str(int(number))) - 3
        return f"{round(number / 10**digits) * 10**digits:,}"
    return f"{number:.3g}"


RUN_HEADINGS = (
    "worker", "records", "records/s", "records/CPU s", "us/record", "results", "peak MB", "broker CPU", "others' CPU",
)  # fmt: skip
STAGE_HEADINGS = ("stage, no Kafka", "us/record", "records/CPU s")


def run_cells(run: Run) -> tuple[str, ...]:
    """Return a run's texts in the order of the headings."""
    return (
        run.name, f"{run.records:,}", count(run.per_s), count(run.per_cpu_s), f"{run.us_per_record:.2f}",
        f"{run.results:,}", f"{run.peak_rss_bytes / 1e6:.0f}", f"{run.broker_cpu_s / run.wall_s:.0%}",
        f"{run.others_cpu_s / run.wall_s:.0%}",
    )  # fmt: skip


def stage_cells(stage: Stage) -> tuple[str, ...]:
    """Return a stage's texts in the order of the headings."""
    return stage.name.strip(), f"{stage.us_per_record:.3f}", count(1e6 / stage.us_per_record)


def show_runs(out: Console, runs: Sequence[Run], stages: Sequence[Stage]) -> None:
    """Print the tables of whole runs and of single steps, where there are any."""
    for title, headings, rows in (
        ("One process over a real broker", RUN_HEADINGS, [run_cells(run) for run in runs]),
        ("In one process, best of repeats", STAGE_HEADINGS, [stage_cells(stage) for stage in stages]),
    ):
        if rows:
            table = Table(headings[0], title=title)
            for heading in headings[1:]:
                table.add_column(heading, justify="right")
            for row in rows:
                table.add_row(*row)
            out.print(table)


def runs_markdown(runs: Sequence[Run], stages: Sequence[Stage]) -> str:
    """Return the same as Markdown."""
    tables = []
    if runs:
        tables.append(markdown_table(RUN_HEADINGS, [run_cells(run) for run in runs]))
    if stages:
        tables.append(markdown_table(STAGE_HEADINGS, [stage_cells(stage) for stage in stages]))
    return "".join(f"\n{table}\n" for table in tables)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; bars within cells are escaped."""
    texts = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in texts)
