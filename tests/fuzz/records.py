"""Laws of what flowstream reads back: record batches, blocks, progress records, Avro bodies to be written as JSON."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import numpy as np
import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from agents.batches import decompress
from flowstream.analysis import Progress, SourceProgress
from flowstream.avro_json import JsonWriter
from flowstream.batch import COLUMNS, FlowBatch
from flowstream.blocks import Block, SourcePartition, decode_block, encode_block
from flowstream.byte_column import ByteColumn
from flowstream.errors import SchemaError, StateError
from flowstream.record_batches import RECORD_BYTES_MIN, Records, WireBatch, read_batches
from tests.fuzz.law import Law
from tests.unit.test_avro_json import BODY, EVERYTHING, read

_HEADER_BYTES, _GZIP = 61, 1
_NUMBERS = [b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f", b"\x80" * 9 + b"\x01", b"\x7f\xff\xff\xff", b"\x01"]


# -- record batches


def wire_batch(codec: int, values: int = 4) -> bytes:
    """Return a record batch of aiokafka's own writer, with null keys and values and with headers among its records."""
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, 0, 0, 1 << 16)
    for place in range(values):
        value = None if place == 1 else b"v%d" % place * 9
        builder.append(place, 1000 + place, b"k" if place % 2 else None, value, [("h", b"x")] if place else [])
    raw = bytearray(builder.build())
    if codec == _GZIP:
        raw[_HEADER_BYTES + 4 : _HEADER_BYTES + 8] = raw[17:21] = bytes(4)  # the time of compressing, and so the CRC
    return bytes(raw)


def _record_objects(wire: bytes) -> list[tuple[int, int, bytes | None]] | None:
    """Return what aiokafka makes of a batch's records, None where it makes nothing of them."""
    try:
        found = [(r.offset, r.timestamp, r.value) for r in DefaultRecordBatch(bytearray(wire))]
    except Exception:  # noqa: BLE001 - its compiled parser names no exceptions
        return None
    return found


def _rows(records: Records) -> list[tuple[int, int, bytes | None]]:
    values = [None if null else v for v, null in zip(records.payloads.values(), records.payloads.null, strict=True)]
    times = [time if time < 0 else time // 1_000_000 for time in records.timestamps_ns.tolist()]
    return list(zip(records.offsets.tolist(), times, values, strict=True))


def check_record_batch(wire: bytes) -> object:
    """A batch gives the records that aiokafka's parser gives, or is refused, and never more than its bytes can hold.

    aiokafka's parser is the laxer one: it believes lengths that leave bytes over, or reach beyond a record.
    """
    view = memoryview(wire)
    (records,) = read_batches([WireBatch(view, -(2**63), 2**63 - 1)], decompress)
    if records.refused:
        assert len(records) == 0
        return [(refused.reason, refused.detail) for refused in records.refused]
    assert len(records.payloads) == len(records.offsets) == len(records.timestamps_ns)
    assert records.payloads.bounds[0] == 0
    assert records.payloads.bounds[-1] == len(records.payloads.buffer)
    assert np.all(np.diff(records.payloads.bounds) >= 0)
    assert np.all(np.diff(records.offsets) > 0)
    found = _rows(records)
    if wire[16] == 2 and not wire[22] & 7:  # magic 2, uncompressed
        assert len(found) * RECORD_BYTES_MIN <= len(wire) - _HEADER_BYTES
        objects = _record_objects(wire)
        if objects is not None:
            assert [value for *_, value in found] == [value for *_, value in objects]
            _check_offsets(wire, [offset for offset, *_ in found], [offset for offset, *_ in objects])
            times = zip([time for _, time, _ in found], [time for _, time, _ in objects], strict=True)
            assert all(ours == theirs for ours, theirs in times if theirs is not None and 0 <= theirs < 2**42)
    return found


def _check_offsets(wire: bytes, ours: list[int], theirs: list[int]) -> None:
    """Fail unless a batch that misses no record has the offsets of its header, and any other those of its records."""
    base = int.from_bytes(wire[:8], "big", signed=True)
    last_delta = int.from_bytes(wire[23:27], "big", signed=True)
    assert ours == (list(range(base, base + len(theirs))) if len(theirs) == last_delta + 1 else theirs)


# -- blocks


def check_block(payload: bytes) -> object:
    """A payload is a block whose columns can all be had, and which encodes to one that says the same; or StateError."""
    try:
        block = decode_block(payload)
    except StateError as error:
        return str(error)
    columns = {name: block.rows.column(name) for name in COLUMNS}
    for name, column in columns.items():
        assert column.dtype == np.dtype(COLUMNS[name].dtype)
        assert column.shape == ((len(block.rows),) if COLUMNS[name].width == 1 else (len(block.rows), 2))
    again = decode_block(encode_block(block))
    assert (again.source, again.from_offset, again.to_offset, again.watermark_ns, again.idle, again.sources) == (
        block.source, block.from_offset, block.to_offset, block.watermark_ns, block.idle, block.sources,
    )  # fmt: skip
    assert all(np.array_equal(again.rows.column(name), column) for name, column in columns.items())
    return [column.tolist() for column in columns.values()]


def _block_seeds() -> list[bytes]:
    random = np.random.default_rng(7)
    spread = {
        name: random.integers(0, 200, (3, 2) if column.width == 2 else 3).astype(column.dtype)
        for name, column in COLUMNS.items()
        if name != "origin_id"
    }
    spread["origin_id"] = np.full(3, 0, np.uint32)
    sources = (("raw", 2), ("eve", 1))
    return [
        encode_block(Block(SourcePartition("raw", 0), 5, 9, rows_ns, idle, sources, rows))
        for rows, rows_ns, idle in ((FlowBatch.of(3, spread), 7, False), (FlowBatch.zeros(0), None, True))
    ]


# -- progress


def check_progress(raw: bytes) -> object:
    """Bytes are a progress record, which encodes to one that says the same, or a StateError; packed by us or not."""
    found = []
    for record in (raw, zlib.compress(raw, 1)):
        try:
            progress = Progress.decode(record)
        except StateError as error:
            found.append(str(error))
        else:
            assert Progress.decode(progress.encode()) == progress
            found.append(repr(progress))
    return found


_PROGRESS = Progress(1, 10**9, 5, 9, 3, 2, [("raw", 3)], [SourceProgress("raw", 0, 5, 7, False)], {"x": b"yy"})


# -- Avro bodies to JSON


def check_avro_json(body: bytes) -> object:
    """A body is written as msgspec writes what fastavro reads of it, or is a SchemaError.

    The writer copies strings as they are, which flowstream made of text, and takes no array's block that is preceded by
    its size: flowstream writes none.
    """
    value: Any = read(body)
    try:
        (written,) = _WRITER.write(ByteColumn(*_within(body))).values()
    except SchemaError as error:
        return str(error)
    if value is None:
        with pytest.raises(UnicodeDecodeError):
            written.decode()
    else:
        assert written == msgspec.json.encode(value | {"p": np.frombuffer(value["p"], "<f8").tolist()})
    return written


_WRITER = JsonWriter(EVERYTHING, {"p": "<f8"})


def _within(body: bytes) -> tuple[Any, Any]:
    made = ByteColumn.of([b"before", body, b"\xff" * 20])
    return made.buffer, made.bounds[1:3]


LAWS: dict[str, Law] = {
    "record-batch": Law(check_record_batch, [wire_batch(codec) for codec in range(5)], _NUMBERS),
    "block": Law(check_block, _block_seeds(), _NUMBERS),
    "progress": Law(check_progress, [_PROGRESS.encode(), zlib.decompress(_PROGRESS.encode())], [b"\x91" * 2000]),
    "avro-json": Law(check_avro_json, [BODY], _NUMBERS),
}
