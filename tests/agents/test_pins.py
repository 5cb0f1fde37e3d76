"""What the batch transport and the record batches touch below the documented surface is as it was when it was written.

A new version of Faust or aiokafka fails here first, and says what to look at again.
"""

import inspect
import re
from importlib.metadata import version

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import Fetcher, OffsetResetStrategy
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator, MessageBatch
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.record.default_records import DefaultRecordBase as Format
from crc32c import crc32c
from faust.tables.base import Collection
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import Message
from mode import Worker

from agents import fetcher as agents_fetcher
from agents.record_batches import CODECS, SealedBatch

PINNED = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0"}


@pytest.mark.parametrize("package", PINNED)
def test_the_versions_are_the_ones_the_transport_was_written_against(package: str) -> None:
    assert version(package) == PINNED[package]


@pytest.mark.parametrize(
    ("owner", "method", "parameters"),
    [
        (driver.Consumer, "_getmany", ["self", "active_partitions", "timeout"]),
        (driver.Consumer, "_to_message", ["self", "tp", "record"]),
        (driver.Consumer, "_new_consumer_thread", ["self"]),
        (Consumer, "force_commit", ["self", "topics", "start_new_transaction"]),
        (Consumer, "_add_gap", ["self", "tp", "offset_from", "offset_to"]),
        (Consumer, "seek_to_committed", ["self"]),
        (Consumer, "on_partitions_revoked", ["self", "revoked"]),
        (Consumer, "seek", ["self", "partition", "offset"]),
        (driver.AIOKafkaConsumerThread, "seek_to_committed", ["self"]),
        (driver.AIOKafkaConsumerThread, "_ensure_consumer", ["self"]),
        (GroupCoordinator, "fetch_committed_offsets", ["self", "partitions"]),
        (Fetcher, "request_offset_reset", ["self", "tps", "strategy"]),
        (AIOKafkaConsumer, "seek", ["self", "partition", "offset"]),
        (AIOKafkaClient, "send", ["self", "node_id", "request", "group"]),
        (GroupCoordinator, "check_errors", ["self"]),
        (Recovery, "_wait", ["self", "coro", "timeout"]),
        (driver.Producer, "_settings_extra", ["self"]),
        (Worker, "_schedule_shutdown", ["self", "signal"]),
        (Worker, "_crash", ["self", "reason"]),
    ],
)
def test_the_methods_the_transport_overrides_or_calls_are_as_they_were(owner, method, parameters) -> None:
    found = list(inspect.signature(inspect.unwrap(getattr(owner, method))).parameters)
    assert found == parameters


def test_faust_drops_messages_by_the_offset_the_message_carries() -> None:
    # A batch's message stands at its last offset because of this comparison.
    assert "offset >= r_offset" in inspect.getsource(Consumer._drain_messages)


def test_faust_flushes_its_producer_before_it_commits() -> None:
    source = inspect.getsource(Consumer._commit_offsets)
    assert source.index("producer.flush") < source.index("self._commit(committable_offsets)")


def test_a_tables_serializers_come_from_its_types_alone() -> None:
    # tables.py sets them afterwards; a constructor argument would be the better way once there is one.
    assert "key_serializer" not in inspect.signature(Collection.__init__).parameters


def test_a_message_keeps_any_value() -> None:
    assert "value" in Message.__slots__
    assert OffsetResetStrategy.EARLIEST is not None


BATCH_BUILDER = ["_build", "_serialize", "_set_producer_state", "append", "close", "closed", "record_count", "size"]


def test_a_batch_builder_has_the_surface_that_a_sealed_batch_stands_in_for() -> None:
    # agents/record_batches.py is to be looked at again where the producer asks for anything else.
    methods = [name for name, member in vars(BatchBuilder).items() if callable(member) and name != "__init__"]
    assert sorted(methods) == BATCH_BUILDER
    ours = {name for name, member in vars(SealedBatch).items() if callable(member)}
    assert set(BATCH_BUILDER) - ours == {"_serialize"}, "which is called by the builder itself"
    for method in set(BATCH_BUILDER) - {"_serialize", "append"}:
        found = inspect.signature(getattr(BatchBuilder, method)).parameters
        assert list(inspect.signature(getattr(SealedBatch, method)).parameters) == list(found)


def test_the_producer_uses_nothing_else_of_a_batch() -> None:
    asked = set(re.findall(r"self\._builder\.(\w+)", inspect.getsource(MessageBatch)))
    assert asked == {"record_count", "append", "closed", "_set_producer_state", "_build"}
    assert set(re.findall(r"\._builder\.(\w+)", inspect.getsource(MessageAccumulator))) == {"close"}
    for method in (MessageAccumulator.add_batch, MessageAccumulator._append_batch):
        assert re.findall(r"\bbuilder\.(\w+)", inspect.getsource(method)) == []
    assert "batch." not in inspect.getsource(AIOKafkaProducer.send_batch).split('"""')[2]


def test_the_producer_numbers_records_when_it_first_takes_a_batch_and_asks_for_its_bytes_at_each_try() -> None:
    source = inspect.getsource(MessageAccumulator._pop_batch)
    assert source.index("not_retry:") < source.index("increment_sequence_number(batch.tp, batch.record_count)")
    assert "get_data_buffer()" in inspect.getsource(SendProduceReqHandler.create_request)


def test_the_header_of_a_record_batch_has_the_fields_and_places_it_had() -> None:
    assert Format.HEADER_STRUCT.format == ">qiibIhiqqqhii"
    assert Format.HEADER_STRUCT.size == 61
    assert (Format.AFTER_LEN_OFFSET, Format.CRC_OFFSET, Format.ATTRIBUTES_OFFSET) == (12, 17, 21)
    assert [number for number, _ in CODECS.values()] == [1, 2, 3, 4]
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C (Castagnoli)


def test_the_fetcher_makes_its_records_by_the_names_that_are_replaced() -> None:
    # agents/fetcher.py puts its own classes behind these two names, and a deserializer says which topics they serve.
    source = inspect.getsource(Fetcher._proc_fetch_request)
    assert "records = MemoryRecords(part_data[-1])" in source
    assert re.sub(r"\s+", " ", source).count("PartitionRecords( tp, records, aborted_transactions, fetch_offset,") == 1
    agents_fetcher.install()
    assert fetcher.PartitionRecords is agents_fetcher.PartitionRecords
    assert fetcher.MemoryRecords is agents_fetcher.KeptRecords
    theirs = agents_fetcher.PartitionRecords.__mro__[1]
    assert list(inspect.signature(theirs.__init__).parameters) == [
        "self", "tp", "records", "aborted_transactions", "fetch_offset", "key_deserializer", "value_deserializer",
        "check_crcs", "isolation_level",
    ]  # fmt: skip
    assert "value_deserializer=self._value_deserializer" in inspect.getsource(AIOKafkaConsumer.start)
    assert "isolation_level=self._isolation_level" in inspect.getsource(AIOKafkaConsumer.start)


def test_aiokafka_passes_over_batches_by_the_rules_that_are_called_here() -> None:
    source = inspect.getsource(agents_fetcher.PartitionRecords.__mro__[1]._unpack_records)
    called = set(re.findall(r"self\.(_\w+)\(", source))
    assert called == {"_consume_aborted_up_to", "_contains_abort_marker", "_consumer_record"}
    assert re.findall(r"next_batch\.(\w+)", source).count("is_control_batch") == 2


def test_a_fetch_that_waits_can_be_woken() -> None:
    assert list(inspect.signature(Fetcher._notify).parameters) == ["self", "future"]
    assert "_fetch_waiters.add" in inspect.getsource(Fetcher._create_fetch_waiter)
    assert "await asyncio.wait([waiter]" in inspect.getsource(Fetcher.fetched_records)
    assert "active_partitions.add(tp)" in inspect.getsource(Consumer.on_buffer_drop), "in place: the fetch sees it"
