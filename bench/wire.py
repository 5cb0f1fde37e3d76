"""Finished record batches to the broker, and records back from it as a plain consumer sees them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import aiokafka
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NotLeaderForPartitionError, for_code
from aiokafka.protocol.produce import ProduceRequest
from confluent_kafka import Consumer, KafkaException, TopicPartition

from bench.report import BenchError

IN_FLIGHT = 4
REQUEST_BYTES = 8 << 20
TIMEOUT_MS = 60_000


class Sender:
    """Sends record batches as they are, several requests on their way at a time, in order."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._client: Any = None

    async def __aenter__(self) -> Self:
        self._client = AIOKafkaClient(bootstrap_servers=self._bootstrap, request_timeout_ms=TIMEOUT_MS)
        await self._client.bootstrap()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def send(self, topic: str, batches: Mapping[int, bytes]) -> None:
        """Send one request with a batch for each partition; return when the broker has acknowledged all."""
        await self._client._wait_on_metadata(topic)
        node = self._client.cluster.leader_for_partition(aiokafka.TopicPartition(topic, 0))  # one leads all
        left = dict(batches)
        deadline = time.perf_counter() + TIMEOUT_MS / 1000
        while left:
            response = await self._client.send(
                node, ProduceRequest(None, -1, TIMEOUT_MS, [(topic, list(left.items()))])
            )
            codes = {partition: code for _, partitions in response.topics for partition, code, *_ in partitions}
            left = {partition: left[partition] for partition, code in codes.items() if code}
            for partition in left:
                # A broker names a topic before it leads its partitions.
                error = for_code(codes[partition])
                if not issubclass(error, NotLeaderForPartitionError) or time.perf_counter() > deadline:
                    raise BenchError(f"{topic}-{partition}: {error.__name__}")
                await asyncio.sleep(0.05)

    async def send_all(self, topic: str, batches: Iterable[tuple[int, bytes]]) -> None:
        """Send any number of batches and return when all are acknowledged."""
        flying: deque[asyncio.Task[None]] = deque()
        first = True
        for together in _requests(batches):
            if len(flying) >= IN_FLIGHT:
                await flying.popleft()
            flying.append(asyncio.create_task(self.send(topic, together)))
            await asyncio.sleep(0)  # lets it start, so that requests leave in order
            if first:
                await flying[0]  # tried again until the broker leads the partitions; the others come after it
                first = False
        for task in flying:
            await task


def _requests(batches: Iterable[tuple[int, bytes]]) -> Iterable[dict[int, bytes]]:
    """Put batches together to requests of one batch per partition."""
    together: dict[int, bytes] = {}
    size = 0
    for partition, batch in batches:
        if partition in together or size > REQUEST_BYTES:
            yield together
            together, size = {}, 0
        together[partition] = batch
        size += len(batch)
    if together:
        yield together


def send_in_turn(bootstrap: str, topic: str, *parts: Iterable[tuple[int, bytes]]) -> list[float]:
    """Send the parts one after the other; return when each was acknowledged (perf_counter), led by when it began."""

    async def run() -> list[float]:
        async with Sender(bootstrap) as sender:
            at_s = [time.perf_counter()]
            for batches in parts:
                await sender.send_all(topic, batches)
                at_s.append(time.perf_counter())
            return at_s

    return asyncio.run(run())


class Reader:
    """A consumer of all partitions of a topic, from their ends when it was made (or from the beginning).

    With ``counting`` it only asks how many records there are: fetching them would take time from who writes them.
    """

    def __init__(self, bootstrap: str, topic: str, *, from_beginning: bool = False, counting: bool = False) -> None:
        self._topic = topic
        self._consumer = Consumer({
            "bootstrap.servers": bootstrap, "group.id": "flowstream-bench-reader", "enable.auto.commit": False,
            "fetch.wait.max.ms": 500, "fetch.min.bytes": 1, "queued.min.messages": 1_000_000,
            "queued.max.messages.kbytes": 262_144, "fetch.message.max.bytes": 16 << 20,
        })  # fmt: skip
        self.partitions = sorted(self._consumer.list_topics(topic, timeout=20).topics[topic].partitions)
        self._starts = {p: (self.range_of(p)[0] if from_beginning else self.range_of(p)[1]) for p in self.partitions}
        self._ahead: list[Any] = []
        if not counting:
            self._consumer.assign([TopicPartition(topic, p, at) for p, at in self._starts.items()])
            self._ahead = self._consumer.consume(1, 0.2)  # connects now, not when it counts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def range_of(self, partition: int) -> tuple[int, int]:
        """Return the first offset of a partition and the one after its last readable record."""
        deadline = time.perf_counter() + 20.0
        while True:
            try:
                low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=20)
            except KafkaException as error:
                # A broker names a topic before it leads its partitions.
                if time.perf_counter() > deadline:
                    raise BenchError(f"{self._topic}-{partition}: {error}") from error
                time.sleep(0.05)
            else:
                return int(low), int(high)

    def readable(self) -> int:
        """Return how many records have become readable since the reader's start."""
        return sum(self.range_of(p)[1] - at for p, at in self._starts.items())

    def poll(self, timeout_s: float = 0.05, most: int = 10_000) -> list[Any]:
        """Return the next messages; BenchError where the broker refuses."""
        try:
            # ``consume`` would wait for as many as it may return; a single ``poll`` returns with the first.
            messages: list[Any] = self._ahead or [m for m in (self._consumer.poll(timeout_s),) if m is not None]
            messages += self._consumer.consume(most, 0) if messages else []
        except KafkaException as error:
            raise BenchError(f"{self._topic}: {error}") from error
        self._ahead = []
        for message in messages:
            if message.error() is not None:
                raise BenchError(f"{self._topic}: {message.error()}")
        return messages

    def until(self, enough: Callable[[list[Any]], bool], limit_s: float, what: str) -> float:
        """Hand over messages as they come until ``enough``; return the time (perf_counter) of the last one."""
        deadline = time.perf_counter() + limit_s
        while time.perf_counter() < deadline:
            messages = self.poll()
            if messages and enough(messages):
                return time.perf_counter()
        raise BenchError(f"{what} did not come within {limit_s:g} s")
