"""Raw topics to the flows topic: one event is one fetched batch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable
from typing import Any

from aiokafka.errors import KafkaError
from faust.types import TP

from agents.batches import FetchedBatch, fetched_batches
from agents.context import Context
from agents.publisher import Outgoing
from agents.registry import WriterSchemas
from flowstream.blocks import SourcePartition, encode_block
from flowstream.decode import avro
from flowstream.errors import BrokerError
from flowstream.ingest import Ingest, Ingested
from flowstream.pipeline import MESSAGES_PER_BLOCK, PAYLOAD_BYTES_PER_BLOCK, decode_context, ingest_config
from flowstream.record_batches import Records
from flowstream.topics import name

#: Batches whose blocks are sent and not yet acknowledged: enough to decode one while others are on their way.
BATCHES_IN_FLIGHT = 4
RETRY_S = 1.0

log = logging.getLogger(__name__)


class _Source:
    """A source partition assigned to this worker."""

    def __init__(self, ingest: Ingest, epoch: int, next_offset: int | None) -> None:
        self.ingest = ingest
        self.epoch = epoch
        self.next_offset = next_offset
        self.active_at = time.monotonic()
        self.lock = asyncio.Lock()


class IngestAgent:
    """Decodes, judges lateness, routes and publishes; then acks, with the watermark as the state."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sources: dict[TP, _Source] = {}
        self._formats = {i.topic: i.format for i in context.settings.inputs}
        self._flows = name(context.settings, "flows")
        self._dead_letters = name(context.settings, "dead-letters")
        self._writers = WriterSchemas(context.settings)
        self._contexts = {i.topic: decode_context(i, self._writers.known) for i in context.settings.inputs}
        self._failed = False
        self._slots = asyncio.Semaphore(BATCHES_IN_FLIGHT)
        self._unacknowledged: set[asyncio.Task[None]] = set()
        self._in_hand = asyncio.Lock()  # held while a batch is taken

    async def run(self, stream: Any) -> None:
        """Consume the raw topics for ever."""
        async for batch in fetched_batches(stream, self._context.consumer.reread):
            async with self._in_hand:
                await self._context.or_crash(self.take(batch))

    async def take(self, batch: FetchedBatch) -> None:
        """Decode one batch and queue its blocks; it is acked once the brokers have them, which is not waited for."""
        source = await self._source(batch.tp, batch.epoch)
        if self._failed:
            await asyncio.Event().wait()  # the worker is ending: nothing may overtake what was not acknowledged
        async with source.lock:
            records = await asyncio.to_thread(batch.take)
            if self._formats[batch.tp.topic] == avro.WIRE_FORMAT:
                await self._fetch_schemas(avro.schema_ids(records.payloads), batch)
            sent: list[Awaitable[Any]] = []
            cuts = records.payloads.cuts(MESSAGES_PER_BLOCK, PAYLOAD_BYTES_PER_BLOCK)
            for start, stop in cuts or [(0, 0)]:
                # Offsets behind the last record may be those of records that compaction took away.
                to_offset = batch.next_offset if stop == len(records) else int(records.offsets[stop])
                with self._context.metrics.decode_seconds.time():
                    ingested, outgoing = await asyncio.to_thread(
                        self._work, source.ingest, records.slice(start, stop), to_offset
                    )
                if batch.void:
                    return
                sent.append(await self._context.publisher.enqueue(outgoing))
                self._count(batch.tp, ingested)
            source.next_offset = batch.next_offset
            source.active_at = time.monotonic()
            state = _state(source.ingest)
        await self._slots.acquire()
        task = asyncio.create_task(self._ack(batch, state, sent))
        self._unacknowledged.add(task)
        task.add_done_callback(self._unacknowledged.discard)

    async def _fetch_schemas(self, ids: set[int], batch: FetchedBatch) -> None:
        """Wait for the registry as long as it takes: without it good messages would be rejected."""
        while not batch.void:
            try:
                return await self._writers.fetch(ids)
            except BrokerError as error:
                log.warning("%s: %s; trying again", batch.tp, error)
                await asyncio.sleep(RETRY_S)
        return None

    async def settle(self) -> None:
        """Wait until the batch in hand is taken, and everything that was taken is acknowledged."""
        async with self._in_hand:
            pass
        if self._unacknowledged:
            await asyncio.wait(self._unacknowledged)  # gathering them would cancel them with whoever waits

    async def _ack(self, batch: FetchedBatch, state: str, sent: list[Awaitable[Any]]) -> None:
        try:
            await asyncio.gather(*sent)
        except KafkaError as error:
            self._failed = True
            await self._context.app.crash(error)
        else:
            self._context.consumer.ack_batch(batch, state)
            self._report_lag(batch.tp, batch.next_offset)
        finally:
            self._slots.release()

    async def advance_idle(self) -> None:
        """Write into the log which source partitions are silent. Called every second or so."""
        idle_after_s = self._context.settings.time.idle_after_s
        consumer = self._context.consumer
        for tp in sorted(consumer.assignment()):
            if tp.topic not in self._formats or not consumer.flow_active:
                continue
            source = await self._source(tp, consumer.epoch(tp))
            elapsed_s = time.monotonic() - source.active_at
            if elapsed_s < idle_after_s or source.lock.locked() or consumer.lag(tp, source.next_offset) != 0:
                continue
            async with source.lock:
                ingested = source.ingest.idle(round(elapsed_s * 1e9))
                source.active_at = time.monotonic()
                await self._context.publisher.publish(self._blocks(ingested))
                if consumer.epoch(tp) == source.epoch:
                    consumer.revise_state(tp, _state(source.ingest))

    async def _source(self, tp: TP, epoch: int) -> _Source:
        known = self._sources.get(tp)
        if known is not None and known.epoch == epoch:
            return known
        config = ingest_config(self._context.settings, await self._context.source_topics())
        known = self._sources.get(tp)
        if known is not None and known.epoch == epoch:
            return known  # the timer and the agent both wait for the answer above
        committed = self._context.consumer.committed.get(tp)
        watermark_ns = int(committed.state) if committed is not None and committed.state else None
        partition = SourcePartition(tp.topic, tp.partition)
        next_offset = None if committed is None else committed.offset
        ingest = Ingest(config, partition, self._formats[tp.topic], watermark_ns, next_offset)
        self._sources[tp] = _Source(ingest, epoch, next_offset)
        return self._sources[tp]

    def _work(self, ingest: Ingest, records: Records, to_offset: int) -> tuple[Ingested, list[Outgoing]]:
        ingested = ingest.receive(
            records.payloads, records.offsets, records.timestamps_ns, self._contexts[ingest.source.topic], to_offset
        )
        outgoing = list(self._blocks(ingested))
        tp = ingest.source
        for bad in ingested.rejected:
            value = self._context.encoder.encode_record("dead_letter", {
                "topic": tp.topic, "partition": tp.partition, "offset": bad.offset, "format": self._formats[tp.topic],
                "reason": bad.reason.label, "payload": bad.payload[: self._context.payload_bytes_max],
                "payload_bytes": len(bad.payload),
            })  # fmt: skip
            key = f"{tp.topic}-{tp.partition}-{bad.offset}".encode()
            destination = tp.partition % self._context.settings.topics.partitions
            outgoing.append(Outgoing(self._dead_letters, destination, key, value))
        return ingested, outgoing

    def _blocks(self, ingested: Ingested) -> Iterable[Outgoing]:
        for destination, block in enumerate(ingested.blocks):
            key = f"{block.source.topic}-{block.source.partition}".encode()
            yield Outgoing(self._flows, destination, key, encode_block(block))

    def _count(self, tp: TP, ingested: Ingested) -> None:
        metrics = self._context.metrics
        wire_format = self._formats[tp.topic]
        metrics.records_consumed.labels(tp.topic, wire_format).inc(ingested.messages)
        metrics.rows_decoded.labels(wire_format).inc(ingested.rows)
        if ingested.skipped:
            metrics.records_skipped.labels(tp.topic).inc(ingested.skipped)
        for bad in ingested.rejected:
            metrics.records_rejected.labels(tp.topic, bad.reason.label).inc()

    def _report_lag(self, tp: TP, next_offset: int) -> None:
        lag = self._context.consumer.lag(tp, next_offset)
        if lag is not None:
            self._context.metrics.offset_lag.labels(tp.topic, tp.partition).set(lag)


def _state(ingest: Ingest) -> str:
    return "" if ingest.watermark_ns is None else str(ingest.watermark_ns)
