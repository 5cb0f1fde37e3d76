"""From datagrams on the wire to results: a real goflow2 between them and the broker."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowstream import schemas
from flowstream.batch import address_text
from flowstream.decode import Payloads, decode
from flowstream.links import LinkTable
from flowstream.recordings import Recording
from flowstream.source_blocks import SourceBlock
from tests.goflow2 import Goflow2, Goflow2Error, find_goflow2, replay, udp_payloads
from tests.integration.kafka import read_all
from tests.integration.lab import Lab
from tests.waiting import wait_for

DATA = Path(__file__).parent.parent / "data"
LINKS = DATA / "clos_links.csv"


@pytest.fixture
def lab(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    with Lab(broker, topic_prefix, tmp_path) as made:
        yield made


@pytest.fixture
def goflow2() -> Path:
    """The real collector, built if need be; without Go skips, or fails in CI."""
    try:
        return find_goflow2(build=True)
    except Goflow2Error as error:
        required = os.environ.get("CI") == "true" or os.environ.get("FLOWSTREAM_REQUIRE_BROKER") == "1"
        (pytest.fail if required else pytest.skip)(f"no goflow2: {error}")


def test_datagrams_through_a_live_goflow2_give_the_sources_of_the_recording(lab: Lab, goflow2: Path) -> None:
    capture = lab.folder / "sflow.pcap"
    capture.write_bytes(gzip.decompress((DATA / "clos_first_8s_sflow.pcap.gz").read_bytes()))
    datagrams = list(udp_payloads(capture))
    samples = sum(_flow_samples(d.payload) for d in datagrams)
    lab.prepare(LINKS, raw_partitions=1)
    worker = lab.worker()
    with Goflow2.to_kafka(lab.broker, lab.raw, binary=goflow2) as collector:
        replay(datagrams, collector.sflow_port)
        collector.wait_for(len(datagrams))
    wait_for(lambda: worker.metric("rows_applied_total") + worker.metric("rows_late_total") >= samples, "every sample")
    # The recording is of the same datagrams in the same order: its first messages are these samples.
    # Every switch on the way takes samples of the same packets; those count that were taken where these came in.
    expected: Counter[tuple[str, str]] = Counter()
    recorded = list(Recording(DATA / "clos_60s_goflow2_v2.bin.gz").messages())
    flows = decode("goflow", Payloads.from_values(recorded[:samples])).flows
    table = LinkTable.from_csv(LINKS.read_text("utf-8"))
    edges = {(link["exporter"], link["if_index"]) for link in table.to_rows() if link["edge"]}
    columns = (flows.src_addr, flows.exporter, flows.in_if, flows.bytes * flows.sampling_rate)
    for source, exporter, in_if, size in zip(*(column.tolist() for column in columns), strict=True):
        expected[address_text(*source), "records"] += 1
        expected[address_text(*source), "estimated_bytes"] += size * ((address_text(*exporter), in_if) in edges)

    def live() -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for record in read_all(lab.broker, lab.topic("sources")):
            block = SourceBlock.from_value(schemas.single_object_decode(record.value)[1])
            for figure in ("records", "estimated_bytes"):
                for words, total in zip(block.addresses.tolist(), block.columns[figure].tolist(), strict=True):
                    found[address_text(*words), figure] += total
        return found

    wait_for(lambda: live() == expected, "the sources of the recording")
    assert worker.metric("rows_late_total") == 0
    onsets = [
        v
        for v in (schemas.single_object_decode(r.value)[1] for r in read_all(lab.broker, lab.topic("elephants")))
        if v["event"] == "onset"
    ]
    assert [v["flow"]["src_port"] for v in onsets] == [40001], "E1 alone has begun within these eight seconds"


def _flow_samples(datagram: bytes) -> int:
    """Count the flow samples of an sFlow v5 datagram with an IPv4 agent (sflow.org/sflow_version_5.txt)."""
    count, at = int.from_bytes(datagram[24:28], "big"), 28
    found = 0
    for _ in range(count):
        found += int.from_bytes(datagram[at : at + 4], "big") in {1, 3}
        at += 8 + int.from_bytes(datagram[at + 4 : at + 8], "big")
    return found
