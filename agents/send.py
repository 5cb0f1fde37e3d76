"""Put messages on a raw topic, as a collector would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import islice

from aiokafka.errors import KafkaError

from agents.admin import topic_partitions, unreachable
from agents.publisher import Outgoing, Publisher
from flowstream import schemas
from flowstream.errors import BrokerError
from flowstream.links import LinkTable, link_key
from flowstream.settings import Settings
from flowstream.topics import name

BATCH = 500


async def send(
    settings: Settings,
    topic: str,
    messages: Iterable[bytes],
    partitions: int,
    *,
    rate: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Send messages round-robin over the topic's partitions, at most ``rate`` a second; return how many.

    Raises BrokerError where no broker answers, or it refuses a message.
    """
    sent = 0
    started = time.monotonic()
    remaining = iter(messages)
    size = BATCH if rate is None else max(1, min(BATCH, int(rate / 20)))
    async with _publisher(settings) as publisher:
        while batch := list(islice(remaining, size)):
            await publisher.publish(
                Outgoing(topic, (sent + i) % partitions, None, value) for i, value in enumerate(batch)
            )
            sent += len(batch)
            if progress is not None:
                progress(sent)
            if rate is not None:
                await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
    return sent


async def send_links(settings: Settings, table: LinkTable) -> None:
    """Put a table of link capacities on the compacted links topic; BrokerError where there is no such topic."""
    topic = name(settings, "links")
    await topic_partitions(settings, topic)
    async with _publisher(settings) as publisher:
        await publisher.publish(
            Outgoing(topic, 0, link_key(row).encode(), schemas.single_object_encode("links", row))
            for row in table.to_rows()
        )


@asynccontextmanager
async def _publisher(settings: Settings) -> AsyncIterator[Publisher]:
    """Connect a publisher; BrokerError where that fails, or a broker refuses a record."""
    publisher = Publisher(settings.kafka)
    try:
        await publisher.start()
    except (KafkaError, OSError, ValueError) as error:
        await publisher.stop()
        raise unreachable(settings, error) from error
    try:
        yield publisher
    except KafkaError as error:
        raise BrokerError(f"a record could not be sent: {str(error).splitlines()[0]}") from error
    finally:
        await publisher.stop()
