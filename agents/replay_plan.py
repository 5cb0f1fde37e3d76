"""Where a replay begins in each partition, found by asking the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiokafka import TopicPartition

from agents.log_reader import read_ranges, reader
from agents.replay_log import FlowsLog, newest_ns, reached_ns
from flowstream.errors import ReplayError
from flowstream.positions import Position, length_text, time_text
from flowstream.replay import PartitionPlan, crossings, heads, plan_offset, plan_time
from flowstream.replay_warmup import WarmUp, warm_up
from flowstream.settings import Settings
from flowstream.topics import name


@dataclass(frozen=True, slots=True)
class Plan:
    """What is read, and until when; ``remarks`` are what the user should know before."""

    partitions: tuple[PartitionPlan, ...]
    until_ns: int | None
    remarks: tuple[str, ...]

    @property
    def records(self) -> int:
        """Records to be read, as far as they are there."""
        return sum(p.records for p in self.partitions)


async def plan(
    settings: Settings,
    start: Position,
    end: Position | None,
    *,
    from_raw: bool = False,
    live: Settings | None = None,
    asked_ns: int | None = None,
) -> Plan:
    """Plan a replay with these settings, of ``live`` if that is another app; ``asked_ns`` of warm-up, else the default.

    ReplayError where a position means nothing here.
    """
    flows = name(live or settings, "flows")  # the event time of the log there is, also where it is made again
    async with reader(settings, [flows]) as (consumer, tps):
        log = FlowsLog(consumer, await consumer.beginning_offsets(tps), await consumer.end_offsets(tps))
        before = warm_up(settings, asked_ns)
        planner = _Planner(settings, consumer, log, tps, before)
        until_ns = None if end is None else await planner.until_ns(end)
        if from_raw:
            return Plan(await _plan_raw(settings, start), until_ns, _raw_remarks(start))
        made = await planner.start(start)
        if until_ns is not None:
            made = [await planner.with_last(p, until_ns) for p in made]
    remarks = [*_remarks(made, start, until_ns), *(_warm_up_remarks(made, before) if _is_time(start) else ())]
    return Plan(tuple(made), until_ns, tuple(remarks))


class _Planner:
    def __init__(
        self, settings: Settings, consumer: Any, log: FlowsLog, tps: list[TopicPartition], before: WarmUp
    ) -> None:
        self._out_of_orderness_ns = round(settings.time.out_of_orderness_s * 1e9)
        self._consumer = consumer
        self._log = log
        self._tps = tps
        self._warm_up = before

    async def start(self, position: Position) -> list[PartitionPlan]:
        if _is_time(position):
            time_ns = await self._event_time_ns(position)
            return [await self._from_time(tp, time_ns) for tp in self._tps]
        offsets = await start_offsets_of(self._consumer, position, self._tps, self._log.starts, self._log.ends)
        return [await self._from_offset(tp, offsets[tp]) for tp in self._tps]

    async def until_ns(self, position: Position) -> int:
        if position.kind in {"event_time", "before_newest"}:
            return await self._event_time_ns(position)
        if position.kind != "latest":
            raise ReplayError(f"--to {position.text}: give an event time, -15m or latest")
        reached = [reached_ns(await self._log.tail(tp)) for tp in self._tps]
        known = [ns for ns in reached if ns is not None]
        if not known:
            raise ReplayError(f"--to {position.text}: the flows topic holds no event time yet; give a time")
        return min(known)

    async def with_last(self, made: PartitionPlan, until_ns: int) -> PartitionPlan:
        tp = TopicPartition(made.topic, made.partition)
        first = min(made.start, self._log.ends[tp])
        found = await self._log.ask(
            tp, crossings(first, self._log.ends[tp], await self._log.sources(tp), until_ns)
        )  # fmt: skip
        return replace(made, last=found.last)

    async def _event_time_ns(self, position: Position) -> int:
        if position.kind == "event_time":
            return position.value
        newest = [newest_ns(await self._log.tail(tp), self._out_of_orderness_ns) for tp in self._tps]
        known = [ns for ns in newest if ns is not None]
        if not known:
            raise ReplayError(f"position {position.text}: the flows topic holds no event time yet; give earliest")
        return max(known) - position.value

    async def _from_time(self, tp: TopicPartition, time_ns: int) -> PartitionPlan:
        target_ns = time_ns - self._warm_up.read_ns - self._out_of_orderness_ns
        found = await self._log.ask(
            tp, crossings(self._log.starts[tp], self._log.ends[tp], await self._log.sources(tp), target_ns)
        )
        return plan_time((tp.topic, tp.partition), found, time_ns, self._warm_up, self._out_of_orderness_ns)

    async def _from_offset(self, tp: TopicPartition, offset: int) -> PartitionPlan:
        found = await self._log.ask(tp, heads(offset, self._log.ends[tp], await self._log.sources(tp)))
        place = tp.topic, tp.partition
        return plan_offset(place, found, self._log.starts[tp], self._warm_up, self._out_of_orderness_ns)


def _is_time(position: Position) -> bool:
    return position.kind in {"event_time", "before_newest", "latest"}


async def start_offsets_of(
    consumer: Any,
    position: Position,
    tps: list[TopicPartition],
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> dict[TopicPartition, int]:
    """Return the offsets of a position that is not one of event time, within what the log has."""
    if position.kind == "earliest":
        return dict(starts)
    if position.kind == "latest":
        return dict(ends)
    if position.kind == "record_time":
        found = await consumer.offsets_for_times(dict.fromkeys(tps, position.value // 1_000_000))
        return {tp: ends[tp] if found[tp] is None else found[tp].offset for tp in tps}
    if position.kind == "offset":
        return {tp: min(max(position.value, starts[tp]), ends[tp]) for tp in tps}
    listed = {tp: position.listed.get((tp.topic, tp.partition), position.listed.get(("", tp.partition))) for tp in tps}
    missing = [f"{tp.topic}-{tp.partition}" for tp in tps if listed[tp] is None]
    unknown = set(position.listed) - {(tp.topic, tp.partition) for tp in tps} - {("", tp.partition) for tp in tps}
    if missing:
        raise ReplayError(f"position {position.text}: there is no offset for {', '.join(missing)}")
    if unknown:
        named = ", ".join(f"{topic or 'partition'}-{partition}" for topic, partition in sorted(unknown))
        raise ReplayError(f"position {position.text}: {named} is not among what is read")
    return {tp: min(max(offset, starts[tp]), ends[tp]) for tp, offset in listed.items() if offset is not None}


async def _plan_raw(settings: Settings, position: Position) -> tuple[PartitionPlan, ...]:
    async with reader(settings, [i.topic for i in settings.inputs]) as (consumer, tps):
        starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        if position.kind == "event_time":
            position = replace(position, kind="record_time")
        if position.kind == "before_newest":
            newest = [await _last_record_ns(consumer, tp, starts[tp], ends[tp]) for tp in tps]
            position = replace(position, kind="record_time", value=max(0, max(newest, default=0) - position.value))
        offsets = await start_offsets_of(consumer, position, tps, starts, ends)
        return tuple(PartitionPlan(tp.topic, tp.partition, offsets[tp], starts[tp], ends[tp]) for tp in tps)


async def _last_record_ns(consumer: Any, tp: TopicPartition, start: int, end: int) -> int:
    async for _, records in read_ranges(consumer, {tp: (max(start, end - 1), end)}):
        return int(records[-1].timestamp) * 1_000_000
    return 0


def _raw_remarks(position: Position) -> tuple[str, ...]:
    said = []
    if position.kind in {"event_time", "before_newest"}:
        said.append(
            f"{position.text} is taken as record time: the event time of a raw record is not known before it is decoded"
        )
    if position.kind != "earliest":
        said.append("windows that are cut by the beginning are said as they are: leave them out when comparing")
    return tuple(said)


def _remarks(made: list[PartitionPlan], position: Position, until_ns: int | None) -> list[str]:
    said = []
    for p in made:
        where = f"partition {p.partition}"
        asked = position.value if position.kind == "offset" else position.listed.get((p.topic, p.partition), p.start)
        if p.gone_before_ns is not None:
            said.append(
                f"{where}: the log begins at {time_text(p.gone_before_ns)} and what is before it is gone: "
                f"results from {time_text(p.silent_before_ns or 0)} on"
            )
        elif asked < p.log_start:
            said.append(f"{where}: the log begins at offset {p.log_start:,}, {asked:,} is gone")
        elif asked > p.log_end:
            said.append(f"{where}: the log ends at offset {p.log_end:,}, {asked:,} is not there yet")
    if until_ns is not None and all((p.silent_before_ns or 0) >= until_ns for p in made):
        said.append("the end is not after the time from which results are right: there will be none")
    return said


def _warm_up_remarks(made: list[PartitionPlan], before: WarmUp) -> list[str]:
    """Say how far back is read and why, and what would take more."""
    said = [f"reads {length_text(before.read_ns)} before the time wanted{_for(before.whole, ', which makes {} whole')}"]
    short = [
        p for p in made if p.whole_from_ns is not None and p.whole_from_ns > (p.silent_before_ns or 0) - before.read_ns
    ]
    if short and before.whole:
        at = time_text(max(p.whole_from_ns or 0 for p in short))
        said.append(f"the log begins at {at}: what is said of longer windows is of the time from then on")
    if before.cut:
        longest = length_text(max(length_ns for _, length_ns in before.cut))
        said.append(f"{_for(before.cut, '{}')} begin where reading begins; --warm-up {longest} makes them whole")
    return said


def _for(windows: tuple[tuple[str, int], ...], text: str) -> str:
    return (
        text.format(", ".join(f"{named} of {length_text(length_ns)}" for named, length_ns in windows))
        if windows
        else ""
    )
