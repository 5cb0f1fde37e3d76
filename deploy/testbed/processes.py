"""Processes that outlive the command that starts them, each with a pid file; and only those are ever ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agents.pidfile import live_mark, write_mark

CLONE_NEWNET = 0x4000_0000
END_S = 20.0


class TestbedError(Exception):
    """The test bed cannot do what was asked; the message is one line and says what to do."""

    __test__ = False


def run(*command: str, input_text: str | None = None) -> str:
    """Run a command to its end and return what it printed; TestbedError with its complaint where it fails."""
    try:
        done = subprocess.run(command, input=input_text, capture_output=True, text=True, check=True, timeout=60)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines()[-1:] or [f"status {error.returncode}"]
        raise TestbedError(f"{' '.join(command)[:200]}: {said[0]}") from error
    return done.stdout


def enter(namespace: str) -> None:
    """Move this process, and what it starts from now on, into a network namespace of ``ip netns``."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}", "rb") as handle:
        if libc.setns(handle.fileno(), CLONE_NEWNET):
            raise TestbedError(f"namespace {namespace}: {os.strerror(ctypes.get_errno())}")


def inside(namespace: str, *command: str) -> list[str]:
    """Return the command that runs another in a namespace; both are one process."""
    return ["ip", "netns", "exec", namespace, *command]


def start(
    folder: Path, name: str, command: Sequence[str], env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process with its log and pid file in ``folder``; ``end_all`` of any later command finds it."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    write_mark(folder / f"{name}.pid", process.pid, 0)
    return process


def end(folder: Path, names: Sequence[str]) -> None:
    """End processes in good order, all at once, by force what does not follow; those that are gone are passed over."""
    for number, patience_s in ((signal.SIGTERM, END_S), (signal.SIGKILL, 5.0)):
        for name in names:
            mark = live_mark(folder / f"{name}.pid")
            if mark is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(mark.pid, number)
        deadline = time.monotonic() + patience_s
        while any(live_mark(folder / f"{name}.pid") for name in names) and time.monotonic() < deadline:
            time.sleep(0.05)
    for name in names:
        (folder / f"{name}.pid").unlink(missing_ok=True)


def started(folder: Path) -> list[str]:
    """Return the names of what was started in a folder and not ended, oldest first."""
    return [path.stem for path in sorted(folder.glob("*.pid"), key=lambda path: path.stat().st_mtime_ns)]


def until(condition: Callable[[], bool], what: str, deadline_s: float = 30) -> None:
    """Return once a condition holds; TestbedError naming what was awaited where it does not in time."""
    end_at = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_at:
            raise TestbedError(f"waited {deadline_s:g} s in vain for {what}")
        time.sleep(0.1)
