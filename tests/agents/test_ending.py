"""A worker ends within a time, with an exit code that tells how, whatever hangs: its thread, its loop, its stopping."""

from __future__ import annotations

import subprocess
import sys
import time

from agents.app import create_app
from agents.ending import BoundedWorker
from flowstream.settings import load

HANGING = """
import asyncio, sys, threading
import faust
from agents import ending
ending.ENDING_S = {ending_s}

class Hangs(faust.Service):
    async def on_start(self):
        {start}
        threading.Thread(target=threading.Event().wait, daemon=False).start()  # as a client's thread would
    async def on_started(self):
        {started}
    async def on_stop(self):
        {stop}

async def crash(service, error):
    await service.crash(error)

app = faust.App("hangs", broker="kafka://127.0.0.1:1", web_enabled=False, autodiscover=False)
worker = ending.BoundedWorker(app, quiet=True, override_logging=False)
worker.on_init_dependencies = lambda: [Hangs(beacon=worker.beacon, loop=worker.loop)]
print("up", flush=True)
worker.execute_from_commandline()
"""
FOREVER = "threading.Event().wait()"
WITHIN_S = 90


def end_of(
    start: str = "pass", started: str = "pass", stop: str = "pass", *, terminate: bool = False, ending_s: float = 1
) -> tuple[int, str]:
    """Run a worker with a service that hangs in one of the ways, and return its exit code and what it said."""
    code = HANGING.format(ending_s=ending_s, start=start, started=started, stop=stop)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    began = time.monotonic()
    if terminate:
        assert process.stdout is not None
        while "started" not in process.stdout.readline():
            pass
        process.terminate()
    said = process.communicate(timeout=WITHIN_S)[0]
    assert time.monotonic() - began < WITHIN_S
    return process.returncode, said


CRASH = "asyncio.ensure_future(crash(self, ZeroDivisionError()))"


def test_a_crash_ends_the_process_with_a_code_though_a_thread_waits_for_ever() -> None:
    assert end_of(started=CRASH)[0] == 1


def test_a_crash_ends_the_process_though_stopping_blocks_the_event_loop_for_ever() -> None:
    code, said = end_of(started=CRASH, stop=FOREVER)
    assert code == 1
    assert "ZeroDivisionError" in said


def test_an_error_in_the_start_ends_the_process() -> None:
    assert end_of(start="raise OSError(5)", stop=FOREVER)[0] == 1


def test_a_signal_ends_the_process_though_stopping_blocks_for_ever() -> None:
    code, said = end_of(started='print("started", flush=True)', stop=FOREVER, terminate=True)
    assert code == 1
    assert "SIGTERM" in said


def test_a_refusal_to_start_is_one_line() -> None:
    code, said = end_of(
        start="from flowstream.errors import BrokerError; raise BrokerError('no broker answers')", ending_s=60
    )
    assert code == 2
    assert said.splitlines() == ["up", "flowstream: no broker answers"]


def test_fausts_own_command_runs_the_same_worker() -> None:
    assert create_app(load()).conf.Worker is BoundedWorker
