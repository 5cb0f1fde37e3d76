"""A replay side by side: plan, set up, run, discard."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from agents.admin import changelogs, create_topics, list_topics
from agents.control import read_states, write_states
from agents.groups import commit_positions, delete_group, delete_topics, require_empty
from agents.progress import progress_topic
from agents.replay_plan import Plan
from agents.replay_workers import ProgressFollower, Workers, closed_ns, following
from flowstream.analysis import Bounds
from flowstream.app_state import AppState, Start, replay_app, settings_of_replay
from flowstream.errors import ReplayError
from flowstream.settings import Settings, load
from flowstream.topics import stream_of


async def load_replay(file: str | Path | None, replay_name: str, **own: Any) -> tuple[Settings, AppState]:
    """Return the settings of a replay that there is, and its record; ``own`` are a worker's.

    ReplayError where there is none of this name.
    """
    live = load(file)
    state = (await read_states(live)).get(replay_app(live.app, replay_name))
    if state is None:
        raise ReplayError(f"app {live.app} has no replay {replay_name}; flowstream replay makes one")
    return settings_of_replay(file, replay_name, state.settings, from_raw=state.from_raw, **own), state


Report = Callable[[int, int, float], None]  # blocks read, event time reached (ns), blocks per second


def definition(
    live: Settings, replayed: Settings, plan: Plan, assignments: Sequence[str], *, from_raw: bool
) -> AppState:
    """Return the record of a replay: what it is, where it begins and what is wanted of it."""
    partitions = range(live.topics.partitions)
    planned = {} if from_raw else {p.partition: p.bounds(plan.until_ns) for p in plan.partitions}
    return AppState(
        app=replayed.app,
        state="running",
        name=replayed.topics.suffix,
        live_app=live.app,
        from_raw=from_raw,
        settings=tuple(assignments),
        digest=replayed.digest(),
        starts=tuple(Start(p.topic, p.partition, p.start) for p in plan.partitions),
        bounds={p: planned.get(p, Bounds(None, plan.until_ns)) for p in partitions},
    )


async def require_new(live: Settings, replay_name: str) -> None:
    """Raise ReplayError where there is a replay of this name."""
    app = replay_app(live.app, replay_name)
    state = (await read_states(live)).get(app)
    if state is not None:
        raise ReplayError(
            f"replay {replay_name} is there already ({state.state}): flowstream worker --replay {replay_name} goes on "
            f"with it, flowstream replay --discard {replay_name} removes it"
        )
    await require_empty(live, app)


async def set_up(replayed: Settings, state: AppState) -> None:
    """Make the topics, set the group to its start, and then, last, say that the replay may run."""
    await create_topics(replayed)
    await create_topics(replayed, changelogs(replayed))
    await commit_positions(replayed, state.app, {TopicPartition(t, p): (at, "") for t, p, at in state.starts})
    await write_states(replayed, [state])


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run came to."""

    finished: bool  # its end was reached; False where it was interrupted
    blocks: int
    closed_ns: int  # results up to here are there, in every partition
    seconds: float


def run_replay(
    replayed: Settings,
    state: AppState,
    arguments: Sequence[str],
    count: int,
    report: Report,
) -> Ended:
    """Run a replay with ``count`` workers until it is finished, or an interrupt; ReplayError where a worker ends."""
    run = _Run(state, report)
    finished = False
    interrupts = KeyboardInterrupt, asyncio.CancelledError
    with Workers(replayed, ("--replay", state.name, *arguments), count) as workers, suppress(*interrupts):
        finished = asyncio.run(run.follow(replayed, workers))
    return Ended(finished, run.read, run.closed_ns, run.seconds)


class _Run:
    """How far a replay has got, for those who watch it."""

    def __init__(self, state: AppState, report: Report) -> None:
        self._state = state
        self._report = report
        self._starts = {} if state.from_raw else {s.partition: s.offset for s in state.starts}
        self._began: float | None = None
        self.read = self.closed_ns = 0

    @property
    def seconds(self) -> float:
        """How long it has computed, without the time that the workers needed to start."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    async def follow(self, replayed: Settings, workers: Workers) -> bool:
        """Watch until the end is reached in every partition; return False where Ctrl-C came before."""
        watching, interrupted = asyncio.current_task(), False

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            if watching is not None:
                watching.cancel()

        # The client may swallow a cancellation that comes while it returns, and asyncio's own handler cancels once.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
        async with following(replayed) as follower:
            while not follower.finished(self._state.bounds):
                if interrupted:
                    return False
                workers.require_running()
                await follower.poll()
                self._take(follower)
        return True

    def _take(self, follower: ProgressFollower) -> None:
        if not follower.progress:
            return
        if self._began is None:
            self._began = time.monotonic()
        self.read = sum(p.next_offset - self._starts.get(at, 0) for at, p in follower.progress.items())
        if len(follower.progress) == len(self._state.bounds):
            self.closed_ns = min(closed_ns(p) for p in follower.progress.values())
        self._report(self.read, self.closed_ns, self.read / self.seconds if self.seconds else 0.0)


async def discard(live: Settings, replay_name: str) -> list[str]:
    """Remove a replay's topics, group, tables and record; return what was removed.

    Of one that was promoted only the topics of its results before the cut are removed: the rest is the live app.
    Raises BrokerError while somebody is in its group, ReplayError where there is no such replay.
    """
    app = replay_app(live.app, replay_name)
    states = await read_states(live)
    state = states.get(app)
    topics = {
        topic for topic in await list_topics(live) if topic.endswith(f".{replay_name}") and stream_of(live, topic)
    }
    kept = {progress_topic(app), progress_topic(app, "merges")}
    kept |= {f"{app}-{table}-changelog" for table in ("sources", "newest")}
    tables = kept & await list_topics(live)
    if state is None and not topics and not tables:
        raise ReplayError(f"app {live.app} has no replay {replay_name}")
    is_live = state is not None and state.state not in {"running", "promoting"}
    if is_live:
        read = {f"{live.topics.prefix}.{stream}.v1.{replay_name}" for stream in ("flows", "partials")}
        removed = await delete_topics(live, topics - read)
        return [f"topic {topic}" for topic in removed]
    await require_empty(live, app)
    removed = [f"topic {topic}" for topic in await delete_topics(live, topics | tables)]
    if await delete_group(live, app):
        removed.append(f"group {app}")
    shutil.rmtree(live.data_dir / "replays" / app, ignore_errors=True)
    if state is not None:
        halted = states.get(live.app)
        pending = halted is not None and halted.state == "promoting" and halted.name == replay_name
        await write_states(live, [], [app, *([live.app] if pending else [])])
        removed.append(f"the definition of {replay_name}")
    return removed
