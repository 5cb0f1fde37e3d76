"""Read any of our topics, decoded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.admin import unreachable
from agents.client import client_options
from flowstream import schemas
from flowstream.batch import COLUMNS, address_text
from flowstream.blocks import decode_block
from flowstream.errors import BrokerError, FlowstreamError
from flowstream.results import schema_name, unpack
from flowstream.settings import Settings
from flowstream.topics import stream_of


async def read_topic(
    settings: Settings, topic: str, *, from_beginning: bool = False, to_end: bool = False
) -> AsyncIterator[tuple[Any, dict[str, Any]]]:
    """Yield (Kafka record, decoded value) as they come, of transactions those that were kept.

    With ``to_end`` stop at the end of now.

    Raises BrokerError where the broker or the topic is not there.
    """
    stream = stream_of(settings, topic) or ""
    consumer = AIOKafkaConsumer(
        **client_options(settings.kafka), enable_auto_commit=False, fetch_max_wait_ms=200,
        isolation_level="read_committed",
    )  # fmt: skip
    try:
        await consumer.start()
    except (KafkaError, OSError, ValueError) as error:
        await consumer.stop()
        raise unreachable(settings, error) from error
    try:
        if topic not in await consumer.topics():
            raise BrokerError(f"topic {topic}: there is none; flowstream topics shows those there are")
        await consumer._client._wait_on_metadata(topic)  # noqa: SLF001 - partitions_for_topic is empty before
        partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(partitions)
        await (consumer.seek_to_beginning if from_beginning else consumer.seek_to_end)(*partitions)
        ends = await consumer.end_offsets(partitions)
        while not to_end or any([await consumer.position(tp) < end for tp, end in ends.items()]):
            fetched = await consumer.getmany(timeout_ms=500)
            for record in (r for tp in sorted(fetched) for r in fetched[tp]):
                yield record, decode_value(record.value, stream)
    finally:
        await consumer.stop()


def decode_value(value: bytes | None, stream: str = "") -> dict[str, Any]:
    """Return what a record of one of our topics says, as plain fields; ``stream`` tells a registry's framing."""
    if value is None:
        return {"deleted": True}
    try:
        if value[:1] == b"{":
            decoded: dict[str, Any] = json.loads(value)
            return decoded
        if value[:1] == schemas.CONFLUENT_MAGIC:
            name = schema_name(stream)
            record = schemas.decode_body(name, value[5:])
        else:
            name, record = schemas.single_object_decode(value)
        if name == "flow_block":
            return _block_summary(value)
        return unpack(name, record)
    except (FlowstreamError, ValueError, EOFError, IndexError, RecursionError) as error:
        return {"undecodable": str(error), "bytes": len(value)}


def _block_summary(value: bytes) -> dict[str, Any]:
    block = decode_block(value)
    rows = [
        {n: _cell(n, block.rows.column(n)[row]) for n in COLUMNS if n != "origin_id"}
        for row in range(min(len(block.rows), 3))
    ]
    return {
        "source": f"{block.source.topic}-{block.source.partition}", "from_offset": block.from_offset,
        "to_offset": block.to_offset, "watermark_ns": block.watermark_ns, "idle": block.idle,
        "rows": len(block.rows), "first_rows": rows,
    }  # fmt: skip


def _cell(name: str, value: Any) -> Any:
    return address_text(int(value[0]), int(value[1])) if COLUMNS[name].width == 2 else int(value)
