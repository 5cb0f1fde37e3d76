"""The flows topic to results: blocks into ``PartitionAnalysis``, results out, progress stored, offsets acked.

The order is what makes a crash harmless: results are sent and acknowledged, then the progress record is
written, then the events before its position are acked (and Faust flushes the table before it commits them).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Any

from faust.types import TP

from agents.batches import FetchedBatch, fetched_batches
from agents.context import Context
from agents.links import LinkFollower
from agents.publisher import Outgoing
from agents.tables import Tables
from flowstream.analysis import Outcome
from flowstream.batch import FlowBatch
from flowstream.blocks import Block, decode_block, encode_block
from flowstream.errors import StateError
from flowstream.operators import Result
from flowstream.pipeline import PartitionAnalysis
from flowstream.topics import name

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Part:
    """A flows partition assigned to this worker."""

    work: PartitionAnalysis
    epoch: int
    position: int  # blocks before it are of no use
    unacked: deque[FetchedBatch] = field(default_factory=deque)


@dataclass(slots=True)
class _Done:
    """What came of a batch of blocks."""

    outgoing: list[Outgoing] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    panes: int = 0
    applied: int = 0
    late: int = 0
    duplicate: int = 0
    gap: int = 0
    refused: int = 0


class AnalysesAgent:
    """Hosts all enabled operators over the flows partitions of this worker."""

    def __init__(self, context: Context, tables: Tables, links: LinkFollower) -> None:
        self._context = context
        self._tables = tables
        self._links = links
        self._parts: dict[TP, _Part] = {}

    async def run(self, stream: Any) -> None:
        """Consume the flows topic for ever."""
        async for batch in fetched_batches(stream):
            await self._context.or_crash(self.take(batch))

    async def take(self, batch: FetchedBatch) -> None:
        """Apply one batch of blocks."""
        part = await self._part(batch)
        if part is None:
            return
        metrics = self._context.metrics
        part.work.replace_links(self._links.table)
        with metrics.pane_seconds.time():
            done = await asyncio.to_thread(self._work, part, batch)
        if batch.void:
            return
        await self._context.publisher.publish(done.outgoing)
        if batch.void:
            return
        part.unacked.append(batch)
        self._count(batch.tp, done, part)
        if done.panes or part.work.analysis.position >= part.unacked[0].next_offset:
            self._store(batch.tp, part, done)

    def _store(self, tp: TP, part: _Part, done: _Done) -> None:
        progress = part.work.analysis.progress()
        self._tables.keep_results(tp.partition, done.results)
        self._tables.store_progress(tp.partition, progress)
        while part.unacked and part.unacked[0].next_offset <= progress.position:
            self._context.consumer.ack_batch(part.unacked.popleft())

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
            work = PartitionAnalysis(self._context.settings, self._links.table, progress)
        except StateError as error:
            log.critical("%s: %s", tp, error)
            await self._context.app.crash(error)
            return None
        position = 0 if progress is None else progress.position
        self._parts[tp] = _Part(work, batch.epoch, position)
        return self._parts[tp]

    def _work(self, part: _Part, batch: FetchedBatch) -> _Done:
        done = _Done()
        records = batch.take()
        for at, offset in enumerate(records.offsets.tolist()):
            if offset < part.position:
                continue
            try:
                block = decode_block(records.payloads[at])
            except StateError as error:
                done.refused += 1
                done.outgoing.append(self._dead_letter(batch.tp, offset, records.payloads[at], str(error)))
                continue
            part.work.tell_sources(block)
            outcome = part.work.analysis.apply(offset, block)
            self._add(done, batch.tp, offset, block, outcome)
        headers = self._context.lineage(
            batch.tp.topic, batch.tp.partition, part.work.analysis.position, batch.next_offset - 1
        )
        encode, partition = self._context.encoder.encode, batch.tp.partition
        topics = {s: name(self._context.settings, s) for s in {r.stream for r in done.results}}
        done.outgoing.extend(
            Outgoing(topics[r.stream], partition, r.key.encode(), encode(r), headers) for r in done.results
        )
        return done

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

    def _dead_letter(self, tp: TP, offset: int, payload: bytes, detail: str) -> Outgoing:
        log.warning("%s offset %d: %s", tp, offset, detail)
        value = self._context.encoder.encode_record("dead_letter", {
            "topic": tp.topic, "partition": tp.partition, "offset": offset, "format": "flow-block",
            "reason": "malformed", "payload": payload[: self._context.payload_bytes_max], "payload_bytes": len(payload),
        })  # fmt: skip
        key = f"{tp.topic}-{tp.partition}-{offset}".encode()
        return Outgoing(name(self._context.settings, "dead-letters"), tp.partition, key, value)

    def _count(self, tp: TP, done: _Done, part: _Part) -> None:
        metrics = self._context.metrics
        metrics.rows_applied.inc(done.applied)
        metrics.rows_late.inc(done.late)
        metrics.rows_duplicate.inc(done.duplicate)
        metrics.block_gaps.inc(done.gap)
        metrics.blocks_rejected.inc(done.refused)
        metrics.panes_closed.inc(done.panes)
        for stream, count in Counter(result.stream for result in done.results).items():
            metrics.results_sent.labels(name(self._context.settings, stream)).inc(count)
        metrics.rows_open.labels(tp.partition).set(part.work.analysis.rows_open)
        watermark_ns = part.work.analysis.watermark_ns
        if watermark_ns is not None:
            metrics.watermark_lag_seconds.labels(tp.partition).set(time.time() - watermark_ns / 1e9)
        lag = self._context.consumer.lag(tp, part.unacked[-1].next_offset)
        if lag is not None:
            metrics.offset_lag.labels(tp.topic, tp.partition).set(lag)
