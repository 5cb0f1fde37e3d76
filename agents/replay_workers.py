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

from agents.kafka_node import free_port
from agents.log_reader import reader
from agents.progress import progress_topic
from flowstream.analysis import Bounds, Progress
from flowstream.errors import ReplayError
from flowstream.merging import merging_bounds
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
    """Follows the changelogs of an app's progress in both stages, whoever runs it."""

    def __init__(self, consumer: Any, settings: Settings) -> None:
        self._consumer = consumer
        self._partitions = settings.topics.partitions
        self.progress: dict[int, Progress] = {}  # of flows
        self.merged: dict[int, Progress] | None = {} if settings.is_merging else None
        self._by_topic = {progress_topic(settings.app): self.progress}
        if self.merged is not None:
            self._by_topic[progress_topic(settings.app, "merges")] = self.merged

    async def poll(self) -> None:
        """Take in what has been stored; waits a moment where nothing has."""
        for tp, records in (await self._consumer.getmany(timeout_ms=300)).items():
            last, progress = records[-1].value, self._by_topic[tp.topic]
            if last is None:
                progress.pop(tp.partition, None)
            else:
                progress[tp.partition] = Progress.decode(last)

    def finished(self, bounds: Mapping[int, Bounds]) -> bool:
        """Return whether every partition, of both stages, has closed every pane before its bound."""
        ends = [(self.progress.get(p), b.until_ns) for p, b in bounds.items()]
        if self.merged is not None:
            ends += [(self.merged.get(p), merging_bounds(bounds).until_ns) for p in range(self._partitions)]
        return all(_has_reached(progress, until_ns) for progress, until_ns in ends)


def _has_reached(progress: Progress | None, until_ns: int | None) -> bool:
    pane_ns = 1 if progress is None else progress.pane_ns
    return until_ns is not None and closed_ns(progress) >= until_ns - until_ns % pane_ns


def closed_ns(progress: Progress | None) -> int:
    """Return the event time below which every pane is closed; 0 where none is."""
    return 0 if progress is None or progress.closed is None else progress.closed * progress.pane_ns


@asynccontextmanager
async def following(settings: Settings) -> AsyncIterator[ProgressFollower]:
    """Follow the progress of the app of the settings, from what is stored of it on."""
    stages = ("analyses", "merges") if settings.is_merging else ("analyses",)
    async with reader(settings, [progress_topic(settings.app, stage) for stage in stages]) as (consumer, tps):
        ends = await consumer.end_offsets(tps)
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        follower = ProgressFollower(consumer, settings)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            await follower.poll()
        yield follower
