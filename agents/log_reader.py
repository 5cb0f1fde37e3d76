"""Reading topics up to their present ends, without a consumer group."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.admin import unreachable
from agents.client import client_options
from flowstream.errors import BrokerError
from flowstream.settings import Settings

SILENT_AFTER_S = 30.0


@asynccontextmanager
async def reader(settings: Settings, topics: Iterable[str]) -> AsyncIterator[tuple[Any, list[TopicPartition]]]:
    """Connect a consumer without a group; give it and all partitions of the topics, none of them assigned.

    It sees what is committed: its end of a partition is the last stable offset. Raises BrokerError where the broker or
    a topic is not there; no topic is made by asking.
    """
    consumer = None
    try:
        consumer = AIOKafkaConsumer(
            **client_options(settings.kafka), enable_auto_commit=False, fetch_max_wait_ms=200,
            isolation_level="read_committed", auto_offset_reset="earliest",
        )  # fmt: skip
        await consumer.start()
    except (KafkaError, OSError, ValueError) as error:
        if consumer is not None:
            await consumer.stop()
        raise unreachable(settings, error) from error
    try:
        there = await consumer.topics()
        found = []
        for topic in sorted(set(topics)):
            if topic not in there:
                raise BrokerError(f"topic {topic}: there is none; flowstream topics shows those there are")
            # What partitions_for_topic knows is empty before.
            partitions = await consumer._client._wait_on_metadata(topic)  # noqa: SLF001
            found += [TopicPartition(topic, p) for p in sorted(partitions)]
        yield consumer, found
    finally:
        await consumer.stop()


async def read_ranges(
    consumer: Any, ranges: Mapping[TopicPartition, tuple[int, int]]
) -> AsyncGenerator[tuple[TopicPartition, list[Any]], None]:
    """Yield the records of each partition from the first offset given to before the second, as they are fetched.

    Records that retention has deleted are passed over. Raises BrokerError where nothing comes for SILENT_AFTER_S.
    """
    left = {tp: end for tp, (start, end) in ranges.items() if start < end}
    consumer.assign(sorted(left))
    for tp in left:
        consumer.seek(tp, ranges[tp][0])
    heard = time.monotonic()
    while left:
        fetched = await consumer.getmany(timeout_ms=500)
        for tp in sorted(fetched):
            records = [r for r in fetched[tp] if r.offset < ranges[tp][1]]
            if records:
                heard = time.monotonic()
                yield tp, records
        for tp in [tp for tp, end in left.items() if await consumer.position(tp) >= end]:
            del left[tp]
            consumer.pause(tp)
            heard = time.monotonic()
        if time.monotonic() - heard > SILENT_AFTER_S:
            tp = next(iter(left))
            raise BrokerError(f"{tp.topic}-{tp.partition}: no record came for {SILENT_AFTER_S:g} s; is the broker up?")
