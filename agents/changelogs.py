"""What the tables of an app that is not running hold, read from their changelogs, and how it is taken out of them."""

from __future__ import annotations

from collections.abc import Mapping

from agents.admin import changelogs, list_topics
from agents.control import writer
from agents.log_reader import read_ranges, reader
from agents.progress import progress_key, progress_topic
from agents.tables import read_window_key
from flowstream.analysis import Progress
from flowstream.settings import Settings


async def read_changelog(settings: Settings, topic: str) -> dict[int, dict[bytes, bytes]]:
    """Return the last value of every key, by partition; {} where the topic is not there."""
    if topic not in await list_topics(settings):
        return {}
    found: dict[int, dict[bytes, bytes]] = {}
    async with reader(settings, [topic]) as (consumer, tps):
        starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        async for tp, records in read_ranges(consumer, {tp: (starts[tp], ends[tp]) for tp in tps}):
            values = found.setdefault(tp.partition, {})
            for record in records:
                if record.value is None:
                    values.pop(record.key, None)
                else:
                    values[record.key] = record.value
    return found


async def read_progress(settings: Settings, stage: str = "analyses") -> dict[int, Progress]:
    """Return how far the app got in a stage, by partition; StateError for a record of another version."""
    stored = await read_changelog(settings, progress_topic(settings.app, stage))
    return {p: Progress.decode(raw) for p, values in stored.items() for raw in values.values()}


async def forget(settings: Settings, silent_before_ns: Mapping[int, int | None]) -> None:
    """Take out of an app's tables what a reset computes again: progress, and windows that end after the times given.

    By flows partition; None takes out every window. Merges begin anew in every partition: what they had taken in
    is said again. The records are as Faust would write them.
    """
    progress_log, sources_log, *merges_logs = (spec.name for spec in changelogs(settings))
    there = await list_topics(settings)
    size_ns = round(settings.sources.size_s * 1e9)
    windows = await read_changelog(settings, sources_log)
    async with writer(settings) as producer:
        for partition, from_ns in sorted(silent_before_ns.items()):
            if progress_log in there:
                await producer.send_and_wait(progress_log, None, key=progress_key(partition), partition=partition)
            for topic in there.intersection(merges_logs[:1]):
                await producer.send_and_wait(topic, None, key=progress_key(partition), partition=partition)
            for key in sorted(windows.get(partition, {})):
                if from_ns is None or read_window_key(key)[1] + size_ns > from_ns:
                    await producer.send_and_wait(sources_log, None, key=key, partition=partition)
