"""Consumer groups and the ends of the log on a real broker, seen by a plain client beside ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from agents.groups import (
    commit_positions,
    delete_group,
    delete_topics,
    group_positions,
    groups_named,
    members,
    require_empty,
)
from agents.kafka_node import free_port
from agents.log_reader import reader
from agents.replay_plan import start_offsets_of
from flowstream.errors import BrokerError
from flowstream.positions import Position
from flowstream.settings import Settings, load
from tests.integration.kafka import commit, committed, create_topic, write


@pytest.fixture
def settings(broker: str) -> Settings:
    return load(kafka={"bootstrap": broker})


Offsets = dict[TopicPartition, int]


async def ends_of(settings: Settings, topic: str) -> tuple[Offsets, Offsets]:
    """Where a topic begins and ends for those who read the log."""
    async with reader(settings, [topic]) as (consumer, tps):
        return await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)


async def offsets_at(settings: Settings, topic: str, time_ms: int) -> Offsets:
    async with reader(settings, [topic]) as (consumer, tps):
        position = Position("record_time", time_ms * 1_000_000)
        return await start_offsets_of(consumer, position, tps, *await ends_of(settings, topic))


@contextmanager
def member_of(broker: str, group: str, topic: str) -> Iterator[None]:
    """A plain consumer that is in the group as long as the block runs."""
    runner = asyncio.Runner()

    async def join() -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=broker, group_id=group, enable_auto_commit=False)
        await consumer.start()
        await consumer.getmany(timeout_ms=100)
        return consumer

    consumer = runner.run(join())
    try:
        yield
    finally:
        runner.run(consumer.stop())
        runner.close()


def test_a_group_that_there_is_not_has_no_positions_and_no_members(settings: Settings, topic_prefix: str):
    group = f"{topic_prefix}nobody"
    assert asyncio.run(group_positions(settings, group)) == {}
    assert asyncio.run(members(settings, group)) is None
    asyncio.run(require_empty(settings, group))
    assert asyncio.run(delete_group(settings, group)) is False
    assert asyncio.run(groups_named(settings, topic_prefix)) == []


def test_positions_committed_are_those_a_plain_client_reads_and_the_others_stay(
    settings: Settings, broker: str, topic_prefix: str
):
    topic, group = f"{topic_prefix}raw", f"{topic_prefix}app"
    create_topic(broker, topic, 3)
    write(broker, topic, [b"x"] * 9, 3)
    commit(broker, group, {(topic, 0): 1, (topic, 2): 2})
    asyncio.run(
        commit_positions(settings, group, {TopicPartition(topic, 2): (3, "17"), TopicPartition(topic, 1): (0, "")})
    )
    expected = {(topic, 0): (1, ""), (topic, 1): (0, ""), (topic, 2): (3, "17")}
    assert committed(broker, group) == expected
    found = asyncio.run(group_positions(settings, group))
    assert {tuple(tp): tuple(position) for tp, position in found.items()} == expected
    assert asyncio.run(members(settings, group)) == ()
    assert asyncio.run(groups_named(settings, topic_prefix)) == [group]
    assert asyncio.run(delete_group(settings, group)) is True
    assert committed(broker, group) == {}
    assert asyncio.run(members(settings, group)) is None


def test_a_group_with_a_member_is_neither_moved_nor_deleted(settings: Settings, broker: str, topic_prefix: str):
    topic, group = f"{topic_prefix}raw", f"{topic_prefix}app"
    create_topic(broker, topic, 1)
    commit(broker, group, {(topic, 0): 5})
    with member_of(broker, group, topic):
        found = asyncio.run(members(settings, group))
        assert found is not None
        assert len(found) == 1
        for refused in (
            require_empty(settings, group),
            commit_positions(settings, group, {TopicPartition(topic, 0): (9, "")}),
            delete_group(settings, group),
        ):
            with pytest.raises(BrokerError, match=f"^group {group} has .*member.*: stop its workers first") as caught:
                asyncio.run(refused)
            assert "\n" not in str(caught.value)
    assert committed(broker, group) == {(topic, 0): (5, "")}
    asyncio.run(require_empty(settings, group))


def test_a_position_in_a_topic_that_is_not_there_is_refused_at_once(settings: Settings, topic_prefix: str):
    wrong = commit_positions(settings, f"{topic_prefix}app", {TopicPartition(f"{topic_prefix}none", 0): (0, "")})
    with pytest.raises(BrokerError, match=r"position of .*none-0 could not be set"):
        asyncio.run(wrong)


def test_topics_deleted_are_gone_and_missing_ones_no_matter(settings: Settings, broker: str, topic_prefix: str):
    names = [f"{topic_prefix}{n}" for n in "abc"]
    for topic in names[:2]:
        create_topic(broker, topic)
    assert asyncio.run(delete_topics(settings, [names[2], names[0]])) == [names[0]]
    create_topic(broker, names[0], 2)  # which the broker refuses while the old one is still there
    assert asyncio.run(delete_topics(settings, names)) == names[:2]
    assert asyncio.run(delete_topics(settings, names)) == []


def test_ends_are_of_what_is_committed_and_starts_of_what_is_left(settings: Settings, broker: str, topic_prefix: str):
    topic = f"{topic_prefix}raw"
    create_topic(broker, topic, 2)
    write(broker, topic, [b"x"] * 10, 2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)

    async def delete_and_begin() -> tuple[dict[Any, int], dict[Any, int]]:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker)
        producer = AIOKafkaProducer(bootstrap_servers=broker, transactional_id=f"{topic}-open")
        await admin.start()
        await producer.start()
        try:
            await admin.delete_records({first: RecordsToDelete(before_offset=2)})
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"not committed", partition=1)
            found = await ends_of(settings, topic)
            await producer.abort_transaction()
        finally:
            await producer.stop()
            await admin.close()
        return found

    starts, ends = asyncio.run(delete_and_begin())
    assert starts == {first: 2, second: 0}
    assert ends == {first: 5, second: 5}


def test_a_time_is_the_first_record_not_before_it_and_the_end_where_there_is_none(
    settings: Settings, broker: str, topic_prefix: str
):
    topic = f"{topic_prefix}raw"
    create_topic(broker, topic, 2)

    async def write_at(*times_ms: int) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=broker)
        await producer.start()
        try:
            for time_ms in times_ms:
                await producer.send_and_wait(topic, b"x", partition=0, timestamp_ms=time_ms)
        finally:
            await producer.stop()

    asyncio.run(write_at(1000, 2000, 3000))
    for time_ms, offset in ((0, 0), (1000, 0), (1001, 1), (3000, 2), (3001, 3)):
        found = asyncio.run(offsets_at(settings, topic, time_ms))
        assert found == {TopicPartition(topic, 0): offset, TopicPartition(topic, 1): 0}, time_ms


def test_what_is_asked_of_a_topic_that_is_not_there_makes_none(settings: Settings, topic_prefix: str):
    with pytest.raises(BrokerError, match=f"^topic {topic_prefix}none: there is none"):
        asyncio.run(ends_of(settings, f"{topic_prefix}none"))
    assert asyncio.run(delete_topics(settings, [f"{topic_prefix}none"])) == []


def test_without_a_broker_one_line_says_so():
    settings = load(kafka={"bootstrap": f"127.0.0.1:{free_port()}"})
    for ask in (group_positions(settings, "app"), members(settings, "app"), ends_of(settings, "t")):
        with pytest.raises(BrokerError, match=r"^no Kafka broker answers at [^\n]*$"):
            asyncio.run(ask)
