"""What operators keep in streams of their own, and get back when their partition is opened."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from aiokafka import TopicPartition

from agents.log_reader import read_ranges, reader
from flowstream import schemas
from flowstream.errors import SchemaError, StateError
from flowstream.operators import Keeps, Operator
from flowstream.settings import Settings
from flowstream.topics import name


async def load_kept(settings: Settings, operators: Iterable[Operator[Any]], partition: int) -> None:
    """Give every operator that keeps a stream the last value of each key of its partition, in the log's order.

    What belongs to a transaction that was given up was never said. BrokerError where the topic cannot be read,
    StateError for a value that this version cannot.
    """
    for operator in operators:
        if isinstance(operator, Keeps):
            values = await _last_values(settings, name(settings, operator.kept_stream), partition)
            await asyncio.to_thread(operator.load, values)


async def _last_values(settings: Settings, topic: str, partition: int) -> list[dict[str, Any]]:
    last: dict[bytes, bytes] = {}
    async with reader(settings, [topic]) as (consumer, tps):
        tp = TopicPartition(topic, partition)
        if tp not in tps:
            return []
        start, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
        async for _, records in read_ranges(consumer, {tp: (start, end)}):
            for record in records:
                last.pop(record.key, None)
                if record.value is not None:
                    last[record.key] = record.value
    try:
        return [schemas.single_object_decode(value)[1] for value in last.values()]
    except SchemaError as error:
        raise StateError(f"{topic}-{partition}: a value that is not its stream's: {error}") from error
