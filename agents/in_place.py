"""A reset in place: the group's offsets and what its tables hold are moved together, or none of it counts.

    the app's record says "moving"  ->  tables and kept streams forget  ->  offsets are set  ->  the record says "moved"

Merges go on at the end of the partials topic, without progress: from there on every flows partition says anew what it
sums up, from where it was set to. What it had said before would be taken for what comes, and that for duplicates.

No worker runs on an app that is moving, so a reset that was cut off is run again, from its beginning.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
from aiokafka import TopicPartition

from agents.changelogs import forget
from agents.control import read_states, write_states
from agents.groups import commit_positions, group_positions, require_empty
from agents.log_reader import reader
from agents.replay_plan import Plan, plan
from flowstream.app_state import AppState, refusal
from flowstream.errors import ReplayError
from flowstream.positions import Position
from flowstream.settings import Settings
from flowstream.topics import name


async def plan_in_place(settings: Settings, start: Position, asked_ns: int | None = None) -> Plan:
    """Plan a reset, with where the group stands now. Raises ReplayError where the app is not its own master."""
    state = (await read_states(settings)).get(settings.app)
    why = refusal(settings.app, state, "live")
    if why is not None and state is not None and state.state != "moving":
        raise ReplayError(why)
    made = await plan(settings, start, None, asked_ns=asked_ns)
    stands = await group_positions(settings, settings.app)
    flows = name(settings, "flows")
    at = {p.partition: stands.get(TopicPartition(flows, p.partition)) for p in made.partitions}
    moved = [replace(p, before=None if (found := at[p.partition]) is None else found.offset) for p in made.partitions]
    return replace(made, partitions=tuple(moved))


async def move(settings: Settings, made: Plan) -> None:
    """Carry a plan out; BrokerError while somebody is in the group."""
    app = settings.app
    await require_empty(settings, app)
    state = (await read_states(settings)).get(app) or AppState(app, "moved")
    moving = msgspec.structs.replace(state, state="moving", bounds={p.partition: p.bounds() for p in made.partitions})
    await write_states(settings, [moving])
    await require_empty(settings, app)  # one that was starting meanwhile has joined, or finds the record
    await forget(settings, moving.bounds)
    positions = {TopicPartition(p.topic, p.partition): (p.start, "") for p in made.partitions}
    if settings.is_merging:
        async with reader(settings, [name(settings, "partials")]) as (consumer, tps):
            positions |= {tp: (end, "") for tp, end in (await consumer.end_offsets(tps)).items()}
    await commit_positions(settings, app, positions)
    await write_states(settings, [msgspec.structs.replace(moving, state="moved")])
