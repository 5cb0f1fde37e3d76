"""The analyses agent and its ways out: what it does when one is taken from it, and what it never says twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from unittest.mock import AsyncMock, Mock

import pytest
from aiokafka.errors import ProducerFenced
from faust.types import TP

from agents import transactions
from agents.analyses import AnalysesAgent
from agents.delivery import Displaced
from agents.publisher import Outgoing, OutgoingRun
from flowstream.analysis import Progress
from flowstream.settings import load
from flowstream.topics import name
from tests.agents.fakes import Stage
from tests.agents.test_agents import blocks, flows_topic, take


class FakeOutlet:
    """A way out whose transactions succeed, or fail when it is told to."""

    def __init__(self, delivery: FakeDelivery) -> None:
        self._delivery = delivery
        self.closed = False

    async def say(
        self,
        records: Iterable[Outgoing | OutgoingRun],
        progress: Progress | None,
        in_turn: Callable[[], Awaitable[bool]],
    ) -> bool:
        said = [r for some in records for r in (some if isinstance(some, OutgoingRun) else [some])]
        if self._delivery.fails:
            raise Displaced("taken over")
        if not await in_turn():
            return False
        self._delivery.said += said
        assert progress is not None or not said, "records that no progress goes with would be said again"
        if progress is not None:
            self._delivery.progress = progress
        return True

    async def close(self) -> None:
        self.closed = True


class FakeDelivery:
    """Keeps what was said, and refuses to open as often as it is told to."""

    def __init__(self) -> None:
        self.said: list[Outgoing] = []
        self.progress: Progress | None = None
        self.outlets: list[FakeOutlet] = []
        self.fails = False
        self.before_open: Callable[[], None] | None = None

    async def open(self, _partition: int) -> tuple[FakeOutlet, Progress | None]:
        if self.before_open is not None:
            self.before_open()
        self.outlets.append(FakeOutlet(self))
        return self.outlets[-1], self.progress


@pytest.fixture
def stage() -> Stage:
    return Stage(load(topics={"partitions": 2}, analyses=("sources", "quality")))


@pytest.fixture
def delivery() -> FakeDelivery:
    return FakeDelivery()


def analyses(stage: Stage, delivery: FakeDelivery) -> AnalysesAgent:
    return AnalysesAgent(stage.context, stage.tables, stage.inventory, delivery)  # type: ignore[arg-type]


def of(said: list[Outgoing], stage: Stage, stream: str) -> list[Outgoing]:
    return [r for r in said if r.topic == name(stage.settings, stream)]


async def test_who_is_displaced_acks_nothing_and_reads_again_from_the_progress(
    stage: Stage, delivery: FakeDelivery
) -> None:
    agent, topic = analyses(stage, delivery), flows_topic(stage)
    made = blocks([0, 20, 40, 60])
    await take(agent, stage.batch(topic, made[:2]))
    assert delivery.progress is not None
    position, said = delivery.progress.position, len(delivery.said)
    stage.done.clear()
    delivery.fails = True
    await take(agent, stage.batch(topic, made[2:], first=2))
    assert stage.done == [("rewind", (TP(topic, 0), position))]
    assert stage.value("rows_applied_total") == 2, "rows whose results were not kept do not count"
    delivery.fails = False
    await take(agent, stage.batch(topic, made[position:], first=position))
    assert len(delivery.outlets) == 2
    assert delivery.outlets[0].closed
    keys = [(r.topic, r.key) for r in delivery.said]
    assert len(keys) == len(set(keys)) > said
    assert not stage.crashed


async def test_a_partition_that_cannot_be_opened_yet_is_fetched_again(stage: Stage, delivery: FakeDelivery) -> None:
    agent, topic = analyses(stage, delivery), flows_topic(stage)

    def refuse() -> None:
        raise Displaced("the group has gone on")

    delivery.before_open = refuse
    await take(agent, stage.batch(topic, blocks([0, 20])[1:], first=1))
    assert stage.done == [("rewind", (TP(topic, 0), 1))]
    delivery.before_open = None
    await take(agent, stage.batch(topic, blocks([0, 20])[1:], first=1))
    assert len(delivery.outlets) == 1


async def test_a_partition_that_was_taken_away_while_it_was_opened_is_let_go(
    stage: Stage, delivery: FakeDelivery
) -> None:
    batch = stage.batch(flows_topic(stage), blocks([0, 20]))
    delivery.before_open = lambda: stage.consumer.epochs.update({batch.tp: 9})
    await take(analyses(stage, delivery), batch)
    assert [outlet.closed for outlet in delivery.outlets] == [True]
    assert stage.done == []


async def test_revoked_partitions_are_closed(stage: Stage, delivery: FakeDelivery) -> None:
    agent, topic = analyses(stage, delivery), flows_topic(stage)
    await take(agent, stage.batch(topic, blocks([0]), partition=0))
    await take(agent, stage.batch(topic, blocks([0]), partition=1))
    await agent.let_go({TP(topic, 1), TP("another", 0)})
    assert [outlet.closed for outlet in delivery.outlets] == [False, True]
    assert stage.value("table_entries") == 1
    await agent.let_go()
    assert delivery.outlets[0].closed


async def test_neither_dead_letters_nor_late_rows_are_said_again_after_a_restart(
    stage: Stage, delivery: FakeDelivery
) -> None:
    topic = flows_topic(stage)
    made = [*blocks([0, 1]), *blocks([0, 1, 1], late=True)[2:], b"junk"]
    await take(analyses(stage, delivery), stage.batch(topic, made))
    assert (len(of(delivery.said, stage, "dead-letters")), len(of(delivery.said, stage, "late"))) == (1, 1)
    assert delivery.progress is not None
    assert (delivery.progress.position, delivery.progress.next_offset) == (0, 4), "to be read again, not said again"
    await take(analyses(stage, delivery), stage.batch(topic, made))
    assert (len(of(delivery.said, stage, "dead-letters")), len(of(delivery.said, stage, "late"))) == (1, 1)


@pytest.mark.parametrize("fails", ["publish", "commit"])
async def test_after_a_transaction_that_failed_nothing_more_is_said_through_that_way_out(fails: str) -> None:
    publisher, stored = AsyncMock(), Mock()
    getattr(publisher, fails).side_effect = ProducerFenced
    one = transactions._Open(publisher, stored, 3)
    in_turn = AsyncMock(return_value=True)
    for _ in range(2):
        with pytest.raises(Displaced):
            await one.say([], Mock(), in_turn)
    assert publisher.begin.await_count == 1
