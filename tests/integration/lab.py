"""A place on a real broker that nobody else uses: topics, workers as processes, telemetry."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import URLError

import psutil

from agents.admin import create_topics
from agents.kafka_node import free_port
from agents.send import send_links
from flowstream.links import LinkTable
from flowstream.settings import Settings, load
from flowstream.topics import name
from tests.integration.kafka import create_topic, write
from tests.waiting import wait_for


class Worker:
    """A ``flowstream worker`` process."""

    def __init__(
        self, environment: dict[str, str], folder: Path, number: int, command: Sequence[str], port: int = 0
    ) -> None:
        self.port = port or free_port()
        self.environment = environment
        self.folder = folder
        self.number = number
        self.command = command
        self.stopped = False  # told to end, rather than made to
        self.log = folder / f"worker{number}.log"
        own = {
            "FLOWSTREAM_WEB__PORT": str(self.port),
            "FLOWSTREAM_DATA_DIR": str(folder / f"worker{number}"),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=os.environ | environment | own, stdout=log, stderr=log)

    def get(self, path: str) -> dict[str, Any]:
        """Return what the web server answers, {} while it does not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                answered: dict[str, Any] = json.loads(answer.read())
                return answered
        except (URLError, OSError, ValueError):
            return {}

    def metric(self, sample: str) -> float:
        """Return a metric summed over its labels; 0 while there is no answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except (URLError, OSError):
            return 0.0
        wanted = f"flowstream_{sample}"
        return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.split("{")[0].split(" ")[0] == wanted)

    def assigned(self) -> int:
        """Return how many partitions the worker has."""
        return sum(map(len, self.get("/health").get("assigned", {}).values()))

    def ready(self) -> bool:
        """Return whether it has joined its group; fail with its log if it has ended."""
        if self.process.poll() is not None:
            raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
        health = self.get("/health")
        return health.get("status") == "ok" and bool(health.get("assigned"))

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as a service manager would, and return its exit code."""
        self.stopped = True
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def pause(self) -> None:
        """Freeze it: to the others it is as good as dead, and does not know."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on from where it was frozen."""
        self.process.send_signal(signal.SIGCONT)

    @property
    def alive(self) -> bool:
        """Whether the process has not ended; a frozen one has not."""
        return self.process.poll() is None

    def rss_bytes(self) -> int:
        """Return the memory it has in use; psutil.Error once it has ended."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def cpu_s(self) -> float:
        """Return the seconds of processor time it has taken; psutil.Error once it has ended."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def descriptors(self) -> int:
        """Return how many files and sockets it has open; psutil.Error once it has ended."""
        return int(psutil.Process(self.process.pid).num_fds())


class Lab:
    """Names, settings and processes of one test; what runs is ended with it."""

    def __init__(self, broker: str, prefix: str, folder: Path, raw: str | None = None) -> None:
        self.broker = broker
        self.app = f"{prefix}app"
        self.raw = raw or f"{prefix}raw"
        self.prefix = f"{prefix}fs"
        self.folder = folder
        self.workers: list[Worker] = []
        self.agents = "ingest,analyses"  # of workers of which nothing else is said
        self._chosen: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.change(
            app=self.app, inputs=[{"topic": self.raw, "format": "goflow"}], topics={"prefix": self.prefix},
            kafka={"bootstrap": broker, "session_timeout_s": 6, "heartbeat_s": 1}, time={"idle_after_s": 2},
        )  # fmt: skip

    def change(self, **settings: Any) -> None:
        """Choose settings, as ``flowstream.settings.load`` takes them, for the workers that start from now on."""
        for section, chosen in settings.items():
            if not isinstance(chosen, dict):
                self._chosen[section] = chosen
                self.environment[f"FLOWSTREAM_{section.upper()}"] = _as_text(chosen)
                continue
            self._chosen[section] = self._chosen.get(section, {}) | chosen
            for setting, value in chosen.items():
                self.environment[f"FLOWSTREAM_{section.upper()}__{setting.upper()}"] = _as_text(value)

    def settings(self) -> Settings:
        """Return the settings the workers have."""
        return load(**self._chosen)

    def topic(self, stream: str) -> str:
        """Return the topic of a stream."""
        return name(self.settings(), stream)

    def prepare(self, links: Path | None = None, raw_partitions: int = 1) -> None:
        """Make the topics and load link capacities; a raw topic that is there already is used as it is."""
        if raw_partitions:
            create_topic(self.broker, self.raw, raw_partitions)
        asyncio.run(create_topics(self.settings()))
        if links is not None:
            asyncio.run(send_links(self.settings(), LinkTable.from_path(links)))

    def send(self, values: Sequence[bytes | None], partitions: int = 1) -> None:
        """Put messages on the raw topic."""
        write(self.broker, self.raw, values, partitions, batch_bytes=1 << 14)

    def worker(self, agents: str = "", command: Sequence[str] = (), *, wait: bool = True, **environment: str) -> Worker:
        """Start a worker and, unless told otherwise, wait until it has joined."""
        agents = agents or self.agents
        ours = [sys.executable, "-m", "flowstream.cli", "worker", "--log-level", "info", "--agents", agents]
        worker = Worker(self.environment | environment, self.folder, len(self.workers), command or ours)
        self.workers.append(worker)
        if wait:
            self.joined(worker)
        return worker

    def again(self, worker: Worker) -> Worker:
        """Start a worker that has ended once more: same place in ``workers``, folder, port and settings."""
        at = self.workers.index(worker)
        once_more = Worker(worker.environment, worker.folder, worker.number, worker.command, worker.port)
        self.workers[at] = once_more
        return once_more

    def joined(self, worker: Worker, deadline_s: float = 150) -> None:
        """Wait until a worker has joined its group and has partitions."""
        try:
            wait_for(worker.ready, "the worker to join its group", deadline_s)
        except AssertionError as error:
            error.add_note(worker.log.read_text()[-3000:])
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.kill()


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
