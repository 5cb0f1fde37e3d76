"""Record batches in columns hold what aiokafka's record objects hold, whatever wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.codecs import decompress
from agents.fetcher import ColumnTopics, KeptRecords, PartitionRecords
from flowstream.errors import Reason
from flowstream.record_batches import Records, WireBatch, read_batches

TP = TopicPartition("raw", 3)
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
Record = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]  # timestamp, key, value, headers

records = st.lists(
    st.tuples(
        st.integers(0, 2**42), st.none() | st.binary(max_size=20), st.none() | st.binary(max_size=200),
        st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=9)), max_size=2),
    ),
    min_size=1, max_size=20,
)  # fmt: skip


def wire(batch: Sequence[Record], base: int, codec: int = 0, producer: int = -1, transactional: bool = False) -> bytes:
    """Return a batch as a broker would store it: aiokafka's own writer, with the base offset put in."""
    builder = DefaultRecordBatchBuilder(2, codec, transactional, producer, 0, 0, 1 << 20)
    for place, (time_ms, key, value, headers) in enumerate(batch):
        assert builder.append(place, time_ms, key, value, headers) is not None
    raw = bytearray(builder.build())
    raw[:8] = base.to_bytes(8, "big")  # outside of what the CRC covers
    return bytes(raw)


def unpacked(
    raw: bytes, columns: bool, first: int = 0, aborted: Any = None, isolation: int = READ_UNCOMMITTED
) -> tuple[list[Any], int]:
    """Return what a fetch gives, and the position after it."""
    topics = ColumnTopics(lambda topic: columns and topic == "raw")
    fetched = PartitionRecords(TP, KeptRecords(raw), aborted, first, None, topics, True, isolation)
    return list(fetched), fetched.next_fetch_offset


def rows(read: Records) -> Iterator[tuple[int, int, bytes | None]]:
    for at in range(len(read)):
        value = None if read.payloads.null[at] else read.payloads[at]
        yield int(read.offsets[at]), int(read.timestamps_ns[at]), value


def objects(raw: bytes, **how: Any) -> tuple[list[tuple[int, int, bytes | None]], int]:
    found, position = unpacked(raw, columns=False, **how)
    return [(r.offset, r.timestamp * 1_000_000, r.value) for r in found], position


def in_columns(raw: bytes, **how: Any) -> tuple[list[tuple[int, int, bytes | None]], int]:
    found, position = unpacked(raw, columns=True, **how)
    parts = list(read_batches(found, decompress))
    assert [part.refused for part in parts] == [()] * len(parts)
    return [row for part in parts for row in rows(part)], position


@pytest.mark.parametrize("codec", CODECS)
@given(batches=st.lists(records, min_size=1, max_size=4), skip=st.integers(0, 30))
@settings(max_examples=40)
def test_columns_hold_what_the_record_objects_hold(codec: str, batches: list[list[Record]], skip: int) -> None:
    raw, base = b"", 100
    for batch in batches:
        raw += wire(batch, base, CODECS[codec])
        base += len(batch) + 1  # an offset is missing between batches, as after a transaction's end
    first = 100 + skip
    assert in_columns(raw, first=first) == objects(raw, first=first)


@given(batch=records)
def test_a_fetch_cut_off_in_its_last_batch_gives_the_whole_ones(batch: list[Record]) -> None:
    raw = wire(batch, 0)
    cut = raw + wire(batch, len(batch))[:-1]
    assert in_columns(cut) == objects(cut)
    assert len(in_columns(cut)[0]) == len(batch)


@pytest.mark.parametrize("isolation", [READ_UNCOMMITTED, READ_COMMITTED])
def test_aborted_transactions_and_control_batches_are_left_out_as_aiokafka_leaves_them_out(isolation: int) -> None:
    one: Record = (5, None, b"x", [])
    abort = wire([(5, b"\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\x00", [])], 2, 0, 7, transactional=True)
    marked = bytearray(abort)
    marked[22] |= 0b100000  # attributes, low byte: a control batch; the CRC is made anew below
    builder_free = _with_crc(marked)
    raw = wire([one], 0, 0, 7, transactional=True) + wire([one], 1) + builder_free + wire([one], 3, 0, 7, True)
    found, position = in_columns(raw, aborted=[(7, 0)], isolation=isolation)
    assert (found, position) == objects(raw, aborted=[(7, 0)], isolation=isolation)
    expected = [1, 3] if isolation == READ_COMMITTED else [0, 1, 3]
    assert [offset for offset, _, _ in found] == expected
    assert position == 4


def _with_crc(raw: bytearray) -> bytes:
    from aiokafka.record.util import calc_crc32c

    raw[17:21] = calc_crc32c(bytes(raw[21:])).to_bytes(4, "big")
    return bytes(raw)


@pytest.mark.parametrize("magic", [0, 1])
def test_batches_of_old_formats_are_read_record_by_record(magic: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, 1, 1 << 16)  # gzip: a set within a message
    for place in range(5):
        builder.append(place, 1000 + place, b"k", b"v%d" % place)
    raw = bytes(builder.build())
    found, position = unpacked(raw, columns=True, first=2)
    plain, _ = unpacked(raw, columns=False, first=2)
    (part,) = read_batches(found, decompress)
    assert [v for _, _, v in rows(part)] == [r.value for r in plain]
    assert (position, found[0].first_offset, found[0].next_offset) == (5, 2, 5)


@given(batch=records, place=st.integers(21, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_fails_the_crc(batch: list[Record], place: int, bit: int) -> None:
    raw = bytearray(wire(batch, 0))
    raw[21 + place % (len(raw) - 21)] ^= 1 << bit
    with pytest.raises(CorruptRecordException):
        unpacked(bytes(raw), columns=True)


@given(batch=records, place=st.integers(0, 10_000), byte=st.integers(0, 255), codec=st.sampled_from(range(5)))
@settings(max_examples=300)
def test_any_bytes_give_records_or_are_refused(batch: list[Record], place: int, byte: int, codec: int) -> None:
    raw = bytearray(wire(batch, 0, codec))
    raw[place % len(raw)] = byte
    (read,) = read_batches([WireBatch(memoryview(bytes(raw)), 0, len(batch))], decompress)
    assert not read.refused or (len(read), read.refused[0].records) == (0, len(batch))
    assert len(read.payloads) == len(read.offsets) == len(read.timestamps_ns)
    assert read.payloads.bounds[-1] == len(read.payloads.buffer)
    assert np.all(np.diff(read.payloads.bounds) >= 0)


def numbered(deltas: Sequence[int], last: int) -> bytes:
    """Return a batch at offset 100 whose records say these differences to it, and whose header says the last one."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, 0, 0, 1 << 16)
    for delta in deltas:
        builder.append(delta, 1000, None, b"v%d" % delta, [])
    raw = bytearray(builder.build())
    raw[:8], raw[23:27] = (100).to_bytes(8, "big"), last.to_bytes(4, "big")
    return bytes(raw)


def read(raw: bytes, first: int = 0) -> list[tuple[int, bytes | None]]:
    parts = read_batches([WireBatch(memoryview(raw), first, 2**62)], decompress)
    return [(offset, value) for part in parts for offset, _, value in rows(part)]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=6), st.integers(90, 110))
def test_in_a_batch_that_misses_no_record_the_offsets_are_the_brokers_whatever_the_records_say(
    deltas: list[int], first: int
) -> None:
    expected = [(100 + place, b"v%d" % delta) for place, delta in enumerate(deltas)]
    raw = numbered(deltas, len(deltas) - 1)
    assert read(raw, first) == [one for one in expected if one[0] >= first]


@given(st.sets(st.integers(0, 50), min_size=1, max_size=6), st.integers(90, 160))
def test_where_compaction_took_records_away_those_left_say_their_offsets(left: set[int], first: int) -> None:
    expected = [(100 + delta, b"v%d" % delta) for delta in sorted(left)]
    assert read(numbered(sorted(left), 51), first) == [one for one in expected if one[0] >= first]


@pytest.mark.parametrize("deltas", [(5, 4), (5, 5), (-1, 3), (3, 52), (2**31 - 1, 2), (0, -(2**31))])
def test_offsets_that_no_compaction_leaves_are_an_error(deltas: tuple[int, int]) -> None:
    (records,) = read_batches([WireBatch(memoryview(numbered(deltas, 51)), 0, 2**62)], decompress)
    (refused,) = records.refused
    assert (len(records), refused.reason) == (0, Reason.MALFORMED)
    assert "offsets" in refused.detail


@pytest.mark.parametrize(("time_ms", "time_ns"), [(2**62, 2**63 - 775808), (2**63 // 10**6, 2**63 - 775808), (-5, -5)])
def test_a_timestamp_that_no_clock_shows_is_the_last_there_is_or_none(time_ms: int, time_ns: int) -> None:
    raw = bytearray(numbered([0], 0))
    raw[27:35] = time_ms.to_bytes(8, "big", signed=True)
    (found,) = read_batches([WireBatch(memoryview(bytes(raw)), 0, 2**62)], decompress)
    assert found.timestamps_ns.tolist() == [time_ns]


def test_the_brokers_time_of_appending_stands_for_every_record() -> None:
    raw = bytearray(wire([(5, None, b"a", []), (9, None, b"b", [])], 0))
    raw[22] |= 0b1000
    raw = bytearray(_with_crc(raw))
    assert [time for _, time, _ in in_columns(bytes(raw))[0]] == [9_000_000, 9_000_000]
    assert in_columns(bytes(raw)) == objects(bytes(raw))


def test_other_topics_get_record_objects() -> None:
    found, _ = unpacked(wire([(5, b"k", b"v", [])], 0), columns=False)
    assert (found[0].key, found[0].value, found[0].topic) == (b"k", b"v", "raw")
