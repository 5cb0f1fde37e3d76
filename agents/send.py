"""Put messages on a raw topic, as a collector would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from itertools import islice

from agents.publisher import Outgoing, Publisher
from flowstream import schemas
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
    """Send messages round-robin over the topic's partitions, at most ``rate`` a second; return how many."""
    publisher = Publisher(settings.kafka)
    await publisher.start()
    sent = 0
    started = time.monotonic()
    remaining = iter(messages)
    size = BATCH if rate is None else max(1, min(BATCH, int(rate / 20)))
    try:
        while batch := list(islice(remaining, size)):
            records = (Outgoing(topic, (sent + i) % partitions, None, value) for i, value in enumerate(batch))
            sent += await publisher.publish(records)
            if progress is not None:
                progress(sent)
            if rate is not None:
                await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
    finally:
        await publisher.stop()
    return sent


async def send_links(settings: Settings, table: LinkTable) -> None:
    """Put a table of link capacities on the compacted links topic."""
    publisher = Publisher(settings.kafka)
    await publisher.start()
    try:
        topic = name(settings, "links")
        await publisher.publish(
            Outgoing(topic, 0, link_key(row).encode(), schemas.single_object_encode("links", row))
            for row in table.to_rows()
        )
    finally:
        await publisher.stop()
