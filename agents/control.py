"""The control topic: which app may run, as what. Compacted, one record per app."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from agents.admin import create_topics, list_topics, unreachable
from agents.client import client_options
from agents.log_reader import read_ranges, reader
from agents.publisher import REQUEST_BYTES_MAX
from flowstream.app_state import AppState, Role, refusal
from flowstream.errors import BrokerError, ReplayError, StateError
from flowstream.settings import Settings
from flowstream.topics import name, specs

log = logging.getLogger(__name__)


@asynccontextmanager
async def writer(settings: Settings) -> AsyncIterator[Any]:
    """Connect a producer whose records all replicas have when they are acknowledged."""
    producer = AIOKafkaProducer(
        **client_options(settings.kafka), acks="all", enable_idempotence=True, max_request_size=REQUEST_BYTES_MAX
    )
    try:
        await producer.start()
    except (KafkaError, OSError, ValueError) as error:
        await producer.stop()
        raise unreachable(settings, error) from error
    try:
        yield producer
    except KafkaError as error:
        raise BrokerError(f"records could not be written: {type(error).__name__} {error}") from error
    finally:
        await producer.stop()


async def read_states(settings: Settings) -> dict[str, AppState]:
    """Return what the control topic says, by app; {} where there is no such topic yet."""
    topic = name(settings, "replays")
    if topic not in await list_topics(settings):
        return {}
    found: dict[str, AppState] = {}
    async with reader(settings, [topic]) as (consumer, tps):
        starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        async for _, records in read_ranges(consumer, {tp: (starts[tp], ends[tp]) for tp in tps}):
            for record in records:
                app = (record.key or b"").decode("utf-8", "replace")
                found.pop(app, None)
                if record.value is not None:
                    try:
                        found[app] = AppState.decode(record.value)
                    except StateError as error:
                        log.warning("%s offset %d: %s; ignored", topic, record.offset, error)
    return found


async def write_states(settings: Settings, states: Iterable[AppState], removed: Iterable[str] = ()) -> None:
    """Write records of apps, one after the other, and remove those of others."""
    await create_topics(settings, [spec for spec in specs(settings) if spec.schema == "replays"])
    topic = name(settings, "replays")
    async with writer(settings) as producer:
        for state in states:
            await producer.send_and_wait(topic, state.encode(), key=state.app.encode(), partition=0)
        for app in removed:
            await producer.send_and_wait(topic, None, key=app.encode(), partition=0)


async def state_to_run(settings: Settings, role: Role) -> AppState | None:
    """Return the record of the app of the settings; ReplayError, in one line, where it must not run in this role."""
    state = (await read_states(settings)).get(settings.app)
    why = refusal(settings.app, state, role)
    if why is not None:
        raise ReplayError(why)
    own = state.name if state is not None and state.state == "promoted" else settings.topics.partials_suffix
    if state is not None and settings.is_merging and settings.topics.partials_suffix != own:
        raise ReplayError(f"app {state.app} merges what its own topic holds: set topics.partials_suffix={state.name}")
    if state is not None and role == "replay" and state.digest != settings.digest():
        raise ReplayError(
            f"these settings ({settings.digest()}) are not those that replay {state.name} was made with "
            f"({state.digest}): use the same settings file on every machine"
        )
    return state
