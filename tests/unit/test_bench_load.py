"""The bench's fast load is what Kafka's own client would have sent, and decodes to what was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.load import BATCH_BYTES, BATCH_RECORDS, MESSAGE_BYTES_MIN, Load, record_batch
from flowstream.batch import FlowBatch
from flowstream.decode import Payloads, decode

ADDRESS_0 = 0xFFFF_0A00_0001


def values_of(load: Load) -> dict[int, list[bytes]]:
    """The messages by partition, read by aiokafka."""
    found: dict[int, list[bytes]] = {}
    for partition, batch in load.batches():
        assert len(batch) <= 1 << 20, "more than a broker takes by default"
        records = MemoryRecords(batch)
        while (read := records.next_batch()) is not None:
            assert read.validate_crc()
            found.setdefault(partition, []).extend(record.value for record in read)
    return found


def rows(load: Load) -> FlowBatch:
    """All rows, in the order of their partitions."""
    decoded = decode("goflow", Payloads.from_values([v for values in values_of(load).values() for v in values]))
    assert not len(decoded.rejected)
    return decoded.flows


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(MESSAGE_BYTES_MIN, 2000))
def test_a_record_batch_is_byte_for_byte_what_kafkas_client_would_build(count: int, size: int) -> None:
    messages = np.random.default_rng(count).integers(0, 256, (count, size)).astype(np.uint8)
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 24)
    for offset, message in enumerate(messages):
        assert builder.append(offset, 1_700_000_000_123, None, message.tobytes(), []) is not None
    built = bytearray(builder.build())
    # The client leaves it to the broker to know who leads: 0 there, -1 here, outside the checksum.
    built[12:16] = record_batch(messages, 1_700_000_000_123)[12:16]
    assert record_batch(messages, 1_700_000_000_123) == bytes(built)


@settings(max_examples=60)
@given((st.integers(MESSAGE_BYTES_MIN, 400) | st.integers(401, 8000)).filter(lambda size: size != 129))
def test_messages_have_the_size_asked_for_and_decode_whatever_it_is(size: int) -> None:
    load = Load(50, sources=10, message_bytes=size)
    assert {len(v) for values in values_of(load).values() for v in values} == {size}
    assert len(rows(load)) == 50


@pytest.mark.parametrize("size", [MESSAGE_BYTES_MIN - 1, 129, 8001])
def test_a_size_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="messages of"):
        Load(1, message_bytes=size)


def test_sources_that_would_not_come_in_turn_are_refused() -> None:
    with pytest.raises(ValueError, match="do not come in turn"):
        Load(1, sources=3)


@settings(max_examples=20)
@given(st.integers(1, 40_000), st.sampled_from([1, 4, 7]), st.sampled_from([10, 1000, 25]))
def test_every_record_comes_once_in_time_order_within_its_partition(
    records: int, partitions: int, sources: int
) -> None:
    load = Load(records, sources, partitions=partitions)
    by_partition = values_of(load)
    times = []
    for values in by_partition.values():
        own = decode("goflow", Payloads.from_values(values)).flows.time_ns
        assert (np.diff(own) > 0).all()
        times.append(own)
    assert np.sort(np.concatenate(times)).tolist() == (load.start_ns + np.arange(records) * 10_000).tolist()
    counted = np.unique(rows(load).src_addr[:, 1], return_counts=True)[1]
    assert counted.max() - (counted.min() if len(counted) == sources else 0) <= 1


def test_a_load_and_the_one_that_follows_it_are_one_load() -> None:
    first = Load(10_000, 1000, jitter_ns=5000)
    both = [values_of(part) for part in (first, first.following(30_001))]
    whole = values_of(Load(40_001, 1000, jitter_ns=5000))
    assert {p: both[0][p] + both[1][p] for p in range(4)} == whole


def test_closing_records_reach_every_partition_and_lie_beyond_every_window() -> None:
    load = Load(1000, 10, partitions=6)
    closing = load.closing()
    assert sorted(values_of(closing)) == list(range(6))
    assert rows(closing).time_ns.min() - rows(load).time_ns.max() > 60 * 10**9


def test_event_time_is_out_of_order_by_no_more_than_the_jitter() -> None:
    load = Load(100_000, jitter_ns=200_000_000, partitions=1)
    shift = rows(load).time_ns - (load.start_ns + np.arange(100_000) * 10_000)
    assert 0 <= shift.min() < 1_000_000
    assert 199_000_000 < shift.max() < 200_000_000


def test_a_source_has_one_address_and_its_flows_differ_in_what_distances_compare() -> None:
    load = Load(4000, sources=10, partitions=1)
    flows = rows(load)
    assert (flows.src_addr[:, 1] == ADDRESS_0 + load.source_of(np.arange(4000))).all()
    for column in flows.bytes, flows.packets, flows.time_flow_end_ns - flows.time_flow_start_ns:
        assert len(np.unique(column[flows.src_addr[:, 1] == ADDRESS_0 + 1])) > 40


def test_batches_keep_below_the_limits_of_their_kind() -> None:
    assert Load(1, message_bytes=60).batch_records == BATCH_RECORDS
    assert Load(1, message_bytes=1500).batch_records * 1516 <= BATCH_BYTES
