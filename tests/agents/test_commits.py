"""What the batch consumer commits, and when: the acked run of what it noted, forwards only."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from agents.batches import Committed, FetchedBatch, fetched_batches
from agents.ingest import IngestAgent
from agents.transport import BatchConsumer
from flowstream.record_batches import LegacyBatch
from flowstream.settings import load
from tests.agents.fakes import FakeConsumer, FakeStream, Stage
from tests.builders import T0_NS, goflow2_v2

RAW = TP("raw", 0)


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A consumer with nothing below and nothing around it; ``written`` is what was committed."""
    made: Any = BatchConsumer.__new__(BatchConsumer)
    made.committed, made._noted, made._epochs, made.fetched = {}, {}, {}, {}
    made._committed_offset = {}
    made.written = []

    async def flush() -> None: ...

    async def commit(ready: dict[TP, Committed]) -> bool:
        made.written.extend(c for c in ready.values())
        return bool(ready)

    async def nothing_of_fausts(*_: Any, **__: Any) -> bool:
        return False

    monkeypatch.setattr(driver.Consumer, "force_commit", nothing_of_fausts)
    made.app = SimpleNamespace(
        producer=SimpleNamespace(flush=flush), batched_topics={RAW.topic}, consumer_generation_id=1,
        monitor=SimpleNamespace(on_tp_commit=lambda _: None),
    )  # fmt: skip
    made._thread = SimpleNamespace(commit_with_state=commit)
    return made


def fetched(consumer: Any, first: int, records: int = 10) -> FetchedBatch:
    """A batch that the consumer has noted."""
    one = LegacyBatch([(first + i, 0, b"v") for i in range(records)])
    batch = FetchedBatch(RAW, [one], consumer.epoch(RAW), consumer)
    consumer._to_message(RAW, batch)
    return batch


async def test_a_commit_is_the_end_of_the_acked_run_with_its_state(consumer: Any) -> None:
    first, second, third = (fetched(consumer, at) for at in (0, 10, 20))
    consumer.ack_batch(third, "c")
    await consumer.force_commit()
    assert consumer.written == []
    consumer.ack_batch(first, "a")
    await consumer.force_commit()
    assert consumer.written == [Committed(10, "a")]
    consumer.ack_batch(second, "b")
    await consumer.force_commit()
    assert consumer.written[1:] == [Committed(30, "c")]


async def test_what_is_read_again_after_a_rewind_is_committed_once_it_is_past_the_committed_offset(
    consumer: Any,
) -> None:
    consumer.committed[RAW] = Committed(25, "")
    consumer.move([RAW])
    batches = [fetched(consumer, at) for at in (0, 10, 20)]
    for batch in batches[:2]:
        consumer.ack_batch(batch)
        await consumer.force_commit()
    assert consumer.written == []
    consumer.ack_batch(batches[2])
    await consumer.force_commit()
    assert consumer.written == [Committed(30, "")]


async def test_a_state_may_be_revised_where_the_offset_stays(consumer: Any) -> None:
    consumer.committed[RAW] = Committed(25, "old")
    consumer.revise_state(RAW, "new")
    await consumer.force_commit()
    assert consumer.written == [Committed(25, "new")]


async def test_settling_waits_for_the_batch_in_hand_and_for_what_was_sent() -> None:
    stage = Stage(load(topics={"partitions": 2}))
    agent = IngestAgent(stage.context)
    stage.publisher.open.clear()
    batch = stage.batch("flow-messages", [goflow2_v2()], at_ms=T0_NS // 10**6)
    running = asyncio.create_task(agent.run(FakeStream([batch])))
    while not agent._in_hand.locked():
        await asyncio.sleep(0)
    settling = asyncio.create_task(agent.settle())
    await running
    assert not settling.done()
    assert stage.verbs() == []
    stage.publisher.open.set()
    await settling
    assert stage.verbs() == ["publish", "ack"]


async def test_a_batch_that_does_not_follow_the_one_before_has_its_partition_read_again() -> None:
    consumer = FakeConsumer([])
    reread: list[TP] = []

    async def move(tp: TP) -> None:
        reread.append(tp)
        consumer.epochs[tp] = consumer.epoch(tp) + 1

    def made(first: int, after: int | None, epoch: int = 0) -> FetchedBatch:
        one = LegacyBatch([(first + i, 0, b"v") for i in range(10)])
        return FetchedBatch(RAW, [one], epoch, consumer, after)  # type: ignore[arg-type]

    first_dropped = [made(10, 10), made(20, 20), made(0, None, 1), made(12, 10, 1)]
    seen = [b.first_offset async for b in fetched_batches(FakeStream(first_dropped), move)]
    assert (seen, reread) == ([0, 12], [RAW]), "what comes after a hole is void; a hole of the log itself is none"
    consumer.epochs.clear()
    reread.clear()
    one_between_dropped = [made(0, None), made(20, 20), made(30, 30)]
    seen = [b.first_offset async for b in fetched_batches(FakeStream(one_between_dropped), move)]
    assert (seen, reread) == ([0], [RAW])
