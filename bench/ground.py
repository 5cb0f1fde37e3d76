"""Where the rows are measured: one broker, topics of their own, workers held to a core and watched from outside."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from agents.admin import create_topics
from agents.kafka_node import free_port
from bench.calibrate import ONE_THREAD
from bench.load import Load
from bench.pipeline import busy_s, counts, until_topics_are_known
from bench.processes import running
from bench.report import BenchError, LostError
from bench.wire import send_in_turn
from flowstream.settings import Settings

ROOT = Path(__file__).parents[1]  # the code beside this bench is what is measured, whatever is installed
START_S = 90.0
STALL_S = 60.0
LOOK_S = 0.1
LOST = ("rows_late_total", "rows_duplicate_total", "block_gaps_total", "records_rejected_total")

Counts = dict[str, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a worker. Counts are sums over labels; seconds of CPU time since each process began."""

    at_s: float
    cpu_s: float
    broker_cpu_s: float
    busy_s: float  # of the whole machine
    rss_bytes: int
    counts: Counts

    def get(self, name: str) -> float:
        """Return a metric, 0 where there is none yet."""
        return self.counts.get(name, 0.0)


class Worker:
    """A running worker process."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, log: Path, broker_pid: int) -> None:
        self.name = name
        self.port = port
        self.peak_rss_bytes = 0
        self._process, self._log = process, log
        self._seen, self._broker = psutil.Process(process.pid), psutil.Process(broker_pid)

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    def get(self, path: str, timeout_s: float = 30.0) -> bytes | None:
        """Return what the web server answers, None while it does not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout_s) as answer:
                return bytes(answer.read())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def check(self) -> None:
        """Raise BenchError where the worker has ended, or says that it should have."""
        if self._process.poll() is not None:
            raise BenchError(f"{self.name}: the worker ended: {self.said()}")
        if b" CRITICAL " in self._log.read_bytes():
            raise BenchError(f"{self.name}: the worker crashed and has not ended: {self.said()}")

    def look(self) -> Sample | None:
        """Return what the worker says now, None while it does not answer; BenchError where it has ended."""
        page = self.get("/metrics")
        self.check()
        if page is None:
            return None
        rss = self._seen.memory_info().rss
        self.peak_rss_bytes = max(self.peak_rss_bytes, rss)
        return Sample(
            time.perf_counter(), _cpu_s(self._seen), _cpu_s(self._broker), busy_s(), rss, counts(page.decode())
        )

    def until(self, reached: Callable[[Sample], bool], stall_s: float = STALL_S, every_s: float = LOOK_S) -> Sample:
        """Return the first sample that will do; BenchError where nothing moves for ``stall_s``."""
        seen: tuple[float, ...] = ()
        deadline = time.perf_counter() + max(stall_s, START_S)
        while True:
            sample = self.look()
            if sample is not None:
                if reached(sample):
                    return sample
                names = ("records_consumed_total", "rows_applied_total", "panes_closed_total", "results_sent_total")
                now = tuple(sample.get(name) for name in names)
                if now != seen:
                    seen, deadline = now, time.perf_counter() + stall_s
            if time.perf_counter() > deadline:
                stood = "never answered" if sample is None else f"stands at {sample.counts}"
                raise BenchError(f"{self.name}: the worker {stood}: {self.said()}")
            time.sleep(every_s)  # the interval of looking; what is waited for is the condition

    def until_ready(self) -> float:
        """Wait until it holds partitions of the flows topic; return when that was (perf_counter)."""
        deadline = time.perf_counter() + START_S
        while time.perf_counter() < deadline:
            self.look()
            state = json.loads(self.get("/health") or b"{}")
            if state.get("status") == "ok" and any(".flows." in topic for topic in state["assigned"]):
                return time.perf_counter()
            time.sleep(0.02)  # the interval of looking
        raise BenchError(f"{self.name}: the worker got no partitions: {self.said()}")

    def said(self, size: int = 400) -> str:
        """Return the end of the log."""
        return self._log.read_bytes()[-size:].decode(errors="replace").strip() or "its log is empty"


class Background(threading.Thread):
    """Something done again and again in a thread, from entering to leaving a ``with``."""

    def __init__(self, turn: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._turn, self._over = turn, threading.Event()

    def run(self) -> None:
        """Take turns until it is over."""
        while not self._over.is_set():
            self._turn()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@dataclass(slots=True)
class Ground:
    """The broker and all that the rows share. ``core`` is the workers', ``own_core`` everybody else's, or None."""

    bootstrap: str
    broker_pid: int
    folder: Path
    core: int | None
    own_core: int | None
    quick: bool = False
    env: Mapping[str, str] = field(default_factory=dict)  # further settings of the workers
    shared: dict[str, Any] = field(default_factory=dict)  # what one row leaves for another
    _number: int = 0

    def fresh(self, name: str) -> str:
        """Return a name that nothing has had."""
        self._number += 1
        return f"bench-{name}-{self._number}"

    def others_cpu_s(self) -> float:
        """Return the CPU time that the machine has given to all but this bench, its broker and its ended workers."""
        own = os.times()
        ours_s = own.user + own.system + own.children_user + own.children_system
        return busy_s() - ours_s - _cpu_s(psutil.Process(self.broker_pid))

    def app(self, name: str, options: Mapping[str, Any]) -> App:
        """Make an app with topics of its own; ``options`` are settings, sections as tables."""
        fresh = self.fresh(name)
        topics = {"prefix": fresh, "partitions": 4, **options.get("topics", {})}
        inputs = options.get("inputs", [{"topic": f"{fresh}-raw", "format": "goflow"}])
        own = {"app": fresh, "inputs": inputs, "topics": topics, "data_dir": str(self.folder / fresh)}
        app = App(self, {**options, **own})
        asyncio.run(_create(app.settings))
        return app


async def _create(settings: Settings) -> None:
    await create_topics(settings)
    await until_topics_are_known(settings)


@dataclass(slots=True)
class App:
    """One consumer group with its topics."""

    ground: Ground
    options: Mapping[str, Any]

    @property
    def settings(self) -> Settings:
        """The settings, with the broker's address."""
        kafka = {**self.options.get("kafka", {}), "bootstrap": self.ground.bootstrap}
        return Settings(**{**self.options, "kafka": kafka})

    @property
    def raw(self) -> str:
        """The raw topic."""
        return str(self.options["inputs"][0]["topic"])

    def topic(self, stream: str) -> str:
        """Return the topic of a stream."""
        return f"{self.options['topics']['prefix']}.{stream}.v1"

    def publish(self, *loads: Load) -> list[float]:
        """Publish loads one after the other; return when it began and when each was acknowledged (perf_counter)."""
        return send_in_turn(self.ground.bootstrap, self.raw, *(load.batches() for load in loads))

    @contextmanager
    def worker(self, agents: str = "ingest,analyses", core: int | None = None) -> Iterator[Worker]:
        """Run a worker on a core (the ground's unless another is named)."""
        ground, port = self.ground, free_port()
        log_path = ground.folder / f"{ground.fresh('log')}.log"
        env = {k: v for k, v in os.environ.items() if not k.startswith("FLOWSTREAM_")}
        env |= ONE_THREAD | environment(self.options)
        env |= {"FLOWSTREAM_KAFKA__BOOTSTRAP": ground.bootstrap, "PYTHONPATH": str(ROOT), **ground.env}
        program = str(Path(sys.executable).with_name("flowstream"))
        command = [program, "worker", "--agents", agents, "--port", str(port)]
        with running(command, env, log_path, ground.folder, ground.core if core is None else core) as process:
            yield Worker(str(self.options["app"]), process, port, log_path, ground.broker_pid)


def environment(options: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as variables, sections joined by two underscores."""
    found = {}
    for name, value in options.items():
        inner = value if isinstance(value, dict) else {"": value}
        for key, one in inner.items():
            variable = f"FLOWSTREAM_{name}__{key}" if key else f"FLOWSTREAM_{name}"
            found[variable.upper()] = one if isinstance(one, str) else json.dumps(one)
    return found


def check_nothing_lost(sample: Sample) -> None:
    """Raise LostError where a record was late, came twice, was rejected or is missing."""
    for lost in LOST:
        if sample.get(lost):
            raise LostError(f"{lost} is {sample.get(lost):.0f}, it should be 0")


def between(first: Sample, last: Sample, counter: str) -> dict[str, float]:
    """Return the figures of the time between two samples; rates are of ``counter``."""
    wall_s, cpu_s = last.at_s - first.at_s, last.cpu_s - first.cpu_s
    broker_s = last.broker_cpu_s - first.broker_cpu_s
    records = last.get(counter) - first.get(counter)
    others_s = max(0.0, last.busy_s - first.busy_s - cpu_s - broker_s)
    return {
        "records": records, "wall_s": wall_s, "cpu_s": cpu_s, "per_s": records / wall_s,
        "per_cpu_s": records / cpu_s if cpu_s else float("nan"), "worker_busy": cpu_s / wall_s,
        "broker_busy": broker_s / wall_s, "others_busy": others_s / wall_s,
    }  # fmt: skip


def limited_by(figures: Mapping[str, float]) -> str:
    """Say from who was busy what a run was limited by."""
    worker, broker, others = (figures[name] for name in ("worker_busy", "broker_busy", "others_busy"))
    if worker > 0.9:
        what = "the worker's core"
    elif broker > 0.8:
        what = "the broker"
    elif worker + broker + others > 1.8:
        what = "cores shared with others"
    else:
        what = "waiting between worker and broker"
    return f"{what}: worker {worker:.0%}, broker {broker:.0%}, others {others:.0%} of a core"
