"""The agents with fakes around them: in which order things are done, and what they do with what is void or bad."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import numpy as np
import pytest
from faust.types import TP

from agents.analyses import AnalysesAgent
from agents.batches import Committed, FetchedBatch
from agents.ingest import IngestAgent
from flowstream import schemas
from flowstream.analysis import Analysis
from flowstream.batch import FlowBatch, Quality
from flowstream.blocks import Block, SourcePartition, decode_block, encode_block
from flowstream.settings import load
from flowstream.topics import name
from tests.agents.fakes import FakeStream, Stage
from tests.builders import T0_NS, flows, goflow2_v2

RAW = "flow-messages"
S = 1_000_000_000
SOURCES = ((RAW, 1),)


@pytest.fixture
def stage() -> Stage:
    return Stage(load(topics={"partitions": 2}, analyses=("sources", "quality")))


def analyses(stage: Stage) -> AnalysesAgent:
    return AnalysesAgent(stage.context, stage.tables, stage.inventory, stage.delivery)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until it holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def take(agent: AnalysesAgent, batch: FetchedBatch) -> None:
    await agent.take(batch)
    await agent.settle()


async def ingest(stage: Stage, batch: FetchedBatch) -> None:
    agent = IngestAgent(stage.context)
    await agent.take(batch)
    await agent.settle()


def blocks(seconds: list[int], *, late: bool = False) -> list[bytes]:
    """One block per second given, of one row each."""
    made = []
    for i, second in enumerate(seconds):
        rows = flows(1, time_ns=np.array([T0_NS + second * S]), origin_offset=np.array([i]))
        if late:
            rows = rows.replace(quality=np.array([Quality.LATE]))
        watermark_ns = T0_NS + (max(seconds[: i + 1]) - 2) * S
        made.append(encode_block(Block(SourcePartition(RAW, 0), i, i + 1, watermark_ns, False, SOURCES, rows)))
    return made


def flows_topic(stage: Stage) -> str:
    return name(stage.settings, "flows")


async def test_ingest_publishes_before_it_acks_and_acks_with_the_watermark(stage: Stage) -> None:
    batch = stage.batch(RAW, [goflow2_v2(), goflow2_v2(time_received_ns=T0_NS + 9 * S)], at_ms=T0_NS // 10**6 + 9000)
    await ingest(stage, batch)
    assert stage.verbs() == ["publish", "ack"]
    assert stage.done[-1] == ("ack", (TP(RAW, 0), 2, str(T0_NS + 7 * S)))
    sent = [decode_block(o.value) for o in stage.publisher.sent if o.topic == flows_topic(stage)]
    assert [o.partition for o in stage.publisher.sent] == [0, 1]
    assert sum(len(b.rows) for b in sent) == 2
    assert {(b.from_offset, b.to_offset) for b in sent} == {(0, 2)}


async def test_ingest_goes_on_from_the_committed_watermark(stage: Stage) -> None:
    stage.consumer.committed[TP(RAW, 0)] = Committed(5, str(T0_NS + 60 * S))
    batch = stage.batch(RAW, [goflow2_v2()], first=5, at_ms=T0_NS // 10**6)
    await ingest(stage, batch)
    rows = FlowBatch.concat([decode_block(o.value).rows for o in stage.publisher.sent])
    assert rows.quality.tolist() == [Quality.LATE]
    assert decode_block(stage.publisher.sent[0].value).from_offset == 5


async def test_ingest_sends_each_bad_message_to_the_dead_letters_once_with_its_origin(stage: Stage) -> None:
    bad = [b"", b"\xff\xff\xff"]
    await ingest(stage, stage.batch(RAW, [goflow2_v2(), *bad, None], first=10, at_ms=T0_NS // 10**6))
    letters = [schemas.single_object_decode(o.value)[1] for o in stage.publisher.sent if "dead-letters" in o.topic]
    assert [(x["topic"], x["partition"], x["offset"], x["payload"]) for x in letters] == [
        (RAW, 0, 11, bad[0]),
        (RAW, 0, 12, bad[1]),
    ]
    assert stage.value("records_consumed_total") == 4
    assert stage.value("records_rejected_total") == 2
    assert stage.value("records_skipped_total") == 1
    assert stage.value("rows_decoded_total") == 1


async def test_ingest_does_not_ack_a_batch_whose_partition_was_moved_meanwhile(stage: Stage) -> None:
    batch = stage.batch(RAW, [goflow2_v2()], at_ms=T0_NS // 10**6)
    agent = IngestAgent(stage.context)
    await agent.take(stage.batch(RAW, [goflow2_v2()], at_ms=T0_NS // 10**6))
    await agent.settle()
    stage.done.clear()
    stage.consumer.epochs[TP(RAW, 0)] = 7
    await agent.take(batch)
    await agent.settle()
    assert "ack" not in stage.verbs()


async def test_silence_is_written_down_only_at_the_end_of_the_partition(stage: Stage) -> None:
    silent = Stage(load(topics={"partitions": 2}, time={"idle_after_s": 0.1}))
    agent = IngestAgent(silent.context)
    tp = TP(RAW, 0)
    silent.consumer.assigned = {tp}
    silent.consumer.ends = {tp: 3}
    await agent.take(silent.batch(RAW, [goflow2_v2()], at_ms=T0_NS // 10**6))
    await agent.settle()
    agent._sources[tp].active_at -= 60
    silent.done.clear()
    silent.publisher.sent.clear()
    await agent.advance_idle()
    assert silent.publisher.sent == [], "messages 1 and 2 are still to be read"
    silent.consumer.ends = {tp: 1}
    await agent.advance_idle()
    sent = [decode_block(o.value) for o in silent.publisher.sent]
    assert all(b.idle and b.watermark_ns > T0_NS + 50 * S for b in sent)
    assert silent.verbs() == ["publish", "state"]


async def test_results_are_sent_before_progress_is_stored_before_batches_are_acked(stage: Stage) -> None:
    await take(analyses(stage), stage.batch(flows_topic(stage), blocks([0, 20, 40])))
    await take(analyses(stage), stage.batch(flows_topic(stage), blocks([0, 20, 40])))
    verbs = stage.verbs()
    first = verbs.index("publish")
    assert verbs[first : first + 3] == ["publish", "keep", "progress"]
    assert "ack" not in verbs[: verbs.index("progress")]
    assert stage.value("results_sent_total") >= 2


async def test_progress_is_stored_only_when_the_results_are_acknowledged_while_the_next_batch_is_computed(
    stage: Stage,
) -> None:
    agent, topic = analyses(stage), flows_topic(stage)
    made = blocks([0, 20, 40, 60])
    stage.publisher.open.clear()
    await agent.take(stage.batch(topic, made[:2]))
    await agent.take(stage.batch(topic, made[2:3], first=2))
    third = asyncio.create_task(agent.take(stage.batch(topic, made[3:], first=3)))
    await until(lambda: len(stage.publisher.calls) == 2)
    assert stage.publisher.sent, "results of both batches are on their way"
    assert stage.verbs() == []
    assert not third.done(), "no more than two batches are on their way"
    stage.publisher.open.set()
    await third
    await agent.settle()
    batch = ["publish", "keep", "progress"]
    assert stage.verbs() == [*batch, *batch, "ack", *batch, "ack"]
    assert [at for verb, at in stage.done if verb == "progress"] == [1, 2, 3]
    assert [at[1] for verb, at in stage.done if verb == "ack"] == [2, 3]


async def test_an_acknowledgement_that_overtakes_another_stores_nothing_before_it(stage: Stage) -> None:
    agent, topic = analyses(stage), flows_topic(stage)
    made = blocks([0, 20, 40])
    gates = [asyncio.Event(), asyncio.Event()]
    stage.publisher.gates = gates
    await agent.take(stage.batch(topic, made[:2]))
    await agent.take(stage.batch(topic, made[2:], first=2))
    await until(lambda: len(stage.publisher.calls) == 2)
    gates[1].set()
    await until(lambda: "publish" in stage.verbs())
    for _ in range(20):
        await asyncio.sleep(0)
    assert stage.verbs() == ["publish"]
    gates[0].set()
    await agent.settle()
    progress = [at for verb, at in stage.done if verb == "progress"]
    assert len(progress) == 2
    assert progress == sorted(progress)


async def test_results_that_cannot_be_sent_end_the_worker_and_nothing_after_them_is_stored(stage: Stage) -> None:
    agent, topic = analyses(stage), flows_topic(stage)
    made = blocks([0, 20, 40])
    calls = []

    async def refuse_first(records: Iterable[object]) -> Awaitable[None]:
        calls.append(len(list(records)))
        if len(calls) == 1:
            raise RuntimeError("no broker")
        return asyncio.sleep(0)

    stage.publisher.enqueue = refuse_first  # type: ignore[assignment,method-assign]
    await agent.take(stage.batch(topic, made[:2]))
    await agent.take(stage.batch(topic, made[2:], first=2))
    await until(lambda: len(calls) == 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert [str(e) for e in stage.crashed] == ["no broker"]
    assert stage.verbs() == []


async def test_a_batch_with_rows_of_an_open_or_looked_back_pane_stays_unacked(stage: Stage) -> None:
    agent = analyses(stage)
    topic = flows_topic(stage)
    made = blocks([0, 1, 40, 41, 80])
    await take(agent, stage.batch(topic, made[:2]))
    await take(agent, stage.batch(topic, made[2:4], first=2))
    assert [a for v, a in stage.done if v == "ack"] == [(TP(topic, 0), 2, "")]
    await take(agent, stage.batch(topic, made[4:], first=4))
    assert [a for v, a in stage.done if v == "ack"][1:] == [(TP(topic, 0), 4, "")]


async def test_a_batch_that_became_void_while_it_was_computed_leaves_no_trace(stage: Stage) -> None:
    agent = analyses(stage)
    batch = stage.batch(flows_topic(stage), blocks([0, 20, 40]))
    stage.publisher.before_return = lambda: stage.consumer.epochs.update({batch.tp: 1})
    await take(agent, batch)
    assert stage.verbs() == ["publish"]
    assert stage.publisher.stored == {}


async def test_progress_older_than_the_committed_offset_is_read_again_from_its_position(stage: Stage) -> None:
    topic = flows_topic(stage)
    made = blocks([0, 20, 40, 60])
    before = analyses(stage)
    await take(before, stage.batch(topic, made[:2]))
    position = stage.publisher.stored[0].position
    assert position < 3
    late_start = stage.batch(topic, made[3:], first=3)
    after = analyses(stage)
    stage.done.clear()
    await take(after, late_start)
    assert stage.done == [("rewind", (TP(topic, 0), position))]
    await take(after, stage.batch(topic, made[position:], first=position))
    assert "progress" in stage.verbs()


async def test_progress_whose_offsets_are_gone_is_gone_on_with_and_said(stage: Stage, caplog) -> None:
    topic = flows_topic(stage)
    made = blocks([0, 20, 40, 60])
    await take(analyses(stage), stage.batch(topic, made[:2]))
    stage.consumer.start = 3
    await take(analyses(stage), stage.batch(topic, made[3:], first=3))
    assert "are gone" in caplog.text
    assert stage.value("block_gaps_total") >= 1


async def test_what_is_not_a_block_is_a_dead_letter_and_the_rest_goes_on(stage: Stage) -> None:
    made = blocks([0, 20])
    await take(analyses(stage), stage.batch(flows_topic(stage), [made[0], b"junk", made[1]]))
    letters = [schemas.single_object_decode(o.value)[1] for o in stage.publisher.sent if "dead-letters" in o.topic]
    assert [(x["offset"], x["payload"]) for x in letters] == [(1, b"junk")]
    assert stage.value("blocks_rejected_total") == 1
    assert stage.value("rows_applied_total") == 2


async def test_late_rows_are_published_as_they_are_and_counted(stage: Stage) -> None:
    await take(analyses(stage), stage.batch(flows_topic(stage), blocks([5], late=True)))
    (sent,) = [o for o in stage.publisher.sent if o.topic == name(stage.settings, "late")]
    assert decode_block(sent.value).rows.time_ns.tolist() == [T0_NS + 5 * S]
    assert stage.value("rows_late_total") == 1
    assert stage.value("rows_applied_total") == 0


async def test_progress_of_another_pane_length_stops_the_worker_with_a_reason(stage: Stage) -> None:
    stage.publisher.stored[0] = msgspec.structs.replace(Analysis([], 1).progress())
    await take(analyses(stage), stage.batch(flows_topic(stage), blocks([0])))
    assert "time.pane_s" in str(stage.crashed[0])
    assert stage.verbs() == []


async def test_a_batch_that_cannot_be_processed_ends_the_worker_rather_than_being_skipped(stage: Stage) -> None:
    agent = IngestAgent(stage.context)

    async def refuse(_records: object) -> None:
        raise RuntimeError("no room")

    stage.publisher.enqueue = refuse  # type: ignore[assignment,method-assign]
    batches = [stage.batch(RAW, [goflow2_v2()], first=i, at_ms=T0_NS // 10**6) for i in range(2)]
    running = asyncio.create_task(agent.run(FakeStream(batches)))
    done, _ = await asyncio.wait({running}, timeout=1)
    running.cancel()
    assert not done, "the agent must not go on to the end of its stream"
    assert [str(e) for e in stage.crashed] == ["no room"], "the second batch must not be tried"
    assert "ack" not in stage.verbs()
