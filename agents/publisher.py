"""Sends records in bulk: batches built per partition, idempotent, acknowledged before ``publish`` returns.

Idempotence keeps the blocks of a source partition in order on their destination, which the chain of offset
ranges rests on. Batches are written from columns by compiled code, in a thread: no Python statement is run for
each of the records that come in columns.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError, ProducerClosed

from agents.client import client_options
from agents.heard import Heard
from agents.record_batches import HEADER_BYTES, SealedBatch
from flowstream.byte_column import ByteColumn
from flowstream.record_kernel import Headers, Run, Section, SectionWriter
from flowstream.setting_tables import Kafka
from flowstream.topics import BLOCK_BYTES_MAX

#: Of a batch before compression, header included: within the limit that brokers have of themselves.
BATCH_BYTES_MAX = 1 << 20
REQUEST_BYTES_MAX = BLOCK_BYTES_MAX + (1 << 20)
#: Batches of one visit to the thread that makes them.
BATCHES_AT_ONCE = 8
#: The broker gives a transaction up after this. Consumers wait for one whose worker has died until the next owner of
#: its partition takes it over, and as long as this where nobody does. The results of one step must get through in it.
TRANSACTION_TIMEOUT_MS = 300_000

log = logging.getLogger(__name__)


class Outgoing(NamedTuple):
    """A record to send."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class OutgoingRun:
    """Very many records to send, in columns."""

    topic: str
    partition: int
    records: Run

    def __iter__(self) -> Iterator[Outgoing]:
        keys = [None] * len(self.records.values) if self.records.keys is None else self.records.keys.values()
        for key, value in zip(keys, self.records.values.values(), strict=True):
            yield Outgoing(self.topic, self.partition, key, self.records.prefix + value, self.records.headers)


class ToSend(NamedTuple):
    """A batch and where it goes."""

    topic: str
    partition: int
    batch: SealedBatch


@dataclass(slots=True)
class _Destination:
    """The records on their way into batches of one partition."""

    writer: SectionWriter
    alike: list[Outgoing] = field(default_factory=list)  # single records that one run can be made of
    alike_bytes: int = 0

    def take(self, record: Outgoing | OutgoingRun) -> Iterator[Section]:
        """Take in the next record or records; yield what is full."""
        if isinstance(record, OutgoingRun):
            yield from self._run_of_alike()
            yield from self.writer.put(record.records)
            return
        if self.alike and not self._fits(record):
            yield from self._run_of_alike()
        self.alike.append(record)
        self.alike_bytes += len(record.value)

    def rest(self) -> Iterator[Section]:
        """Yield what is left."""
        yield from self._run_of_alike()
        yield from self.writer.rest()

    def _fits(self, record: Outgoing) -> bool:
        last = self.alike[-1]
        same = (record.key is None) == (last.key is None) and record.headers == last.headers
        return same and self.alike_bytes < BATCH_BYTES_MAX

    def _run_of_alike(self) -> Iterator[Section]:
        if self.alike:
            keys = [r.key for r in self.alike if r.key is not None]
            values = ByteColumn.of([r.value for r in self.alike])
            headers = self.alike[0].headers
            self.alike, self.alike_bytes = [], 0
            yield from self.writer.put(Run(ByteColumn.of(keys) if keys else None, values, headers=headers))


def sealed_batches(
    records: Iterable[Outgoing | OutgoingRun],
    compression: str,
    timestamp_ms: int,
    batch_bytes_max: int,
    *,
    in_transaction: bool = False,
) -> Iterator[ToSend]:
    """Yield the batches of records, in order per partition; MessageSizeTooLargeError for one beyond the limit."""
    destinations: dict[tuple[str, int], _Destination] = {}

    def sealed(at: tuple[str, int], sections: Iterable[Section]) -> Iterator[ToSend]:
        for section in sections:
            batch = SealedBatch(section, compression, timestamp_ms, REQUEST_BYTES_MAX, in_transaction=in_transaction)
            yield ToSend(*at, batch)

    for record in records:
        at = record.topic, record.partition
        if at not in destinations:
            destinations[at] = _Destination(SectionWriter(batch_bytes_max - HEADER_BYTES))
        yield from sealed(at, destinations[at].take(record))
    for at, destination in destinations.items():
        yield from sealed(at, destination.rest())


class Publisher:
    """An idempotent producer, or with a ``transactional_id`` one whose records are all in transactions."""

    def __init__(self, kafka: Kafka, heard: Heard | None = None, transactional_id: str | None = None) -> None:
        self._kafka = kafka
        self._heard = heard
        self._transactional_id = transactional_id
        self._producer: Any = None

    async def start(self) -> None:
        """Connect. With a transactional id: take it over, which ends what another producer has open under it."""
        self._producer = AIOKafkaProducer(
            **client_options(self._kafka),
            enable_idempotence=True,
            acks="all",
            transactional_id=self._transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        )
        await self._producer.start()
        if self._heard is not None:
            self._heard.listen(self._producer.client, "publisher")

    async def stop(self) -> None:
        """Send what is left and disconnect."""
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None

    async def begin(self) -> None:
        """Begin a transaction."""
        await self._producer.begin_transaction()

    async def commit(self) -> None:
        """Keep the transaction; ProducerFenced if the id was taken over, or if there was no answer."""
        await self._producer.commit_transaction()

    async def give_up(self) -> None:
        """Drop the transaction, if there is one."""
        transactions = self._producer._txn_manager  # noqa: SLF001
        if transactions.is_in_transaction():
            await self._producer.abort_transaction()
        elif transactions.is_fatal_error():
            transactions.wait_for_transaction_end().exception()  # it was raised where the records were sent

    async def publish(self, records: Iterable[Outgoing | OutgoingRun]) -> None:
        """Send records and wait until the brokers have them."""
        await (await self.enqueue(records))

    async def enqueue(self, records: Iterable[Outgoing | OutgoingRun]) -> Awaitable[Any]:
        """Queue records for sending, in order per partition; what is returned is done when the brokers have them.

        ``records`` may be a generator: it is run in the thread that makes the batches, as they are sent.
        """
        batches = sealed_batches(
            records, self._kafka.compression, int(time.time() * 1000), BATCH_BYTES_MAX,
            in_transaction=self._transactional_id is not None,
        )  # fmt: skip
        sent: list[asyncio.Future[Any]] = []
        more = True
        while more:
            made = await asyncio.to_thread(_some, batches)
            sent += [await self._queue(one) for one in made]
            more = len(made) == BATCHES_AT_ONCE
        return asyncio.gather(*sent)

    async def _queue(self, one: ToSend) -> asyncio.Future[Any]:
        """Queue a batch behind those of its partition, however long these wait for a broker.

        aiokafka waits for the request timeout and then says that it has not taken the batch. In a transaction the
        first batches wait until a broker has answered which partitions it will touch.
        """
        while True:
            if self._producer is None:
                raise ProducerClosed
            try:
                queued: asyncio.Future[Any] = await self._producer.send_batch(
                    one.batch, one.topic, partition=one.partition
                )
            except KafkaTimeoutError:
                log.warning("%s-%d: batches wait for a broker", one.topic, one.partition)
            else:
                return queued


def _some(batches: Iterator[ToSend]) -> list[ToSend]:
    return [batch for _, batch in zip(range(BATCHES_AT_ONCE), batches, strict=False)]
