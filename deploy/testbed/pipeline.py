"""The way of the telemetry: a goflow2, a Kafka broker, flowstream's topics and a worker, each a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec

from agents.admin import create_topics
from agents.broker import LocalBroker
from agents.kafka_jars import resolve_jars
from agents.kafka_node import free_port
from agents.send import send_links, send_topology
from agents.tail import read_topic
from deploy.testbed.processes import start, until
from flowstream.links import LinkTable
from flowstream.setting_tables import Analysis
from flowstream.settings import Settings, load
from flowstream.topics import STREAMS, name, specs, stream_of
from flowstream.topology import Topology
from tests.goflow2 import find_goflow2

ROOT = Path(__file__).resolve().parents[2]
RAW = "flow-messages"
WINDOW_S = 10
SETTLED_POLLS = 50  # of the metrics, ten a second: longer than a partition takes to become idle
#: All analyses; of talkers windows as the truth has them and one that any run fits into, with every source in them.
ANALYSED: Mapping[str, Any] = {
    "analyses": get_args(Analysis),
    "talkers": {"windows": [{"size_s": size_s, "step_s": WINDOW_S} for size_s in (WINDOW_S, 900)], "count": 1000},
}


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What runs: the worker's settings, and where each part answers."""

    settings: Settings
    web: str
    collector: str

    def metrics(self) -> dict[str, float]:
        """Return the worker's metrics, summed over their labels."""
        return _sums(f"{self.web}/metrics", "flowstream_")

    def datagrams(self) -> float:
        """Return how many datagrams the collector has read."""
        return _sums(f"{self.collector}/metrics", "goflow2_").get("flow_traffic_packets", 0.0)


def fetch() -> Path:
    """Have the broker's jars and the collector here, whose path is returned: BrokerError or Goflow2Error where not.

    The fabric's namespace reaches no registry, so this comes before it.
    """
    resolve_jars()
    return find_goflow2(build=True)


def begin(folder: Path, listen: str, links: Path | None = None, topology: Path | None = None) -> Pipeline:
    """Start all of it, with logs and pid files in ``folder``, and return when the worker is ready.

    ``listen`` is goflow2's. Raises TestbedError or FlowstreamError where a part is missing or does not start.
    """
    binary = fetch()
    bootstrap = LocalBroker(folder / "broker", port=free_port(), controller_port=free_port()).start(wipe=True)
    web, collector = free_port(), free_port()
    os.environ.update(
        {
            "FLOWSTREAM_KAFKA__BOOTSTRAP": bootstrap,
            "FLOWSTREAM_DATA_DIR": str(folder / "worker"),
            "FLOWSTREAM_WEB__PORT": str(web),
            "FLOWSTREAM_TIME__IDLE_AFTER_S": "3",
            **{f"FLOWSTREAM_{setting.upper()}": json.dumps(value) for setting, value in ANALYSED.items()},
        }
    )
    settings = load()
    asyncio.run(_prepare(settings, links, topology))
    start(folder, "worker", [sys.executable, "-m", "flowstream.cli", "worker", "--log-level", "warning"])
    kafka = ["-transport", "kafka", "-transport.kafka.brokers", bootstrap, "-transport.kafka.topic", RAW]
    kafka += ["-transport.kafka.hashing=true", "-transport.kafka.flushfreq", "200ms"]
    command = [str(binary), "-listen", listen, "-addr", f"127.0.0.1:{collector}", "-loglevel", "warn"]
    mapping = ["-format", "bin", "-mapping", str(ROOT / "deploy" / "goflow2" / "mapping.yaml")]
    start(folder, "goflow2", [*command, *mapping, *kafka])
    running = Pipeline(settings, f"http://127.0.0.1:{web}", f"http://127.0.0.1:{collector}")
    until(lambda: _answers(f"{running.collector}/__health"), f"goflow2 (its log: {folder}/goflow2.log)")
    until(
        lambda: _is_ready(running.web), f"the worker (its log: {folder}/worker.log)", 300
    )  # the first start compiles the kernels
    return running


async def _prepare(settings: Settings, links: Path | None, topology: Path | None) -> None:
    await create_topics(settings)
    if links is not None:
        await send_links(settings, LinkTable.from_path(links))
    if topology is not None:
        await send_topology(settings, Topology.from_path(topology))


def until_analysed(running: Pipeline, deadline_s: float = 90) -> dict[str, float]:
    """Return the worker's metrics once everything sent so far is in results; TestbedError where that does not happen.

    Nothing may be sent any more. Source partitions become idle then, which closes the windows, and elephants end.
    """
    counted = ("records_consumed", "results_sent")
    states: list[dict[str, float]] = []

    def done() -> bool:
        states.append(running.metrics())
        now, before = states[-1], states[-SETTLED_POLLS:][0]
        standing = len(states) > SETTLED_POLLS and all(now.get(name, 0) == before.get(name, 0) for name in counted)
        # goflow2's messages have a flow each; analysed, late or rejected, each is somewhere before all is done.
        placed = sum(now.get(name, 0) for name in ("rows_applied", "rows_late", "records_rejected"))
        if not 0 < now.get("records_consumed", 0) <= placed or now.get("rows_open", 1) or not standing:
            return False
        # Their panes are closed; the longer windows close as time goes on, which idle partitions leave to the clock.
        return asyncio.run(_records_told(running.settings)) == now.get("rows_applied", 0)

    until(done, "the worker to come to the end", deadline_s)
    return states[-1]


async def _records_told(settings: Settings) -> int:
    """Return how many flow records the table of sources tells of."""
    told: dict[tuple[int, bytes], int] = {}
    async for record, value in read_topic(settings, name(settings, "sources"), from_beginning=True, to_end=True):
        told[record.partition, record.key] = sum(row["records"] for row in value["sources"])
    return sum(told.values())


async def _messages(settings: Settings) -> list[bytes]:
    return [record.value async for record, _ in read_topic(settings, RAW, from_beginning=True, to_end=True)]


def save(running: Pipeline, folder: Path) -> list[str]:
    """Write the raw messages, and every result topic as JSON lines, into a folder; return the streams."""
    folder.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_save(running.settings, folder))


async def _save(settings: Settings, folder: Path) -> list[str]:
    (folder / "messages.bin").write_bytes(b"".join(await _messages(settings)))
    streams = []
    for spec in specs(settings):
        stream = stream_of(settings, spec.name)
        if stream is not None and stream in STREAMS:
            await _save_stream(settings, stream, folder)
            streams.append(stream)
    return streams


async def _save_stream(settings: Settings, stream: str, folder: Path) -> None:
    with (folder / f"{stream}.jsonl").open("wb") as file:
        topic = name(settings, stream)
        async for record, value in read_topic(settings, topic, from_beginning=True, to_end=True):
            # Keys such as a window's start are unique within a partition only.
            key = f"{record.partition}|{(record.key or b'').decode(errors='replace')}"
            file.write(msgspec.json.encode({"key": key, **value}) + b"\n")  # bytes become base64


def read_results(folder: Path, stream: str) -> list[dict[str, Any]]:
    """Return the results of a stream that were saved, the last one of every key; [] where it was not."""
    path = folder / f"{stream}.jsonl"
    lines: Sequence[str] = path.read_text().splitlines() if path.is_file() else []
    return list({value.get("key", number): value for number, value in enumerate(map(json.loads, lines))}.values())


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def _answers(url: str) -> bool:
    try:
        return bool(_get(url))
    except (urllib.error.URLError, OSError):
        return False


def _is_ready(web: str) -> bool:
    try:
        health = json.loads(_get(f"{web}/health"))
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return health["status"] == "ok" and bool(health["assigned"])


def _sums(url: str, prefix: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for line in _get(url).splitlines():
        if line.startswith(prefix) and "_bucket" not in line and "_created" not in line:
            key = line.split("{")[0].split(" ")[0].removeprefix(prefix).removesuffix("_total")
            sums[key] = sums.get(key, 0.0) + float(line.rsplit(" ", 1)[1])
    return sums
