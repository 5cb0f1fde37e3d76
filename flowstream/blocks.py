"""Blocks: the records of the flows topic, columns of flow records as Avro bytes.

One block holds the rows that one batch of one source partition has for one partition of the flows topic.
It says which source offsets ``[from_offset, to_offset)`` the batch covered, so that a block sent twice, or
with other boundaries, is recognised; and the watermark of its source partition after the batch, so that
event time travels in the log. A block without rows still carries both.

A column is packed by ``flowstream/narrow.py``: an address is two of those, high words and low words, and the
times other than the event time are the differences to it. A column is unpacked when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from flowstream import narrow, schemas
from flowstream.batch import COLUMNS, Array, FlowBatch
from flowstream.errors import SchemaError, StateError

#: Columns that the header implies: one block is of one source partition.
STORED = tuple(name for name in COLUMNS if name != "origin_id")
_RELATIVE = ("time_received_ns", "time_flow_start_ns", "time_flow_end_ns")


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


def _packed(name: str, rows: FlowBatch) -> bytes:
    column = rows.column(name)
    if COLUMNS[name].width == 2:
        return narrow.pack_words(column)
    return narrow.pack(column - rows.time_ns if name in _RELATIVE else column)


@dataclass(frozen=True, slots=True)
class _Stored:
    """The columns of a block, still packed."""

    rows: int
    origin_id: int
    packed: Mapping[str, bytes]

    def check(self) -> None:
        for name, raw in self.packed.items():
            try:
                if COLUMNS[name].width == 2:
                    narrow.check_words(raw, self.rows)
                else:
                    narrow.check(raw, self.rows, COLUMNS[name].dtype)
            except StateError as error:
                raise StateError(f"column {name} of a block: {error}") from None

    def column(self, name: str) -> Array:
        if name == "origin_id":
            return np.full(self.rows, self.origin_id, np.uint32)
        raw = self.packed[name]
        if COLUMNS[name].width == 2:
            return narrow.unpack_words(raw, self.rows)
        values = narrow.unpack(raw, self.rows, COLUMNS[name].dtype)
        return values + self.column("time_ns") if name in _RELATIVE else values


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
        record[name] = _packed(name, block.rows)
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
    if not 0 <= record["from_offset"] <= record["to_offset"]:
        raise StateError(f"a block of offsets [{record['from_offset']}, {record['to_offset']})")
    if not any(topic == source.topic and 0 <= source.partition < count for topic, count in sources):
        raise StateError(f"a block of {source}, which is not among its own sources")
    # No two rows are of the same place in the same message, so a column that says where takes a byte a row at least.
    # Without this, columns of equal values, which take nine bytes each, could claim any number of rows.
    if rows > len(payload):
        raise StateError(f"a block of {rows} rows in {len(payload)} bytes")
    stored = _Stored(rows, origin_id(source, sources), {name: record[name] for name in STORED})
    stored.check()
    return Block(
        source,
        record["from_offset"],
        record["to_offset"],
        record["watermark_ns"],
        record["idle"],
        sources,
        FlowBatch({}, rows, stored.column),
    )
