"""A record batch that cannot be read is one dead letter with its offsets; what lies around it is processed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from faust.types import TP

from agents.analyses import AnalysesAgent
from agents.batches import FetchedBatch
from agents.ingest import IngestAgent
from flowstream import schemas
from flowstream.blocks import decode_block
from flowstream.record_batches import UNPACKED_BYTES_MAX, LegacyBatch
from flowstream.settings import load
from tests.agents.fakes import Stage
from tests.agents.test_codecs import PACK, batch
from tests.builders import goflow2_v2

ZSTD = 4
BOMB = PACK[ZSTD][0](bytes(UNPACKED_BYTES_MAX + 1))


@pytest.fixture
def stage() -> Stage:
    return Stage(
        load(inputs=({"topic": "raw", "format": "goflow"},), topics={"partitions": 1}, time={"idle_after_s": 1})
    )


def fetched(stage: Stage, topic: str, *batches: Any) -> FetchedBatch:
    return FetchedBatch(TP(topic, 0), batches, 0, stage.consumer)  # type: ignore[arg-type]


def letters(stage: Stage) -> list[tuple[dict[str, Any], str]]:
    """The dead letters, each with the range of offsets in its header."""
    sent = [r for r in stage.publisher.sent if r.topic == "flowstream.dead-letters.v1"]
    return [(schemas.single_object_decode(r.value)[1], dict(r.headers).get("source", b"").decode()) for r in sent]


def flow(offset: int) -> LegacyBatch:
    return LegacyBatch([(offset, 1_795_224_800_000, goflow2_v2())])


async def test_ingest_goes_on_and_its_blocks_leave_no_gap(stage) -> None:
    agent = IngestAgent(stage.context)
    garbage = batch(ZSTD, b"not zstd", 3, 19)
    await agent.take(fetched(stage, "raw", flow(5), batch(ZSTD, BOMB, 13, 6), garbage, flow(22)))
    await agent.take(fetched(stage, "raw", batch(ZSTD, BOMB, 2, 23)))
    await agent.take(fetched(stage, "raw", flow(25)))
    await agent.settle()
    told = [(letter["offset"], letter["reason"], letter["format"], source) for letter, source in letters(stage)]
    assert told == [
        (6, "too_large", "record-batch", "raw-0:6-18"), (19, "malformed", "record-batch", "raw-0:19-21"),
        (23, "too_large", "record-batch", "raw-0:23-24"),
    ]  # fmt: skip
    blocks = [decode_block(r.value) for r in stage.publisher.sent if r.topic == "flowstream.flows.v1"]
    ranges = [(block.from_offset, block.to_offset) for block in blocks]
    assert ranges[0][0] == 5
    assert ranges[-1][1] == 26
    assert [(a, b) for (_, a), (b, _) in pairwise(ranges) if a != b] == []
    assert sum(len(block.rows) for block in blocks) == 3
    acked = [what for verb, what in stage.done if verb == "ack"]
    assert [position for _, position, _ in acked] == [23, 25, 26]
    assert stage.crashed == []
    assert stage.value("records_consumed_total") == 3 + 13 + 3 + 2
    assert stage.value("records_rejected_total") == 13 + 3 + 2


async def test_a_dead_letter_holds_the_batch_as_it_was_fetched_up_to_the_bound_of_all_dead_letters(stage) -> None:
    agent = IngestAgent(stage.context)
    large = batch(0, bytes(100_000), 2**20, 0)._replace(next_offset=1)
    await agent.take(fetched(stage, "raw", large))
    await agent.settle()
    ((letter, _),) = letters(stage)
    assert letter["payload"] == large.wire.tobytes()[: 64 << 10]
    assert letter["payload_bytes"] == len(large.wire)


async def test_the_analysis_goes_on_too(stage) -> None:
    agent = AnalysesAgent(stage.context, stage.tables, stage.inventory, stage.delivery)
    flows = "flowstream.flows.v1"
    await agent.take(fetched(stage, flows, batch(ZSTD, BOMB, 4, 0), LegacyBatch([(4, 0, b"not a block")])))
    await agent.settle()
    told = [(letter["offset"], letter["reason"], letter["format"], source) for letter, source in letters(stage)]
    assert sorted(told) == [(0, "too_large", "record-batch", f"{flows}-0:0-3"), (4, "malformed", "flow-block", "")]
    assert stage.value("blocks_rejected_total") == 5
    assert stage.crashed == []
