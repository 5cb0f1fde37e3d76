"""Where consumer groups stand: in records, and in event time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition

from agents.admin import list_topics
from agents.groups import Position, group_positions, groups_named, members
from agents.log_reader import read_ranges, reader
from agents.progress import progress_topic
from flowstream.analysis import Progress
from flowstream.blocks import Block, decode_block, decode_partials
from flowstream.errors import StateError
from flowstream.settings import Settings
from flowstream.topics import name, stream_of

#: How far back the last record of a partition is looked for: what is in between are the ends of transactions.
_LOOK_BACK = (1, 8, 64, 512)


@dataclass(frozen=True, slots=True)
class PartitionState:
    """Where a group stands in a partition."""

    topic: str
    partition: int
    position: int | None  # the next record to be read; None: nothing committed
    start: int  # oldest record there is
    end: int  # behind the newest committed record
    event_time_ns: int | None  # raw topic: watermark of ingest; flows and partials: panes are closed up to here
    log_event_time_ns: int | None  # flows and partials topic: watermark of the last block

    @property
    def lag(self) -> int:
        """Records still to be read; offsets that retention has deleted do not count."""
        return max(0, self.end - max(self.start, self.position or 0))

    @property
    def event_time_lag_ns(self) -> int | None:
        """How far the closed panes are behind the log; None where either is not known."""
        if self.event_time_ns is None or self.log_event_time_ns is None:
            return None
        return max(0, self.log_event_time_ns - self.event_time_ns)


@dataclass(frozen=True, slots=True)
class GroupState:
    """A group: who is in it, and where it stands."""

    group: str
    members: int | None  # None: the cluster knows no such group
    partitions: list[PartitionState]


async def group_states(settings: Settings) -> list[GroupState]:
    """Return where the app of the settings stands, then every replay of it: groups ``<app>-...`` on our topics.

    Topics that are not there are left out. Raises BrokerError where no broker answers.
    """
    topics = await list_topics(settings)
    inputs = {i.topic for i in settings.inputs} & topics
    flows, partials = ({t for t in topics if stream_of(settings, t) == stream} for stream in ("flows", "partials"))
    blocks = flows | partials
    groups = {settings.app: await group_positions(settings, settings.app)}
    for group in await groups_named(settings, f"{settings.app}-"):
        positions = await group_positions(settings, group)
        if any(tp.topic in inputs | blocks for tp in positions):
            groups[group] = positions
    logs = {progress_topic(group, stage) for group in groups for stage in ("analyses", "merges")}
    async with reader(settings, inputs | blocks | (logs & topics)) as (consumer, tps):
        starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        last = await _last_values(consumer, [tp for tp in tps if tp.topic not in inputs], starts, ends)
    states = []
    for group, positions in groups.items():
        live = group == settings.app
        own = inputs | {name(settings, stream) for stream in ("flows", "partials")}
        own = own if live else {tp.topic for tp in positions}
        partitions = []
        for tp in (tp for tp in tps if tp.topic in own & (inputs | blocks)):
            position = positions.get(tp)
            stage = "merges" if tp.topic in partials else "analyses"
            closed = _closed(last.get(TopicPartition(progress_topic(group, stage), tp.partition)))
            read = decode_partials if tp.topic in partials else decode_block
            partitions.append(
                PartitionState(
                    tp.topic, tp.partition, None if position is None else position.offset, starts[tp], ends[tp],
                    _watermark(position) if tp.topic in inputs else closed, _block_watermark(last.get(tp), read),
                )
            )  # fmt: skip
        found = await members(settings, group)
        states.append(GroupState(group, None if found is None else len(found), partitions))
    return states


async def _last_values(
    consumer: Any, tps: Iterable[TopicPartition], starts: dict[TopicPartition, int], ends: dict[TopicPartition, int]
) -> dict[TopicPartition, bytes | None]:
    """Return the value of the last record of each partition that has one."""
    found: dict[TopicPartition, bytes | None] = {}
    for back in _LOOK_BACK:
        ranges = {tp: (max(starts[tp], ends[tp] - back), ends[tp]) for tp in tps if tp not in found}
        async for tp, records in read_ranges(consumer, ranges):
            found[tp] = records[-1].value
    return found


def _watermark(position: Position | None) -> int | None:
    with suppress(ValueError):
        return None if position is None else int(position.metadata)
    return None


def _closed(value: bytes | None) -> int | None:
    return _read(value, lambda raw: _closed_ns(Progress.decode(raw)))


def _closed_ns(progress: Progress) -> int | None:
    return None if progress.closed is None else progress.closed * progress.pane_ns


def _block_watermark(value: bytes | None, decode: Callable[[bytes], Block[Any]]) -> int | None:
    return _read(value, lambda raw: decode(raw).watermark_ns)


def _read(value: bytes | None, read: Callable[[bytes], int | None]) -> int | None:
    """Return what a record says, None where there is none or it is of another version."""
    with suppress(StateError):
        return None if value is None else read(value)
    return None
