"""After a known run every sample of the registry is what it should be: the whole registry is compared.

The agents are real; the consumer, the publisher and the table store are lists and dictionaries. What the
ingest agent publishes to the flows topic is handed to the analyses agent, with accidents in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from faust.types import TP
from prometheus_client import CollectorRegistry

from agents.analyses import AnalysesAgent
from agents.batches import Committed, FetchedBatch
from agents.context import Context
from agents.delivery import AtLeastOnce
from agents.ingest import IngestAgent
from agents.publisher import Outgoing, OutgoingRun
from agents.tables import Tables
from flowstream import schemas
from flowstream.analysis import Progress
from flowstream.batch import FlowBatch
from flowstream.blocks import decode_block
from flowstream.decode import Payloads, decode
from flowstream.links import LinkTable
from flowstream.metrics import Metrics
from flowstream.record_batches import LegacyBatch
from flowstream.recordings import Recording
from flowstream.results import ResultEncoder
from flowstream.settings import Settings
from flowstream.topology import Topology
from tests.agents.fakes import FakeProgressLog
from tests.builders import delimited, goflow2_v2
from tests.golden import DATA

CLOS = DATA / "clos_60s_goflow2_v2.bin.gz"
SECOND = 10**9
START_NS = 1_795_224_797 * SECOND
OF_MERGES = [f"partials_{n}_total" for n in ("applied", "late", "duplicate", "refused", "panes_closed")]
PRESENT = object()  # a sample that must be there, and above zero, but depends on the clock

Sample = tuple[str, tuple[tuple[str, str], ...]]


class FakeConsumer:
    """Knows how long each partition is, and what was acked."""

    def __init__(self, ends: dict[TP, int]) -> None:
        self.ends = ends
        self.committed: dict[TP, Committed] = {}
        self.acked: list[tuple[TP, int]] = []
        self.flow_active = True

    def epoch(self, tp: TP) -> int:
        return 1

    def assignment(self) -> set[TP]:
        return set(self.ends)

    def lag(self, tp: TP, next_offset: int | None) -> int | None:
        end = self.ends.get(tp)
        return None if end is None else max(0, end - (next_offset or 0))

    async def partition_count(self, topic: str) -> int:
        return sum(tp.topic == topic for tp in self.ends)

    def ack_batch(self, batch: FetchedBatch, state: str = "") -> None:
        self.acked.append((batch.tp, batch.next_offset))

    def revise_state(self, tp: TP, state: str) -> None:
        raise AssertionError(f"{tp} was not idle")


class FakeTable(dict[bytes, bytes]):
    """A table without a store, to which serializers can be given in vain."""

    key_serializer = value_serializer = ""


class FakePublisher:
    """Keeps what was published, by topic and partition."""

    def __init__(self) -> None:
        self.sent: dict[TP, list[Outgoing]] = defaultdict(list)

    async def publish(self, records: Any) -> None:
        await (await self.enqueue(records))

    async def enqueue(self, records: Any) -> Awaitable[Any]:
        for some in records:
            for record in some if isinstance(some, OutgoingRun) else [some]:
                self.sent[TP(record.topic, record.partition)].append(record)
        return asyncio.sleep(0)

    def topic(self, name: str) -> list[Outgoing]:
        return [record for tp in sorted(self.sent) if tp.topic == name for record in self.sent[tp]]


class StoredProgress(FakeProgressLog):
    """Reads progress where it was published."""

    async def read(self, partition: int) -> Progress | None:
        stored = self._publisher.sent[TP("progress", partition)]
        return Progress.decode(stored[-1].value) if stored else None


def make() -> tuple[Context, FakeConsumer, FakePublisher, Tables]:
    settings = Settings(topics={"partitions": 2}, inputs=({"topic": "raw", "format": "goflow"},))
    consumer, publisher = FakeConsumer({TP("raw", 0): 0}), FakePublisher()
    app = SimpleNamespace(
        consumer=consumer, log=logging.getLogger("test"), Table=lambda *_, **__: FakeTable(), producer=AsyncMock()
    )
    metrics = Metrics(CollectorRegistry())
    context = Context(settings, metrics, publisher, ResultEncoder(), app)  # type: ignore[arg-type]
    return context, consumer, publisher, Tables(app, settings, metrics)


def fetched(tp: TP, values: list[Any], first: int, consumer: FakeConsumer) -> FetchedBatch:
    """Values from an offset on, written to the log when the recording was over."""
    time_ms = (START_NS + 120 * SECOND) // 10**6  # nothing in the recording is ahead of its log
    records = LegacyBatch([(offset, time_ms, value) for offset, value in enumerate(values, first)])
    return FetchedBatch(tp, [records], 1, consumer)  # type: ignore[arg-type]


def samples(metrics: Metrics) -> dict[Sample, float]:
    """Every sample of the registry but the times at which counters were made and single buckets."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket"))
    }


def labelled(name: str, **labels: str) -> Sample:
    return f"flowstream_{name}", tuple(sorted(labels.items()))


BAD: dict[Any, str] = {b"": "empty", b"\xff" * 7: "malformed", delimited(goflow2_v2())[:-9]: "truncated"}
LATE = delimited(goflow2_v2(time_received_ns=START_NS - 60 * SECOND))


class Run:
    """8,000 recorded messages with bad, late and null ones ingested; then blocks lost, repeated and spoilt."""

    def __init__(self) -> None:
        self.context, self.consumer, self.publisher, self.tables = make()
        recorded: list[Any] = list(Recording(CLOS).messages())[:8000]
        self.values = [*recorded[:5000], *BAD, LATE, LATE, None, *recorded[5000:]]
        self.handed: dict[int, list[bytes]] = {}
        self.batches = 0

    async def ingest(self) -> None:
        raw = TP("raw", 0)
        self.consumer.ends[raw] = len(self.values) + 7  # seven more than will be read
        agent = IngestAgent(self.context)
        for first in range(0, len(self.values), 1000):
            await agent.take(fetched(raw, self.values[first : first + 1000], first, self.consumer))
        await agent.settle()

    async def analyse(self) -> None:
        delivery = AtLeastOnce(self.publisher, StoredProgress(self.publisher))  # type: ignore[arg-type]
        tables = SimpleNamespace(links=LinkTable.from_path(DATA / "clos_links.csv"), topology=Topology())
        agent = AnalysesAgent(self.context, self.tables, tables, delivery)  # type: ignore[arg-type]
        for partition in range(2):
            flows = TP("flowstream.flows.v1", partition)
            blocks = [record.value for record in self.publisher.sent[flows]]
            if partition == 0:
                self.repeated = blocks[2]
                blocks[3:3] = [blocks[2], b"not a block"]
            else:
                self.lost = blocks.pop(6)
            self.handed[partition], self.consumer.ends[flows] = blocks, len(blocks) + partition
            for first in range(0, len(blocks), 4):
                await agent.take(fetched(flows, blocks[first : first + 4], first, self.consumer))
                self.batches += 1
        await agent.settle()

    def rows(self, partition: int) -> list[FlowBatch]:
        """The rows that reached a partition, each once."""
        once = dict.fromkeys(block for block in self.handed[partition] if block != b"not a block")
        return [decode_block(block).rows for block in once]


@pytest.fixture
async def finished() -> Run:
    run = Run()
    await run.ingest()
    await run.analyse()
    run.tables.count_entries({0, 1})
    return run


async def test_after_a_known_run_the_whole_registry_is_as_expected(finished):
    run = finished
    rows = {p: [r for block in run.rows(p) for r in block.time_ns.tolist()] for p in range(2)}
    late_ns = START_NS - 60 * SECOND
    on_time = {p: [t for t in times if t != late_ns] for p, times in rows.items()}
    everything = decode("goflow", Payloads.from_values(run.values)).flows.time_ns
    closed = (int(everything.max()) - 2 * SECOND) // SECOND
    published = Counter(r.topic for sent in run.publisher.sent.values() for r in sent if r.topic != "progress")
    results = {t: n for t, n in published.items() if t.split(".")[1] not in {"flows", "late", "dead-letters"}}
    assert len(results) >= 3
    expected: dict[Sample, Any] = {
        labelled("records_consumed_total", topic="raw", format="goflow"): len(run.values),
        labelled("records_skipped_total", topic="raw"): 1,
        labelled("rows_decoded_total", format="goflow"): 8002,
        labelled("rows_applied_total"): len(on_time[0]) + len(on_time[1]),
        labelled("rows_late_total"): 2,
        labelled("rows_duplicate_total"): len(decode_block(run.repeated).rows),
        labelled("block_gaps_total"): 1000,
        labelled("blocks_rejected_total"): 1,
        labelled("panes_closed_total"): sum(closed - min(on_time[p]) // SECOND for p in range(2)),
        **dict.fromkeys(map(labelled, (*OF_MERGES, "flows_refused_total")), 0),
        labelled("rebalances_total"): 0,  # the worker counts these: see the test of a real one
        labelled("broker_silence_seconds"): 0,
        labelled("offset_lag", topic="raw", partition="0"): 7,
        labelled("offset_lag", topic="flowstream.flows.v1", partition="0"): 0,
        labelled("offset_lag", topic="flowstream.flows.v1", partition="1"): 1,
        labelled("table_entries", table="progress"): 2,
        labelled("table_entries", table="sources"): results["flowstream.sources.v1"],
        labelled("decode_seconds_count"): 9,
        labelled("decode_seconds_sum"): PRESENT,
        labelled("pane_seconds_count"): run.batches,
        labelled("pane_seconds_sum"): PRESENT,
    }
    for partition in range(2):
        label = {"partition": str(partition)}
        waiting = sum(t // SECOND >= closed for t in on_time[partition])
        expected[labelled("rows_open", **label)] = waiting
        expected[labelled("watermark_lag_seconds", **label)] = PRESENT
    for reason in BAD.values():
        expected[labelled("records_rejected_total", topic="raw", reason=reason)] = 1
    for topic, count in results.items():
        expected[labelled("results_sent_total", topic=topic)] = count
    measured = samples(run.context.metrics)
    for key in [key for key, value in expected.items() if value is PRESENT]:
        assert measured[key] != 0
        measured[key] = PRESENT
    assert measured == expected


async def test_every_metric_moves_in_it_but_those_of_a_whole_worker_of_merges_and_of_flow_records(finished):
    moved = {name for (name, _), value in samples(finished.context.metrics).items() if value}
    all_of_them = {family.name for family in finished.context.metrics.registry.collect()}
    still = {family for family in all_of_them if not {family, f"{family}_total", f"{family}_count"} & moved}
    elsewhere = ("rebalances", "worker_up", "requests_unanswered", "broker_silence_seconds", "flows_refused")
    assert still == {f"flowstream_{name}" for name in elsewhere} | {n for n in all_of_them if "_partials_" in n}


async def test_the_sums_of_the_ledger_hold_in_the_metrics(finished):
    measured: Counter[str] = Counter()
    for (name, _), value in samples(finished.context.metrics).items():
        measured[name.removeprefix("flowstream_").removesuffix("_total")] += value
    assert measured["records_consumed"] == (
        measured["rows_decoded"] + measured["records_rejected"] + measured["records_skipped"]
    )
    lost = len(decode_block(finished.lost).rows)
    repeated = measured["rows_duplicate"]
    assert measured["rows_decoded"] - lost == measured["rows_applied"] + measured["rows_late"]
    assert repeated > 0 < lost


async def test_what_was_counted_was_published(finished):
    measured = samples(finished.context.metrics)
    letters = [schemas.single_object_decode(r.value)[1] for r in finished.publisher.topic("flowstream.dead-letters.v1")]
    assert Counter(letter["reason"] for letter in letters if letter["topic"] == "raw") == {
        reason: measured[labelled("records_rejected_total", topic="raw", reason=reason)] for reason in BAD.values()
    }
    refused = [letter for letter in letters if letter["format"] == "flow-block"]
    assert [(letter["topic"], letter["payload"]) for letter in refused] == [("flowstream.flows.v1", b"not a block")]
    late = [decode_block(r.value).rows for r in finished.publisher.topic("flowstream.late.v1")]
    assert sum(map(len, late)) == measured[labelled("rows_late_total")]


async def test_no_label_has_an_address_and_every_name_has_our_prefix(finished):
    for name, labels in samples(finished.context.metrics):
        assert name.startswith("flowstream_")
        assert {label for label, _ in labels} <= {"topic", "format", "reason", "partition", "table"}
        assert not any(value.count(".") == 3 or ":" in value for _, value in labels)


async def test_events_are_acked_only_up_to_the_position_of_the_progress(finished):
    for partition in range(2):
        progress = await StoredProgress(finished.publisher).read(partition)
        assert progress is not None
        flows = TP("flowstream.flows.v1", partition)
        acked = [offset for tp, offset in finished.consumer.acked if tp == flows]
        assert acked == sorted(acked)
        assert max(acked, default=0) <= progress.position <= len(finished.handed[partition])
    raw = [offset for tp, offset in finished.consumer.acked if tp == TP("raw", 0)]
    assert raw[-1] == len(finished.values)
