"""A worker starts and ends without waiting for the clock where there is nothing to wait for."""

from __future__ import annotations

import asyncio
import inspect
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from faust.tables.manager import TableManager
from mode import Worker

from agents import ending
from agents.app import create_app
from agents.ending import BoundedWorker
from agents.inventory import InventoryFollower
from agents.progress import ProgressLog
from agents.replay_workers import following
from agents.tail import read_topic
from flowstream.settings import Settings, load
from flowstream.topics import name


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of every wait for the clock that is begun."""
    loop, begun = asyncio.get_running_loop(), list[float]()
    call_at = loop.call_at

    def calling(when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        begun.append(when - loop.time())
        return call_at(when, *args, **options)

    monkeypatch.setattr(loop, "call_at", calling)
    return begun


async def test_tables_are_registered_and_restored_at_once(timers: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    manager: Any = create_app(load()).tables
    done: list[str] = []
    monkeypatch.setattr(manager, "_update_channels", AsyncMock(side_effect=lambda: done.append("registered")))
    manager._recovery = SimpleNamespace(start=AsyncMock(side_effect=lambda: done.append("restoring")))
    await manager.on_start()
    assert (done, timers) == (["registered", "restoring"], [])
    theirs = inspect.getsource(TableManager.on_start)
    assert inspect.getsource(type(manager).on_start).split('"""')[2].strip() == (
        theirs.split('"""')[2].replace("await self.sleep(1.0)", "").strip()
    ), "what Faust does when its tables start has changed: agents/recovery.py is to be looked at again"


async def test_no_table_is_registered_in_a_worker_that_is_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    manager: Any = create_app(load()).tables
    monkeypatch.setattr(manager, "_update_channels", AsyncMock())
    manager._stopped.set()
    await manager.on_start()
    assert manager._update_channels.await_count == 0


async def test_a_loop_without_tasks_is_closed_at_once(timers: list[float]) -> None:
    await BoundedWorker(create_app(load()))._sentinel_task()
    assert timers == []
    assert "await asyncio.sleep(1.0)" in inspect.getsource(Worker._sentinel_task)


async def test_a_loop_is_not_closed_before_its_cancelled_tasks_have_ended() -> None:
    ended: list[int] = []

    async def slow_to_end(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(100):
                await asyncio.sleep(0)
            ended.append(number)

    tasks = [asyncio.create_task(slow_to_end(number)) for number in range(3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await BoundedWorker(create_app(load()))._sentinel_task()
    assert ended == [0, 1, 2]


async def test_a_task_that_does_not_end_though_it_is_cancelled_is_not_awaited_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ending, "CANCELLED_S", 0.01)
    stubborn = asyncio.create_task(asyncio.Event().wait())
    await BoundedWorker(create_app(load()))._sentinel_task()
    assert not stubborn.done()
    stubborn.cancel()


class EmptyTopics:
    """A consumer whose topics are empty: a question asked once partitions are assigned waits for a fetch to end."""

    def __init__(self, **_: Any) -> None:
        self.assigned = False
        self.waited: list[str] = []
        self._client = SimpleNamespace(_wait_on_metadata=AsyncMock(return_value={0, 1}))
        _OPENED.append(self)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def topics(self) -> set[str]:
        return {name(load(), "links"), ProgressLog(load()).topic}

    def partitions_for_topic(self, _topic: str) -> set[int]:
        return {0, 1}

    def assign(self, _tps: object) -> None:
        self.assigned = True

    def seek(self, _tp: object, _offset: int) -> None: ...

    async def seek_to_beginning(self, *_tps: object) -> None: ...

    async def position(self, _tp: object) -> int:
        return 0

    async def beginning_offsets(self, tps: list[Any]) -> dict[Any, int]:
        return await self.end_offsets(tps)

    async def end_offsets(self, tps: list[Any]) -> dict[Any, int]:
        if self.assigned:
            self.waited.append("asked when partitions were assigned")
        return dict.fromkeys(tps, 0)

    async def getmany(self, *_tps: object, timeout_ms: int) -> dict[Any, Any]:
        await asyncio.sleep(timeout_ms / 1000)
        return {}


_OPENED: list[EmptyTopics] = []


async def read_inventory(settings: Settings) -> None:
    inventory = InventoryFollower(settings)
    await inventory.start()
    await inventory.stop()


async def read_progress(settings: Settings) -> None:
    assert await ProgressLog(settings).read(0) is None


async def follow_progress(settings: Settings) -> None:
    async with following(settings) as follower:
        assert follower.progress == {}


async def tail(settings: Settings) -> None:
    links = name(settings, "links")
    assert [r async for r in read_topic(settings, links, from_beginning=True, to_end=True)] == []


@pytest.mark.parametrize("read", [read_inventory, read_progress, follow_progress, tail])
async def test_where_a_topic_ends_is_asked_before_a_fetch_can_be_in_the_way(
    read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in "inventory", "progress", "log_reader":
        monkeypatch.setattr(f"agents.{module}.AIOKafkaConsumer", EmptyTopics)
    _OPENED.clear()
    await read(load())
    assert _OPENED
    assert [consumer.waited for consumer in _OPENED] == [[]] * len(_OPENED)
