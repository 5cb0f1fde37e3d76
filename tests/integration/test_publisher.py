"""What the publisher sends is what a plain client sends and reads: the same records, each once, in order."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer

from agents import publisher
from agents.broker import LocalBroker
from agents.publisher import Outgoing, OutgoingRun, Publisher
from agents.record_batches import CODECS
from flowstream.byte_column import ByteColumn
from flowstream.record_kernel import Run
from flowstream.setting_tables import Kafka
from tests.integration.kafka import create_topic, read_all

PARTITIONS = 3
HEADERS = (("source", b"flows-0:1-2"), ("settings", "größe".encode()))


def records(topic: str) -> list[Outgoing | OutgoingRun]:
    """Runs and single records of several partitions, with and without keys and headers, empty and large ones."""
    rng = np.random.default_rng(6)
    made: list[Outgoing | OutgoingRun] = []
    for at in range(6):
        values = ByteColumn.of([b'{"flow":%d}' % i * (i % 9) for i in range(2000)])
        keys = ByteColumn.of([b"%d|%d" % (at, i) for i in range(2000)]) if at % 3 else None
        made.append(OutgoingRun(topic, at % PARTITIONS, Run(keys, values, b"\xc3\x01"[: at % 4], HEADERS[: at % 3])))
        made += [
            Outgoing(topic, i % PARTITIONS, b"k" if i % 7 else None, b"%d" % i, HEADERS[: i % 3]) for i in range(50)
        ]
        made.append(Outgoing(topic, at % PARTITIONS, b"large", rng.integers(0, 9, 60_000, np.uint8).tobytes()))
    return made


def one_by_one(made: list[Outgoing | OutgoingRun]) -> list[Outgoing]:
    return [r for some in made for r in (some if isinstance(some, OutgoingRun) else [some])]


async def publish(bootstrap: str, made: list[Outgoing | OutgoingRun], compression: str) -> None:
    sender = Publisher(Kafka(bootstrap=bootstrap, compression=compression))
    await sender.start()
    try:
        await sender.publish(iter(made))
    finally:
        await sender.stop()


async def send_plainly(bootstrap: str, made: list[Outgoing], topic: str, compression: str) -> None:
    compressed = {} if compression == "none" else {"compression_type": compression}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, **compressed)
    await producer.start()
    try:
        for record in made:
            await producer.send(
                topic, record.value, record.key, partition=record.partition, headers=list(record.headers)
            )
    finally:
        await producer.stop()


def content(found: list[Any]) -> list[tuple[Any, ...]]:
    return [(r.partition, r.offset, r.key, r.value, tuple(r.headers), r.timestamp_type) for r in found]


@pytest.mark.parametrize("compression", ["none", *CODECS])
def test_a_plain_consumer_reads_what_a_plain_producer_would_have_sent(
    broker: str, topic_prefix: str, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = f"{topic_prefix}ours", f"{topic_prefix}theirs"
    for topic in (ours, theirs):
        create_topic(broker, topic, PARTITIONS)
    monkeypatch.setattr(publisher, "BATCH_BYTES_MAX", 20_000)  # many batches, numbered on
    made = records(ours)
    before_ms = int(time.time() * 1000)
    asyncio.run(publish(broker, made, compression))
    after_ms = int(time.time() * 1000)
    found = read_all(broker, ours)
    asyncio.run(send_plainly(broker, one_by_one(made), theirs, compression))
    assert content(found) == content(read_all(broker, theirs))
    assert len(found) == len(one_by_one(made))
    assert all(before_ms <= r.timestamp <= after_ms for r in found)
    for partition in range(PARTITIONS):
        offsets = [r.offset for r in found if r.partition == partition]
        assert offsets == list(range(len(offsets)))


def test_records_arrive_once_and_in_order_though_the_broker_is_killed_meanwhile(
    own_broker: LocalBroker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}kept"
    create_topic(own_broker.bootstrap, topic, 1)
    values = ByteColumn.of([b"%d" % i + b"." * 300 for i in range(60_000)])
    killed = []

    def with_a_kill() -> Any:
        for start in range(0, 60_000, 4_000):
            if start == 20_000:
                own_broker.kill()
                own_broker.start()
                killed.append(start)
            yield OutgoingRun(topic, 0, Run(None, ByteColumn(values.buffer, values.bounds[start : start + 4_001])))

    asyncio.run(publish(own_broker.bootstrap, with_a_kill(), "zstd"))
    assert killed
    assert [r.value for r in read_all(own_broker.bootstrap, topic)] == values.values()


def test_a_batch_is_within_what_a_broker_takes_by_default() -> None:
    assert publisher.BATCH_BYTES_MAX <= 1_048_588 - 12
