"""Whether peers compute right: every job on a small load over a real broker, against brute force in numpy."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.broker import LocalBroker
from bench.generate import START_NS, Traffic
from bench.peers.contract import PeerCommand
from bench.processes import running

LOAD = Traffic(records=20_000, sources=500, rate=2_000)
INPUT, PARTITIONS = "check-raw", 4
WINDOW_NS = 3 * 10**9
STALL_S = 40.0
QUIET_S = 3.0  # what is complete must stay so for as long: a record too many is an error too
MAY_DIFFER = 1e-9  # of a distance, relative

#: A flow: its place (event time, partition, offset), then duration, bytes, packets.
Flow = tuple[int, int, int, float, int, int]
#: Results by source, start of the window in milliseconds and, for job b, the two places.
Results = dict[tuple[Any, ...], dict[str, Any]]


def check(peers: Sequence[PeerCommand]) -> int:
    """Run the peers one after the other, print a line for each job; return 1 if a result was wrong."""
    windows = flows_by_window(LOAD)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, LocalBroker(Path(folder) / "broker", 0, 0) as broker:
        asyncio.run(publish(broker.bootstrap, INPUT, LOAD))
        for peer in peers:
            for job in peer.jobs:
                log = Path(folder) / "peer.log"
                expected = {"a": sums, "b": pairs, "c": summaries}[job](windows)
                got = run(peer, job, broker.bootstrap, len(expected), log)
                mistakes = differences(expected, got)
                said = f"{len(mistakes)} wrong, the first {mistakes[0]}" if mistakes else "right"
                print(f"{peer.name}, job {job}: {len(expected)} results expected, {said}", flush=True)
                if mistakes:
                    wrong = 1
                    print(log.read_text(errors="replace")[-2000:])
    return wrong


def fields(message: bytes) -> dict[int, int | bytes]:
    """Read a delimited protobuf message that holds varints and bytes only."""
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    found: dict[int, int | bytes] = {}
    assert varint() == len(message) - at
    while at < len(message):
        tag = varint()
        value: int | bytes = varint()
        if tag & 7 == 2:
            end = at + int(value)
            value, at = message[at:end], end
        found[tag >> 3] = value
    return found


def flows_by_window(load: Traffic) -> dict[tuple[str, int], list[Flow]]:
    """Return the flows of each source and window in the window's order."""
    windows: dict[tuple[str, int], list[Flow]] = defaultdict(list)
    messages = (message for chunk in load.chunks() for message in chunk)
    for at, message in enumerate(messages):
        found = fields(message)
        time_ns = int(found[110])
        lasted_s = (int(found[112]) - int(found[111])) / 1e9
        key = str(ipaddress.ip_address(found[6])), time_ns // WINDOW_NS * WINDOW_NS // 10**6
        flow = (time_ns, at % PARTITIONS, at // PARTITIONS, lasted_s, int(found[9]), int(found[10]))
        windows[key].append(flow)
    for flows in windows.values():
        flows.sort()
    return windows


def sums(windows: dict[tuple[str, int], list[Flow]]) -> Results:
    """Return what job a should give."""
    return {
        key: {"bytes": sum(f[4] for f in flows), "packets": sum(f[5] for f in flows), "flows": len(flows)}
        for key, flows in windows.items()
    }


def _distances(flows: list[Flow]) -> np.ndarray[Any, np.dtype[np.float64]]:
    points = np.array([(f[3], 0.0, 0.0, f[4], f[5]) for f in flows])
    return np.asarray(np.sqrt(((points[:, None] - points) ** 2).sum(axis=2)))


def pairs(windows: dict[tuple[str, int], list[Flow]]) -> Results:
    """Return what job b should give."""
    expected: Results = {}
    for key, flows in windows.items():
        table = _distances(flows)
        for i, j in zip(*(side.tolist() for side in np.triu_indices(len(flows), 1)), strict=True):
            expected[(*key, i, j)] = {"distance": float(table[i, j])}
    return expected


def summaries(windows: dict[tuple[str, int], list[Flow]]) -> Results:
    """Return what job c should give: nothing of a single flow."""
    expected: Results = {}
    for key, flows in windows.items():
        d = _distances(flows)[np.triu_indices(len(flows), 1)]
        if len(d):
            figures = {"min": float(d.min()), "max": float(d.max()), "mean": float(d.mean())}
            expected[key] = {"flows": len(flows), "pairs": len(d), **figures}
    return expected


def differences(expected: Results, got: list[dict[str, Any]]) -> list[str]:
    """Say what is missing, wrong, there twice or too much; windows after the load are not looked at."""
    end_ms = START_NS // 10**6 + LOAD.records * 1000 // LOAD.rate + WINDOW_NS // 10**6
    found: list[str] = []
    seen: Results = {}
    for result in got:
        key = tuple(result.pop(name) for name in ("src_addr", "window_start_ms", "first", "second") if name in result)
        if key[1] > end_ms:
            continue
        if key in seen:
            found.append(f"{key} twice")
        seen[key] = result
    found += [f"{key} is missing" for key in expected.keys() - seen.keys()]
    found += [f"{key} is too much" for key in seen.keys() - expected.keys()]
    for key in expected.keys() & seen.keys():
        if not _same(expected[key], seen[key]):
            found.append(f"{key} is {seen[key]}, not {expected[key]}")
    return found


def _same(expected: dict[str, Any], got: dict[str, Any]) -> bool:
    if expected.keys() != got.keys():
        return False
    return all(
        abs(got[name] - value) <= MAY_DIFFER * max(1.0, value)
        if isinstance(value, float) and isinstance(got[name], int | float)
        else got[name] == value
        for name, value in expected.items()
    )


def run(peer: PeerCommand, job: str, bootstrap: str, expected: int, log: Path) -> list[dict[str, Any]]:
    """Return all results of a peer: it is stopped when as many as expected are there, or no more come."""
    name = f"check-{peer.name.lower().replace(' ', '-')}-{job}"
    asyncio.run(create(bootstrap, name))
    with running(peer.argv(job, bootstrap, INPUT, name, name), os.environ | peer.env, log) as process:
        return asyncio.run(results(bootstrap, name, process, expected))


async def results(bootstrap: str, topic: str, process: subprocess.Popen[bytes], expected: int) -> list[dict[str, Any]]:
    """Return a topic's records; they are complete once there are as many as expected and no more come."""
    got: list[dict[str, Any]] = []
    newest = time.monotonic()
    async with reader(bootstrap, topic) as consumer:
        while process.poll() is None:
            if time.monotonic() - newest > (STALL_S if len(got) < expected else QUIET_S):
                break
            fetched = await consumer.getmany(timeout_ms=200)
            for batch in fetched.values():
                got += [json.loads(record.value) for record in batch]
                newest = time.monotonic()
    return got


@contextlib.asynccontextmanager
async def reader(bootstrap: str, topic: str) -> AsyncIterator[Any]:
    """Read a topic from its beginning."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, partition) for partition in range(PARTITIONS)])
        await consumer.seek_to_beginning()
        yield consumer
    finally:
        await consumer.stop()


async def create(bootstrap: str, topic: str) -> None:
    """Create a topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    finally:
        await admin.close()


async def publish(bootstrap: str, topic: str, load: Traffic) -> None:
    """Send a load, dealt out in turn, and what closes its windows, in one transaction."""
    await create(bootstrap, topic)
    messages: Iterable[bytes] = (message for chunk in (*load.chunks(), load.closers(PARTITIONS)) for message in chunk)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=topic, max_batch_size=1 << 18)
    await producer.start()
    try:
        async with producer.transaction():
            for at, message in enumerate(messages):
                await producer.send(topic, message, partition=at % PARTITIONS)
    finally:
        await producer.stop()
