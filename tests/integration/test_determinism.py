"""Results are a function of the flows log: not of how many workers read it, how it is cut, or who is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from flowstream.blocks import decode_block
from flowstream.links import LinkTable
from flowstream.operators import one_by_one
from flowstream.pipeline import PartitionAnalysis
from flowstream.results import ResultEncoder
from flowstream.topics import STREAMS
from tests.integration.kafka import committed, read_all
from tests.integration.lab import Lab
from tests.integration.test_pipeline import LINKS, recorded
from tests.waiting import wait_for

Said = dict[tuple[str, int, bytes], bytes]  # value by stream, partition and key

#: Every stream has something to say, but for pairs in blocks, of which there are one or the other.
ANALYSES = {
    "FLOWSTREAM_DISTANCES__PAIRS": "tail",
    "FLOWSTREAM_DISTANCES__SCALING": "log",
    "FLOWSTREAM_QUALITY__SIZE_S": "10",
}


@pytest.fixture
def lab(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    (tmp_path / "one").mkdir()
    with Lab(broker, f"{topic_prefix}a", tmp_path / "one") as made:
        yield made


@pytest.fixture
def faulty(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    (tmp_path / "two").mkdir()
    with Lab(broker, f"{topic_prefix}b", tmp_path / "two") as made:
        yield made


def copy(lab: Lab, records: Sequence[Any]) -> None:
    """Put records of another flows topic on this lab's, byte for byte and partition for partition."""

    async def go() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=lab.broker, max_request_size=16 << 20)
        await producer.start()
        try:
            for record in records:
                await producer.send(lab.topic("flows"), record.value, key=record.key, partition=record.partition)
        finally:
            await producer.stop()

    asyncio.run(go())


def from_the_library(lab: Lab, records: Sequence[Any]) -> Said:
    """What the analyses say of the log, without Kafka, Faust, progress, or batches."""
    settings = lab.settings()
    settings = settings.model_copy(
        update={
            "distances": settings.distances.model_copy(update={"pairs": "tail", "scaling": "log"}),
            "quality": settings.quality.model_copy(update={"size_s": 10.0}),
        }
    )
    links, encoder = LinkTable.from_path(LINKS), ResultEncoder()
    parts = {p: PartitionAnalysis(settings, links) for p in {r.partition for r in records}}
    said: Said = {}
    for record in records:
        block = decode_block(record.value)
        outcome = parts[record.partition].apply(record.offset, block)
        for result in one_by_one(outcome.results):
            said[result.stream, record.partition, result.key.encode()] = encoder.encode(result)
    return said


def from_kafka(lab: Lab) -> Said:
    """What the result topics hold: the last value of each key."""
    analyses = lab.settings().analyses
    there = [stream for stream, by in STREAMS.items() if by in analyses and stream != "distance-pair-blocks"]
    return {(s, r.partition, r.key): r.value for s in there for r in read_all(lab.broker, lab.topic(s))}


def test_the_same_flows_log_gives_the_same_bytes_whoever_reads_it_and_whoever_is_killed(lab: Lab, faulty: Lab):
    values = recorded()
    lab.prepare(LINKS, raw_partitions=3)
    faulty.prepare(LINKS, raw_partitions=3)
    lab.send(values, partitions=3)
    ingest = lab.worker("ingest", FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="20000")
    wait_for(lambda: ingest.metric("records_consumed_total") == len(values), "every message")
    wait_for(lambda: _are_all_idle(lab), "the log to say that nothing more comes")
    assert ingest.stop() == 0
    log = read_all(lab.broker, lab.topic("flows"))
    expected = from_the_library(lab, log)
    assert {stream for stream, _, _ in expected} == {"distances", "distance-pairs", "elephants", "sources"}

    lab.worker("analyses", **ANALYSES)
    copy(faulty, log[: len(log) // 2])
    # A fetch is cut at 4 KiB in one run and at 2 MiB in the other; whoever is killed has read, said and not committed.
    first = faulty.worker("analyses", FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="4096", **ANALYSES)
    wait_for(lambda: first.metric("results_sent_total") > 20, "results of the worker that is to be killed")
    faulty.worker("analyses", FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="30000", **ANALYSES)
    copy(faulty, log[len(log) // 2 :])
    first.kill()
    for run, what in ((lab, "the undisturbed run"), (faulty, "the run with a kill")):
        wait_for(lambda run=run: from_kafka(run) == expected, f"{what} to say what the library says", 60)


def _are_all_idle(lab: Lab) -> bool:
    """Say whether the last block of every source partition, in every partition of the log, is an idle one."""
    if any(committed(lab.broker, lab.app).get((lab.raw, p), (0, ""))[0] == 0 for p in range(3)):
        return False
    last = {
        (r.partition, (b := decode_block(r.value)).source): b.idle for r in read_all(lab.broker, lab.topic("flows"))
    }
    return len(last) == 12 and all(last.values())
