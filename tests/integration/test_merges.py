"""Two stages on a real broker: what is merged is what the file pipeline says, whoever is killed or comes between."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agents.changelogs import read_changelog
from flowstream import schemas
from flowstream.links import LinkTable
from flowstream.newest_links import Wanted, newest_links
from flowstream.operators import one_by_one
from flowstream.partial_blocks import partition_of
from flowstream.partials import Cube
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.positions import moment_ns
from flowstream.results import ResultEncoder
from flowstream.topics import STREAMS
from tests.integration.kafka import committed, read_all
from tests.integration.lab import Lab, Worker
from tests.integration.test_pipeline import LINKS, recorded
from tests.integration.test_replay import command
from tests.integration.test_web import fetch
from tests.waiting import wait_for

ANALYSES = ["elephants", "links", "counting"]
AGENTS = "ingest,analyses,merges"
SAID = ("link-use", "link-events", "counting")  # percentiles are told at the end of the hour, which does not come
SLID = ("talkers",)
Said = dict[tuple[str, int, bytes], bytes]  # value by stream, partition and key

#: The recording's exporters send samples, of which nothing comes after the fact.
LINK_USE = {"interval_s": 5.0, "spread_max_s": 10.0, "threshold": 0.2, "for_intervals": 2}


@pytest.fixture
def lab(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    with Lab(broker, topic_prefix, tmp_path) as made:
        # Nothing is idle: what is sent later is not late, and what the end of the log leaves open stays so.
        made.change(analyses=ANALYSES, link_use=LINK_USE, counting={"size_s": 5.0}, time={"idle_after_s": 3600})
        yield made


def from_file(lab: Lab, values: list[bytes]) -> dict[tuple[str, bytes], bytes]:
    """What the file pipeline merges with the same settings."""
    pipeline = FilePipeline(lab.settings(), LinkTable.from_path(LINKS), lab.raw, "goflow")
    results = [r for payloads in in_batches(values, 1000) for r in pipeline.feed(payloads)] + pipeline.finish()
    encoder = ResultEncoder()
    return {(r.stream, r.key.encode()): encoder.encode(r) for r in one_by_one(results) if r.stream in (*SAID, *SLID)}


def from_kafka(lab: Lab) -> dict[tuple[str, bytes], bytes]:
    """What the result topics hold: the last value of each key, which is in one partition."""
    streams = [s for s in (*SAID, *SLID) if STREAMS[s] in lab.settings().analyses]
    last: Said = {(s, r.partition, r.key): r.value for s in streams for r in read_all(lab.broker, lab.topic(s))}
    assert len({(stream, key) for stream, _, key in last}) == len(last), "a key in two partitions"
    return {(stream, key): value for (stream, _, key), value in last.items()}


def before(said: dict[tuple[str, bytes], bytes], end: bytes) -> dict[tuple[str, bytes], bytes]:
    """What is said of intervals that start before a time, but for ends of events: those of the file are its end."""
    told = {of: value for of, value in said.items() if of[0] in SAID and not of[1].endswith(b"|offset")}
    return {of: value for of, value in told.items() if of[1].split(b"|")[0] < end}


@pytest.mark.parametrize("delivery", ["at-least-once", "transactional"])
def test_one_two_and_three_workers_of_which_one_is_killed_merge_what_a_file_does(lab: Lab, delivery: str) -> None:
    values = recorded()
    expected = from_file(lab, values)
    last_ns = max(int(key.split(b"|")[0]) for _, key in expected)
    end = str(last_ns - 25 * 10**9).encode()
    assert len(before(expected, end)) > 50
    assert sum(stream == "counting" for stream, _ in before(expected, end)) > 3
    lab.change(delivery=delivery)
    lab.prepare(LINKS, raw_partitions=1)
    lab.send(values[:7_000])
    first = lab.worker(AGENTS, FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="20000")
    wait_for(lambda: first.metric("partials_applied_total") > 500, "the only worker to merge", 60)
    second = lab.worker(AGENTS, FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="50000")
    lab.send(values[7_000:14_000])
    wait_for(lambda: second.metric("rows_applied_total") > 200, "the second worker to sum up", 90)
    first.kill()
    third = lab.worker(AGENTS)
    lab.send(values[14_000:])
    fourth = lab.worker(AGENTS)
    wait_for(lambda: before(from_kafka(lab), end) == before(expected, end), "the merges of the file pipeline", 120)
    assert third.metric("block_gaps_total") == third.metric("partials_late_total") == 0
    left = [second, third, fourth]
    assert sum(row["samples"] > 0 for row in newest(lab)["links"]) > 10
    all_tell_the_newest(lab, left)
    if delivery == "at-least-once":  # the table is written in the same way in both
        left.remove(stopped_holder(lab, left))
        all_tell_the_newest(lab, left)


def newest(lab: Lab) -> dict[str, Any]:
    """The answer of ``/links``, from what the topic has said last of each exporter."""
    said = [schemas.single_object_decode(r.value)[1] for r in read_all(lab.broker, lab.topic("link-use"))]
    last = {value["exporter"]: value for value in sorted(said, key=lambda value: int(value["window_start_ns"]))}
    found, links = newest_links(last.values(), [], Wanted(count=1000))
    return {"by": "share", "interfaces": found, "links": links}


def all_tell_the_newest(lab: Lab, workers: list[Worker]) -> None:
    for worker in workers:
        wait_for(
            lambda worker=worker: fetch(worker, "/links?count=1000") == (200, newest(lab)), "the newest of links", 60
        )  # fmt: skip


def stopped_holder(lab: Lab, workers: list[Worker]) -> Worker:
    """Stop the worker that has the links, and return it: what it had the next one finds in the changelog."""
    partition = int(partition_of(int(Cube.INTERFACE), lab.settings().topics.partitions))
    changelog = f"{lab.app}-newest-changelog"
    (found,) = [w for w in workers if partition in w.get("/health")["assigned"].get(changelog, [])]
    assert found.stop() == 0
    return found


def caught_up(lab: Lab, worker: Worker, sent: int) -> None:
    """Wait until a worker has read everything, and stop it."""
    wait_for(lambda: committed(lab.broker, lab.app).get((lab.raw, 0), (0, ""))[0] == sent, "the raw commit", 90)
    wait_for(lambda: worker.metric("partials_panes_closed_total") and not worker.metric("offset_lag"), "no lag", 60)
    assert worker.stop() == 0


#: Windows of 40 s are put together from what is kept; of two ways to group, to be quick.
WINDOWS = [{"size_s": 10.0, "step_s": 5.0}, {"size_s": 40.0, "step_s": 10.0}]
TALKERS = {"windows": WINDOWS, "by": ["source", "conversation"]}


def window_end_ns(key: bytes) -> int:
    start, size, *_ = key.split(b"|")
    return int(start) + int(size) * 10**9


def talkers(said: Mapping[Any, bytes], start_ns: int, end_ns: int) -> dict[bytes, bytes]:
    """The windows of top talkers that end between two times, the first excluded."""
    windows = {key: value for (stream, key), value in said.items() if stream == "talkers"}
    return {key: value for key, value in windows.items() if start_ns < window_end_ns(key) <= end_ns}


def kept(lab: Lab) -> list[dict[bytes, bytes]]:
    """What the stage of merges keeps of talkers: step tables, and the newest windows."""
    topics = (lab.topic("talker-steps"), f"{lab.settings().app}-newest-changelog")
    found = [asyncio.run(read_changelog(lab.settings(), topic)) for topic in topics]
    return [{key: value for part in of.values() for key, value in part.items()} for of in found]


def test_a_promotion_and_a_reset_in_place_lose_and_repeat_nothing_that_is_merged(lab: Lab) -> None:
    """The replay holds more keys than the live app, and the app that is reset groups otherwise than before."""
    values = recorded()
    lab.change(analyses=[*ANALYSES, "talkers"], talkers={**TALKERS, "keys_max": 30})
    cut_short = from_file(lab, values)
    lab.prepare(LINKS, raw_partitions=1)
    lab.send(values[:8_000])
    caught_up(lab, lab.worker(AGENTS), 8_000)
    command(
        lab, "replay", "--name", "next", "--from", "earliest", "--workers", "0", "--set", "talkers.keys_max=1000000"
    )
    ours = [sys.executable, "-m", "flowstream.cli", "worker"]
    lab.send(values[8_000:12_000])
    ingest = lab.worker("ingest")
    wait_for(lambda: committed(lab.broker, lab.app)[lab.raw, 0][0] == 12_000, "the raw commit")
    assert ingest.stop() == 0
    caught_up(lab, lab.worker(command=[*ours, "--replay", "next"]), 12_000)
    promoted_with = command(lab, "promote", "next")
    assert f"app {lab.app} is behind" in promoted_with
    cut_ns = min(moment_ns(at) for at in re.findall(r"cut at (\S+)", promoted_with))
    for stream in (*SAID, "talkers"):
        keys = [(r.partition, r.key) for r in read_all(lab.broker, lab.topic(stream))]
        assert len(keys) == len(set(keys)), stream
    lab.environment["FLOWSTREAM_APP"] = f"{lab.app}-next"
    assert "partials_suffix=next" in command(lab, "worker", code=2)
    lab.change(app=f"{lab.app}-next", topics={"partials_suffix": "next"}, talkers={"keys_max": 1_000_000})
    expected = from_file(lab, values)
    last_ns = max(int(key.split(b"|")[0]) for stream, key in expected if stream == "link-use")
    end = str(last_ns - 25 * 10**9).encode()
    told_ns = max(map(window_end_ns, talkers(expected, 0, 2**63))) - 10 * 10**9  # what ends later waits for more
    assert talkers(cut_short, cut_ns, told_ns) != talkers(expected, cut_ns, told_ns)
    lab.send(values[12_000:])
    promoted = lab.worker(AGENTS)
    wait_for(lambda: before(from_kafka(lab), end) == before(expected, end), "the merges of one run", 90)
    wait_for(lambda: talkers(from_kafka(lab), cut_ns, told_ns) == talkers(expected, cut_ns, told_ns), "windows", 90)
    assert talkers(from_kafka(lab), 0, cut_ns) == talkers(cut_short, 0, cut_ns)
    assert promoted.metric("block_gaps_total") == promoted.metric("partials_late_total") == 0
    assert promoted.stop() == 0

    lab.change(talkers={"by": ["conversation", "pair"]})
    expected = from_file(lab, values)
    counts = {stream: len(read_all(lab.broker, lab.topic(stream))) for stream in SAID}
    assert all(kept(lab))
    command(lab, "replay", "--in-place", "--from", "earliest", "--yes")
    assert kept(lab) == [{}, {}]
    first = lab.worker(AGENTS, FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="20000")
    wait_for(lambda: len(kept(lab)[0]) > 8, "steps of the first life", 60)
    first.kill()
    lab.worker(AGENTS)
    wait_for(
        lambda: all(len(read_all(lab.broker, lab.topic(s))) >= 2 * counts[s] for s in SAID), "all of it again", 90
    )  # fmt: skip
    assert before(from_kafka(lab), end) == before(expected, end)

    def again() -> dict[bytes, bytes]:
        return {k: v for k, v in talkers(from_kafka(lab), 0, told_ns).items() if b"|source|" not in k}

    wait_for(lambda: again() == talkers(expected, 0, told_ns), "windows of the new grouping", 60)
    assert not any(b"source" in key for held in kept(lab) for key in held)
