"""The main job on a recorded fabric, in one go: broker, topics, worker, telemetry, results as they come."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import aiohttp
from rich.console import Console

from agents.admin import changelogs, create_topics
from agents.broker import LocalBroker
from agents.client import client_options
from agents.demo_summary import Seen, show_summary
from agents.kafka_node import free_port
from agents.mock_cluster import MockCluster
from agents.send import send, send_links, send_topology
from agents.tail import read_topic
from flowstream.errors import BrokerError, FlowstreamError
from flowstream.links import LinkTable
from flowstream.recordings import Recording
from flowstream.render import render_line
from flowstream.setting_tables import Analysis
from flowstream.settings import Settings, load
from flowstream.topics import STREAMS, name, specs, stream_of
from flowstream.topology_json import read_topology

RATE = 1000.0  # messages a second: the minute of the recording passes in twenty seconds
SETTLED_NS = 3_000_000_000  # partitions close a window within about this much of each other
RECORDING = Path("tests/data/clos_60s_goflow2_v2.bin.gz")
LINKS = Path("tests/data/clos_links.csv")
TOPOLOGY = Path("tests/data/clos_topology.csv")
FOLLOWED = ("elephants", "distances", "paths", "link-use", "elephant-links", "counting")


def run_demo(out: Console, seconds: int) -> None:
    """Run it; ends by itself. Raises FlowstreamError in one line where something is missing."""
    root = Path(__file__).parent.parent
    if not (root / RECORDING).is_file():
        raise FlowstreamError(f"{RECORDING}: the demo needs a checkout of the repository")
    folder = Path(".flowstream/demo").resolve()
    with _any_broker(out, folder) as (bootstrap, mock):
        port = free_port()
        environment = {
            "FLOWSTREAM_KAFKA__BOOTSTRAP": bootstrap,
            "FLOWSTREAM_KAFKA__DECLARE_TOPICS": "false" if mock else "true",
            "FLOWSTREAM_DATA_DIR": str(folder / "worker"),
            "FLOWSTREAM_WEB__PORT": str(port),
            "FLOWSTREAM_TIME__IDLE_AFTER_S": "3",
            "FLOWSTREAM_ANALYSES": json.dumps(get_args(Analysis)),
        }
        os.environ.update(environment)
        settings = load()
        asyncio.run(_show(out, settings, root, folder, seconds, mock=mock))


@contextlib.contextmanager
def _any_broker(out: Console, folder: Path) -> Iterator[tuple[str, bool]]:
    started = time.monotonic()
    local = LocalBroker(folder / "broker", port=free_port(), controller_port=free_port())
    try:
        bootstrap = local.start(wipe=True)
    except BrokerError as error:
        out.print(f"[yellow]No Apache Kafka here: {error}[/]", highlight=False)
        mock = MockCluster()
        bootstrap = mock.start()
        out.print("[yellow]Going on with librdkafka's mock cluster instead.[/]", highlight=False)
        try:
            yield bootstrap, True
        finally:
            mock.stop()
        return
    took = time.monotonic() - started
    out.print(
        f"[bold]Apache Kafka[/] answers at {bootstrap} after {took:.1f} s (log: {folder}/broker)", highlight=False
    )
    try:
        yield bootstrap, False
    finally:
        local.stop()


@contextlib.asynccontextmanager
async def _worker(settings: Settings, folder: Path) -> Any:
    log_path = folder / "worker.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "flowstream.cli", "worker", "--log-level", "warning"], stdout=log, stderr=log
        )
    try:
        url = f"http://{settings.web.host}:{settings.web.port}"
        async with aiohttp.ClientSession() as session:
            deadline = time.monotonic() + 150  # the first start compiles the kernels
            while not await _ready(session, url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BrokerError(f"the worker did not start; see {log_path}")
                await asyncio.sleep(0.2)
            yield url, session
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with session.get(f"{url}/health", timeout=aiohttp.ClientTimeout(total=2)) as response:
            health = await response.json()
            return health["status"] == "ok" and bool(health["assigned"])
    return False


async def _show(out: Console, settings: Settings, root: Path, folder: Path, seconds: int, *, mock: bool) -> None:
    if mock:
        await _touch_topics(settings)
    else:
        await create_topics(settings)
    links = LinkTable.from_path(root / LINKS)
    topology = read_topology(root / TOPOLOGY)
    await send_links(settings, links)
    await send_topology(settings, topology)
    loaded = f"{len(links)} link capacities and {len(topology)} cables loaded"
    out.print(f"[bold]Topics[/] {settings.topics.prefix}.*.v1, {loaded}", highlight=False)
    async with _worker(settings, folder) as (url, session):
        pages = "  ".join(f"{url}/{page}" for page in ("metrics", "sources", "talkers", "links", "health"))
        out.print(f"[bold]Worker[/] is ready: {pages}", highlight=False)
        out.print(
            "         While it runs, elsewhere: "
            f"FLOWSTREAM_KAFKA__BOOTSTRAP={settings.kafka.bootstrap} .venv/bin/flowstream tail elephants"
        )
        recording = Recording(root / RECORDING)
        out.print(
            f"[bold]Telemetry[/] {recording.path.name}: a minute of a 2-spine, 4-leaf fabric, sFlow 1-in-64, "
            f"{RATE:,.0f} messages/s\n"
        )
        seen = Seen()
        followers = [asyncio.create_task(_follow(out, settings, stream, seen)) for stream in FOLLOWED]
        sending = asyncio.create_task(send(settings, settings.inputs[0].topic, recording.messages(), 4, rate=RATE))
        try:
            await _watch(out, session, url, sending, seen, time.monotonic() + seconds)
        finally:
            for task in followers:
                task.cancel()
            await asyncio.gather(*followers, return_exceptions=True)
        await show_summary(out, session, url, seen)
        pairs = sum(v["pairs"] for v in seen.of("distances"))
        out.print(
            f"{await sending:,} messages sent, {seen.health.get('rows_applied', 0):,.0f} flow records analysed; "
            f"{pairs:,} pairwise distances in {len(seen.of('distances')):,} summaries; {len(seen.onsets)} elephants.",
            highlight=False,
        )
        results = [s.name for s in specs(settings) if stream_of(settings, s.name) in STREAMS]
        out.print(f"Result topics: {', '.join(results)}", highlight=False)
    out.print("\nThe demo has stopped its worker and its broker.")


async def _touch_topics(settings: Settings) -> None:
    """Ask for the topics' metadata: a mock cluster makes topics that way and no other."""
    from aiokafka import AIOKafkaConsumer  # noqa: PLC0415

    client = AIOKafkaConsumer(**client_options(settings.kafka))
    await client.start()
    for topic in [settings.inputs[0].topic, *(s.name for s in (*changelogs(settings), *specs(settings)))]:
        await client._client._wait_on_metadata(topic)  # noqa: SLF001
    await client.stop()


async def _follow(out: Console, settings: Settings, stream: str, seen: Seen) -> None:
    said = seen.values.setdefault(stream, {})
    most: dict[int, dict[str, Any]] = {}  # by window, the source with most pairs
    said_until = 0
    async for record, value in read_topic(settings, name(settings, stream), from_beginning=True):
        said[record.key.decode()] = value
        if stream == "elephants" and value["event"] != "update":
            colour = "red" if value["event"] == "onset" else "green"
            out.print(f"[{colour}]elephant[/]  {render_line(stream, '', value)}", highlight=False)
        if stream == "distances":
            start = value["window_start_ns"]
            most[start] = max(most.get(start, value), value, key=lambda v: int(v["pairs"]))
            for past in sorted(w for w in most if said_until < w < start - SETTLED_NS):
                said_until = past
                out.print(f"[cyan]distances[/] {render_line(stream, '', most[past])}", highlight=False)


async def _watch(out: Console, session: Any, url: str, sending: Any, seen: Seen, deadline: float) -> None:
    said = 0.0
    while time.monotonic() < deadline:
        seen.health = await _metrics(session, url)
        consumed, lag = seen.health.get("records_consumed", 0), seen.health.get("offset_lag", 0)
        done = sending.done() and seen.health.get("rows_applied", 0) >= consumed >= sending.result()
        if time.monotonic() - said > 5:
            said = time.monotonic()
            out.print(
                f"[dim]health    {consumed:,.0f} records in, {seen.health.get('rows_applied', 0):,.0f} in panes, "
                f"{seen.health.get('rows_late', 0):,.0f} late, "
                f"{seen.health.get('records_rejected', 0):,.0f} rejected, lag {lag:,.0f}, "
                f"{seen.health.get('results_sent', 0):,.0f} results[/]",
                highlight=False,
            )
        ended = sum(value["event"] == "offset" for value in seen.of("elephants"))
        if done and not seen.health.get("rows_open", 1) and ended >= len(seen.onsets):
            return
        await asyncio.sleep(0.5)


async def _metrics(session: Any, url: str) -> dict[str, float]:
    """Return our metrics summed over their labels."""
    sums: dict[str, float] = {}
    async with session.get(f"{url}/metrics") as response:
        for line in (await response.text()).splitlines():
            if line.startswith("flowstream_") and "_bucket" not in line and "_created" not in line:
                key = line.split("{")[0].split(" ")[0].removeprefix("flowstream_").removesuffix("_total")
                sums[key] = sums.get(key, 0.0) + float(line.rsplit(" ", 1)[1])
    return sums
