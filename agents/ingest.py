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
from flowstream.record_batches import Records, RefusedBatch
from flowstream.topics import name

#: Batches whose blocks are sent and not yet acknowledged: enough to decode one while others are on their way.
BATCHES_IN_FLIGHT = 4
RETRY_S = 1.0
#: A partition of which no broker said anything for so long begins to be silent anew when one does. What a
#: collector could not send meanwhile is still to come, and would be late.
UNANSWERED_S = 5.0

log = logging.getLogger(__name__)


class _Source:
    """A source partition assigned to this worker."""

    def __init__(self, ingest: Ingest, epoch: int, next_offset: int | None) -> None:
        self.ingest = ingest
        self.epoch = epoch
        self.next_offset = next_offset
        self.active_at = time.monotonic()  # when records came last
        self.on_time_at = self.active_at  # when rows came last that are on time
        self.newest_ns = -1  # timestamp of the last record
        self.answer: int | None = None  # the mark of the last fetch that a broker answered
        self.answered_at = self.active_at
        self.lock = asyncio.Lock()

    def silence_s(self, answer: int | None) -> float:
        """Return how long brokers have answered that there is nothing; while they do not answer, nothing is known."""
        now = time.monotonic()
        if answer != self.answer:
            self.answer, self.answered_at = answer, now
        elif now - self.answered_at > UNANSWERED_S:
            self.active_at = self.on_time_at = now
        return self.answered_at - self.active_at


class IngestAgent:
    """Decodes, judges lateness, routes and publishes; then acks, with the watermark as the state."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sources: dict[TP, _Source] = {}
        self._formats = {i.topic: i.format for i in context.settings.inputs}
        self._flows = name(context.settings, "flows")
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
            parts, reached = batch.take(), batch.first_offset
            sent: list[Awaitable[Any]] = []
            while reached < batch.next_offset:
                records = await asyncio.to_thread(next, parts)
                reached = records.next_offset
                if self._formats[batch.tp.topic] == avro.WIRE_FORMAT:
                    await self._fetch_schemas(avro.schema_ids(records.payloads), batch)
                sent += await self._send(source, batch, records)
                if batch.void:
                    return
            source.next_offset = batch.next_offset
            source.active_at = time.monotonic()
            state = _state(source.ingest)
        await self._slots.acquire()
        task = asyncio.create_task(self._ack(batch, state, sent))
        self._unacknowledged.add(task)
        task.add_done_callback(self._unacknowledged.discard)

    async def _send(self, source: _Source, batch: FetchedBatch, records: Records) -> list[Awaitable[Any]]:
        """Decode records and queue their blocks, a block's worth at a time; return what to wait for."""
        sent = []
        for start, stop in records.payloads.cuts(MESSAGES_PER_BLOCK, PAYLOAD_BYTES_PER_BLOCK) or [(0, 0)]:
            # Offsets behind the last record may be those of records that compaction took away, or of a refused batch.
            to_offset = records.next_offset if stop == len(records) else int(records.offsets[stop])
            with self._context.metrics.decode_seconds.time():
                ingested, outgoing = await asyncio.to_thread(
                    self._work, source.ingest, records.slice(start, stop), to_offset
                )
            if batch.void:
                return []
            sent.append(await self._context.publisher.enqueue(outgoing))
            self._count(batch.tp, ingested)
            if ingested.rows > ingested.rows_late:
                source.on_time_at = time.monotonic()
        if len(records):
            source.newest_ns = int(records.timestamps_ns[-1])
        if records.refused:
            letters = [self._context.refused_batch(batch.tp, refused) for refused in records.refused]
            sent.append(await self._context.publisher.enqueue(letters))
            self._count_refused(batch.tp, records.refused)
        return sent

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
        """Write into the log which source partitions hold nobody back. Called every second or so.

        Those are the silent ones, and those of which nothing that comes is on time: bytes that are no flows, or an
        exporter whose clock stepped back.
        """
        consumer = self._context.consumer
        for tp in sorted(consumer.assignment()):
            if tp.topic not in self._formats or not consumer.flow_active:
                continue
            source = await self._source(tp, consumer.epoch(tp))
            elapsed_s = self._idle_s(tp, source)
            if elapsed_s is None or source.lock.locked():
                continue
            async with source.lock:
                ingested = source.ingest.idle(round(elapsed_s * 1e9))
                if elapsed_s:
                    source.active_at = time.monotonic()
                await self._context.publisher.publish(self._blocks(ingested))
                if consumer.epoch(tp) == source.epoch:
                    consumer.revise_state(tp, _state(source.ingest))

    def _idle_s(self, tp: TP, source: _Source) -> float | None:
        """Return by how much the watermark of an idle source partition is to move on, None if it is not idle."""
        idle_after_s, now = self._context.settings.time.idle_after_s, time.monotonic()
        is_at_end = self._context.consumer.lag(tp, source.next_offset) == 0
        silence_s = source.silence_s(self._context.consumer.answered(tp))
        if silence_s >= idle_after_s:
            return silence_s if is_at_end else None
        # Where records never cease the end is seldom reached; then one just written was just read.
        is_at_end = is_at_end or time.time() - source.newest_ns / 1e9 < idle_after_s
        is_mute = now - source.on_time_at >= idle_after_s and not source.ingest.is_idle
        return 0.0 if is_at_end and is_mute else None

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
        tp = TP(*ingest.source)
        wire_format = self._formats[tp.topic]
        outgoing += [
            self._context.dead_letter(tp, r.offset, wire_format, r.reason, r.payload) for r in ingested.rejected
        ]
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

    def _count_refused(self, tp: TP, refused: Iterable[RefusedBatch]) -> None:
        metrics = self._context.metrics
        for batch in refused:
            metrics.records_consumed.labels(tp.topic, self._formats[tp.topic]).inc(batch.records)
            metrics.records_rejected.labels(tp.topic, batch.reason.label).inc(batch.records)

    def _report_lag(self, tp: TP, next_offset: int) -> None:
        lag = self._context.consumer.lag(tp, next_offset)
        if lag is not None:
            self._context.metrics.offset_lag.labels(tp.topic, tp.partition).set(lag)


def _state(ingest: Ingest) -> str:
    return "" if ingest.watermark_ns is None else str(ingest.watermark_ns)
