"""Targets, what was measured against them, and the verdicts; in the terminal, in Markdown and in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.report import count, markdown_table


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be: at least the bound, or at most."""

    what: str
    bound: float
    unit: str
    at_least: bool = False

    def met_by(self, value: float) -> bool:
        """Whether a measured value is good enough; not a number never is."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {amount(self.bound, self.unit)}"


@dataclass(slots=True)
class Outcome:
    """What a row found: one value per target in their order, what limits it, and everything else it saw."""

    values: Sequence[float]
    limits: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    failed: str = ""  # why it does not count


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    row: str
    target: Target
    value: float | None
    limits: str
    failed: str = ""

    @property
    def verdict(self) -> str:
        """Met, missed, or failed where the run does not count."""
        if self.failed or self.value is None:
            return "failed"
        return "met" if self.target.met_by(self.value) else "missed"

    @property
    def measured(self) -> str:
        """The value with its unit."""
        return "-" if self.value is None else amount(self.value, self.target.unit)

    def to_json(self) -> dict[str, Any]:
        """Return everything, with the verdict."""
        return {**asdict(self), "verdict": self.verdict}


def amount(value: float, unit: str) -> str:
    """Return a value as a reader wants it: three digits, small seconds as milliseconds."""
    if unit == "s" and value < 1:
        return f"{count(value * 1e3)} ms"
    return f"{count(value)}x" if unit == "x" else f"{count(value)} {unit}"


def lines(row: str, targets: Sequence[Target], outcome: Outcome) -> list[Line]:
    """Return a row's lines; what limits it is said once, at the first."""
    values: Sequence[float | None] = outcome.values or [None] * len(targets)
    return [
        Line(row, target, value, "" if at else outcome.limits, outcome.failed)
        for at, (target, value) in enumerate(zip(targets, values, strict=True))
    ]


HEADINGS = ("row", "what", "measured", "target", "verdict", "what limits it")


def cells(line: Line) -> tuple[str, ...]:
    """Return a line's texts in the order of the headings."""
    why = line.failed or line.limits
    return line.row, line.target.what, line.measured, str(line.target), line.verdict, why


def show(out: Console, found: Mapping[str, Any], told: Sequence[Line]) -> None:
    """Print what it was measured on, and the table."""
    out.print(_machine(found), highlight=False)
    if not told:
        return
    table = Table(*HEADINGS, title="Against the targets")
    colour = {"met": "green", "missed": "yellow", "failed": "red"}
    for line in told:
        *first, verdict, why = cells(line)
        table.add_row(*first, f"[{colour[verdict]}]{verdict}[/]", why.replace("[", r"\["))
    out.print(table)


def _machine(found: Mapping[str, Any]) -> str:
    facts, speed = found["machine"], found["calibration"]
    before, after = found["load_before"], found["load_after"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']:.0f} GB, {facts['system']}, Python "
        f"{facts['python']}, {versions}. One thread did {speed['gemm_gflops']:.1f} GFLOP/s (float64 matrix product) "
        f"and filled memory at {speed['fill_gb_per_s']:.1f} GB/s. Load average {before[0]:.1f} before and "
        f"{after[0]:.1f} after."
    )


def markdown(found: Mapping[str, Any], told: Sequence[Line]) -> str:
    """Return the machine, the load average and the table as Markdown."""
    table = markdown_table(HEADINGS, [cells(line) for line in told]) + "\n" if told else ""
    return f"{_machine(found)}\n\n{table}"
