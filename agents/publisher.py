"""Sends records in bulk: batches built per partition, idempotent, acknowledged before ``publish`` returns.

Idempotence keeps the blocks of a source partition in order on their destination, which the chain of offset
ranges rests on.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer

from agents.client import client_options
from flowstream.setting_tables import Kafka
from flowstream.topics import BLOCK_BYTES_MAX

Headers = Sequence[tuple[str, bytes]]


class Outgoing(NamedTuple):
    """A record to send."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: Headers = ()


class Publisher:
    """An idempotent producer."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._producer: Any = None

    async def start(self) -> None:
        """Connect."""
        compression = None if self._kafka.compression == "none" else self._kafka.compression
        self._producer = AIOKafkaProducer(
            **client_options(self._kafka),
            enable_idempotence=True,
            acks="all",
            compression_type=compression,
            max_batch_size=1 << 20,
            max_request_size=BLOCK_BYTES_MAX + (1 << 20),
            linger_ms=0,
        )
        await self._producer.start()

    async def stop(self) -> None:
        """Send what is left and disconnect."""
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None

    async def publish(self, records: Iterable[Outgoing]) -> None:
        """Send records and wait until the brokers have them."""
        await (await self.enqueue(records))

    async def enqueue(self, records: Iterable[Outgoing]) -> Awaitable[Any]:
        """Queue records for sending, in order per partition; what is returned is done when the brokers have them."""
        by_partition: dict[tuple[str, int], list[Outgoing]] = defaultdict(list)
        for record in records:
            by_partition[record.topic, record.partition].append(record)
        sent: list[asyncio.Future[Any]] = []
        for (topic, partition), batch in by_partition.items():
            sent.extend(await self._send(topic, partition, batch))
        return asyncio.gather(*sent)

    async def _send(self, topic: str, partition: int, records: list[Outgoing]) -> list[asyncio.Future[Any]]:
        producer = self._producer
        now_ms = int(time.time() * 1000)
        futures: list[asyncio.Future[Any]] = []
        batch = producer.create_batch()
        for record in records:
            options = {
                "timestamp": now_ms,
                "key": record.key,
                "value": record.value,
                "headers": list(record.headers),
            }
            if batch.append(**options) is None:
                futures.append(await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
                batch.append(**options)
        futures.append(await producer.send_batch(batch, topic, partition=partition))
        return futures
