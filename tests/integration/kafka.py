"""A plain Kafka client for tests: make topics, write, read back, see what is committed. It shares no code with ours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError


def create_topic(broker: str, topic: str, partitions: int = 1) -> None:
    """Make a topic, and return when the broker shows it: the controller answers a little before."""

    async def go() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, partitions, 1)])
            for left in reversed(range(600)):
                if topic in await admin.list_topics():
                    break
                assert left, f"topic {topic} was made and does not show"
                await asyncio.sleep(0.05)
        finally:
            await admin.close()

    asyncio.run(go())


def write(
    broker: str, topic: str, values: Sequence[bytes | None], partitions: int = 1, batch_bytes: int = 1 << 18
) -> None:
    """Write values round-robin over the partitions, in order within each."""

    async def go() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=broker, linger_ms=5, max_batch_size=batch_bytes)
        await producer.start()
        try:
            for i, value in enumerate(values):
                await producer.send(topic, value, key=b"k", partition=i % partitions)
        finally:
            await producer.stop()

    asyncio.run(go())


def write_again(broker: str, topic: str, partition: int, count: int) -> None:
    """Write the last records of a partition once more, as somebody would who does not know that it was replaced."""

    async def go(values: Sequence[tuple[bytes, bytes]]) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=broker, max_request_size=1 << 24)
        await producer.start()
        try:
            for key, value in values:
                await producer.send_and_wait(topic, value, key=key, partition=partition)
        finally:
            await producer.stop()

    there = [(r.key, r.value) for r in read_all(broker, topic) if r.partition == partition]
    assert there, f"nothing in {topic}-{partition}"
    asyncio.run(go(there[-count:]))


def write_transactions(broker: str, topic: str, transactions: Sequence[tuple[Sequence[bytes], bool]]) -> None:
    """Write values to partition 0 in transactions, each of which is committed (True) or given up."""

    async def go() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=broker, transactional_id=f"{topic}-writer", max_batch_size=1 << 14
        )
        await producer.start()
        try:
            for values, kept in transactions:
                await producer.begin_transaction()
                await asyncio.gather(*[await producer.send(topic, value, partition=0) for value in values])
                await (producer.commit_transaction() if kept else producer.abort_transaction())
        finally:
            await producer.stop()

    asyncio.run(go())


def read_all(broker: str, topic: str, isolation: str = "read_uncommitted") -> list[Any]:
    """Return every record of a topic up to its present end, by partition and offset.

    With ``isolation="read_committed"`` the end is that of the last transaction before the first open one.
    """

    async def go() -> list[Any]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=broker, enable_auto_commit=False, auto_offset_reset="earliest", isolation_level=isolation
        )
        await consumer.start()
        try:
            await consumer._client._wait_on_metadata(topic)
            tps = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
            begins = await consumer.beginning_offsets(tps)
            ends = await consumer.end_offsets(tps)  # first: afterwards the answer comes behind that to a fetch
            consumer.assign(tps)
            for tp in tps:
                consumer.seek(tp, begins[tp])
            records: list[Any] = []
            while any([await consumer.position(tp) < end for tp, end in ends.items()]):
                for fetched in (await consumer.getmany(timeout_ms=500)).values():
                    records.extend(fetched)
            return sorted(records, key=lambda r: (r.partition, r.offset))
        finally:
            await consumer.stop()

    return asyncio.run(go())


def commit(broker: str, group: str, offsets: dict[tuple[str, int], int]) -> None:
    """Set a group's committed offsets; the group must be empty."""

    async def go() -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=broker, group_id=group, enable_auto_commit=False)
        await consumer.start()
        try:
            consumer.assign([TopicPartition(*tp) for tp in offsets])
            await consumer.commit({TopicPartition(*tp): offset for tp, offset in offsets.items()})
        finally:
            await consumer.stop()

    asyncio.run(go())


def committed(broker: str, group: str) -> dict[tuple[str, int], tuple[int, str]]:
    """Return (offset, metadata) by (topic, partition) of a group."""

    async def go() -> dict[tuple[str, int], tuple[int, str]]:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker)
        await admin.start()
        try:
            try:
                offsets = await admin.list_consumer_group_offsets(group)
            except KafkaError as error:
                if error.retriable:  # a new broker has no coordinator until a group first asks for one
                    return {}
                raise
            return {(tp.topic, tp.partition): (o.offset, o.metadata) for tp, o in offsets.items()}
        finally:
            await admin.close()

    return asyncio.run(go())
