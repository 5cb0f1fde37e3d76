"""Top talkers on a real broker: what windows are put together from survives a kill, and every worker answers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flowstream import schemas
from flowstream.links import LinkTable
from flowstream.operators import one_by_one
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.positions import time_text
from tests.builders import delimited, goflow2_v2
from tests.integration.kafka import read_all
from tests.integration.lab import Lab
from tests.integration.test_pipeline import LINKS, recorded
from tests.integration.test_replay import command
from tests.integration.test_web import fetch
from tests.talkers import as_served
from tests.waiting import wait_for

AGENTS = "ingest,analyses,merges"
WINDOWS = [{"size_s": 8.0, "step_s": 1.0}, {"size_s": 40.0, "step_s": 4.0}]
SECOND = 10**9
HOUR = 3600 * SECOND


@pytest.fixture
def lab(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    with Lab(broker, topic_prefix, tmp_path) as made:
        # Nothing is idle: what is sent after a slow start is not late.
        made.change(analyses=["talkers"], talkers={"windows": WINDOWS}, time={"idle_after_s": 3600})
        yield made


def from_file(lab: Lab, values: list[bytes]) -> dict[str, dict[str, Any]]:
    """What the file pipeline says of talkers, by key."""
    pipeline = FilePipeline(lab.settings(), LinkTable.from_path(LINKS), lab.raw, "goflow")
    results = [r for payloads in in_batches(values, 1000) for r in pipeline.feed(payloads)] + pipeline.finish()
    return {r.key: r.value for r in one_by_one(results) if r.stream == "talkers"}


def from_kafka(lab: Lab) -> dict[str, dict[str, Any]]:
    """What the topic holds: the last value of each key."""
    records = read_all(lab.broker, lab.topic("talkers"))
    assert len({(r.partition, r.key) for r in records}) == len({r.key for r in records}), "a key in two partitions"
    return {r.key.decode(): schemas.single_object_decode(r.value)[1] for r in records}


def newest(lab: Lab, by: str) -> dict[str, Any]:
    """What the topic has said last of a way to group, without the fields that are not of it."""
    return as_served([v for k, v in from_kafka(lab).items() if k.endswith(f"|40|{by}|packets")][-1])


def test_windows_longer_than_a_life_are_those_of_a_file_and_are_served_by_every_worker(lab: Lab) -> None:
    values = recorded()
    told = from_file(lab, values)
    end_ns = max(value["window_end_ns"] for value in told.values()) - 6 * SECOND  # later windows wait for more to come
    expected = {key: value for key, value in told.items() if value["window_end_ns"] <= end_ns}
    assert len(expected) > 1000
    lab.prepare(LINKS)
    lab.send(values[:9_000])
    first = lab.worker(AGENTS, FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="20000")
    wait_for(lambda: len(from_kafka(lab)) > 400, "the first life to say windows", 90)
    first.kill()
    second, third = lab.worker(AGENTS, wait=False), lab.worker(AGENTS)
    lab.joined(second)
    lab.send(values[9_000:])
    wait_for(lambda: expected.items() <= from_kafka(lab).items(), "the windows of the file", 120)
    assert from_kafka(lab).items() <= told.items()
    for by in ("source", "conversation", "port"):
        for worker in (second, third):
            answered = partial(fetch, worker, f"/talkers?by={by}&rank=packets&size=40")
            wait_for(lambda by=by, answered=answered: answered() == (200, newest(lab, by)), "the newest", 30)


EVENING_NS = 1_794_960_000 * SECOND + 22 * HOUR  # 22:00 of a day, so that the next one is over after 26 hours
TOLD = ("talkers", "link-use-percentiles")


def of_two_evenings() -> list[bytes]:
    """Flows of a day and more: one to three every five minutes, from a source that changes by the hour."""
    moments = [(n, EVENING_NS + n * 300 * SECOND) for n in range(26 * 12 + 8)]
    return [
        delimited(goflow2_v2(
            time_received_ns=at, time_flow_start_ns=at, time_flow_end_ns=at, bytes=64 + n % 1400,
            src_addr=bytes([10, 0, n // 12 % 7, 1 + flow]), src_port=1024 + n % 50,
        ))
        for n, at in moments
        for flow in range(1 + n % 3)
    ]  # fmt: skip


def ending_within(lab: Lab, suffix: str, start_ns: int, end_ns: int) -> dict[tuple[str, bytes, int], bytes]:
    """What is said of windows and periods that end between two times, the first excluded, byte for byte."""
    said = {(s, r.key, r.partition): r.value for s in TOLD for r in read_all(lab.broker, lab.topic(s) + suffix)}
    ends = {of: schemas.single_object_decode(value)[1]["window_end_ns"] for of, value in said.items()}
    assert not suffix or all(start_ns < end <= end_ns for end in ends.values())
    return {of: value for of, value in said.items() if start_ns < ends[of] <= end_ns}


def test_a_replay_that_reads_a_day_before_says_the_hours_and_days_of_the_live_app(lab: Lab) -> None:
    lab.change(
        analyses=["talkers", "links"], distances={"size_s": 10, "step_s": 10},
        time={"pane_s": 10.0, "idle_after_s": 3600},
        talkers={
            "windows": [{"size_s": 3600, "step_s": 300}, {"size_s": 86_400, "step_s": 900}],
            "by": ["source", "conversation"],
        },
    )  # fmt: skip
    start_ns, end_ns = EVENING_NS + 24 * HOUR + HOUR // 2, EVENING_NS + 26 * HOUR + HOUR // 2
    lab.prepare()
    lab.send(of_two_evenings())
    live = lab.worker(AGENTS)
    wait_for(lambda: live.metric("partials_panes_closed_total") and not live.metric("offset_lag"), "no lag", 60)
    wait_for(lambda: len(ending_within(lab, "", start_ns, end_ns)) == 3 * 2 * (24 + 8) + 3, "the live windows", 60)
    assert live.stop() == 0
    told = ending_within(lab, "", start_ns, end_ns)
    days = [of for of in told if b"|86400|" in of[1] or b"|day|" in of[1]]
    assert len(days) > 20
    words = ("replay", "--name", "day", "--from", time_text(start_ns), "--to", time_text(end_ns))
    assert "talkers of 24h begin where reading begins; --warm-up 24h" in command(lab, *words, "--dry-run")
    assert "Finished" in command(lab, *words, "--warm-up", "24h")
    assert ending_within(lab, ".day", start_ns, end_ns) == told
