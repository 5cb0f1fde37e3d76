"""Which source partitions are said to hold nobody back, and when."""

from __future__ import annotations

import time

import pytest
from faust.types import TP

from agents.ingest import IngestAgent
from flowstream.blocks import Block, decode_block
from flowstream.settings import load
from tests.agents.fakes import Stage
from tests.builders import goflow2_v2

RAW = "flow-messages"
S = 1_000_000_000


class Mute:
    """A source partition in which records come all the time, and the agent that reads it."""

    def __init__(self) -> None:
        self.stage = Stage(load(topics={"partitions": 1}, time={"idle_after_s": 30}))
        self.agent = IngestAgent(self.stage.context)
        self.tp = TP(RAW, 0)
        self.now_ns = time.time_ns()
        self.stage.consumer.assigned = {self.tp}
        self.next = 0

    async def take(self, *values: bytes, behind_s: float = 0, ends: int | None = None) -> None:
        batch = self.stage.batch(RAW, list(values), self.next, at_ms=self.now_ns // 10**6 - round(behind_s * 1000))
        self.next += len(values)
        self.stage.consumer.ends = {self.tp: self.next if ends is None else ends}
        await self.agent.take(batch)
        await self.agent.settle()

    def row(self, seconds: float = 0) -> bytes:
        return goflow2_v2(time_received_ns=self.now_ns + round(seconds * S))

    async def said_idle(self) -> list[Block]:
        self.stage.publisher.sent.clear()
        await self.agent.advance_idle()
        return [decode_block(sent.value) for sent in self.stage.publisher.sent]

    def nothing_on_time_for(self, seconds: float) -> None:
        self.agent._sources[self.tp].on_time_at -= seconds


@pytest.mark.parametrize("bad", ["no flow", "late"])
async def test_a_partition_of_which_nothing_is_on_time_holds_nobody_back_and_its_watermark_stays(bad: str) -> None:
    mute = Mute()
    await mute.take(mute.row(-5))
    before = mute.agent._sources[mute.tp].ingest.watermark_ns
    value = b"\xff\xff" if bad == "no flow" else mute.row(-7200)
    await mute.take(value)
    assert await mute.said_idle() == [], "it was on time just now"
    mute.nothing_on_time_for(31)
    await mute.take(value, ends=1000)
    (block,) = await mute.said_idle()
    assert (block.idle, block.watermark_ns, len(block.rows)) == (True, before, 0)
    assert await mute.said_idle() == [], "once is enough"
    mute.stage.publisher.sent.clear()
    await mute.take(value)
    assert decode_block(mute.stage.publisher.sent[0].value).idle, "what comes meanwhile does not hold time back again"
    mute.stage.publisher.sent.clear()
    await mute.take(mute.row())
    assert not decode_block(mute.stage.publisher.sent[0].value).idle
    mute.nothing_on_time_for(5)
    assert await mute.said_idle() == []


async def test_what_was_written_long_ago_is_not_yet_the_end() -> None:
    mute = Mute()
    await mute.take(b"\xff\xff", behind_s=7200, ends=1000)
    mute.nothing_on_time_for(31)
    assert await mute.said_idle() == []
    await mute.take(b"\xff\xff", behind_s=7200)
    assert len(await mute.said_idle()) == 1, "all is read"
