"""Blocks: rows as columns of Avro bytes, the records of the flows topic and of the partials topic.

One block holds the rows that one batch of one source partition has for one partition of the topic. It says
which source offsets ``[from_offset, to_offset)`` the batch covered, so that a block sent twice, or
with other boundaries, is recognised; and the watermark of its source partition after the batch, so that
event time travels in the log. A block without rows still carries both.

Of partials the source partition is one of the flows topic, and an offset is a place in its sequence of panes
(``flowstream/partial_blocks.py``).

A column is packed by ``flowstream/narrow.py``: an address is two of those, high words and low words, and the
times other than the event time are the differences to it. A column is unpacked when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, NamedTuple, Self

from flowstream import narrow, schemas
from flowstream.batch import FlowBatch
from flowstream.columns import Array, Column, ColumnBatch
from flowstream.errors import SchemaError, StateError
from flowstream.operators import Rows
from flowstream.partials import PartialBatch


@dataclass(frozen=True)
class Packing:
    """How rows of one kind are written: the schema, and the columns that are differences to ``time_ns``."""

    kind: type[ColumnBatch]
    schema: str
    relative: frozenset[str] = frozenset()

    @cached_property
    def stored(self) -> Mapping[str, Column]:
        """The columns in the block; ``origin_id`` is implied by the header, as one block is of one source partition."""
        return {name: column for name, column in self.kind.LAYOUT.items() if name != "origin_id"}

    def pack(self, name: str, rows: ColumnBatch) -> bytes:
        """Return a column's bytes; numbers with a fraction are packed by their bits."""
        column = rows.column(name)
        if self.kind.LAYOUT[name].width == 2:
            return narrow.pack_words(column)
        return narrow.pack(
            column - rows.time_ns if name in self.relative else column.view(_whole(self.kind.LAYOUT[name]))
        )


FLOWS = Packing(FlowBatch, "flow_block", frozenset({"time_received_ns", "time_flow_start_ns", "time_flow_end_ns"}))
PARTIALS = Packing(PartialBatch, "partial_block")
_BY_KIND: Mapping[type[ColumnBatch], Packing] = {packing.kind: packing for packing in (FLOWS, PARTIALS)}


class SourcePartition(NamedTuple):
    """A partition of a topic that blocks are made from (or a file, which is partition 0 of its name)."""

    topic: str
    partition: int


def _no_rows() -> Any:
    return FlowBatch.none()


@dataclass(frozen=True, slots=True)
class Block(Generic[Rows]):
    """Rows of one batch for one destination; see the module's docstring."""

    source: SourcePartition
    from_offset: int
    to_offset: int
    watermark_ns: int | None  # None: nothing with a time has been seen in this source partition yet
    idle: bool  # the source partition is silent: it holds nobody's watermark back
    sources: tuple[tuple[str, int], ...]  # every topic of sources with its number of partitions
    rows: Rows = field(default_factory=_no_rows)

    @property
    def header(self) -> Self:
        """The block without its rows."""
        none = type(self.rows).none()
        of = self.source, self.from_offset, self.to_offset
        return type(self)(*of, self.watermark_ns, self.idle, self.sources, none)


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


def _whole(column: Column) -> str:
    return column.dtype.replace("f", "u")


@dataclass(frozen=True, slots=True)
class _Stored:
    """The columns of a block, still packed."""

    packing: Packing
    rows: int
    origin_id: int
    packed: Mapping[str, bytes]

    def check(self) -> None:
        for name, column in self.packing.stored.items():
            try:
                if column.width == 2:
                    narrow.check_words(self.packed[name], self.rows)
                else:
                    narrow.check(self.packed[name], self.rows, column.dtype)
            except StateError as error:
                raise StateError(f"column {name} of a block: {error}") from None

    def column(self, name: str, out: Array | None = None) -> Array:
        column = self.packing.kind.LAYOUT[name]
        out = column.empty(self.rows) if out is None else out
        if name == "origin_id":
            out[:] = self.origin_id
        elif column.width == 2:
            narrow.unpack_words_into(self.packed[name], out)
        else:
            narrow.unpack_into(self.packed[name], out.view(_whole(column)))
            if name in self.packing.relative:
                out += self.column("time_ns")
        return out


def encode_block(block: Block[Any]) -> bytes:
    """Encode a block in Avro single-object encoding."""
    packing = _BY_KIND[type(block.rows)]
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
    for name in packing.stored:
        record[name] = packing.pack(name, block.rows)
    return schemas.single_object_encode(packing.schema, record)


def decode_block(payload: bytes) -> Block:
    """Read a block of flow records back; StateError for anything that is not one whose parts agree with each other."""
    return _decode(payload, FLOWS)


def decode_partials(payload: bytes) -> Block[PartialBatch]:
    """Read a block of partials back; StateError for anything that is not one whose parts agree with each other."""
    return _decode(payload, PARTIALS)


def _decode(payload: bytes, packing: Packing) -> Block[Any]:
    try:
        name, record = schemas.single_object_decode(payload)
    except SchemaError as error:
        raise StateError(f"not a block: {error}") from error
    if name != packing.schema:
        raise StateError(f"not a {packing.schema} but a {name}")
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
    stored = _Stored(packing, rows, origin_id(source, sources), record)
    stored.check()
    return Block(
        source,
        record["from_offset"],
        record["to_offset"],
        record["watermark_ns"],
        record["idle"],
        sources,
        packing.kind({}, rows, stored.column),
    )
