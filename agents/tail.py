"""Read any of our topics, decoded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from agents.log_reader import reader
from flowstream import schemas
from flowstream.batch import address_text
from flowstream.blocks import Block, decode_block, decode_partials
from flowstream.errors import FlowstreamError
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
    async with reader(settings, [topic]) as (consumer, partitions):
        ends = await consumer.end_offsets(partitions)
        consumer.assign(partitions)
        await (consumer.seek_to_beginning if from_beginning else consumer.seek_to_end)(*partitions)
        while not to_end or any([await consumer.position(tp) < end for tp, end in ends.items()]):
            fetched = await consumer.getmany(timeout_ms=500)
            for record in (r for tp in sorted(fetched) for r in fetched[tp]):
                yield record, decode_value(record.value, stream)


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
            return _block_summary(decode_block(value))
        if name == "partial_block":
            return _block_summary(decode_partials(value))
        return unpack(name, record)
    except (FlowstreamError, ValueError, EOFError, IndexError, RecursionError) as error:
        return {"undecodable": str(error), "bytes": len(value)}


def _block_summary(block: Block[Any]) -> dict[str, Any]:
    rows = [
        {n: _cell(block.rows.column(n)[row]) for n in block.rows.LAYOUT if n != "origin_id"}
        for row in range(min(len(block.rows), 3))
    ]
    return {
        "source": f"{block.source.topic}-{block.source.partition}", "from_offset": block.from_offset,
        "to_offset": block.to_offset, "watermark_ns": block.watermark_ns, "idle": block.idle,
        "rows": len(block.rows), "first_rows": rows,
    }  # fmt: skip


def _cell(value: Any) -> Any:
    return address_text(int(value[0]), int(value[1])) if value.ndim else value.item()
