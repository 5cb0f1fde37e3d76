"""Blocks: the records of the flows topic, columns of flow records as Avro bytes.

One block holds the rows that one batch of one source partition has for one partition of the flows topic.
It says which source offsets ``[from_offset, to_offset)`` the batch covered, so that a block sent twice, or
with other boundaries, is recognised; and the watermark of its source partition after the batch, so that
event time travels in the log. A block without rows still carries both.

A column is little-endian numbers, ``rows`` of them, or a single one where all are equal. Addresses are 16
bytes each in network order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from flowstream import schemas
from flowstream.batch import COLUMNS, Array, FlowBatch, packed_to_words, words_to_packed
from flowstream.errors import SchemaError, StateError

ROWS_MAX = 1 << 24  # a block declaring more is refused before anything is allocated for it

#: Columns that the header implies: one block is of one source partition.
STORED = tuple(name for name in COLUMNS if name != "origin_id")


class SourcePartition(NamedTuple):
    """A partition of a raw topic (or a file, which is partition 0 of its name)."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one batch for one destination; see the module's docstring."""

    source: SourcePartition
    from_offset: int
    to_offset: int
    watermark_ns: int | None  # None: nothing with a time has been seen in this source partition yet
    idle: bool  # the source partition is silent: it holds nobody's watermark back
    sources: tuple[tuple[str, int], ...]  # every input topic with its number of partitions
    rows: FlowBatch = field(default_factory=lambda: FlowBatch.zeros(0))


def origin_id(source: SourcePartition, sources: tuple[tuple[str, int], ...]) -> int:
    """Return a source partition's number: position of its topic among the inputs << 16 | partition."""
    return [topic for topic, _ in sources].index(source.topic) << 16 | source.partition


def origin_names(sources: tuple[tuple[str, int], ...]) -> dict[int, str]:
    """Return ``topic-partition`` for every origin id."""
    return {
        index << 16 | partition: f"{topic}-{partition}"
        for index, (topic, count) in enumerate(sources)
        for partition in range(count)
    }


def _encode_column(name: str, column: Array) -> bytes:
    if len(column) > 1 and (column == column[0]).all():
        column = column[:1]
    if COLUMNS[name].width == 2:
        return words_to_packed(column)
    return column.astype(np.dtype(COLUMNS[name].dtype).newbyteorder("<"), copy=False).tobytes()


def _decode_column(name: str, raw: bytes, rows: int) -> Array:
    column = COLUMNS[name]
    size = np.dtype(column.dtype).itemsize * column.width
    if len(raw) not in (rows * size, min(rows, 1) * size):
        raise StateError(f"column {name} of a block of {rows} rows has {len(raw)} bytes")
    stored = np.dtype(column.dtype).newbyteorder("<")
    values: Array = packed_to_words(raw) if column.width == 2 else np.frombuffer(raw, stored)
    return values if len(values) == rows else np.repeat(values, rows, axis=0)


def encode_block(block: Block) -> bytes:
    """Encode a block in Avro single-object encoding."""
    record: dict[str, Any] = {
        "topic": block.source.topic,
        "partition": block.source.partition,
        "from_offset": block.from_offset,
        "to_offset": block.to_offset,
        "watermark_ns": block.watermark_ns,
        "idle": block.idle,
        "sources": [{"topic": topic, "partitions": count} for topic, count in block.sources],
        "rows": len(block.rows),
    }
    for name in STORED:
        record[name] = _encode_column(name, block.rows.columns[name])
    return schemas.single_object_encode("flow_block", record)


def decode_block(payload: bytes) -> Block:
    """Read a block back.

    Raises StateError for anything that is not a block whose parts agree with each other.
    """
    try:
        name, record = schemas.single_object_decode(payload)
    except SchemaError as error:
        raise StateError(f"not a block: {error}") from error
    if name != "flow_block":
        raise StateError(f"not a block but a {name}")
    rows = record["rows"]
    sources = tuple((s["topic"], s["partitions"]) for s in record["sources"])
    source = SourcePartition(record["topic"], record["partition"])
    if not 0 <= rows <= ROWS_MAX:
        raise StateError(f"a block of {rows} rows")
    if not 0 <= record["from_offset"] <= record["to_offset"]:
        raise StateError(f"a block of offsets [{record['from_offset']}, {record['to_offset']})")
    if not any(topic == source.topic and 0 <= source.partition < count for topic, count in sources):
        raise StateError(f"a block of {source}, which is not among its own sources")
    columns = {name: _decode_column(name, record[name], rows) for name in STORED}
    columns["origin_id"] = np.full(rows, origin_id(source, sources), np.uint32)
    return Block(
        source,
        record["from_offset"],
        record["to_offset"],
        record["watermark_ns"],
        record["idle"],
        sources,
        FlowBatch.of(rows, columns),
    )
