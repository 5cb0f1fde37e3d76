"""Kafka's record batches to columns: values joined, offsets, timestamps, with no object per record.

Format: Kafka protocol guide, "Record Batch" and "Record" (magic 2). A batch is a header of 61 bytes, then
records, compressed together or not. CRCs, control batches and transactions are the business of whoever fetched
the batch; here every length is checked against the bytes there are.

What a record says of its own offset comes from whoever sent it, and a broker that stores a batch uncompressed does not
check it. It does check that a batch has as many records as offsets. So in a batch that still has all of them, the
offsets are those the broker gave; only where compaction took some away do the records say which are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import bare_njit, inline_njit
from flowstream.decode.payloads import Payloads
from flowstream.errors import DecodeError, Reason, StateError

_LENGTH: Final = Struct(">qi")  # base offset, bytes after this
# base offset, length, leader epoch, magic, crc, attributes, last offset delta, base timestamp, greatest
# timestamp, producer id, producer epoch, base sequence, records
_HEADER: Final = Struct(">qiibIhiqqqhii")
_MAGIC: Final = 2
_CODEC: Final = 0b111
_APPEND_TIME: Final = 0b1000  # the broker's time at which it was appended stands for every record's
RECORD_BYTES_MIN: Final = 7  # length, attributes, timestamp, offset, key, value, headers: one byte each

#: What a batch may unpack to, twice the largest message of our own topics. Clients hold their batches to a mebibyte
#: before compression by default; the broker's limit is for the compressed bytes, which says nothing about these.
UNPACKED_BYTES_MAX: Final = 32 << 20
#: Batches of a fetch are unpacked together up to about this. A fetch of many that unpack to much is read bit by bit.
_TOGETHER_BYTES: Final = 16 << 20
_WIRE_FORMAT: Final = "record-batch"
_TIME_MAX_MS: Final = (2**63 - 1) // 1_000_000
_Bytes = NDArray[np.uint8]

_TRUNCATED: Final = -1
_NONE: Final = np.zeros(0, np.int64)

#: Undoes compression, from the codec's number (1 gzip, 2 snappy, 3 lz4, 4 zstd) and the bytes; or DecodeError. What it
#: gives may be overwritten by the next call.
Decompress = Callable[[int, memoryview], memoryview]


class WireBatch(NamedTuple):
    """A record batch as fetched. Of its offsets, those from ``first_offset`` to before ``next_offset`` are wanted."""

    wire: memoryview
    first_offset: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class LegacyBatch:
    """Records one by one, each (offset, timestamp in ms, value): of formats before Kafka 0.11."""

    records: Sequence[tuple[int, int, bytes | None]]

    @property
    def first_offset(self) -> int:
        """Offset of the first record."""
        return self.records[0][0]

    @property
    def next_offset(self) -> int:
        """One past the offset of the last record."""
        return self.records[-1][0] + 1


class RefusedBatch(NamedTuple):
    """A batch that cannot be read, or is not to be: all of its records are lost, from first offset to before next."""

    batch: WireBatch
    reason: Reason
    detail: str

    @property
    def records(self) -> int:
        """How many offsets are lost."""
        return self.batch.next_offset - self.batch.first_offset


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records of a partition, offsets ascending; timestamps are the log's (negative: none).

    ``refused`` are the batches among them that could not be read; whatever comes next begins at ``next_offset``.
    """

    payloads: Payloads
    offsets: NDArray[np.int64]
    timestamps_ns: NDArray[np.int64]
    refused: tuple[RefusedBatch, ...] = ()
    next_offset: int = 0

    def __len__(self) -> int:
        return len(self.offsets)

    def slice(self, start: int, stop: int) -> Records:
        """Return records ``start`` to ``stop`` alone; nothing is copied."""
        return Records(self.payloads.slice(start, stop), self.offsets[start:stop], self.timestamps_ns[start:stop])


def batch_bytes(wire: memoryview, at: int) -> int:
    """Return how many bytes the batch (of any format) that begins at ``at`` takes; StateError if it is cut off."""
    if at + _LENGTH.size > len(wire):
        raise StateError("a record batch that ends within its length")
    size = _LENGTH.size + int(_LENGTH.unpack_from(wire, at)[1])
    if size < _LENGTH.size or at + size > len(wire):
        raise StateError("a record batch that is longer than the fetch it came in")
    return size


def read_batches(batches: Sequence[WireBatch | LegacyBatch], decompress: Decompress) -> Iterator[Records]:
    """Yield the records of consecutive batches, some batches at a time; what cannot be read is among the refused.

    Whether a batch is refused depends on nothing but its own bytes, wherever a fetch was cut.
    """
    parts: list[Records] = []
    refused: list[RefusedBatch] = []
    together = 0
    for batch in batches:
        try:
            parts.append(_read_wire(batch, decompress) if isinstance(batch, WireBatch) else _read_legacy(batch))
        except DecodeError as error:
            assert isinstance(batch, WireBatch)  # noqa: S101 - the other kind has been read already
            refused.append(RefusedBatch(batch, error.reason, str(error)))
            continue
        together += len(parts[-1].payloads.buffer)
        if together >= _TOGETHER_BYTES:
            yield _joined(parts, refused, batch.next_offset)
            parts, refused, together = [], [], 0
    if parts or refused:
        yield _joined(parts, refused, batches[-1].next_offset)


def _read_legacy(batch: LegacyBatch) -> Records:
    offsets, times, values = zip(*batch.records, strict=True)
    return Records(Payloads.from_values(values), np.array(offsets, np.int64), _in_ns(np.array(times, np.int64)))


def _in_ns(times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return timestamps in nanoseconds; those that only a producer can have made up are the last there is."""
    return np.where(times_ms < 0, times_ms, np.minimum(times_ms, _TIME_MAX_MS) * 1_000_000)


def _read_wire(batch: WireBatch, decompress: Decompress) -> Records:
    if len(batch.wire) < _HEADER.size:
        raise DecodeError(_WIRE_FORMAT, Reason.TRUNCATED, f"{len(batch.wire)} bytes")
    base, _, _, magic, _, attributes, last_delta, time_ms, greatest_ms, _, _, _, count = _HEADER.unpack_from(batch.wire)
    if magic != _MAGIC:
        raise DecodeError(_WIRE_FORMAT, Reason.MALFORMED, f"format {magic}")
    body = batch.wire[_HEADER.size :]
    if attributes & _CODEC:
        body = decompress(attributes & _CODEC, body)
    if not 0 <= count <= len(body) // RECORD_BYTES_MIN:
        raise DecodeError(_WIRE_FORMAT, Reason.MALFORMED, f"{len(body)} bytes that declare {count} records")
    raw = np.frombuffer(body, np.uint8)
    values, bounds = np.empty(len(raw), np.uint8), np.zeros(count + 1, np.int64)
    null, columns = np.zeros(count, np.bool_), np.empty((2, count), np.int64)
    found = _read_records(raw, count, last_delta, base, time_ms, batch.first_offset, values, bounds, null, columns)
    if found < 0:
        raise DecodeError(_WIRE_FORMAT, Reason.MALFORMED, "records that do not fit their lengths or offsets")
    if attributes & _APPEND_TIME:
        columns[1] = greatest_ms
    payloads = Payloads(values[: bounds[found]].tobytes(), bounds[: found + 1], null[:found])
    return Records(payloads, columns[0, :found], _in_ns(columns[1, :found]))


def _joined(parts: Sequence[Records], refused: Sequence[RefusedBatch], next_offset: int) -> Records:
    if len(parts) == 1:
        return replace(parts[0], refused=tuple(refused), next_offset=next_offset)
    sizes = np.cumsum([0, *(len(p.payloads.buffer) for p in parts)])
    bounds = [p.payloads.bounds[:-1] + start for p, start in zip(parts, sizes.tolist(), strict=False)]
    payloads = Payloads(
        b"".join([p.payloads.buffer for p in parts]),
        np.concatenate([*bounds, sizes[-1:]]),
        np.concatenate([np.zeros(0, np.bool_), *(p.payloads.null for p in parts)]),
    )
    offsets = np.concatenate([_NONE, *(p.offsets for p in parts)])
    times = np.concatenate([_NONE, *(p.timestamps_ns for p in parts)])
    return Records(payloads, offsets, times, tuple(refused), next_offset)


@inline_njit
def _zigzag(raw, at, end):  # type: ignore[no-untyped-def]
    """Return (value, position after it) of a signed varint; the position is negative where there is none."""
    word = np.uint64(0)
    shift = np.uint64(0)
    while at < end and shift < np.uint64(64):
        byte = np.uint64(raw[at])
        at += 1
        word |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return np.int64(word >> np.uint64(1)) ^ -np.int64(word & np.uint64(1)), at
        shift += np.uint64(7)
    return np.int64(0), _TRUNCATED


@bare_njit
def _read_records(  # type: ignore[no-untyped-def]
    raw, count, last_delta, base, time_ms, first_offset, values, bounds, null, columns
):
    """Read ``count`` records; fill values (end to end), their bounds, which are null, offsets and times in ms.

    Records before ``first_offset`` are passed over. Returns how many were filled, or a negative number where a record
    reaches beyond its length, or its offset is not between those around it.
    """
    at, filled, used, offset_before = 0, 0, 0, -1
    for place in range(count):
        size, at = _zigzag(raw, at, len(raw))
        if at < 0 or size < 0 or size > len(raw) - at:
            return _TRUNCATED
        end = at + size
        time_delta, at = _zigzag(raw, at + 1, end)  # one byte of attributes, which are all unused
        if at < 0:
            return _TRUNCATED
        offset_delta, at = _zigzag(raw, at, end)
        if at < 0:
            return _TRUNCATED
        key, at = _zigzag(raw, at, end)
        if at < 0 or key > end - at:
            return _TRUNCATED
        length, at = _zigzag(raw, at + max(key, 0), end)
        if at < 0 or length > end - at:
            return _TRUNCATED
        if count == last_delta + 1:
            offset_delta = place
        elif not offset_before < offset_delta <= last_delta:
            return _TRUNCATED
        offset_before = offset_delta
        if base + offset_delta >= first_offset:
            columns[0, filled] = base + offset_delta
            columns[1, filled] = time_ms + time_delta
            null[filled] = length < 0
            for index in range(length):
                values[used + index] = raw[at + index]
            used += max(length, 0)
            filled += 1
            bounds[filled] = used
        at = end
    return filled
