"""Measurements in a process of their own, on one thread, held to the workers' core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.calibrate import ONE_THREAD
from bench.ground import Ground
from bench.report import BenchError

LIMIT_S = 180


def measured_apart(ground: Ground, module: str, repeats: int) -> Any:
    """Run ``python -m MODULE REPEATS`` and return the figures it prints as JSON; BenchError where it fails."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(repeats)], env={**os.environ, **ONE_THREAD}, cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if ground.core is not None:
        os.sched_setaffinity(process.pid, {ground.core})
    try:
        printed, said = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    if process.returncode:
        raise BenchError(f"{module}: {said[-300:]}")
    return json.loads(printed)
