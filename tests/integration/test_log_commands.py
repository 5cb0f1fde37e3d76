"""``flowstream offsets`` and ``flowstream compare`` on a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner, Result

from agents.kafka_node import free_port
from flowstream import schemas
from flowstream.blocks import Block, SourcePartition, encode_block
from flowstream.cli import main
from flowstream.results import to_json
from tests.integration.kafka import commit, committed, create_topic, read_all, write_transactions
from tests.integration.lab import Lab
from tests.integration.test_pipeline import LINKS, recorded
from tests.waiting import wait_for

runner = CliRunner()
Records = Iterable[tuple[int, bytes, bytes | None]]  # partition, key, value


@pytest.fixture
def lab(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    with Lab(broker, topic_prefix, tmp_path) as made:
        yield made


def flowstream(lab: Lab, *args: object, **environment: str) -> Result:
    with runner.isolated_filesystem(lab.folder):  # where there is no flowstream.toml
        return runner.invoke(main, [*map(str, args)], env=lab.environment | environment)


def put(lab: Lab, topic: str, records: Records) -> None:
    async def go() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=lab.broker)
        await producer.start()
        try:
            for partition, key, value in records:
                await producer.send(topic, value, key=key, partition=partition)
        finally:
            await producer.stop()

    asyncio.run(go())


def groups(lab: Lab) -> list[dict[str, Any]]:
    done = flowstream(lab, "offsets", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)["groups"]
    return found


def test_offsets_shows_what_is_committed_what_is_left_and_how_far_event_time_is(lab: Lab) -> None:
    lab.prepare(LINKS, raw_partitions=1)
    (before,) = groups(lab)
    assert (before["group"], before["members"]) == (lab.app, None)
    assert [(p["position"], p["end"], p["lag"]) for p in before["partitions"]] == [(None, 0, 0)] * 5
    values = recorded()[:3_000]
    lab.send(values)
    worker = lab.worker()
    raw, flows = (lab.raw, 0), lab.topic("flows")
    wait_for(lambda: committed(lab.broker, lab.app).get(raw, (0, ""))[0] == len(values), "the raw commit")
    wait_for(lambda: worker.metric("rows_applied_total") == len(values), "every row")
    wait_for(lambda: worker.metric("rows_open") == 0, "every pane to close")
    (live,) = groups(lab)
    assert (live["group"], live["members"]) == (lab.app, 1)
    assert worker.stop() == 0
    commit(lab.broker, f"{lab.app}-tuned", {(flows, 2): 1})
    commit(lab.broker, f"{lab.app}-other", {(lab.topic("elephants"), 0): 0})
    states = {state["group"]: state for state in groups(lab)}
    assert list(states) == [lab.app, f"{lab.app}-tuned"]
    stored = committed(lab.broker, lab.app)
    ends = {(topic, p): 0 for topic in (lab.raw, flows) for p in range(1 if topic == lab.raw else 4)}
    blocks = {}
    for record in [*read_all(lab.broker, lab.raw), *read_all(lab.broker, flows)]:
        ends[record.topic, record.partition] = record.offset + 1
        blocks[record.topic, record.partition] = record.value
    assert [(p["topic"], p["partition"]) for p in states[lab.app]["partitions"]] == sorted(ends)
    for p in states[lab.app]["partitions"]:
        at = p["topic"], p["partition"]
        position = stored[at][0] if at in stored else None  # a partition whose rows are all looked back at has none
        assert (p["position"], p["start"], p["end"]) == (position, 0, ends[at])
        assert p["lag"] == ends[at] - (position or 0)
        if at == raw:
            assert p["event_time_ns"] == int(stored[at][1])
            assert p["event_time_lag_ns"] is None
        else:
            mark = schemas.single_object_decode(blocks[at])[1]["watermark_ns"]
            assert p["log_event_time_ns"] == mark
            assert p["event_time_ns"] == mark // 10**9 * 10**9  # all panes that end before it are closed
            assert p["event_time_lag_ns"] == mark % 10**9
    (replayed,) = states[f"{lab.app}-tuned"]["partitions"][2:3]
    assert (replayed["position"], replayed["lag"], replayed["event_time_ns"]) == (1, ends[flows, 2] - 1, None)
    table = flowstream(lab, "offsets").stdout
    assert f"{lab.app}: 0 members" in table
    assert f"{ends[raw]:,}" in table


def test_the_last_block_is_found_behind_the_ends_of_transactions(lab: Lab) -> None:
    lab.prepare(LINKS, raw_partitions=1)
    blocks = [
        encode_block(Block(SourcePartition(lab.raw, 0), n, n + 1, mark, idle=False, sources=((lab.raw, 1),)))
        for n, mark in enumerate([5_000_000_000, 7_000_000_000, 9_000_000_000])
    ]
    write_transactions(
        lab.broker, lab.topic("flows"), [(blocks[:1], True), (blocks[1:2], True), (blocks[2:], False), ([b"x"], False)]
    )
    (state,) = groups(lab)
    marks = {(p["topic"], p["partition"]): (p["end"], p["log_event_time_ns"]) for p in state["partitions"]}
    assert marks[lab.topic("flows"), 0] == (8, 7_000_000_000)
    assert marks[lab.topic("flows"), 1] == (0, None)


def test_offsets_without_a_broker_is_one_line(lab: Lab) -> None:
    done = flowstream(lab, "offsets", FLOWSTREAM_KAFKA__BOOTSTRAP=f"127.0.0.1:{free_port()}")
    assert done.exit_code == 2
    assert done.stderr.startswith("flowstream: no Kafka broker answers at ")
    assert done.stderr.count("\n") == 1


def pair(at: int, distance: float, source: str = "10.0.0.1") -> tuple[bytes, dict[str, Any]]:
    """A made-up result of the stream of distances, as fields that are left out of it would be too many to name."""
    start = 1_795_224_790_000_000_000 + at * 10**9
    value = {
        "src_addr": source, "window_start_ns": start, "window_end_ns": start + 10**9, "flows": 3, "flows_seen": 3,
        "sampled": False, "features": ["duration"], "scaling": "none", "pairs": 3, "min": 0.0, "max": distance,
        "mean": distance / 2, "p50": None, "p90": None, "p99": None, "p999": None, "tail_threshold": None,
        "tail_pairs": 0, "pairs_truncated": False, "histogram": {"bins": b"", "counts": b""}, "top": [], "tails": [],
    }  # fmt: skip
    return f"{start}|{source}".encode(), value


def as_avro(value: dict[str, Any]) -> bytes:
    return schemas.single_object_encode("distances", value)


@pytest.fixture
def topics(lab: Lab) -> tuple[str, str]:
    a = lab.topic("distances")
    for topic in (a, f"{a}.tuned"):
        create_topic(lab.broker, topic, 2)
    return a, f"{a}.tuned"


def test_compare_says_what_appeared_vanished_and_changed_in_the_time_both_cover(lab: Lab, topics: tuple[str, str]):
    a, b = topics
    made = {at: pair(at, 8.0) for at in range(10)}
    put(lab, a, [(at % 2, key, b"old") for at, (key, _) in made.items()])
    put(lab, a, [(at % 2, key, as_avro(value)) for at, (key, value) in made.items() if at != 5])
    put(lab, a, [(1, made[5][0], None)])  # a tombstone: 5 vanishes from A
    other = [(at % 2, key, as_avro(value)) for at, (key, value) in made.items() if at not in {0, 3, 4, 9}]
    other.append((1, made[3][0], as_avro(pair(3, 10.0)[1])))
    other.append((0, made[6][0], schemas.confluent_frame(7, schemas.encode_body("distances", made[6][1]))))
    other.append((1, made[7][0], to_json("distances", made[7][1])))
    put(lab, b, other)
    # A covers 0 to 9 without 5, B 1 to 8 without 4.
    done = flowstream(lab, "compare", "distances", b, "--json")
    assert (done.exit_code, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    start = 1_795_224_790_000_000_000
    assert (found["from_ns"], found["to_ns"]) == (start + 10**9, start + 8 * 10**9 + 1)
    assert (found["outside_a"], found["outside_b"]) == (2, 0)
    assert (found["appeared"], found["vanished"], found["changed"], found["unchanged"]) == (1, 1, 1, 5)
    assert {f["name"]: (f["keys"], f["median"], f["largest"]) for f in found["fields"]} == {
        "max": (1, 0.25, 0.25), "mean": (1, 0.25, 0.25),
    }  # fmt: skip
    examples = {e["kind"]: e["subject"].encode() for e in found["examples"]}
    assert examples == {"appeared": made[5][0], "vanished": made[4][0], "changed": made[3][0]}
    text = flowstream(lab, "compare", a, b, "--limit", "1").stdout
    assert "5 unchanged, 1 changed, 1 only in B, 1 only in A" in text
    assert f"~ {made[3][0].decode()}  max 25.00%, mean 25.00%" in text
    within = ("--from", start + 6 * 10**9, "--to", "2026-11-21T01:33:18Z")
    done = flowstream(lab, "compare", a, b, *within)
    assert done.exit_code == 0, done.stdout
    assert "2 unchanged, 0 changed, 0 only in B, 0 only in A" in done.stdout


def test_compare_refuses_in_one_line_what_cannot_be_compared(lab: Lab, topics: tuple[str, str]):
    a, b = topics
    put(lab, a, [(0, *_encoded(pair(1, 1.0)))])
    put(lab, b, [(0, *_encoded(pair(5, 1.0)))])
    wide = f"{a}.wide"
    create_topic(lab.broker, wide, 3)
    create_topic(lab.broker, lab.topic("sources"), 2)
    for one, other, why in (
        (a, b, "no event time that both topics cover"),
        (a, wide, f"{a} has 2 partitions and {wide} 3"),
        (a, lab.topic("sources"), "these are topics of different streams"),
        (lab.raw, lab.topic("flows"), "is a result topic by its name"),
        (a, a, "is compared with itself"),
        (a, f"{a}.none", f"topic {a}.none: there is none"),
    ):
        done = flowstream(lab, "compare", one, other)
        assert done.exit_code == 2
        assert why in done.stderr
        assert done.stderr.count("\n") == 1


def _encoded(made: tuple[bytes, dict[str, Any]]) -> tuple[bytes, bytes]:
    return made[0], as_avro(made[1])
