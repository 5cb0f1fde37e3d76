"""Two stages on a real broker: what is merged is what the file pipeline says, whoever is killed or comes between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowstream.links import LinkTable
from flowstream.operators import one_by_one
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.results import ResultEncoder
from tests.integration.kafka import read_all
from tests.integration.lab import Lab
from tests.integration.test_pipeline import LINKS, recorded
from tests.waiting import wait_for

ANALYSES = ["elephants", "links"]
AGENTS = "ingest,analyses,merges"
SAID = ("link-use", "link-events")  # percentiles are told at the end of the hour, which does not come
Said = dict[tuple[str, int, bytes], bytes]  # value by stream, partition and key

#: The recording's exporters send samples, of which nothing comes after the fact.
LINK_USE = {"interval_s": 5.0, "spread_max_s": 10.0, "threshold": 0.2, "for_intervals": 2}


@pytest.fixture
def lab(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    with Lab(broker, topic_prefix, tmp_path) as made:
        # Nothing is idle: what is sent later is not late, and what the end of the log leaves open stays so.
        made.change(analyses=ANALYSES, link_use=LINK_USE, time={"idle_after_s": 3600})
        yield made


def from_file(lab: Lab, values: list[bytes]) -> dict[tuple[str, bytes], bytes]:
    """What the file pipeline merges with the same settings."""
    pipeline = FilePipeline(lab.settings(), LinkTable.from_path(LINKS), lab.raw, "goflow")
    results = [r for payloads in in_batches(values, 1000) for r in pipeline.feed(payloads)] + pipeline.finish()
    encoder = ResultEncoder()
    return {(r.stream, r.key.encode()): encoder.encode(r) for r in one_by_one(results) if r.stream in SAID}


def from_kafka(lab: Lab) -> dict[tuple[str, bytes], bytes]:
    """What the result topics hold: the last value of each key, which is in one partition."""
    last: Said = {(s, r.partition, r.key): r.value for s in SAID for r in read_all(lab.broker, lab.topic(s))}
    assert len({(stream, key) for stream, _, key in last}) == len(last), "a key in two partitions"
    return {(stream, key): value for (stream, _, key), value in last.items()}


def before(said: dict[tuple[str, bytes], bytes], end: bytes) -> dict[tuple[str, bytes], bytes]:
    """What is said of intervals that start before a time, but for ends of events, which the end of the log leaves open."""
    return {of: value for of, value in said.items() if of[1].split(b"|")[0] < end and not of[1].endswith(b"|offset")}


@pytest.mark.parametrize("delivery", ["at-least-once", "transactional"])
def test_one_two_and_three_workers_of_which_one_is_killed_merge_what_a_file_does(lab: Lab, delivery: str) -> None:
    values = recorded()
    expected = from_file(lab, values)
    last_ns = max(int(key.split(b"|")[0]) for _, key in expected)
    end = str(last_ns - 25 * 10**9).encode()
    assert len(before(expected, end)) > 50
    lab.change(delivery=delivery)
    lab.prepare(LINKS, raw_partitions=1)
    lab.send(values[:7_000])
    first = lab.worker(AGENTS, FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="20000")
    wait_for(lambda: first.metric("partials_applied_total") > 500, "the only worker to merge", 60)
    second = lab.worker(AGENTS, FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="50000")
    lab.send(values[7_000:14_000])
    wait_for(lambda: second.metric("partials_applied_total") > 200, "the second worker to merge", 60)
    first.kill()
    third = lab.worker(AGENTS)
    lab.send(values[14_000:])
    lab.worker(AGENTS)
    wait_for(lambda: before(from_kafka(lab), end) == before(expected, end), "the merges of the file pipeline", 120)
    assert third.metric("block_gaps_total") == third.metric("partials_late_total") == 0
