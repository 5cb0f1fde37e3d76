"""The flows topic as a replay plans by it: answers to probes, and what its ends say of event time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from aiokafka import TopicPartition

from agents.log_reader import read_ranges
from flowstream.blocks import Block, SourcePartition, decode_block
from flowstream.errors import StateError
from flowstream.panes import Watermarks
from flowstream.replay import Crossings, Mark, Probe, Probing, sources_of

#: How far back from the end the newest event time is looked for; a silent source partition is in it every 10 s.
TAIL = 512


class FlowsLog:
    """Reads the headers of blocks with a consumer of ``agents.log_reader.reader``."""

    def __init__(self, consumer: Any, starts: dict[TopicPartition, int], ends: dict[TopicPartition, int]) -> None:
        self._consumer = consumer
        self.starts = starts
        self.ends = ends

    async def ask(self, tp: TopicPartition, probing: Probing) -> Crossings:
        """Answer the probes of a search in a partition until it is done."""
        try:
            probe = next(probing)
            while True:
                probe = probing.send(await self._answer(tp, probe))
        except StopIteration as done:
            found: Crossings = done.value
            return found

    async def sources(self, tp: TopicPartition) -> set[SourcePartition]:
        """Return the source partitions that the oldest and the newest block of a partition know of."""
        start, end = self.starts[tp], self.ends[tp]
        found: set[SourcePartition] = set()
        for block in (await self._first(tp, start), *(await self.tail(tp, 8))):
            if block is not None:
                found |= sources_of(block.sources)
        return found if start < end else set()

    async def tail(self, tp: TopicPartition, count: int = TAIL) -> list[Block]:
        """Return the last blocks of a partition, as far back as ``count`` offsets."""
        start, end = max(self.starts[tp], self.ends[tp] - count), self.ends[tp]
        return [block async for _, block in self._blocks(tp, start, end)]

    async def _first(self, tp: TopicPartition, start: int) -> Block | None:
        async with aclosing(self._blocks(tp, start, self.ends[tp])) as blocks:
            async for _, block in blocks:
                return block
        return None

    async def _answer(self, tp: TopicPartition, probe: Probe) -> list[Mark]:
        marks: list[Mark] = []
        found = False
        async with aclosing(read_ranges(self._consumer, {tp: (probe.offset, self.ends[tp])})) as fetches:
            async for _, records in fetches:
                for record in records:
                    with suppress(StateError):  # the analysis passes it over, too
                        block = decode_block(record.value or b"")
                        marks.append(
                            Mark(record.offset, block.source, block.from_offset, block.to_offset, block.watermark_ns)
                        )
                        found |= block.source == probe.source
                if found:
                    break
        return marks

    async def _blocks(self, tp: TopicPartition, start: int, end: int) -> AsyncGenerator[tuple[int, Block], None]:
        async with aclosing(read_ranges(self._consumer, {tp: (start, end)})) as fetches:
            async for _, records in fetches:
                for record in records:
                    with suppress(StateError):
                        yield record.offset, decode_block(record.value or b"")


def newest_ns(blocks: list[Block], out_of_orderness_ns: int) -> int | None:
    """Return the newest event time that blocks know of; None where they know none."""
    marks = [block.watermark_ns for block in blocks if block.watermark_ns is not None]
    return max(marks) + out_of_orderness_ns if marks else None


def reached_ns(blocks: list[Block]) -> int | None:
    """Return the event time up to which the end of a partition is complete; None where that is not known."""
    marks = Watermarks()
    for block in blocks:
        marks.take(block)
    if marks.watermark_ns is not None:
        return marks.watermark_ns
    return min((s.watermark_ns for s in marks.states.values() if s.watermark_ns is not None), default=None)
