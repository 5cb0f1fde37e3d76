"""Link use alone, in a process of its own held to the workers' core: see ``bench.links_alone``."""

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


def links(ground: Ground) -> Outcome:
    """10,000 interfaces, 12,000 rows a second, intervals of 10 s."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.links_alone", "3" if ground.quick else "12"],
        env={**os.environ, **ONE_THREAD}, cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if ground.core is not None:
        os.sched_setaffinity(process.pid, {ground.core})
    try:
        printed, said = process.communicate(timeout=180)
    finally:
        process.kill()
    if process.returncode:
        raise BenchError(f"link use alone: {said[-300:]}")
    found: dict[str, float] = json.loads(printed)
    merge_ms, state_mb = (
        [found[f"{kind}_{figure}"] * factor for kind in ("samples", "records")]
        for figure, factor in (("merge_s", 1e3), ("state_bytes", 1e-6))
    )
    limits = (
        f"merging and telling {merge_ms[0]:.0f} and {merge_ms[1]:.0f} ms, the rest is spreading; "
        f"state {state_mb[0]:.1f} and {state_mb[1]:.1f} MB"
    )
    totals = [found[f"{kind}_spread_s"] + found[f"{kind}_merge_s"] for kind in ("samples", "records")]
    return Outcome(totals, limits, found)


ROWS = (
    Row(
        "links",
        (
            Target("link use of 10,000 interfaces, 12,000 samples/s: an interval of 10 s", 0.5, "s"),
            Target("the same of flow records that lived up to 60 s", 1.0, "s"),
        ),
        links,
    ),
)
