"""A plain Kafka client (librdkafka): what the checker, the watcher and the generator reach the broker by."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

#: A broker that is being harmed is no news: its client keeps quiet about it.
_QUIET: dict[str, Any] = {"log_level": 0, "error_cb": lambda _: None}
_WAIT_S = 20.0
_READ_S = 120.0


class Record(NamedTuple):
    """A record as it lies in the log."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


def record(message: Any) -> Record:
    """Return what is wanted of librdkafka's message."""
    at = message.timestamp()[1]
    return Record(message.topic(), message.partition(), message.offset(), at, message.key(), message.value())


def consumer(address: str, **options: Any) -> Consumer:
    """Return a consumer that joins no group and sees committed records only."""
    chosen = {
        "bootstrap.servers": address, "group.id": "flowstream-checker", "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "isolation.level": "read_committed", "fetch.wait.max.ms": 50,
    }  # fmt: skip
    return Consumer(chosen | _QUIET | options)


def producer(address: str) -> Producer:
    """Return a producer that neither loses, doubles nor reorders while a broker is away."""
    return Producer({
        "bootstrap.servers": address, "enable.idempotence": True, "linger.ms": 5, "message.timeout.ms": 600_000,
        "queue.buffering.max.messages": 1_000_000, "reconnect.backoff.max.ms": 500, "message.max.bytes": 16 << 20,
    } | _QUIET)  # fmt: skip


def partitions_of(client: Any, topic: str) -> list[int]:
    """Return a topic's partitions, none where it does not exist."""
    found = client.list_topics(topic, timeout=_WAIT_S).topics[topic]
    return [] if found.error is not None else sorted(found.partitions)


def ends(address: str, topics: Iterable[str]) -> dict[tuple[str, int], int]:
    """Return the end of the log by (topic, partition)."""
    client = consumer(address)
    try:
        return {
            (topic, p): client.get_watermark_offsets(TopicPartition(topic, p), _WAIT_S)[1]
            for topic in topics
            for p in partitions_of(client, topic)
        }
    finally:
        client.close()


def read(address: str, topic: str) -> list[Record]:
    """Return every record of a topic up to its present end, by partition and offset."""
    client = consumer(address, **{"enable.partition.eof": True})
    try:
        waiting = set(partitions_of(client, topic))
        client.assign([TopicPartition(topic, p, 0) for p in waiting])
        records: list[Record] = []
        deadline = time.monotonic() + _READ_S
        while waiting:
            assert time.monotonic() < deadline, f"{topic} could not be read to its end within {_READ_S:g} s"
            for message in client.consume(10_000, 0.05):  # it waits for so many, or so long
                error = message.error()
                if error is None:
                    records.append(record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    waiting.discard(message.partition())
                elif not error.retriable():
                    raise KafkaException(error)
        return sorted(records, key=lambda r: (r.partition, r.offset))
    finally:
        client.close()
