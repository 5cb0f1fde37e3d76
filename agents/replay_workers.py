"""Workers as processes of ours, and how far the app that they run has got."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agents.admin import changelogs
from agents.kafka_node import free_port
from agents.log_reader import reader
from flowstream.analysis import Bounds, Progress
from flowstream.errors import ReplayError
from flowstream.settings import Settings

STOPPED_WITHIN_S = 30
LOG_LINES = 5


class Workers:
    """Worker processes, each with a web port and a folder of its own; they end with the block."""

    def __init__(self, settings: Settings, arguments: Sequence[str], count: int) -> None:
        folder = (settings.data_dir / "replays" / settings.app).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self.logs = [folder / f"worker{number}.log" for number in range(count)]
        self._processes = [self._start(arguments, log) for log in self.logs]

    def _start(self, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "flowstream.cli", "worker", "--port", str(free_port()), *arguments]
        own = os.environ | {"FLOWSTREAM_DATA_DIR": str(log.with_suffix(""))}
        with log.open("wb") as to:
            # In a session of its own: Ctrl-C is for us, who then end the workers in order.
            return subprocess.Popen(command, env=own, stdout=to, stderr=to, start_new_session=True)  # noqa: S603

    def require_running(self) -> None:
        """Raise ReplayError with the last lines of its log where a worker has ended."""
        for process, log in zip(self._processes, self.logs, strict=True):
            if process.poll() is not None:
                said = log.read_text("utf-8", "replace").strip().splitlines()[-LOG_LINES:]
                raise ReplayError(
                    "\n".join([f"a worker ended with {process.returncode}; its log, {log}, ends:", *said])
                )

    def stop(self) -> None:
        """End them as a service manager would."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Self:
        self._handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._handler)
        self.stop()


class ProgressFollower:
    """Follows the changelog of an app's progress, whoever runs it."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self.progress: dict[int, Progress] = {}

    async def poll(self) -> None:
        """Take in what has been stored; waits a moment where nothing has."""
        for tp, records in (await self._consumer.getmany(timeout_ms=300)).items():
            last = records[-1].value
            if last is None:
                self.progress.pop(tp.partition, None)
            else:
                self.progress[tp.partition] = Progress.decode(last)

    def finished(self, bounds: Mapping[int, Bounds]) -> bool:
        """Return whether every partition has closed every pane before its bound."""
        return all(
            b.until_ns is not None and closed_ns(self.progress.get(p)) >= b.until_ns - b.until_ns % _pane_ns(self, p)
            for p, b in bounds.items()
        )


def _pane_ns(follower: ProgressFollower, partition: int) -> int:
    progress = follower.progress.get(partition)
    return 1 if progress is None else progress.pane_ns


def closed_ns(progress: Progress | None) -> int:
    """Return the event time below which every pane is closed; 0 where none is."""
    return 0 if progress is None or progress.closed is None else progress.closed * progress.pane_ns


@asynccontextmanager
async def following(settings: Settings) -> AsyncIterator[ProgressFollower]:
    """Follow the progress of the app of the settings, from what is stored of it on."""
    topic = changelogs(settings)[0].name
    async with reader(settings, [topic]) as (consumer, tps):
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        ends = await consumer.end_offsets(tps)
        follower = ProgressFollower(consumer)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            await follower.poll()
        yield follower
