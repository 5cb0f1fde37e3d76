"""Compare two result topics: read both once for digests, then what differs once more, partition by partition."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import TopicPartition

from agents.log_reader import read_ranges, reader
from agents.tail import decode_value
from flowstream.compare import (
    CompareError,
    Comparison,
    Fold,
    Span,
    difference,
    overlap,
    require_comparable,
)
from flowstream.settings import Settings
from flowstream.topics import STREAMS

#: ``<prefix>.<stream>.v1``, with or without the suffix of a replay.
_TOPIC = re.compile(r"(?:^|\.)([a-z-]+)\.v\d+(?:[.-]|$)")


def stream_of_either(topics: Sequence[str]) -> str:
    """Return which result stream the topics are of; CompareError where they are of none, or of several."""
    named: list[str] = [stream for topic in topics for stream in _TOPIC.findall(topic)]
    streams = sorted(set(named) & set(STREAMS))
    if len(streams) > 1:
        raise CompareError(f"these are topics of different streams ({', '.join(streams)}); compare two of the same")
    if not streams:
        raise CompareError(
            f"neither {' nor '.join(topics)} is a result topic by its name; there are those of {', '.join(STREAMS)}"
        )
    return streams[0]


async def compare_topics(
    settings: Settings,
    topic_a: str,
    topic_b: str,
    start_ns: int | None,
    end_ns: int | None,
    limit: int,
    progress: Callable[[int, int], None],
) -> Comparison:
    """Compare the last values of two topics within [start_ns, end_ns); None takes what both cover.

    ``limit`` examples of each kind are kept. ``progress`` is told records read and records to read. Raises
    BrokerError and CompareError.
    """
    if topic_a == topic_b:
        raise CompareError(f"{topic_a} is compared with itself; name two topics")
    stream = stream_of_either([topic_a, topic_b])
    async with reader(settings, [topic_a, topic_b]) as (consumer, tps):
        a, b = (Fold(topic, sum(tp.topic == topic for tp in tps)) for topic in (topic_a, topic_b))
        require_comparable(a, b)
        await _fold(consumer, tps, {topic_a: a, topic_b: b}, progress)
        both = overlap(a, b) if start_ns is None or end_ns is None else Span(start_ns, end_ns)
        span = Span(both.start_ns if start_ns is None else start_ns, both.end_ns if end_ns is None else end_ns)
        comparison = Comparison(a, b, await asyncio.to_thread(difference, a, b, span), limit)
        for partition in range(a.partitions):
            await _look(consumer, comparison, partition, stream)
    return comparison


async def _fold(
    consumer: Any, tps: list[TopicPartition], folds: dict[str, Fold], progress: Callable[[int, int], None]
) -> None:
    starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    total = sum(ends[tp] - starts[tp] for tp in tps)
    done = 0
    async for tp, records in read_ranges(consumer, {tp: (starts[tp], ends[tp]) for tp in tps}):
        fold = folds[tp.topic]
        for record in records:
            fold.take(tp.partition, record.offset, record.key, record.value)
        done += len(records)
        progress(done, total)


async def _look(consumer: Any, comparison: Comparison, partition: int, stream: str) -> None:
    """Decode what changed in a partition, and the examples of what only one topic has."""
    changed, vanished, appeared = comparison.to_decode(partition)
    before = await _values(
        consumer, TopicPartition(comparison.a.topic, partition), {*(f.offset_a for f in changed), *vanished.values()}
    )
    after = await _values(
        consumer, TopicPartition(comparison.b.topic, partition), {*(f.offset_b for f in changed), *appeared.values()}
    )

    def decode() -> None:
        for subject, at in vanished.items():
            comparison.show("vanished", subject, decoded(before, at), None)
        for subject, at in appeared.items():
            comparison.show("appeared", subject, None, decoded(after, at))
        for subject, offset_a, offset_b in changed:
            comparison.take(subject, decoded(before, offset_a), decoded(after, offset_b))

    def decoded(values: dict[int, bytes], at: int) -> dict[str, Any] | None:
        return decode_value(values[at], stream) if at in values else None

    await asyncio.to_thread(decode)


async def _values(consumer: Any, tp: TopicPartition, offsets: set[int]) -> dict[int, bytes]:
    """Return the values at offsets of a partition; those that the brokers have deleted by now are missing."""
    if not offsets:
        return {}
    found = {}
    async for _, records in read_ranges(consumer, {tp: (min(offsets), max(offsets) + 1)}):
        found.update({r.offset: r.value for r in records if r.offset in offsets})
    return found
