"""The commands against a real broker: topics, check, send, tail, links, and a worker that refuses to begin."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from google.protobuf.internal import decoder as upb_varint

from flowstream import schemas
from flowstream.recordings import Recording
from flowstream.topics import specs
from tests.builders import delimited, goflow2_v2
from tests.integration.kafka import create_topic, read_all, write
from tests.integration.lab import Lab

DATA = Path(__file__).parent.parent / "data"
CLOS, LINKS = DATA / "clos_60s_goflow2_v2.bin.gz", DATA / "clos_links.csv"
TOPOLOGY = DATA / "clos_topology.csv"
MESSAGES = 20_198


@pytest.fixture
def lab(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    with Lab(broker, topic_prefix, tmp_path) as made:
        yield made


def flowstream(lab: Lab, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowstream.cli", *map(str, args)], env=os.environ | lab.environment | environment,
        text=True, capture_output=True, cwd=lab.folder, timeout=60, check=False,
    )  # fmt: skip


def output(lab: Lab, *args: object, **environment: str) -> str:
    done = flowstream(lab, *args, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refusal(lab: Lab, *args: object, **environment: str) -> str:
    done = flowstream(lab, *args, **environment)
    assert done.returncode == 2
    assert done.stderr.startswith("flowstream: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("flowstream: ").rstrip()


def existing(lab: Lab) -> dict[str, int]:
    """The topics of a lab and their numbers of partitions, as a plain client sees them."""

    async def go() -> dict[str, int]:
        admin = AIOKafkaAdminClient(bootstrap_servers=lab.broker)
        await admin.start()
        try:
            names = [t for t in await admin.list_topics() if t.startswith((lab.prefix, lab.raw))]
            return {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics(names)} if names else {}
        finally:
            await admin.close()

    return asyncio.run(go())


def states(shown: str) -> dict[str, str]:
    """What the table of ``flowstream topics`` says of each topic: its last cell."""
    rows = [line.strip("│┃|").split("│") for line in shown.splitlines() if "│" in line]
    return {row[0].strip(): row[-1].strip() for row in rows}


def test_topics_are_created_once_as_specified_and_are_all_right_after(lab):
    wanted = {spec.name: spec.partitions for spec in specs(lab.settings())} | {lab.raw: 4}
    checked = flowstream(lab, "topics", "--check")
    assert checked.returncode == 2
    assert existing(lab) == {}
    assert states(checked.stdout) == dict.fromkeys(wanted, "missing; flowstream topics creates it")
    assert states(output(lab, "topics")) == dict.fromkeys(wanted, "created")
    assert existing(lab) == wanted
    assert states(output(lab, "topics")) == dict.fromkeys(wanted, "ok")
    assert states(output(lab, "topics", "--check")) == dict.fromkeys(wanted, "ok")
    assert existing(lab) == wanted


def test_check_says_that_all_is_well_or_which_topic_is_not_and_why(lab):
    create_topic(lab.broker, lab.topic("elephants"), 3)
    said = refusal(lab, "check")
    count = len(specs(lab.settings())) + 1
    assert said == f"{count} of {count} topics are not as they should be"
    flowstream(lab, "topics")
    done = flowstream(lab, "check")
    assert done.returncode == 2
    assert done.stderr == f"flowstream: 1 of {count} topics are not as they should be\n"
    (wrong,) = [line for line in done.stdout.splitlines() if line.startswith("topic ")]
    assert wrong.startswith(f"topic      {lab.topic('elephants')}: 3 partitions, topics.partitions says 4")
    assert "cleanup.policy is delete, should be compact,delete" in wrong
    lines = output(lab, "check", FLOWSTREAM_ANALYSES='["sources", "quality"]').splitlines()
    assert [line.split()[:2] for line in lines] == [[p, "ok"] for p in ("settings", "schemas", "broker", "topics")]


def test_a_recording_sent_is_on_the_topic_message_by_message_in_order(lab):
    create_topic(lab.broker, lab.raw, 3)
    assert output(lab, "send", CLOS) == f"{MESSAGES:,} messages (goflow) sent to {lab.raw}\n"
    sent = list(Recording(CLOS).messages())
    records = read_all(lab.broker, lab.raw)
    for partition in range(3):
        assert [r.value for r in records if r.partition == partition] == sent[partition::3]
    length, body = upb_varint._DecodeVarint32(records[0].value, 0)
    assert len(records[0].value) == body + length


def test_send_keeps_to_the_topic_it_is_told_and_refuses_one_that_is_not_there(lab):
    other = lab.raw + "-other"
    assert refusal(lab, "send", CLOS, "--topic", other).startswith(f"topic {other}: there is none")
    create_topic(lab.broker, other)
    path = lab.folder / "three.bin"
    path.write_bytes(delimited(goflow2_v2(), goflow2_v2(), goflow2_v2()))
    said = output(lab, "send", path, "--topic", other, "--rate", "1000", "--format", "goflow")
    assert said == f"3 messages (goflow) sent to {other}\n"
    assert [r.value for r in read_all(lab.broker, other)] == [delimited(goflow2_v2())] * 3
    assert set(existing(lab)) == {other}


def test_a_message_larger_than_the_broker_takes_is_refused_in_one_line(lab):
    create_topic(lab.broker, lab.raw)
    path = lab.folder / "huge.bin"
    path.write_bytes(delimited(Random(1).randbytes(3 << 20)))  # which nothing can compress
    said = refusal(lab, "send", path, "--format", "goflow")
    assert said.startswith("a record could not be sent: ")


def test_the_inventory_that_is_shown_is_the_one_that_was_loaded_last(lab):
    lab.prepare()
    assert output(lab, "topology", "load", TOPOLOGY) == f"12 cables published to {lab.topic('topology')}\n"
    written = TOPOLOGY.read_text().splitlines()
    shown = [json.loads(line) for line in output(lab, "topology", "show", "--json").splitlines()]
    assert [",".join(row.values()) for row in shown] == sorted(written[1:])

    # Two cables change places: both old ones have to go, or two ports have two cables each.
    crossed = lab.folder / "crossed.csv"
    crossed.write_text("\n".join([*written[:1], "leaf1,l1s1,spine2,s2l1", "leaf1,l1s2,spine1,s1l1"]))
    assert output(lab, "topology", "load", crossed).endswith("10 removed\n")
    shown = [json.loads(line) for line in output(lab, "topology", "show", "--json").splitlines()]
    assert [(row["node"], row["port"], row["peer"]) for row in shown] == [
        ("leaf1", "l1s1", "spine2"), ("leaf1", "l1s2", "spine1"),
    ]  # fmt: skip

    output(lab, "links", "load", LINKS)
    one = lab.folder / "one.csv"
    one.write_text("\n".join([*LINKS.read_text().splitlines()[:1], "10.255.0.11,9,l1s1,1000000000,false,leaf1"]))
    assert "removed" not in output(lab, "links", "load", one)
    speeds = [json.loads(line)["speed_bps"] for line in output(lab, "links", "show", "--json").splitlines()]
    assert (len(speeds), sum(speeds)) == (20, 19 * 100_000_000 + 1_000_000_000)
    assert output(lab, "links", "load", one, "--replace").endswith("19 removed\n")
    assert len(output(lab, "links", "show", "--json").splitlines()) == 1


def test_links_loaded_are_read_back_by_tail_as_they_are_in_the_file(lab):
    assert "there is none" in refusal(lab, "links", "load", LINKS)
    flowstream(lab, "topics")
    topic = lab.topic("links")
    for _ in range(2):
        assert output(lab, "links", "load", LINKS) == f"20 links published to {topic}\n"
    shown = output(lab, "tail", "links", "--from-beginning", "--limit", "40", "--json").splitlines()
    header, *rows = [line.split(",") for line in LINKS.read_text().splitlines()]
    expected = {
        f"{row['exporter']}|{row['if_index']}": {
            **row, "if_index": int(row["if_index"]), "speed_bps": int(row["speed_bps"]), "edge": row["edge"] == "true",
            "lag": None,
        }
        for row in (dict(zip(header, cells, strict=True)) for cells in rows)
    }  # fmt: skip
    read = [json.loads(line) for line in shown]
    assert {one["key"]: one["value"] for one in read} == expected
    assert len(read) == 2 * len(expected)
    line = output(lab, "tail", topic, "--from-beginning", "--limit", "1")
    what = "if_index=9 name=l1s1 speed_bps=100000000 edge=False node=leaf1 lag=None"
    assert line == f"10.255.0.11|9  exporter=10.255.0.11 {what}\n"


def test_tail_says_what_every_record_is_good_or_bad(lab):
    create_topic(lab.broker, lab.topic("dead-letters"))
    letter = {
        "topic": "raw", "partition": 1, "offset": 7, "format": "goflow", "reason": "truncated",
        "payload": b"\x00\xff", "payload_bytes": 2,
    }  # fmt: skip
    good = schemas.single_object_encode("dead_letter", letter)
    write(lab.broker, lab.topic("dead-letters"), [good, None, b"{bad json", b"", good[:-1], b"\x00\x01", b'{"a": 1}'])
    shown = output(lab, "tail", "dead-letters", "--from-beginning", "--limit", "7").splitlines()
    assert shown[0] == "raw-1 offset 7: truncated (2 bytes)"
    assert shown[1] == "k  deleted=True"
    assert all(line.startswith("k  undecodable=") for line in shown[2:6])
    assert shown[6] == "k  a=1"
    as_json = output(lab, "tail", "dead-letters", "--from-beginning", "--limit", "1", "--json")
    assert json.loads(as_json) == {"key": "k", "value": letter | {"payload": "AP8="}}


def test_tail_refuses_a_topic_that_is_not_there_and_makes_none(lab):
    said = refusal(lab, "tail", "elephants")
    assert said == f"topic {lab.topic('elephants')}: there is none; flowstream topics shows those there are"
    assert existing(lab) == {}


def test_a_worker_without_its_topics_names_them_and_does_not_start(lab):
    create_topic(lab.broker, lab.topic("flows"), 4)
    said = refusal(lab, "worker")
    missing = [lab.raw] + [spec.name for spec in specs(lab.settings()) if spec.name != lab.topic("flows")]
    assert said == f"topics are missing: {', '.join(missing)}; flowstream topics creates them"
    assert set(existing(lab)) == {lab.topic("flows")}
