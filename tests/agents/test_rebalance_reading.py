"""What is read while partitions move: nothing is taken from aiokafka that Faust would drop.

aiokafka's fetcher and positions are real, and so are Faust's ``getmany`` and ours; the broker and the thread are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from faust.types import TP

from agents import fetcher
from agents.app import create_app
from agents.batches import Committed, FetchedBatch
from agents.client_thread import BatchConsumerThread
from agents.transport import MISSING_ROUNDS
from flowstream.settings import load

TABLE = TP("flowstream-sources-changelog", 0)
RAW = TP("flow-messages", 0)


class Broker:
    """One node that answers fetches from memory. It stands for aiokafka's client."""

    _metadata_max_age_ms = 300_000

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.logs: dict[TP, int] = {}
        self.cluster = SimpleNamespace(leader_for_partition=lambda _tp: 0, broker_metadata=lambda _node: object())

    def force_metadata_update(self) -> Awaitable[None]:
        return asyncio.sleep(0)

    async def send(self, _node: int, request: Any) -> Any:
        await asyncio.sleep(0.001)
        topics = [
            (topic, [self._answer(TP(topic, at), offset) for at, offset, _ in asked]) for topic, asked in request.topics
        ]
        return SimpleNamespace(API_VERSION=4, topics=topics)

    def _answer(self, tp: TP, offset: int) -> tuple[Any, ...]:
        end, built = self.logs.get(tp, 0), b""
        if offset < end:
            batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
            for at in range(end - offset):
                batch.append(at, 0, b"k", b"v", [])
            batch.set_producer_state(-1, -1, offset) if offset else None
            built = bytes(batch.build())
            built = offset.to_bytes(8, "big") + built[8:]  # the base offset is no part of the checksum
        return tp.partition, 0, end, end, [], built


class Here(BatchConsumerThread):
    """The client thread, in this event loop."""

    def __init__(self, consumer: Any, broker: Broker) -> None:
        self.consumer, self.app = consumer, consumer.app
        self._consumer = AIOKafkaConsumer(group_id=None)
        self._consumer._client = broker
        self._consumer._fetcher = Fetcher(
            broker, self._consumer._subscription, auto_offset_reset="earliest",
            value_deserializer=fetcher.ColumnTopics(consumer.is_batched),
        )  # fmt: skip
        self.positions = self._consumer._subscription
        self.log = consumer.log

    @property
    def thread_loop(self) -> asyncio.AbstractEventLoop:  # type: ignore[override]
        return asyncio.get_running_loop()

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **options: Any) -> Any:
        async def call() -> Any:
            return await fun(*args, **options)

        return await asyncio.create_task(call())


class Worker:
    """A consumer that is drained, as by Faust's fetcher; ``read`` is what got through."""

    def __init__(self) -> None:
        app = create_app(load())
        app.consumer_generation_id = 1
        self.app, self.consumer, self.broker = app, app.consumer, Broker()
        self.thread = self.consumer._thread = Here(self.consumer, self.broker)
        self.thread.positions.subscribe({TABLE.topic, RAW.topic})
        self.read: list[tuple[TP, int]] = []
        self.batches: list[FetchedBatch] = []
        self.draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        while True:
            async for tp, message in self.consumer.getmany(1.0):
                self.read.append((tp, message.offset))
                if isinstance(message.value, FetchedBatch):
                    self.batches.append(message.value)
            await asyncio.sleep(0)

    def revoke(self) -> None:
        self.thread.positions.begin_reassignment()
        self.consumer.stop_flow()
        self.consumer.pause_partitions({TABLE, RAW})

    def assign(self) -> None:
        self.thread.positions.assign_from_subscribed({TABLE, RAW})
        for tp in (TABLE, RAW):  # where aiokafka begins: at what is committed, or at the beginning
            self.thread._consumer.seek(tp, 0)
        self.consumer._set_active_tps({TABLE, RAW})
        self.consumer.pause_partitions({TABLE, RAW})
        self.app.consumer_generation_id += 1
        self.app.tables.recovery._generation_id = self.app.consumer_generation_id

    def resume(self, tp: TP) -> None:
        """Resume a partition and the flow, in the order of Faust's recovery."""
        self.consumer.resume_partitions({tp})
        self.app.flow_control.resume()
        self.consumer.resume_flow()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)

    async def fetch_waits(self) -> None:
        await self.until(lambda: self.thread._consumer._fetcher._fetch_waiters)

    async def looks_for_missing_batches(self, rounds: int) -> None:
        for _ in range(rounds):
            await self.until(lambda: self.thread.is_fetching)
            await self.consumer.reread_missing()

    async def some_fetches(self) -> None:
        """Let the broker answer what is asked of it, more than once."""
        for _ in range(20):
            await asyncio.sleep(0.001)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = Worker()
    made.assign()
    made.resume(RAW)
    await made.fetch_waits()
    yield made
    made.draining.cancel()
    with suppress(asyncio.CancelledError):
        await made.draining
    await made.thread._consumer._fetcher.close()


async def test_a_fetch_that_waits_through_a_rebalance_takes_nothing_of_a_table_before_the_flow_is_resumed(
    worker: Worker,
) -> None:
    worker.revoke()
    worker.broker.logs[TABLE] = 3
    worker.assign()
    await worker.consumer.seek_wait({TABLE: 0})
    worker.consumer.resume_partitions({TABLE})
    await worker.some_fetches()  # the loop of Faust is busy: the table was sought, and the flow is not yet resumed
    worker.resume(TABLE)
    await worker.until(lambda: worker.read == [(TABLE, 0), (TABLE, 1), (TABLE, 2)])


async def test_no_batch_is_taken_before_queues_are_cleared_for_the_last_time(worker: Worker) -> None:
    worker.revoke()
    worker.broker.logs = {TABLE: 1, RAW: 3}
    worker.assign()
    await worker.consumer.seek_wait({TABLE: 0})
    worker.resume(TABLE)
    await worker.until(lambda: worker.read == [(TABLE, 0)])
    worker.consumer.resume_partitions({RAW})  # as Faust does when tables are restored: it seeks and clears after that
    worker.broker.logs[TABLE] = 2
    await worker.until(lambda: len(worker.read) > 1)
    assert worker.read == [(TABLE, 0), (TABLE, 1)]
    worker.app.flow_control.resume()
    worker.app.on_rebalance_end()
    await worker.until(lambda: worker.read == [(TABLE, 0), (TABLE, 1), (RAW, 2)])


async def test_of_paused_partitions_nothing_is_taken_though_all_are_paused(worker: Worker) -> None:
    # No partitions are all partitions to aiokafka.
    worker.consumer.pause_partitions({RAW})
    worker.broker.logs = {TABLE: 1, RAW: 1}
    await worker.some_fetches()
    assert [worker.thread.positions.subscription.assignment.state_value(tp).position for tp in (TABLE, RAW)] == [0, 0]


async def test_the_end_of_a_rebalance_that_was_overtaken_by_another_opens_nothing(worker: Worker) -> None:
    worker.revoke()
    worker.broker.logs[RAW] = 3
    worker.assign()
    worker.app.consumer_generation_id += 1  # the next one is known in the client thread alone
    worker.resume(RAW)
    worker.app.on_rebalance_end()
    await worker.some_fetches()
    assert worker.read == []


@pytest.fixture
async def dropping(worker: Worker) -> Worker:
    """A worker of which a batch was read, and dropped on its way to the reader; none follows."""
    worker.revoke()
    worker.assign()
    worker.consumer.committed[RAW] = Committed(0, "")
    worker.resume(RAW)
    worker.app.on_rebalance_end()
    worker.broker.logs[RAW] = 3
    await worker.until(lambda: worker.batches)
    return worker


async def test_a_batch_that_was_dropped_as_the_last_one_is_read_again(dropping: Worker) -> None:
    await dropping.looks_for_missing_batches(MISSING_ROUNDS)
    await dropping.until(lambda: len(dropping.batches) == 2)
    dropped, again = dropping.batches
    assert dropped.void
    assert (again.first_offset, again.next_offset, again.void) == (0, 3, False)
    again.seen = True
    await dropping.looks_for_missing_batches(2 * MISSING_ROUNDS)
    await dropping.some_fetches()
    assert len(dropping.batches) == 2, "its reader has it"


async def test_a_batch_that_waits_in_its_stream_is_not_missing(dropping: Worker) -> None:
    channel = SimpleNamespace(queue=asyncio.Queue())
    dropping.app.topics._topic_name_index = {RAW.topic: [channel]}  # type: ignore[assignment]
    channel.queue.put_nowait("a batch")
    await dropping.looks_for_missing_batches(2 * MISSING_ROUNDS)
    channel.queue.get_nowait()
    await dropping.looks_for_missing_batches(MISSING_ROUNDS - 1)
    assert not dropping.batches[0].void, "it may be on its way from the stream to the reader"


async def test_a_batch_is_not_missing_while_faust_still_hands_on_what_came_with_it(
    dropping: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Here, "is_fetching", False)
    for _ in range(2 * MISSING_ROUNDS):
        await dropping.consumer.reread_missing()
    assert not dropping.batches[0].void
