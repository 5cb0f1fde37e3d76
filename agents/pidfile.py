"""Which process a pid file means: a pid alone may by now be another's, with its time of birth it cannot."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mark:
    """A process and the port it serves; ``born`` tells it from a later process of the same pid."""

    pid: int
    born: str
    port: int


def write_mark(path: Path, pid: int, port: int) -> None:
    """Write the pid file of a process that was just started."""
    path.write_text(json.dumps(asdict(Mark(pid, born(pid) or "", port))))


def live_mark(path: Path) -> Mark | None:
    """Return what the pid file says if that very process lives; None for a stale, bad or absent file."""
    try:
        mark = Mark(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return mark if born(mark.pid) == mark.born else None


def born(pid: int) -> str | None:
    """Return when a process was born, as text to compare; None if there is none, or only its remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _born_by_ps(pid)
    # Behind the command's name in brackets: the state, 16 more fields, the number of threads, one more, and
    # the start in clock ticks.
    fields = stat.rpartition(")")[2].split()
    # The main thread is a zombie a little before its siblings end and let go of their ports and files.
    ended = fields[0] in "ZX" and int(fields[17]) <= 1
    return None if ended else fields[19]


def _born_by_ps(pid: int) -> str | None:
    """Ask ``ps``, where there is no /proc (macOS)."""
    run = subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, started = run.stdout.strip().partition(" ")
    return None if run.returncode or not state or "Z" in state else started.strip()
