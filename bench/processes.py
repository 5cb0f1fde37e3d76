"""A measured process: its output in a file, held to a core, ended by SIGTERM, or by SIGKILL if it has to be."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

END_S = 20.0


@contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], log_path: Path, cwd: Path | None = None, core: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for as long as the block lasts."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, env=dict(env), cwd=cwd, stdout=log, stderr=log)
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})  # before it has other threads; they inherit it
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
