"""The local broker is a real Kafka to be started, stopped, killed and frozen, and it says what is wrong."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError

from agents import kafka_node
from agents.broker import LocalBroker, MockCluster
from flowstream.errors import BrokerError

VALUES = [b"flow %d" % number for number in range(300)]


async def create(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def topics(bootstrap: str) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        for sent in [await producer.send(topic, value, partition=0) for value in values]:
            await sent
    finally:
        await producer.stop()


async def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        return [(await asyncio.wait_for(consumer.getone(), 30)).value for _ in range(count)]
    finally:
        await consumer.stop()


async def read_in_group(bootstrap: str, topic: str, group: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        values = [(await asyncio.wait_for(consumer.getone(), 30)).value for _ in range(count)]
        await consumer.commit()
        return values
    finally:
        await consumer.stop()


async def test_a_consumer_group_continues_where_it_committed(broker: str, topic_prefix: str) -> None:
    topic, group = topic_prefix + "flows", topic_prefix + "group"
    await create(broker, topic)
    await produce(broker, topic, VALUES)
    assert await read_in_group(broker, topic, group, 100) == VALUES[:100]
    assert await read_in_group(broker, topic, group, 200) == VALUES[100:]


async def test_naming_a_topic_does_not_create_it(own_broker: LocalBroker, topic_prefix: str) -> None:
    never = topic_prefix + "never"
    producer = AIOKafkaProducer(bootstrap_servers=own_broker.bootstrap, request_timeout_ms=2_000)
    await producer.start()
    try:
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send_and_wait(never, b"flow")
    finally:
        await producer.stop()
    assert never not in await topics(own_broker.bootstrap)


def test_the_broker_listens_on_loopback_only(own_broker: LocalBroker) -> None:
    pid = own_broker.status().pid
    listening = {c.laddr for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    hosts = {address.ip.removeprefix("::ffff:") for address in listening}
    assert hosts == {"127.0.0.1"}
    assert {address.port for address in listening} == {own_broker.port, own_broker.controller_port}


def test_acknowledged_records_outlive_a_stop_a_crash_and_a_change_of_ports(
    own_broker: LocalBroker, topic_prefix: str
) -> None:
    topic = topic_prefix + "kept"
    asyncio.run(create(own_broker.bootstrap, topic))
    asyncio.run(produce(own_broker.bootstrap, topic, VALUES[:100]))
    own_broker.stop()
    assert (own_broker.folder / "kraft" / ".kafka_cleanshutdown").exists()
    bootstrap = own_broker.bootstrap
    assert own_broker.start() == bootstrap

    asyncio.run(produce(bootstrap, topic, VALUES[100:]))
    own_broker.kill()
    assert not own_broker.status().running

    elsewhere = LocalBroker(own_broker.folder, port=0, controller_port=0, heap_mb=256)
    with elsewhere:
        assert asyncio.run(read(elsewhere.bootstrap, topic, len(VALUES))) == VALUES


def test_a_wipe_begins_with_no_topics(own_broker: LocalBroker) -> None:
    asyncio.run(create(own_broker.bootstrap, "gone"))
    with pytest.raises(BrokerError, match="stop it before wiping"):
        own_broker.start(wipe=True)
    assert "gone" in asyncio.run(topics(own_broker.bootstrap))
    own_broker.stop()
    own_broker.start(wipe=True)
    assert "gone" not in asyncio.run(topics(own_broker.bootstrap))


def test_a_second_object_on_the_folder_uses_and_stops_the_same_broker(own_broker: LocalBroker) -> None:
    other = LocalBroker(own_broker.folder, port=1, controller_port=1)
    assert other.status() == own_broker.status()
    assert other.start() == own_broker.bootstrap
    other.stop()
    assert not own_broker.status().running


def test_a_frozen_broker_answers_nothing_until_it_is_resumed_and_can_be_stopped(
    own_broker: LocalBroker,
) -> None:
    own_broker.pause()
    assert kafka_node.cluster_at(own_broker.port, timeout_s=1) is None
    own_broker.resume()
    assert kafka_node.cluster_at(own_broker.port, timeout_s=30) is not None
    own_broker.pause()
    own_broker.stop()
    assert not own_broker.status().running


def test_a_port_in_use_is_named_together_with_the_fix(own_broker: LocalBroker, tmp_path: Path) -> None:
    port = own_broker.port
    with pytest.raises(BrokerError, match=f"port {port} on 127.0.0.1 is in use.*choose another port"):
        LocalBroker(tmp_path / "second", port=port, controller_port=0).start()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} "):
            LocalBroker(tmp_path / "third", port=0, controller_port=port).start()


def test_a_broker_that_ends_while_starting_is_reported_with_its_last_words(own_broker: LocalBroker) -> None:
    own_broker.stop()
    meta = own_broker.folder / "kraft" / "meta.properties"
    whole = meta.read_text()
    meta.write_text(whole.replace("node.id=1", "node.id=7"))
    with pytest.raises(BrokerError, match=r"ended with status 1 while starting: .*node.id.*7") as raised:
        own_broker.start()
    assert "\n" not in str(raised.value)
    assert not own_broker.status().running
    meta.write_text(whole)
    own_broker.start()
    assert own_broker.status().running


def test_a_formatting_cut_short_is_done_again(own_broker: LocalBroker) -> None:
    own_broker.stop()
    (own_broker.folder / "cluster_id").unlink()
    (own_broker.folder / "kraft" / "bootstrap.checkpoint").unlink()
    own_broker.start()
    assert own_broker.status().running


def test_the_mock_cluster_takes_and_gives_records_and_says_what_it_lacks(
    topic_prefix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("confluent_kafka")
    cluster = MockCluster()
    with pytest.raises(BrokerError, match="not started"):
        _ = cluster.bootstrap
    with cluster:
        assert cluster.start() == cluster.bootstrap
        asyncio.run(produce(cluster.bootstrap, topic_prefix + "flows", VALUES))
        assert asyncio.run(read(cluster.bootstrap, topic_prefix + "flows", len(VALUES))) == VALUES
        port = int(cluster.bootstrap.rpartition(":")[2])
    said = capfd.readouterr().err.splitlines()
    assert said == [f"note: {limit}" for limit in MockCluster.limits]
    cluster.stop()
    kafka_node.require_free(port)
