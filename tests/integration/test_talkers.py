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
from tests.integration.kafka import read_all
from tests.integration.lab import Lab
from tests.integration.test_pipeline import LINKS, recorded
from tests.integration.test_web import fetch
from tests.waiting import wait_for

AGENTS = "ingest,analyses,merges"
WINDOWS = [{"size_s": 8.0, "step_s": 1.0}, {"size_s": 40.0, "step_s": 4.0}]
SECOND = 10**9


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
    said = [v for k, v in from_kafka(lab).items() if k.endswith(f"|40|{by}|packets")][-1]
    return {**said, "top": [{name: v for name, v in entry.items() if v is not None} for entry in said["top"]]}


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
