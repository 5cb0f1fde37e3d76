"""Both stages of the analysis: blocks in, results and partials out, progress stored, offsets acked.

The stage of flows sends what it has summed up to the partials topic, which the stage of merges reads; else they are
the same (``flowstream/partition_work.py``).

The order is what makes a crash harmless: results are sent, then the progress record (``agents/delivery.py`` says
whether apart or in one transaction), and when the brokers have both the events before its position are acked.
Results of one batch are on their way while the next one is computed; the order holds for each, and among them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

from aiokafka.errors import KafkaError
from faust.streams import current_event
from faust.types import TP

from agents.analysed import Analysed
from agents.batches import FetchedBatch, fetched_batches
from agents.context import Context
from agents.delivery import Delivery, Displaced, Outlet, outgoing_results
from agents.inventory import InventoryFollower
from agents.kept import load_kept
from agents.newest_table import NewestTable
from agents.publisher import Outgoing
from agents.tables import Tables
from flowstream.analysis import Bounds, Progress
from flowstream.blocks import Block, encode_block
from flowstream.errors import BrokerError, Reason, StateError
from flowstream.merging import PartitionMerges
from flowstream.partition_work import PartitionWork
from flowstream.pipeline import PartitionAnalysis
from flowstream.record_batches import Records
from flowstream.topics import name

#: Batches of blocks whose results are not all acknowledged: one on its way while the next is computed.
BATCHES_IN_FLIGHT = 2
OPEN_AGAIN_AFTER_S = 0.2

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Part:
    """A partition assigned to this worker."""

    work: PartitionWork[Any]
    epoch: int
    outlet: Outlet
    position: int  # as stored: blocks before it are of no use
    read_before: int  # as stored: what is to be said of single blocks before it was said
    unacked: deque[FetchedBatch] = field(default_factory=deque)  # before any progress computed so far
    last: asyncio.Task[None] | None = None  # the sending of the batch before
    finished: bool = False  # it was noted that the bound is reached


class AnalysesAgent:
    """Hosts the enabled operators of a stage over its partitions on this worker."""

    def __init__(
        self,
        context: Context,
        tables: Tables | NewestTable | None,
        inventory: InventoryFollower,
        delivery: Delivery,
        stage: type[PartitionAnalysis | PartitionMerges] = PartitionAnalysis,
    ) -> None:
        """``tables`` keep results of the stage; None where none of them is kept."""
        self._context = context
        self.stage = stage
        self._tables = tables
        self._delivery = delivery
        self._inventory = inventory
        self.bounds: Mapping[int, Bounds] = {}  # by partition, where not everything is wanted
        self._parts: dict[TP, _Part] = {}
        self._slots = asyncio.Semaphore(BATCHES_IN_FLIGHT)
        self._unacknowledged: set[asyncio.Task[None]] = set()
        self._in_hand = asyncio.Lock()  # held while a batch is taken

    async def run(self, stream: Any) -> None:
        """Consume the topic of the stage for ever."""
        async for batch in fetched_batches(stream, self._context.consumer.reread):
            async with self._in_hand:
                await self._context.or_crash(self.take(batch))

    async def take(self, batch: FetchedBatch) -> None:
        """Apply one batch of blocks and begin to send its results, which is not waited for."""
        part = await self._part(batch)
        if part is None:
            return
        await self._slots.acquire()
        try:
            part.work.replace_tables(self._inventory.links, self._inventory.topology)
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

    async def let_go(self, tps: Iterable[TP] | None = None) -> None:
        """Forget partitions that were taken away, or all; what is still on its way for them is given up."""
        lost = list(self._parts) if tps is None else tps
        parts = [self._parts.pop(tp) for tp in lost if tp in self._parts]
        self._count_parts()
        await asyncio.gather(*[part.outlet.close() for part in parts])

    def _note_progress(self, part: _Part, batch: FetchedBatch, done: Analysed) -> None:
        """Take down how things stand, before the next batch changes it: the progress, and which batches lie before."""
        part.unacked.append(batch)
        analysis = part.work.analysis
        done.rows_open, done.watermark_ns = analysis.rows_open, analysis.watermark_ns
        while part.unacked and part.unacked[0].next_offset <= analysis.position:
            done.processed.append(part.unacked.popleft())
        if done.panes or done.processed or done.outgoing or part.finished != analysis.finished:
            done.progress = analysis.progress()
            part.finished = analysis.finished

    async def _send(
        self, part: _Part, batch: FetchedBatch, done: Analysed, before: asyncio.Task[None] | None, _event: Any
    ) -> None:
        """Send the results with the progress; once the brokers have them, and all before them, ack."""

        async def in_turn() -> bool:
            if before is not None:
                await before
            if batch.void:
                return False
            if done.progress is not None and self._tables is not None:
                await self._tables.keep_results(batch.tp.partition, done.results)
            return True

        topic = partial(name, self._context.settings)
        results = outgoing_results(done.results, self._context.encoder, topic, batch.tp.partition, done.headers)
        try:
            if not await part.outlet.say(chain(done.outgoing, results), done.progress, in_turn):
                return
        except Displaced as displaced:
            if not batch.void:
                # The fetch that follows opens the partition anew, or the group takes it away.
                log.warning("%s is read again from offset %d: %s", batch.tp, part.position, displaced)
                await self._context.consumer.rewind(batch.tp, part.position)
            return
        if done.progress is not None:
            part.position = done.progress.position
        done.count(self._context, batch, self.stage.stage)
        for processed in done.processed:
            self._context.consumer.ack_batch(processed)

    async def _part(self, batch: FetchedBatch) -> _Part | None:
        tp = batch.tp
        known = self._parts.get(tp)
        if known is not None and known.epoch == batch.epoch:
            return known
        await self.let_go([tp])
        opened = await self._open(batch)
        if opened is None:
            return None
        outlet, progress = opened
        committed = self._context.consumer.committed.get(tp)
        # Where nothing beyond the position is committed, what lies between are the ends of transactions.
        is_behind = progress is not None and (committed is None or progress.position < committed.offset)
        if progress is not None and is_behind and progress.position < batch.first_offset:
            # A worker that did not know it had been replaced may have stored an older record than the
            # committed offset belongs to. What lies between is still in the log: read it again. Faust may
            # move the position back to the committed one meanwhile; then this is said once more.
            if await self._context.consumer.log_start(tp) <= progress.position:
                await outlet.close()
                await self._context.consumer.rewind(tp, progress.position)
                return None
            gone = f"{progress.position} to {batch.first_offset}"
            log.error("%s: offsets %s are gone (retention): windows open at that time are incomplete", tp, gone)
        try:
            work = self.stage(
                self._context.settings,
                self._inventory.links,
                progress,
                self.bounds.get(tp.partition, Bounds()),
                tp.partition,
            )
            await load_kept(self._context.settings, work.operators, tp.partition)
        except StateError as error:
            log.critical("%s: %s", tp, error)
            await self._context.app.crash(error)
            return None
        except (BrokerError, KafkaError) as error:
            await outlet.close()
            await self._open_later(batch, error)
            return None
        if batch.void:
            await outlet.close()
            return None
        position, read_before = (0, 0) if progress is None else (progress.position, progress.next_offset)
        self._parts[tp] = _Part(work, batch.epoch, outlet, position, read_before)
        self._count_parts()
        return self._parts[tp]

    def _count_parts(self) -> None:
        entries = self._context.metrics.table_entries
        entries.labels("progress" if self.stage is PartitionAnalysis else "merges-progress").set(len(self._parts))

    async def _open(self, batch: FetchedBatch) -> tuple[Outlet, Progress | None] | None:
        """Open a batch's partition; None where that has to wait, and the batch will be fetched again."""
        try:
            outlet, progress = await self._delivery.open(batch.tp.partition)
        except (Displaced, KafkaError) as error:
            if not getattr(error, "retriable", True):
                raise
            await self._open_later(batch, error)
            return None
        if batch.void:
            await outlet.close()
            return None
        return outlet, progress

    async def _open_later(self, batch: FetchedBatch, error: Exception) -> None:
        log.warning("%s: %s", batch.tp, error)
        await asyncio.sleep(OPEN_AGAIN_AFTER_S)
        await self._context.consumer.rewind(batch.tp, batch.first_offset)

    def _work(self, part: _Part, batch: FetchedBatch) -> Analysed:
        done = Analysed()
        for records in batch.take():
            self._apply(done, part, batch.tp, records)
            for refused in records.refused:
                if refused.batch.next_offset <= part.position:
                    continue
                part.work.analysis.pass_over(refused.batch.next_offset - 1)
                done.refused += refused.records
                if refused.batch.first_offset >= part.read_before:
                    done.outgoing.append(self._context.refused_batch(batch.tp, refused))
        done.headers = self._context.lineage(
            batch.tp.topic, batch.tp.partition, part.work.analysis.position, batch.next_offset - 1
        )
        topic, key = name(self._context.settings, PartitionMerges.stream), _place(batch.tp)
        done.left_out = part.work.take_refused()
        for destination, block in part.work.take_partials():
            done.outgoing.append(Outgoing(topic, destination, key, encode_block(block), done.headers))
        return done

    def _apply(self, done: Analysed, part: _Part, tp: TP, records: Records) -> None:
        for at, offset in enumerate(records.offsets.tolist()):
            if offset < part.position:
                continue
            try:
                block = part.work.decode(records.payloads[at])
            except StateError as error:
                part.work.analysis.pass_over(offset)
                done.refused += 1
                if offset < part.read_before:
                    continue
                log.warning("%s offset %d: %s", tp, offset, error)
                done.outgoing.append(
                    self._context.dead_letter(
                        tp, offset, part.work.block_format, Reason.MALFORMED, records.payloads[at]
                    )
                )
                continue
            outcome = part.work.apply(offset, block)
            done.add(outcome)
            if len(outcome.late):
                done.outgoing.append(self._late(tp, offset, replace(block, rows=outcome.late)))

    def _late(self, tp: TP, offset: int, late: Block[Any]) -> Outgoing:
        """Make the record of late rows: the same columns, keyed by the offset they came from."""
        key = _place(tp) + f"-{offset}".encode()
        headers = self._context.lineage(tp.topic, tp.partition, offset, offset)
        return Outgoing(name(self._context.settings, "late"), tp.partition, key, encode_block(late), headers)


def _place(tp: TP) -> bytes:
    return f"{tp.topic}-{tp.partition}".encode()
