"""The agents of both stages with fakes around them: in which order partials, results and progress are sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from agents import analyses as module
from agents.analyses import AnalysesAgent
from flowstream import merging
from flowstream.batch import FlowType
from flowstream.blocks import Block, SourcePartition, decode_partials, encode_block
from flowstream.errors import StateError
from flowstream.link_use import LinkUse, LinkUseConfig
from flowstream.links import LinkTable
from flowstream.merging import PartitionMerges
from flowstream.operators import Pane, Said
from flowstream.partials import PartialBatch
from flowstream.partition_work import Refuses
from flowstream.settings import load
from flowstream.topics import name
from tests.agents.fakes import Stage
from tests.agents.test_agents import blocks
from tests.builders import T0_NS, flows
from tests.merged_sums import MergedSums


class KeepingSums(MergedSums):
    """Takes back what it kept."""

    kept_stream = "sources"

    def load(self, values: Iterable[Mapping[str, Any]]) -> None:
        """Count what was kept as panes."""
        self.panes = sum(value["panes"] for value in values)


class FullSums(MergedSums):
    """Has no room for any row."""

    refused = 0

    def process(self, panes: Sequence[Pane[PartialBatch]]) -> list[Said]:
        """Leave the pane out."""
        self.refused += len(panes[-1].rows)
        return []


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(merging, "build_merging_operators", lambda *_: [MergedSums()])
    return Stage(load(topics={"partitions": 2}, analyses=("quality", "links")))


def agent(stage: Stage, work: type = module.PartitionAnalysis) -> AnalysesAgent:
    return AnalysesAgent(stage.context, None, stage.inventory, stage.delivery, work)  # type: ignore[arg-type]


async def take(stage: Stage, agent: AnalysesAgent, stream: str, values: list[bytes], partition: int = 0) -> None:
    await agent.take(stage.batch(name(stage.settings, stream), values, partition=partition))
    await agent.settle()


def partials(stage: Stage) -> list[tuple[int, bytes]]:
    topic = name(stage.settings, "partials")
    return [(record.partition, record.value) for record in stage.publisher.sent if record.topic == topic]


async def test_every_partition_is_told_once_for_a_batch_and_before_its_progress_is_stored(stage: Stage) -> None:
    await take(stage, agent(stage), "flows", blocks([0, 3, 6, 9]))
    said = partials(stage)
    assert [partition for partition, _ in said] == [0, 1]
    assert stage.verbs().index("publish") < stage.verbs().index("progress")
    ranges = {(b.from_offset, b.to_offset, b.watermark_ns) for b in (decode_partials(value) for _, value in said)}
    assert len(ranges) == 1
    assert sum(len(decode_partials(value).rows) for _, value in said) > 0


async def test_a_batch_that_closes_nothing_tells_nothing(stage: Stage) -> None:
    one, twice = agent(stage), blocks([0, 0])
    await take(stage, one, "flows", twice[:1])
    said = len(partials(stage))
    await one.take(stage.batch(name(stage.settings, "flows"), twice[1:], first=1))
    await one.settle()
    assert (said, len(partials(stage))) == (2, 2)


async def test_merges_store_progress_of_their_own_and_count_apart_from_flows(stage: Stage) -> None:
    for partition in range(2):
        await take(stage, agent(stage), "flows", blocks([0, 3, 6, 9]), partition)
    told = [value for partition, value in partials(stage) if partition == 0]
    rows = stage.value("rows_applied_total")
    stage.publisher.stored.clear()
    stage.publisher.sent.clear()
    await take(stage, agent(stage, PartitionMerges), "partials", told)
    assert stage.publisher.stored[0].closed is not None
    assert {record.topic for record in stage.publisher.sent} == {name(stage.settings, "sources")}
    assert stage.value("rows_applied_total") == rows
    assert stage.value("partials_applied_total") == sum(len(decode_partials(value).rows) for value in told)
    assert stage.value("partials_duplicate_total") == stage.value("block_gaps_total") == 0


async def test_rows_that_an_operator_has_no_room_for_are_counted_once(stage: Stage, monkeypatch) -> None:
    assert isinstance(LinkUse(LinkUseConfig(), 10**9, LinkTable()), Refuses)
    monkeypatch.setattr(merging, "build_merging_operators", lambda *_: [FullSums()])
    for partition in range(2):
        await take(stage, agent(stage), "flows", blocks([0, 3, 6, 9]), partition)
    told = [value for partition, value in partials(stage) if partition == 0]
    stage.publisher.stored.clear()
    merges = agent(stage, PartitionMerges)
    await take(stage, merges, "partials", told)
    (part,) = merges._parts.values()
    left_out = part.work.operators[0].refused  # type: ignore[attr-defined]
    assert 0 < left_out == stage.value("partials_refused_total")
    again = stage.batch(name(stage.settings, "partials"), told[-1:], first=len(told))
    await merges.take(again)  # brings nothing new
    await merges.settle()
    assert left_out == stage.value("partials_refused_total")


async def test_flows_that_could_not_be_remembered_are_counted_apart_from_rows_of_merges() -> None:
    stage = Stage(load(topics={"partitions": 1}, analyses=("sources",), counting={"flows_max": 1}))
    rows = flows(
        4, time_ns=T0_NS, exporter="192.0.2.1", src_port=[1, 2, 3, 3], flow_type=int(FlowType.IPFIX),
        origin_offset=range(4),
    )  # fmt: skip
    block = Block(SourcePartition("raw", 0), 0, 4, T0_NS + 10**9, False, (("raw", 1),), rows)
    await take(stage, agent(stage), "flows", [encode_block(block)])
    assert (stage.value("flows_refused_total"), stage.value("partials_refused_total")) == (2, 0)


async def test_what_is_no_block_of_partials_is_a_dead_letter(stage: Stage) -> None:
    await take(stage, agent(stage, PartitionMerges), "partials", [b"x", blocks([0])[0]])
    assert [record.topic for record in stage.publisher.sent] == [name(stage.settings, "dead-letters")] * 2
    assert stage.value("blocks_rejected_total") == 2


@pytest.mark.parametrize("is_readable", [True, False])
async def test_what_an_operator_keeps_is_loaded_before_the_first_block(stage: Stage, monkeypatch, is_readable) -> None:
    async def kept(*_: Any) -> list[dict[str, Any]]:
        if not is_readable:
            raise StateError("of another version")
        return [{"panes": 40}, {"panes": 2}]

    monkeypatch.setattr("agents.kept._last_values", kept)
    monkeypatch.setattr(merging, "build_merging_operators", lambda *_: [KeepingSums()])
    for partition in range(2):
        await take(stage, agent(stage), "flows", blocks([0, 3, 6, 9]), partition)
    told = [value for partition, value in partials(stage) if partition == 0]
    stage.publisher.stored.clear()
    merges = agent(stage, PartitionMerges)
    await take(stage, merges, "partials", [encode_block(decode_partials(value)) for value in told])
    if not is_readable:
        assert [type(error) for error in stage.crashed] == [StateError]
        return
    (part,) = merges._parts.values()
    assert part.work.operators[0].panes > 42  # type: ignore[attr-defined]
