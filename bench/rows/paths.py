"""Packet paths alone, in a process of its own held to the workers' core: see ``bench.paths_alone``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.calibrate import ONE_THREAD
from bench.ground import Ground
from bench.report import BenchError
from bench.rows.row import Row
from bench.verdict import Outcome, Target


def paths(ground: Ground) -> Outcome:
    """12,000 flows a second, each seen at three switches, a window of 10 s."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.paths_alone", "3" if ground.quick else "7"],
        env={**os.environ, **ONE_THREAD}, cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if ground.core is not None:
        os.sched_setaffinity(process.pid, {ground.core})
    try:
        printed, said = process.communicate(timeout=120)
    finally:
        process.kill()
    if process.returncode:
        raise BenchError(f"the paths alone: {said[-300:]}")
    found: dict[str, float] = json.loads(printed)
    return Outcome(
        [found["window_s"]], f"{found['rows']:,} samples of {found['flows']:,} flows, 1,000 paths told", found
    )


ROWS = (
    Row(
        "paths", (Target("packet paths, 12,000 flows/s seen at 3 switches each: a window of 10 s", 0.400, "s"),), paths
    ),
)
