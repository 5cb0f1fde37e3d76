"""What this machine can do, so that figures of different machines and busy hours can be compared.

Run as ``python -m bench.calibrate`` it prints the two figures as JSON; ``calibrate`` does that in a process
of its own, because the number of BLAS threads must be set before numpy is loaded.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
GEMM_SIZE = 2000
FILL_BYTES = 256 << 20


def best_s(work: Callable[[], object], repeats: int) -> float:
    """Return the least wall-clock time of several runs: the one the neighbours disturbed least."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def measure(repeats: int = 3) -> dict[str, float]:
    """Return the speed of a float64 matrix product and of filling memory."""
    rng = np.random.default_rng(1)
    a, b = rng.random((GEMM_SIZE, GEMM_SIZE)), rng.random((GEMM_SIZE, GEMM_SIZE))
    out = np.empty_like(a)
    space = np.empty(FILL_BYTES // 8)
    space.fill(0.0)
    return {
        "gemm_gflops": 2 * GEMM_SIZE**3 / best_s(lambda: np.matmul(a, b, out=out), repeats) / 1e9,
        "fill_gb_per_s": FILL_BYTES / best_s(lambda: space.fill(1.0), repeats) / 1e9,
    }


def calibrate() -> dict[str, float]:
    """Measure in a process of its own, on one thread."""
    run = subprocess.run(
        [sys.executable, "-m", "bench.calibrate"], env={**os.environ, **ONE_THREAD}, capture_output=True, text=True,
        check=True, timeout=120, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    figures: dict[str, float] = json.loads(run.stdout)
    return figures


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "numba", "aiokafka", "faust-streaming", "protobuf")},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return f"{fields.get('model name', platform.machine())} (family {fields.get('cpu family', '?')})"


if __name__ == "__main__":
    print(json.dumps(measure()))
