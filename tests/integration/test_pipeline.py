"""The whole path on a real broker: the same bytes as over a file, whatever is killed on the way."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.admin import changelogs, list_topics, topic_partitions
from flowstream import schemas
from flowstream.links import LinkTable
from flowstream.operators import one_by_one
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.recordings import Recording
from flowstream.results import ResultEncoder
from flowstream.settings import Settings
from tests.integration.kafka import commit, committed, read_all, write_transactions
from tests.integration.lab import Lab
from tests.waiting import wait_for

DATA = Path(__file__).parent.parent / "data"
RECORDING = DATA / "clos_60s_goflow2_v2.bin.gz"
LINKS = DATA / "clos_links.csv"
STREAMS = ("distances", "elephants", "sources")
BAD = [b"", b"\x08", b"\xff" * 40, b"not protobuf at all", None]


@pytest.fixture
def lab(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    with Lab(broker, topic_prefix, tmp_path) as made:
        yield made


def recorded() -> list[bytes]:
    return list(Recording(RECORDING).messages())


def from_file(lab: Lab, values: list[bytes]) -> dict[str, dict[bytes, bytes]]:
    """What the file pipeline says with the same settings, encoded as the worker encodes it."""
    settings: Settings = lab.settings()
    pipeline = FilePipeline(settings, LinkTable.from_path(LINKS), lab.raw, "goflow")
    results = [r for payloads in in_batches(values, 1000) for r in pipeline.feed(payloads)] + pipeline.finish()
    encoder = ResultEncoder()
    said: dict[str, dict[bytes, bytes]] = {stream: {} for stream in STREAMS}
    for result in one_by_one(results):
        said[result.stream].setdefault(result.key.encode(), b"")
        said[result.stream][result.key.encode()] += encoder.encode(result)
    return said


def from_kafka(lab: Lab) -> dict[str, dict[bytes, bytes]]:
    """What the result topics hold: the last value of each key and partition."""
    said: dict[str, dict[bytes, bytes]] = {}
    for stream in STREAMS:
        last = {(r.key, r.partition): r.value for r in read_all(lab.broker, lab.topic(stream))}
        said[stream] = {}
        for key, partition in sorted(last):
            said[stream].setdefault(key, b"")
            said[stream][key] += last[key, partition]
    return said


def test_a_worker_killed_twice_gives_the_bytes_of_the_file_pipeline(lab: Lab) -> None:
    values = recorded()
    expected = from_file(lab, values)
    lab.prepare(LINKS, raw_partitions=1)
    lab.send(values[:9_000])
    worker = lab.worker()
    wait_for(lambda: len(read_all(lab.broker, lab.topic("elephants"))) > 3, "first elephants")
    worker.kill()
    lab.send(values[9_000:15_000])
    worker = lab.worker()
    wait_for(lambda: worker.metric("rows_applied_total") > 500, "the second life to get on")
    worker.kill()
    lab.send(values[15_000:])
    lab.worker()
    wait_for(lambda: from_kafka(lab) == expected or None, "the results of the file pipeline", 90)


def test_one_worker_and_two_of_which_one_is_killed_give_the_same_bytes(
    lab: Lab, broker: str, topic_prefix: str, tmp_path: Path
) -> None:
    values = recorded()
    lab.prepare(LINKS, raw_partitions=4)
    lab.send(values, partitions=4)
    (tmp_path / "faulty").mkdir()
    with Lab(broker, f"{topic_prefix}b", tmp_path / "faulty", raw=lab.raw) as faulty:
        faulty.prepare(LINKS, raw_partitions=0)
        first = faulty.worker(FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="20000")
        faulty.worker(FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="50000")
        wait_for(lambda: first.metric("results_sent_total") > 20, "results of the worker that is to be killed")
        first.kill()
        lab.worker()
        wait_for(lambda: _unchanging(lab), "the undisturbed run to end", 90)
        # Read again each time: what ends a run is seen in one partition, and others may still be on their way.
        settled = wait_for(
            lambda: _equal(_unchanging(lab), from_kafka(faulty)), "the disturbed run to say the same", 90
        )
    assert len(settled["distances"]) > 300
    assert sum(b"onset" in key for key in settled["elephants"]) == 3


def _equal(said: dict[str, dict[bytes, bytes]], other: dict[str, dict[bytes, bytes]]) -> dict[str, dict[bytes, bytes]]:
    return said if said == other else {}


def _unchanging(lab: Lab) -> dict[str, dict[bytes, bytes]]:
    """The results, once every elephant has ended and every window of the recording is there; {} before."""
    said = from_kafka(lab)
    ended = sum(b"offset" in key for key in said["elephants"])
    last_window = max(said["sources"], default=b"")
    return said if ended == 3 and last_window >= b"1795224850000000000" else {}


def test_progress_behind_the_committed_offset_is_read_again_from_its_position(lab: Lab) -> None:
    """As after a worker that stored progress without knowing that it had been replaced."""
    values = recorded()
    expected = from_file(lab, values)
    never_idle = {"FLOWSTREAM_TIME__IDLE_AFTER_S": "3600", "FLOWSTREAM_KAFKA__FETCH_BYTES_MAX": "20000"}
    lab.prepare(LINKS, raw_partitions=1)
    for agents, part in (("ingest,analyses", values[:8_000]), ("ingest", values[8_000:])):
        lab.send(part)
        worker = lab.worker(agents, **never_idle)
        end = 8_000 if agents != "ingest" else len(values)
        wait_for(lambda end=end: committed(lab.broker, lab.app).get((lab.raw, 0), (0, ""))[0] == end, "the raw commit")
        wait_for(lambda worker=worker: not worker.metric("offset_lag"), "no lag")
        assert worker.stop() == 0
    flows = lab.topic("flows")
    ends = Counter(record.partition for record in read_all(lab.broker, flows))
    before = committed(lab.broker, lab.app)
    ahead = {(flows, p): (before[flows, p][0] + 2 * end) // 3 for p, end in ends.items()}
    assert all(ahead[tp] > before[tp][0] + 5 for tp in ahead)
    commit(lab.broker, lab.app, ahead)
    lab.worker(FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="8192")
    wait_for(lambda: from_kafka(lab) == expected or None, "the results of the file pipeline", 90)
    wait_for(lambda: all(committed(lab.broker, lab.app)[tp][0] > ahead[tp] for tp in ahead), "commits to go on", 60)


def test_what_a_collector_gave_up_is_not_counted_and_the_end_of_a_transaction_is_not_awaited(lab: Lab) -> None:
    """The log ends with a marker, which is no record: the partition must be seen to be silent all the same."""
    values = recorded()
    expected = from_file(lab, values)
    lab.prepare(LINKS, raw_partitions=1)
    given_up = values[5_000:9_000]
    write_transactions(
        lab.broker, lab.raw, [(values[:7_000], True), (given_up, False), (values[7_000:], True), (given_up, False)]
    )
    worker = lab.worker()
    # Distances name flows by their offsets, which are others here.
    named = ("elephants", "sources")
    wait_for(
        lambda: all(from_kafka(lab)[stream] == expected[stream] for stream in named), "the results of the file pipeline"
    )
    assert worker.metric("records_consumed_total") == len(values)
    assert not worker.metric("block_gaps_total")


def test_the_changelogs_made_before_the_start_are_those_of_the_tables(lab: Lab) -> None:
    lab.prepare(LINKS)
    lab.worker()
    there = {name for name in asyncio.run(list_topics(lab.settings())) if name.startswith(f"{lab.app}-")}
    specs = changelogs(lab.settings())
    assert there == {spec.name for spec in specs}
    counts = [asyncio.run(topic_partitions(lab.settings(), spec.name)) for spec in specs]
    assert counts == [lab.settings().topics.partitions] * len(specs)


def test_two_workers_and_four_partitions_account_for_every_message(lab: Lab) -> None:
    values = recorded()
    lab.prepare(LINKS, raw_partitions=4)
    workers = [lab.worker(), lab.worker()]
    wait_for(lambda: all(w.ready() for w in workers), "both workers to have partitions")
    lab.send([*values, *BAD], partitions=4)

    def total(name: str) -> float:
        return sum(w.metric(name) for w in workers)

    wait_for(lambda: total("rows_applied_total") + total("rows_late_total") >= len(values), "every row", 90)
    assert total("records_consumed_total") == len(values) + len(BAD)
    assert total("records_rejected_total") == len(BAD) - 1
    assert total("records_skipped_total") == 1
    assert total("rows_decoded_total") == len(values)
    assert total("block_gaps_total") == total("rows_duplicate_total") == total("blocks_rejected_total") == 0
    letters = [schemas.single_object_decode(r.value)[1] for r in read_all(lab.broker, lab.topic("dead-letters"))]
    assert sorted(letter["payload"] for letter in letters) == sorted(v for v in BAD if v is not None)
    onsets = {
        (v["flow"]["src_addr"], v["flow"]["src_port"])
        for v in (schemas.single_object_decode(r.value)[1] for r in read_all(lab.broker, lab.topic("elephants")))
        if v["event"] == "onset"
    }
    assert onsets == {("10.0.1.10", 40001), ("10.0.1.11", 40012), ("10.0.2.10", 40053)}


def test_after_a_graceful_stop_no_message_is_read_twice_and_no_result_said_twice(lab: Lab) -> None:
    values = recorded()[:4_000]
    lab.prepare(LINKS, raw_partitions=1)
    lab.send(values)
    worker = lab.worker()
    wait_for(lambda: worker.metric("rows_applied_total") == len(values), "every row")
    wait_for(lambda: worker.metric("rows_open") == 0, "every pane to close")
    wait_for(lambda: committed(lab.broker, lab.app).get((lab.raw, 0), (0, ""))[0] == len(values), "the raw commit")
    assert worker.stop() == 0
    worker = lab.worker()
    lab.send(recorded()[4_000:4_100])
    wait_for(lambda: worker.metric("records_consumed_total") >= 100, "the new messages")
    assert worker.metric("records_consumed_total") == 100
    wait_for(lambda: worker.metric("rows_applied_total") + worker.metric("rows_late_total") >= 100, "the new rows")
    wait_for(lambda: worker.metric("rows_open") == 0, "every pane to close")
    for stream in STREAMS:
        keys = [(r.partition, r.key) for r in read_all(lab.broker, lab.topic(stream))]
        assert len(keys) == len(set(keys)), stream


def test_fausts_own_command_runs_the_same_worker(lab: Lab) -> None:
    lab.prepare(LINKS, raw_partitions=1)
    lab.send(recorded()[:500])
    faust = Path(sys.executable).parent / "faust"
    worker = lab.worker(command=[str(faust), "-A", "agents.app", "worker", "-l", "info"])
    wait_for(lambda: worker.metric("rows_applied_total") == 500, "every row")


def test_results_carry_their_lineage(lab: Lab) -> None:
    lab.prepare(LINKS, raw_partitions=1)
    lab.send(recorded()[:3_000])
    lab.worker()
    wait_for(lambda: read_all(lab.broker, lab.topic("distances")), "a result")
    for record in read_all(lab.broker, lab.topic("distances")):
        headers = dict(record.headers)
        topic, _, offsets = headers["source"].decode().rpartition(":")
        first, last = map(int, offsets.split("-"))
        assert topic == f"{lab.topic('flows')}-{record.partition}"
        assert 0 <= first <= last
        assert headers["settings"].decode() == lab.settings().digest()
        assert headers["flowstream"]
