"""The load of a run: a slice to warm up with, the load proper, and what closes their windows; a topic for each run.

What closes windows is published only when all before it is done: a reader may empty one partition before it
turns to the next, and some engines would take the rest of the load for late. The load itself is published
inside one open transaction, so that a consumer that reads committed records stops before it; committing makes
all of it readable at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench.generate import ELEPHANT_SHARE, ELEPHANTS, Traffic
from bench.peers.jobs import PARTITIONS
from bench.peers.oracle import Expected, expect
from bench.report import BenchError

RATE = 100_000  # job a: records per second of event time
PAIRS_RATE = 4000  # jobs b and c: one source's flows all fit in a window
FLOWS, WARM_FLOWS = 401, 101  # of a source, jobs b and c
APART_NS = 120 * 10**9  # event time between the warm-up's first record and the load's
CLOSERS = 64  # so many that some of them end in every partition of a topic keyed by source
TRANSACTION_MS = 900_000  # what a broker allows at the most by default


@dataclass(frozen=True)
class Load:
    """What a run reads: the warm-up has the same sources as the load, and other flows."""

    warm: Traffic
    main: Traffic

    @cached_property
    def warm_messages(self) -> list[bytes]:
        return _all(self.warm)

    @cached_property
    def messages(self) -> list[bytes]:
        return _all(self.main)

    @property
    def records(self) -> int:
        return self.main.records

    @property
    def first_offsets(self) -> list[int]:
        """Where the load begins in each partition."""
        return [len(range(p, self.warm.records, PARTITIONS)) + CLOSERS // PARTITIONS for p in range(PARTITIONS)]

    def expected(self, job: str) -> tuple[Expected, Expected]:
        """Return the right results of the warm-up and of the load."""
        return (
            expect(job, self.warm_messages, _places(self.warm.records, [0] * PARTITIONS)),
            expect(job, self.messages, _places(self.records, self.first_offsets)),
        )


def _all(traffic: Traffic) -> list[bytes]:
    return [message for chunk in traffic.chunks() for message in chunk]


def _places(records: int, first_offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Return partition and offset of each message, dealt out in turn."""
    index = np.arange(records)
    offset = np.asarray(first_offsets)[index % PARTITIONS] + index // PARTITIONS
    return list(zip((index % PARTITIONS).tolist(), offset.tolist(), strict=True))


def make_load(job: str, records: int, sources: int) -> Load:
    """Return a job's load; for b and c ``records`` is rounded down to whole sources of ``FLOWS`` flows."""
    if job == "a":
        share = ELEPHANT_SHARE if sources >= 2 * ELEPHANTS else 0.0
        main = Traffic(records, sources, RATE, elephant_share=share)
        warm = Traffic(max(10_000, records // 5), sources, RATE, seed=2, elephant_share=share)
    else:
        count = max(1, records // FLOWS)
        main = Traffic(count * FLOWS, count, PAIRS_RATE, elephant_share=0.0)
        warm = Traffic(count * WARM_FLOWS, count, PAIRS_RATE, seed=2, elephant_share=0.0)
    late = Traffic(**{name: getattr(main, name) for name in Traffic.__slots__} | {"start_ns": main.start_ns + APART_NS})
    return Load(warm, late)


def create_topics(bootstrap: str, names: Sequence[str]) -> None:
    """Create topics of ``PARTITIONS`` partitions; BenchError where the broker refuses."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    made = admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
    for name, future in made.items():
        if error := future.exception(30):
            raise BenchError(f"topic {name}: {error}")


class Publishing:
    """Messages on their way to one topic, dealt out to its partitions in turn."""

    def __init__(self, bootstrap: str, topic: str, group: str, load: Load) -> None:
        self.topic, self.load, self._group = topic, load, group
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        # goflow2 leaves messages uncompressed unless told otherwise.
        options = {"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 500_000}
        self._plain = Producer(options)
        self._transactional = Producer(
            {**options, "transactional.id": topic, "transaction.timeout.ms": TRANSACTION_MS, "log_level": 2}
        )
        self._open = False

    def warm_up(self) -> None:
        """Publish the warm-up for all to see."""
        self._send(self._plain, self.load.warm_messages)

    def close_warm_up(self) -> None:
        """Publish what lies so far ahead that every window of the warm-up closes."""
        self._send(self._plain, self.load.warm.closers(CLOSERS))

    def prepare(self) -> None:
        """Publish the load behind a transaction that stays open."""
        self._transactional.init_transactions(60)
        self._transactional.begin_transaction()
        self._open = True
        self._send(self._transactional, self.load.messages)

    def release(self) -> None:
        """Make the load readable; BenchError where the consumer group has committed some of it before."""
        wanted = [TopicPartition(self.topic, p) for p in range(PARTITIONS)]
        asked = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(self._group, wanted)])
        for tp in asked[self._group].result(30).topic_partitions:
            if tp.offset > self.load.first_offsets[tp.partition]:
                raise BenchError("the peer reads records that are not committed: it had the load before the clock")
        self._transactional.commit_transaction(60)
        self._open = False

    def close_windows(self) -> None:
        """Publish what lies so far ahead that every window of the load closes."""
        self._send(self._plain, self.load.main.closers(CLOSERS))

    def abandon(self) -> None:
        """Give up the transaction, if it is still open."""
        if self._open:
            self._transactional.abort_transaction(30)

    def _send(self, producer: Producer, messages: Sequence[bytes]) -> None:
        for at, value in enumerate(messages):
            while True:
                try:
                    producer.produce(self.topic, value, partition=at % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.05)
        if producer.flush(120):
            raise BenchError(f"{self.topic}: the broker did not take all messages")
