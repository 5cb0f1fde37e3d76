"""A promotion: the replay becomes the live app, at one cut of event time per flows partition.

    both apps stopped -> the cut is written down -> whichever is behind runs up to it -> the replay takes over the
    raw topics where the live app stood, what its operators keep is brought to the main topics -> the records say who
    was promoted and who replaced

Before the cut the live app has said every window to the main topics, after it the promoted one does. What is merged of
all flows partitions is cut where the first of them is. A promotion that was cut off is run again: the cut stays the
one that was written down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import lcm

import msgspec

from agents.admin import create_topics, list_topics
from agents.changelogs import read_progress
from agents.control import read_states, write_states, writer
from agents.groups import commit_positions, group_positions, members
from agents.log_reader import read_ranges, reader
from agents.replay_workers import ProgressFollower, Workers, closed_ns, following
from flowstream.analysis import Bounds, Progress
from flowstream.app_state import AppState
from flowstream.errors import ReplayError
from flowstream.merging import merging_bounds
from flowstream.positions import time_text
from flowstream.results import KEPT
from flowstream.settings import Settings
from flowstream.topics import name, specs

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Apps:
    """The two apps of a promotion, and how their workers are started."""

    live: Settings
    replayed: Settings
    arguments: tuple[str, ...]  # the settings file, for workers


async def promote(apps: Apps, say: Say) -> AppState:
    """Make a replay the live app and return its record; ``say`` is told what is done.

    Raises ReplayError where it cannot be: while a group has members, before the replay has come to its beginning.
    """
    states = await read_states(apps.live)
    state = states[apps.replayed.app]
    halted = states.get(apps.live.app)
    if state.state not in {"running", "promoting"} and (halted is None or halted.state != "promoting"):
        raise ReplayError(f'replay {state.name} was promoted: set app = "{state.app}" and run flowstream worker')
    if halted is not None and halted.state in {"moving", "replaced"}:
        raise ReplayError(f"app {apps.live.app} is {halted.state}: see flowstream worker")
    await _require_stopped(apps)
    if state.state in {"running", "promoting"}:
        if state.state == "running":
            cuts = await _cuts(apps, state)
        else:
            cuts = {p: b.until_ns or 0 for p, b in state.bounds.items()}
        bounds = {p: Bounds(None, ns) for p, ns in cuts.items()}
        state = msgspec.structs.replace(state, state="promoting", bounds=bounds)
        await write_states(
            apps.live,
            [AppState(apps.live.app, "promoting", state.name, apps.live.app, bounds=bounds), state],
        )
        await _require_stopped(apps)
        for partition, cut_ns in sorted(cuts.items()):
            say(f"partition {partition}: cut at {time_text(cut_ns) if cut_ns else 'the beginning'}")
        await _run_up(apps, state, cuts, say)
        if not state.from_raw:
            await _carry_over(apps)
        await _copy_kept(apps)
        state = msgspec.structs.replace(state, state="promoted", bounds={})
    replaced = AppState(
        apps.live.app, "replaced", state.name, apps.live.app, from_raw=state.from_raw, settings=state.settings
    )
    await write_states(apps.live, [state, replaced])
    return state


async def _require_stopped(apps: Apps) -> None:
    for settings in (apps.live, apps.replayed):
        found = await members(settings, settings.app)
        if found:
            raise ReplayError(
                f"app {settings.app} has {len(found)} members: stop its workers first (one that was killed leaves "
                f"after kafka.session_timeout_s)"
            )


async def _cuts(apps: Apps, state: AppState) -> dict[int, int]:
    """Return the event time of the cut by flows partition: where the one that is ahead stands."""
    live, replayed = await read_progress(apps.live), await read_progress(apps.replayed)
    merged = await _merged(apps.replayed)
    early = [
        p
        for p, bound in state.bounds.items()
        if bound.silent_before_ns is not None and closed_ns(replayed.get(p)) < bound.silent_before_ns
    ]
    silent_ns = merging_bounds(state.bounds).silent_before_ns
    if silent_ns is not None:
        early += [p for p, progress in merged.items() if closed_ns(progress) < silent_ns]
    if early:
        named = ", ".join(map(str, sorted(set(early))))
        raise ReplayError(
            f"replay {state.name} has not come to its beginning in partition {named}: "
            f"flowstream worker --replay {state.name} goes on with it"
        )
    step = lcm(apps.live.pane_ns, apps.replayed.pane_ns)
    # What a partition had said when it was killed may be merged, while its own progress does not know of it.
    least_ns = max(closed_ns(p) for p in (None, *merged.values(), *(await _merged(apps.live)).values()))
    ahead = {
        p: max(least_ns, closed_ns(live.get(p)), closed_ns(replayed.get(p))) for p in range(apps.live.topics.partitions)
    }
    return {p: -(-ns // step) * step for p, ns in ahead.items()}


async def _merged(settings: Settings) -> dict[int, Progress | None]:
    """Return how far each partials partition is merged; {} where nothing is merged."""
    if not settings.is_merging:
        return {}
    stored = await read_progress(settings, "merges")
    return {p: stored.get(p) for p in range(settings.topics.partitions)}


def _behind(follower: ProgressFollower, cuts: Mapping[int, int]) -> list[int]:
    behind = {p for p, cut_ns in cuts.items() if closed_ns(follower.progress.get(p)) < cut_ns}
    if follower.merged is not None:
        merged = follower.merged
        behind |= {p for p in cuts if closed_ns(merged.get(p)) < min(cuts.values())}
    return sorted(behind)


async def _run_up(apps: Apps, state: AppState, cuts: Mapping[int, int], say: Say) -> None:
    both = ("--agents", "ingest,analyses,merges" if state.from_raw else "analyses,merges")
    for settings, own in ((apps.live, ()), (apps.replayed, ("--replay", state.name))):
        async with following(settings) as follower:
            behind = _behind(follower, cuts)
            if not behind:
                continue
            say(f"app {settings.app} is behind in partition {', '.join(map(str, behind))}: it runs up to the cut")
            with Workers(settings, ("--to-cut", *both, *own, *apps.arguments), 1) as workers:
                while _behind(follower, cuts):
                    workers.require_running()
                    await follower.poll()


async def _carry_over(apps: Apps) -> None:
    """Give the replay what is the live app's alone: its place in the raw topics, and what came late meanwhile."""
    live, replayed = await read_progress(apps.live), await read_progress(apps.replayed)
    inputs = {i.topic for i in apps.live.inputs}
    stands = await group_positions(apps.live, apps.live.app)
    raw = {tp: (position.offset, position.metadata) for tp, position in stands.items() if tp.topic in inputs}
    await commit_positions(apps.replayed, apps.replayed.app, raw)
    for stream in ("late", "dead-letters"):
        await _copy(apps, stream, {p: (live[p].next_offset, replayed[p].next_offset) for p in live.keys() & replayed})


async def _copy(apps: Apps, stream: str, ranges: Mapping[int, tuple[int, int]]) -> None:
    """Bring to a main topic what only the replay has said: of blocks that the live app has not read.

    These topics are keyed by the block's offset, so what is brought twice is the same record.
    """
    source, target = name(apps.replayed, stream), name(apps.live, stream)
    prefix = f"{name(apps.live, 'flows')}-".encode()
    async with reader(apps.live, [source]) as (consumer, tps), writer(apps.live) as producer:
        starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        async for _, records in read_ranges(consumer, {tp: (starts[tp], ends[tp]) for tp in tps}):
            for record in records:
                place = (record.key or b"").removeprefix(prefix).split(b"-")
                if len(place) != 2 or not all(part.isdigit() for part in place):
                    continue
                first, end = ranges.get(int(place[0]), (0, 0))
                if first <= int(place[1]) < end:
                    await producer.send_and_wait(
                        target, record.value, key=record.key, partition=record.partition, headers=list(record.headers)
                    )


async def _copy_kept(apps: Apps) -> None:
    """Bring what the replay's operators keep to the main topics, where the promoted app will look for it.

    What the live app has kept there is of its settings and its warm-up. Brought twice it is the same.
    """
    there = await list_topics(apps.live)
    for stream in KEPT:
        source, target = name(apps.replayed, stream), name(apps.live, stream)
        if source not in there:
            continue
        wanted = [replace(spec, name=target) for spec in specs(apps.replayed) if spec.name == source]
        await create_topics(apps.live, wanted)  # the live app may have done without
        async with reader(apps.live, [source]) as (consumer, tps), writer(apps.live) as producer:
            starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            async for _, records in read_ranges(consumer, {tp: (starts[tp], ends[tp]) for tp in tps}):
                sent = [
                    await producer.send(target, r.value, key=r.key, partition=r.partition, headers=list(r.headers))
                    for r in records
                ]
                await asyncio.gather(*sent)
