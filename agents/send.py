"""Put messages on a raw topic, as a collector would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from agents.admin import topic_partitions, unreachable
from agents.client import client_options
from agents.publisher import Outgoing, Publisher
from agents.tail import read_topic
from flowstream import schemas
from flowstream.errors import BrokerError
from flowstream.links import LinkTable, link_key
from flowstream.settings import Settings
from flowstream.topics import name
from flowstream.topology import Topology, cable_key

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


async def send_links(settings: Settings, table: LinkTable, *, replace: bool = False) -> int:
    """Put a table of links on its compacted topic; BrokerError where there is no such topic.

    With ``replace`` links that are not in the table are taken out of the topic. Returns how many were.
    """
    return await _send_rows(settings, "links", {link_key(row): row for row in table.to_rows()}, replace=replace)


async def send_topology(settings: Settings, topology: Topology) -> int:
    """Put a topology on its compacted topic, in the place of what is there; return how many cables were taken out."""
    return await _send_rows(settings, "topology", {cable_key(row): row for row in topology.to_rows()}, replace=True)


async def read_rows(settings: Settings, stream: str) -> dict[str, dict[str, Any]]:
    """Return what a compacted topic of ``links`` or ``topology`` holds, by key; BrokerError where it is not there."""
    rows: dict[str, dict[str, Any]] = {}
    async for record, row in read_topic(settings, name(settings, stream), from_beginning=True, to_end=True):
        key = (record.key or b"").decode(errors="replace")
        rows.pop(key, None)
        if record.value is not None and "undecodable" not in row:
            rows[key] = row
    return rows


async def _send_rows(settings: Settings, stream: str, rows: Mapping[str, Any], *, replace: bool) -> int:
    topic = name(settings, stream)
    await topic_partitions(settings, topic)
    gone = [key for key in await read_rows(settings, stream) if key not in rows] if replace else []
    # What goes away goes first: no reader sees a port with two cables.
    values: dict[str, bytes | None] = dict.fromkeys(gone)
    values |= {key: schemas.single_object_encode(stream, row) for key, row in rows.items()}
    await _upsert(settings, topic, values)
    return len(gone)


async def _upsert(settings: Settings, topic: str, values: Mapping[str, bytes | None]) -> None:
    """Write values, or what removes them, by key to partition 0 of a compacted topic, in order."""
    producer = AIOKafkaProducer(**client_options(settings.kafka), enable_idempotence=True)
    try:
        await producer.start()
        sent = [await producer.send(topic, value, key.encode(), partition=0) for key, value in values.items()]
        await asyncio.gather(*sent)
    except (KafkaError, OSError) as error:
        raise BrokerError(f"{topic} could not be written: {str(error).splitlines()[0]}") from error
    finally:
        await producer.stop()


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
