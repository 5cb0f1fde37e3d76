"""What the tables of an app that is not running hold, read from their changelogs, and how it is taken out of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from agents.admin import changelogs, list_topics
from agents.control import writer
from agents.log_reader import read_ranges, reader
from agents.newest_table import end_ns
from agents.progress import progress_key, progress_topic
from flowstream import schemas
from flowstream.analysis import Bounds, Progress
from flowstream.errors import SchemaError
from flowstream.merging import merging_bounds
from flowstream.results import KEPT
from flowstream.settings import Settings
from flowstream.topics import name

_NEVER = 1 << 63  # later than any time

T = TypeVar("T")


async def read_changelog(settings: Settings, topic: str) -> dict[int, dict[bytes, bytes]]:
    """Return the last value of every key, by partition; {} where the topic is not there."""
    return await _last(settings, topic, lambda value: value)


async def _last(settings: Settings, topic: str, of: Callable[[bytes], T]) -> dict[int, dict[bytes, T]]:
    """Return what ``of`` makes of the last value of every key, by partition: the values themselves may be large."""
    if topic not in await list_topics(settings):
        return {}
    found: dict[int, dict[bytes, T]] = {}
    async with reader(settings, [topic]) as (consumer, tps):
        starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        async for tp, records in read_ranges(consumer, {tp: (starts[tp], ends[tp]) for tp in tps}):
            values = found.setdefault(tp.partition, {})
            for record in records:
                if record.value is None:
                    values.pop(record.key, None)
                else:
                    values[record.key] = of(record.value)
    return found


async def read_progress(settings: Settings, stage: str = "analyses") -> dict[int, Progress]:
    """Return how far the app got in a stage, by partition; StateError for a record of another version."""
    stored = await read_changelog(settings, progress_topic(settings.app, stage))
    return {p: Progress.decode(raw) for p, values in stored.items() for raw in values.values()}


async def forget(settings: Settings, bounds: Mapping[int, Bounds]) -> None:
    """Take out of an app what a reset computes again: progress, and windows in tables that end after the bounds.

    ``bounds`` are those of flows partitions; without a beginning every window goes. Merges begin anew in every
    partition: what they had taken in is said again, so all goes that their operators keep, of other settings or links
    too. The records are as Faust would write them.
    """
    flows = {p: b.silent_before_ns for p, b in bounds.items()}
    merges = dict.fromkeys(range(settings.topics.partitions), merging_bounds(bounds).silent_before_ns)
    progress_log, sources_log, *merges_logs = (spec.name for spec in changelogs(settings))
    gone: dict[str, list[tuple[int, bytes]]] = {progress_log: [(p, progress_key(p)) for p in flows]}
    gone[sources_log] = _ending_after(flows, await _last(settings, sources_log, _window_end_ns))
    if merges_logs:
        merged_log, newest_log = merges_logs
        gone[merged_log] = [(p, progress_key(p)) for p in merges]
        gone[newest_log] = _ending_after(merges, await _last(settings, newest_log, end_ns))
    for stream in KEPT:
        kept = await _last(settings, name(settings, stream), lambda _: _NEVER)
        gone[name(settings, stream)] = _ending_after(merges, kept)
    there = await list_topics(settings)
    async with writer(settings) as producer:
        sent = [
            await producer.send(topic, None, key=key, partition=partition)
            for topic in sorted(there.intersection(gone))
            for partition, key in gone[topic]
        ]
        await asyncio.gather(*sent)


def _window_end_ns(value: bytes) -> int:
    """Return when the window of a value in a table ends; of what no version can read, never."""
    try:
        return int(schemas.single_object_decode(value)[1]["window_end_ns"])
    except (SchemaError, KeyError):
        return _NEVER


def _ending_after(
    from_ns: Mapping[int, int | None], held: Mapping[int, Mapping[bytes, int]]
) -> list[tuple[int, bytes]]:
    """Return the partitions and keys of what ends after the time of its partition; of those not given, nothing."""
    found = []
    for partition, least_ns in sorted(from_ns.items()):
        ends = held.get(partition, {})
        found += [(partition, key) for key in sorted(ends) if least_ns is None or ends[key] > least_ns]
    return found
