"""Packet paths alone: see ``bench.paths_alone``."""

from __future__ import annotations

from bench.apart import measured_apart
from bench.ground import Ground
from bench.rows.row import Row
from bench.verdict import Outcome, Target


def paths(ground: Ground) -> Outcome:
    """12,000 flows a second, each seen at three switches, a window of 10 s."""
    found = measured_apart(ground, "bench.paths_alone", 3 if ground.quick else 7)
    return Outcome(
        [found["window_s"]], f"{found['rows']:,} samples of {found['flows']:,} flows, 1,000 paths told", found
    )


ROWS = (
    Row(
        "paths", (Target("packet paths, 12,000 flows/s seen at 3 switches each: a window of 10 s", 0.400, "s"),), paths
    ),
)
