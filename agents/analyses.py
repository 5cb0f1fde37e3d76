"""The flows topic to results: blocks into ``PartitionAnalysis``, results out, progress stored, offsets acked.

The order is what makes a crash harmless: results are sent and acknowledged, then the progress record is
written, then the events before its position are acked (and Faust flushes the table before it commits them).
Results of one batch are on their way while the next one is computed; the order holds for each, and among them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

from faust.streams import current_event
from faust.types import TP

from agents.batches import FetchedBatch, fetched_batches
from agents.context import Context
from agents.links import LinkFollower
from agents.publisher import Outgoing, OutgoingRun
from agents.tables import Tables
from flowstream.analysis import Bounds, Outcome, Progress
from flowstream.batch import FlowBatch
from flowstream.blocks import Block, decode_block, encode_block
from flowstream.errors import Reason, StateError
from flowstream.operators import Result, Said
from flowstream.pipeline import PartitionAnalysis
from flowstream.record_batches import Records
from flowstream.record_kernel import Headers, Run
from flowstream.results import ResultEncoder
from flowstream.topics import name

#: Batches of blocks whose results are not all acknowledged: one on its way while the next is computed.
BATCHES_IN_FLIGHT = 2

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Part:
    """A flows partition assigned to this worker."""

    work: PartitionAnalysis
    epoch: int
    position: int  # blocks before it are of no use
    unacked: deque[FetchedBatch] = field(default_factory=deque)  # before any progress computed so far
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    last: asyncio.Task[None] | None = None  # the sending of the batch before
    finished: bool = False  # it was noted that the bound is reached


@dataclass(slots=True)
class _Done:
    """What came of a batch of blocks, and what is to be stored and acked once its results are acknowledged."""

    outgoing: list[Outgoing] = field(default_factory=list)
    results: list[Said] = field(default_factory=list)
    headers: Headers = ()
    progress: Progress | None = None
    processed: list[FetchedBatch] = field(default_factory=list)
    rows_open: int = 0
    watermark_ns: int | None = None
    panes: int = 0
    applied: int = 0
    late: int = 0
    duplicate: int = 0
    gap: int = 0
    refused: int = 0


def outgoing_results(
    said: Iterable[Said], encoder: ResultEncoder, topic: Callable[[str], str], partition: int, headers: Headers = ()
) -> Iterator[Outgoing | OutgoingRun]:
    """Yield the records of results, encoded as they are taken; ``topic`` gives the topic of a stream."""
    for results in said:
        if isinstance(results, Result):
            yield Outgoing(topic(results.stream), partition, results.key.encode(), encoder.encode(results), headers)
        else:
            prefix, values = encoder.encode_column(results)
            yield OutgoingRun(topic(results.stream), partition, Run(results.keys, values, prefix, headers))


class AnalysesAgent:
    """Hosts all enabled operators over the flows partitions of this worker."""

    def __init__(self, context: Context, tables: Tables, links: LinkFollower) -> None:
        self._context = context
        self._tables = tables
        self._links = links
        self.bounds: Mapping[int, Bounds] = {}  # by flows partition, where not everything is wanted
        self._parts: dict[TP, _Part] = {}
        self._slots = asyncio.Semaphore(BATCHES_IN_FLIGHT)
        self._unacknowledged: set[asyncio.Task[None]] = set()
        self._in_hand = asyncio.Lock()  # held while a batch is taken

    async def run(self, stream: Any) -> None:
        """Consume the flows topic for ever."""
        async for batch in fetched_batches(stream):
            async with self._in_hand:
                await self._context.or_crash(self.take(batch))

    async def take(self, batch: FetchedBatch) -> None:
        """Apply one batch of blocks and begin to send its results, which is not waited for."""
        part = await self._part(batch)
        if part is None:
            return
        await self._slots.acquire()
        try:
            part.work.replace_links(self._links.table)
            with self._context.metrics.pane_seconds.time():
                done = await asyncio.to_thread(self._work, part, batch)
            if batch.void:
                self._slots.release()
                return
            self._note_progress(part, batch, done)
            # The tables find their partition by the event in hand, which Faust refers to only weakly.
            sending = self._send(part, batch, done, part.last, current_event())
            task = asyncio.create_task(self._context.or_crash(sending))
        except BaseException:
            self._slots.release()
            raise
        part.last = task
        self._unacknowledged.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._unacknowledged.discard(task)
        self._slots.release()

    async def settle(self) -> None:
        """Wait until the batch in hand is taken, every result acknowledged, and the progress stored."""
        async with self._in_hand:
            pass
        if self._unacknowledged:
            await asyncio.wait(self._unacknowledged)  # gathering them would cancel them with whoever waits

    def _note_progress(self, part: _Part, batch: FetchedBatch, done: _Done) -> None:
        """Take down how things stand, before the next batch changes it: the progress, and which batches lie before."""
        part.unacked.append(batch)
        analysis = part.work.analysis
        done.rows_open, done.watermark_ns = analysis.rows_open, analysis.watermark_ns
        while part.unacked and part.unacked[0].next_offset <= analysis.position:
            done.processed.append(part.unacked.popleft())
        if done.panes or done.processed or part.finished != analysis.finished:
            done.progress = analysis.progress()
            part.finished = analysis.finished

    async def _send(
        self, part: _Part, batch: FetchedBatch, done: _Done, before: asyncio.Task[None] | None, _event: Any
    ) -> None:
        """Send the results; once they and all before them are acknowledged, store the progress, then ack."""
        async with part.sending:
            topic = partial(name, self._context.settings)
            results = outgoing_results(done.results, self._context.encoder, topic, batch.tp.partition, done.headers)
            sent = await self._context.publisher.enqueue(chain(done.outgoing, results))
        await sent
        if before is not None:
            await before
        if batch.void:
            return
        self._count(batch, done)
        if done.progress is not None:
            self._tables.keep_results(batch.tp.partition, done.results)
            self._tables.store_progress(batch.tp.partition, done.progress)
        for processed in done.processed:
            self._context.consumer.ack_batch(processed)

    async def _part(self, batch: FetchedBatch) -> _Part | None:
        tp = batch.tp
        known = self._parts.get(tp)
        if known is not None and known.epoch == batch.epoch:
            return known
        progress = self._tables.progress(tp.partition)
        if progress is not None and progress.position < batch.first_offset:
            # A worker that did not know it had been replaced may have stored an older record than the
            # committed offset belongs to. What lies between is still in the log: read it again. Faust may
            # move the position back to the committed one meanwhile; then this is said once more.
            if await self._context.consumer.log_start(tp) <= progress.position:
                await self._context.consumer.rewind(tp, progress.position)
                return None
            log.error(
                "%s: offsets %d to %d are gone (retention): windows open at that time are incomplete",
                tp,
                progress.position,
                batch.first_offset,
            )
        try:
            work = PartitionAnalysis(
                self._context.settings, self._links.table, progress, self.bounds.get(tp.partition, Bounds())
            )
        except StateError as error:
            log.critical("%s: %s", tp, error)
            await self._context.app.crash(error)
            return None
        position = 0 if progress is None else progress.position
        self._parts[tp] = _Part(work, batch.epoch, position)
        return self._parts[tp]

    def _work(self, part: _Part, batch: FetchedBatch) -> _Done:
        done = _Done()
        for records in batch.take():
            self._apply(done, part, batch.tp, records)
            for refused in records.refused:
                if refused.batch.next_offset > part.position:
                    done.refused += refused.records
                    done.outgoing.append(self._context.refused_batch(batch.tp, refused))
        done.headers = self._context.lineage(
            batch.tp.topic, batch.tp.partition, part.work.analysis.position, batch.next_offset - 1
        )
        return done

    def _apply(self, done: _Done, part: _Part, tp: TP, records: Records) -> None:
        for at, offset in enumerate(records.offsets.tolist()):
            if offset < part.position:
                continue
            try:
                block = decode_block(records.payloads[at])
            except StateError as error:
                log.warning("%s offset %d: %s", tp, offset, error)
                done.refused += 1
                done.outgoing.append(
                    self._context.dead_letter(tp, offset, "flow-block", Reason.MALFORMED, records.payloads[at])
                )
                continue
            part.work.tell_sources(block)
            outcome = part.work.analysis.apply(offset, block)
            self._add(done, tp, offset, block, outcome)

    def _add(self, done: _Done, tp: TP, offset: int, block: Block, outcome: Outcome) -> None:
        done.results.extend(outcome.results)
        done.panes += outcome.panes
        done.applied += outcome.applied
        done.late += len(outcome.late)
        done.duplicate += outcome.duplicate
        done.gap += outcome.gap
        if len(outcome.late):
            done.outgoing.append(self._late(tp, offset, block, outcome.late))

    def _late(self, tp: TP, offset: int, block: Block, rows: FlowBatch) -> Outgoing:
        """Make the record of late rows: the same columns, keyed by the flows offset they came from."""
        late = replace(block, rows=rows)
        key = f"{tp.topic}-{tp.partition}-{offset}".encode()
        headers = self._context.lineage(tp.topic, tp.partition, offset, offset)
        return Outgoing(name(self._context.settings, "late"), tp.partition, key, encode_block(late), headers)

    def _count(self, batch: FetchedBatch, done: _Done) -> None:
        metrics, tp = self._context.metrics, batch.tp
        metrics.rows_applied.inc(done.applied)
        metrics.rows_late.inc(done.late)
        metrics.rows_duplicate.inc(done.duplicate)
        metrics.block_gaps.inc(done.gap)
        metrics.blocks_rejected.inc(done.refused)
        metrics.panes_closed.inc(done.panes)
        sent: Counter[str] = Counter()
        for said in done.results:
            sent[said.stream] += 1 if isinstance(said, Result) else len(said)
        for stream, count in sent.items():
            metrics.results_sent.labels(name(self._context.settings, stream)).inc(count)
        metrics.rows_open.labels(tp.partition).set(done.rows_open)
        if done.watermark_ns is not None:
            metrics.watermark_lag_seconds.labels(tp.partition).set(time.time() - done.watermark_ns / 1e9)
        lag = self._context.consumer.lag(tp, batch.next_offset)
        if lag is not None:
            metrics.offset_lag.labels(tp.topic, tp.partition).set(lag)
