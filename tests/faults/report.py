"""What a run of the scenarios says: a table, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich import box
from rich.table import Table

from flowstream import __version__


@dataclass(slots=True)
class Row:
    """One scenario's line. None: not measured here."""

    number: int
    scenario: str
    seed: int
    faults: list[str] = field(default_factory=list)
    records: int = 0
    lost: int | None = None
    duplicated: int | None = None
    late: int = 0
    dead_letters: int = 0
    sent_again: int = 0  # source offsets that came a second time in the flows topic, and were dropped
    said_again: int = 0  # results that came a second time, with the same bytes
    restarts: int = 0  # by the supervisor
    recovery_s: float | None = None  # the longest
    seconds: float = 0.0
    rss_bytes_max: int = 0
    descriptors_max: int = 0
    verdict: str = "not run"
    detail: str = ""
    figures: dict[str, float | str] = field(default_factory=dict)  # what a scenario measured beside

    @property
    def passed(self) -> bool:
        """Whether every criterion held."""
        return self.verdict == "pass"


def table(rows: Sequence[Row]) -> Table:
    """Return the table; it is printed as Markdown."""
    made = Table(box=box.MARKDOWN)
    for title in ("#", "scenario", "faults injected"):
        made.add_column(title, overflow="fold")
    for title in ("records", "lost", "duplicated", "late", "dead letters", "recovery, s", "took, s"):
        made.add_column(title, justify="right")
    made.add_column("verdict")
    for row in rows:
        counts = [row.records, row.lost, row.duplicated, row.late, row.dead_letters]
        recovery = "" if row.recovery_s is None else f"{row.recovery_s:.1f}"
        made.add_row(
            str(row.number), row.scenario, _counted(row.faults),
            *["" if c is None else f"{c:,}" for c in counts], recovery, f"{row.seconds:.0f}", row.verdict,
        )  # fmt: skip
    return made


def _counted(faults: Sequence[str]) -> str:
    kinds = dict.fromkeys(faults)
    return "; ".join(f"{faults.count(k)} x {k}" if faults.count(k) > 1 else k for k in kinds) or "none"


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """Write the report."""
    told = {
        "flowstream": __version__,
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "passed": all(row.passed for row in rows),
        "scenarios": [asdict(row) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=2) + "\n", "utf-8")
