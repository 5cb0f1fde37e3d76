"""Top talkers alone, in a process of its own held to the workers' core: see ``bench.talkers_alone``."""

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


def talkers(ground: Ground) -> Outcome:
    """12,000 concurrent flows a second, a window of 60 s that slides by 1 s."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.talkers_alone", "10" if ground.quick else "60"],
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
        raise BenchError(f"the talkers alone: {said[-300:]}")
    found: dict[str, float] = json.loads(printed)
    kept = f"{found['rows']:,} partials a step, {found['keys_held']:,} keys held"
    limits = f"{kept}, worst step {found['worst_s'] * 1e3:.0f} ms"
    return Outcome([found["step_s"]], limits, found)


ROWS = (
    Row(
        "talkers",
        (Target("top talkers, 12,000 concurrent flows/s, 60 s by 1 s, 8 ways to group: a step", 0.040, "s"),),
        talkers,
    ),
)
