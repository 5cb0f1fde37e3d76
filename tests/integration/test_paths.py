"""Paths through a real broker: a worker that follows both tables says what the file pipeline says, killed or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowstream.links import LinkTable
from flowstream.operators import one_by_one
from flowstream.partial_blocks import partition_of
from flowstream.partials import Cube
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.recordings import Recording
from flowstream.results import ResultEncoder
from flowstream.topology import Topology
from tests.integration.kafka import read_all, write_again
from tests.integration.lab import Lab
from tests.integration.test_cli_broker import CLOS, LINKS, TOPOLOGY, output, refusal
from tests.waiting import wait_for

STREAMS = ("paths", "path-events", "path-windows", "elephant-links")
ELEPHANT_HOPS = partition_of(int(Cube.ELEPHANT_HOP), 4)  # the partials partition of what elephants share
E1 = "10.0.1.10:40001>10.0.3.10:5201/tcp"
BY_SPINE1 = "hA > leaf1[l1h>l1s1] > spine1[s1l1>s1l3] > leaf3[l3s1>l3h] > hC"


@pytest.fixture
def lab(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    with Lab(broker, topic_prefix, tmp_path) as made:
        made.change(analyses=["elephants", "paths"])
        yield made


def from_file(lab: Lab, values: list[bytes]) -> dict[str, dict[tuple[bytes, bytes], int]]:
    """Return how often the file pipeline says each (key, value)."""
    links, cables = LinkTable.from_path(LINKS), Topology.from_path(TOPOLOGY)
    pipeline = FilePipeline(lab.settings(), links, lab.raw, "goflow", topology=cables)
    encoder = ResultEncoder()
    said: dict[str, dict[tuple[bytes, bytes], int]] = {stream: {} for stream in STREAMS}
    fed = [r for payloads in in_batches(values, 1000) for r in pipeline.feed(payloads)]
    for result in one_by_one([*fed, *pipeline.finish()]):
        if result.stream in said:
            record = result.key.encode(), encoder.encode(result)
            said[result.stream][record] = said[result.stream].get(record, 0) + 1
    return said


def from_kafka(lab: Lab) -> dict[str, dict[tuple[bytes, bytes], int]]:
    """Return the same of the topics, what a partition says again counting once."""
    said: dict[str, dict[tuple[bytes, bytes], int]] = {}
    for stream in STREAMS:
        said[stream] = {}
        for _, key, value in {(r.partition, r.key, r.value) for r in read_all(lab.broker, lab.topic(stream))}:
            said[stream][key, value] = said[stream].get((key, value), 0) + 1
    return said


def test_a_worker_killed_on_its_way_says_the_paths_of_the_file_pipeline_and_the_command_prints_them(lab: Lab) -> None:
    values = list(Recording(CLOS).messages())
    expected = from_file(lab, values)
    assert len(expected["elephant-links"]) > 5
    lab.prepare(LINKS, raw_partitions=1)
    output(lab, "topology", "load", TOPOLOGY)
    lab.send(values[:9_000])
    worker = lab.worker("ingest,analyses,merges", FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="20000")
    wait_for(lambda: read_all(lab.broker, lab.topic("elephant-links")), "elephants that share a link")
    wait_for(lambda: not worker.metric("offset_lag"), "no lag: windows of both stages are half full")
    worker.kill()
    # Of the blocks there are rows in panes that are still open, of the partials in one that is merged.
    write_again(lab.broker, lab.topic("flows"), 0, 5)
    write_again(lab.broker, lab.topic("partials"), ELEPHANT_HOPS, 20)
    lab.send(values[9_000:])
    second = lab.worker("ingest,analyses,merges")
    wait_for(lambda: from_kafka(lab) == expected or None, "the results of the file pipeline", 90)
    assert second.metric("rows_duplicate_total") > 0 < second.metric("partials_duplicate_total")
    assert second.metric("partials_late_total") == 0

    lines = set(output(lab, "paths", "--flow", E1).splitlines())  # what was said again is printed again
    assert len(lines) == len({line.split(" ")[0] for line in lines}) > 5
    assert all(BY_SPINE1 in line and line.endswith(", elephant") for line in lines)
    told = [json.loads(line) for line in output(lab, "paths", "--source", "10.0.1.10", "--json").splitlines()]
    assert {one["value"]["flow"]["src_addr"] for one in told} == {"10.0.1.10"}
    of_source = {key.decode() for key, _ in expected["paths"] if key.split(b"|")[1] == b"10.0.1.10"}
    assert {one["key"] for one in told} == of_source
    by_spine2 = output(lab, "paths", "--elephants", "--switch", "spine2", "--limit", "4").splitlines()
    assert len(by_spine2) == 4
    assert all("spine2[" in line and line.endswith(", elephant") for line in by_spine2)
    assert output(lab, "paths", "--changes") == ""


def test_what_is_no_flow_is_refused_in_one_line(lab: Lab) -> None:
    assert "is no flow; write it as" in refusal(lab, "paths", "--flow", "10.0.1.10")
    assert "is no IP address" in refusal(lab, "paths", "--source", "leaf1")
