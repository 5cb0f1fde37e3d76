"""What the batch transport touches below the documented surface is as it was when it was written.

A new version of Faust or aiokafka fails here first, and says what to look at again.
"""

import inspect
from importlib.metadata import version

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher, OffsetResetStrategy
from aiokafka.consumer.group_coordinator import GroupCoordinator
from faust.tables.base import Collection
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import Message

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
