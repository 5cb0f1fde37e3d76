"""A worker process over a real broker, timed from outside: its own metrics, its own CPU time.

Time runs from the moment the worker's metrics first show a record to the moment they show the last one done,
so that start-up is left out; what was done by that first moment is taken off the count. "Done" for the
analyses means that every pane that holds a record of the load is closed and its results are acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from agents.admin import check_topics, create_topics
from agents.kafka_node import free_port
from agents.publisher import Outgoing, Publisher
from agents.send import send_links
from bench.calibrate import ONE_THREAD
from bench.generate import Traffic
from bench.processes import running
from bench.report import BenchError, Run
from flowstream.links import LinkTable
from flowstream.setting_tables import Input, Kafka, Topics
from flowstream.settings import Settings

RAW_TOPIC = "bench-raw"
PARTITIONS = 4
POLL_S = 0.1
STALL_S = 60.0
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Bed:
    """Where it all happens: the broker, a folder for the workers, and the core they are held to (or None)."""

    bootstrap: str
    broker_pid: int
    folder: Path
    core: int | None
    traffic: Traffic
    env: Mapping[str, str] = field(default_factory=dict)  # further settings of the workers

    def settings(self, app: str, prefix: str) -> Settings:
        """Return settings of an app of its own."""
        return Settings(
            app=app,
            inputs=(Input(topic=RAW_TOPIC, format="goflow"),),
            kafka=Kafka(bootstrap=self.bootstrap, compression="none"),
            topics=Topics(prefix=prefix, partitions=PARTITIONS),
        )

    @property
    def records(self) -> int:
        """Messages on the raw topic: the load, and one that closes the windows on each partition."""
        return self.traffic.records + PARTITIONS


def publish(bed: Bed, prefixes: tuple[str, ...]) -> float:
    """Create the topics, publish the links and all messages; return the seconds the messages took.

    Messages are uncompressed, as goflow2 leaves them unless told otherwise, and dealt out in turn.
    """

    async def run() -> float:
        for prefix in prefixes:
            settings = bed.settings(prefix, prefix)
            await create_topics(settings)
            await until_topics_are_known(settings)
            await send_links(settings, LinkTable.from_rows(bed.traffic.links()))
        publisher = Publisher(bed.settings("bench", prefixes[0]).kafka)
        await publisher.start()
        started, sent = time.perf_counter(), 0
        try:
            for chunk in (*bed.traffic.chunks(), bed.traffic.closers(PARTITIONS)):
                await publisher.publish(
                    Outgoing(RAW_TOPIC, at % PARTITIONS, None, value) for at, value in enumerate(chunk, sent)
                )
                # The closers must reach every partition, wherever the load ended.
                sent += len(chunk)
        finally:
            await publisher.stop()
        return time.perf_counter() - started

    return asyncio.run(run())


async def until_topics_are_known(settings: Settings, limit_s: float = 20.0) -> None:
    """Wait until the broker names every topic just created: it answers before it knows them itself."""
    deadline = time.perf_counter() + limit_s
    while missing := [state.spec.name for state in await check_topics(settings) if not state.exists]:
        if time.perf_counter() > deadline:
            raise BenchError(f"topics {missing} were created, and are still missing")
        await asyncio.sleep(POLL_S)


@dataclass(slots=True)
class Sample:
    """One look at the worker. Counts are sums over labels."""

    at_s: float
    cpu_s: float
    broker_cpu_s: float
    busy_s: float  # of the whole machine
    counts: dict[str, float]


class Watch:
    """Looks at a worker and its broker."""

    def __init__(self, worker: int, broker: int, port: int) -> None:
        self._worker, self._broker = psutil.Process(worker), psutil.Process(broker)
        self._url = f"http://127.0.0.1:{port}/metrics"
        self.peak_rss_bytes = 0

    def look(self) -> Sample | None:
        """Return what the worker says now, None while it does not answer."""
        try:
            with urllib.request.urlopen(self._url, timeout=30) as answer:
                text = answer.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None
        self.peak_rss_bytes = max(self.peak_rss_bytes, self._worker.memory_info().rss)
        return Sample(time.perf_counter(), _cpu_s(self._worker), _cpu_s(self._broker), busy_s(), counts(text))


def counts(text: str) -> dict[str, float]:
    """Sum the samples of each metric of ours over its labels, from Prometheus's text format."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("flowstream_") and "_bucket" not in line:
            name, _, number = line.rpartition(" ")
            name = name.partition("{")[0].removeprefix("flowstream_")
            sums[name] = sums.get(name, 0.0) + float(number)
    return sums


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def busy_s() -> float:
    """Return the CPU time that all processes of the machine have had."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


@contextmanager
def worker(bed: Bed, app: str, prefix: str, agents: str, analyses: tuple[str, ...]) -> Iterator[tuple[int, int, Path]]:
    """Run a worker; yield its process id, its web port, and its log."""
    port = free_port()
    log_path = bed.folder / f"{app}.log"
    env = {k: v for k, v in os.environ.items() if not k.startswith("FLOWSTREAM_")}
    env |= ONE_THREAD | {
        "FLOWSTREAM_APP": app,
        "FLOWSTREAM_KAFKA__BOOTSTRAP": bed.bootstrap,
        "FLOWSTREAM_INPUTS": json.dumps([{"topic": RAW_TOPIC, "format": "goflow"}]),
        "FLOWSTREAM_TOPICS__PREFIX": prefix,
        "FLOWSTREAM_TOPICS__PARTITIONS": str(PARTITIONS),
        "FLOWSTREAM_ANALYSES": json.dumps(analyses),
        "PYTHONPATH": str(Path(__file__).parents[1]),  # the code beside this bench, whatever is installed
        **bed.env,
    }
    command = [
        str(Path(sys.executable).with_name("flowstream")),
        "worker",
        "--agents",
        agents,
        "--port",
        str(port),
    ]
    with running(command, env, log_path, bed.folder, bed.core) as process:
        yield process.pid, port, log_path


ALL_ANALYSES = ("distances", "elephants", "sources", "quality")


def measure(
    bed: Bed,
    name: str,
    prefix: str,
    agents: str = "ingest,analyses",
    analyses: tuple[str, ...] = ALL_ANALYSES,
    during: Callable[[int], None] | None = None,
) -> Run:
    """Run one worker from the beginning of its topics to their end and return its figures.

    BenchError where it ends, stands still for a minute, or loses a record; with the end of its log.
    """
    app = "bench-" + re.sub("[^a-z0-9]+", "-", name.lower())
    first_key = "records_consumed_total" if "ingest" in agents else "rows_applied_total"
    with worker(bed, app, prefix, agents, analyses) as (pid, port, log_path):
        watch = Watch(pid, bed.broker_pid, port)

        def until(reached: Callable[[dict[str, float]], bool], limit_s: float) -> Sample:
            seen: tuple[float, float] = (-1.0, -1.0)
            deadline = time.perf_counter() + limit_s
            while True:
                if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                    raise BenchError(f"{name}: the worker ended: {_tail(log_path)}")
                sample = watch.look()
                if sample is not None:
                    if reached(sample.counts):
                        return sample
                    now = (
                        sample.counts.get("records_consumed_total", 0.0),
                        sample.counts.get("rows_applied_total", 0.0),
                    )
                    if now != seen:
                        seen, deadline = now, time.perf_counter() + limit_s
                if time.perf_counter() > deadline:
                    stood = "never answered" if sample is None else f"stands at {sample.counts}"
                    raise BenchError(f"{name}: the worker {stood}: {_tail(log_path)}")
                time.sleep(POLL_S)  # the interval of looking; what is waited for is the condition

        first = until(lambda c: c.get(first_key, 0.0) > 0, START_S)
        if during is not None:
            during(pid)
        consumed = until(lambda c: c.get(first_key, 0.0) >= bed.records, STALL_S)
        last = consumed if agents == "ingest" else until(lambda c: _analysed(c, bed.records), STALL_S)
    for lost in ("rows_late_total", "rows_duplicate_total", "block_gaps_total", "records_rejected_total"):
        if last.counts.get(lost):
            raise BenchError(f"{name}: {lost} is {last.counts[lost]:.0f}, it should be 0")
    done = bed.records - int(first.counts[first_key])
    wall_s, cpu_s = last.at_s - first.at_s, last.cpu_s - first.cpu_s
    broker_s = last.broker_cpu_s - first.broker_cpu_s
    return Run(
        name=name,
        records=done,
        wall_s=wall_s,
        cpu_s=cpu_s,
        consumed_s=consumed.at_s - first.at_s,
        broker_cpu_s=broker_s,
        others_cpu_s=max(0.0, last.busy_s - first.busy_s - cpu_s - broker_s),
        peak_rss_bytes=watch.peak_rss_bytes,
        results=int(last.counts.get("results_sent_total", 0)),
        startup_cpu_s=first.cpu_s,
    )


def _analysed(counted: Mapping[str, float], records: int) -> bool:
    """Whether all records are in panes and only the closing ones wait in an open pane."""
    return counted.get("rows_applied_total", 0.0) >= records and counted.get("rows_open", 0.0) <= PARTITIONS


def _tail(path: Path, size: int = 600) -> str:
    return path.read_bytes()[-size:].decode(errors="replace").strip() or "its log is empty"
