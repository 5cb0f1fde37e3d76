"""Link use of the recorded fabric, against what was really sent through each of its ports."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from flowstream.links import LinkTable
from flowstream.operators import Result, one_by_one
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.recordings import Recording
from flowstream.settings import Settings

DATA = Path(__file__).parents[1] / "data"
ORACLE: dict[str, Any] = json.loads((DATA / "clos_60s_oracle.json").read_text())
FRAME = 4 + 20  # the truth leaves out FCS, preamble and gap
UPLINK_OF_HA = ("10.255.0.11", "l1h", "in")


def run(**changed: Any) -> list[Result]:
    links = LinkTable.from_path(DATA / "clos_links.csv")
    pipeline = FilePipeline(Settings(analyses=("links",), **changed), links, "clos", "goflow")
    messages = Recording(DATA / "clos_60s_goflow2_v2.bin.gz").messages()
    said = [result for batch in in_batches(messages) for result in pipeline.feed(batch)]
    return [r for r in one_by_one([*said, *pipeline.finish()]) if r.stream == "link-use"]


def by_port(results: list[Result]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    found = defaultdict(list)
    for result in results:
        for port in (p for p in result.value["interfaces"] if p["samples"]):
            found[result.value["exporter"], port["name"], port["direction"]].append(port)
    return found


@pytest.fixture(scope="module")
def whole() -> dict[tuple[str, str, str], dict[str, Any]]:
    """The recording in one interval."""
    found = by_port(run(link_use={"interval_s": 300.0}))
    assert {len(ports) for ports in found.values()} == {1}
    return {key: ports[0] for key, ports in found.items()}


def within(port: dict[str, Any], least: int, most: int) -> bool:
    """Whether bytes on the wire in the interval of 300 s are within a port's bounds."""
    return bool(port["low_bps"] <= most * 8 / 300 and port["high_bps"] >= least * 8 / 300)


def test_what_hosts_sent_is_within_the_bounds_of_their_ports(whole):
    sent = {"10.0.1.": 0, "10.0.2.": 0, "10.0.3.": 0, "10.0.4.": 0}
    counted = 0
    for source in ORACLE["sources"]:
        prefix = source["src"].replace("fd00:0:0:", "10.0.").replace("::", ".")[:7]
        sent[prefix] += source["bytes"] + FRAME * source["packets"]
        counted += source["bytes"] if prefix == "10.0.1." else 0
    assert counted == 344_176_848  # what the port's own octet counter rose by
    for leaf, total in enumerate(sent.values(), 1):
        port = whole[f"10.255.0.1{leaf}", f"l{leaf}h", "in"]
        assert within(port, total, total), (leaf, total * 8 / 300, port)
        assert port["rate_bps"] == pytest.approx(total * 8 / 300, rel=0.1)


def test_what_went_over_the_links_between_switches_is_within_their_bounds(whole):
    agents = {"leaf1": 11, "leaf2": 12, "leaf3": 13, "leaf4": 14, "spine1": 21, "spine2": 22}
    known: dict[tuple[str, str, str], int] = defaultdict(int)
    for flow in ORACLE["flows"]:
        for hop in flow["path"]:
            for side in ("in", "out"):
                known[f"10.255.0.{agents[hop['switch']]}", hop[side], side] += flow["bytes"] + FRAME * flow["packets"]
    every = sum(s["bytes"] + FRAME * s["packets"] for s in ORACLE["sources"])
    rest = every - sum(f["bytes"] + FRAME * f["packets"] for f in ORACLE["flows"])  # flows whose path is not recorded
    assert 0 < rest < 0.03 * every
    assert len(known) > 20
    for key, total in known.items():
        assert within(whole[key], total, total + rest), (key, total * 8 / 300, whole[key])


def test_the_intervals_add_up_to_the_whole(whole):
    parts = by_port(run(sampling={"samples_min": 0.0}))
    assert parts.keys() == whole.keys()
    for key, ports in parts.items():
        assert sum(p["rate_bps"] for p in ports) / 30 == pytest.approx(whole[key]["rate_bps"], abs=1)
        assert sum(p["samples"] for p in ports) == whole[key]["samples"]
    assert max(p["share"] for p in parts[UPLINK_OF_HA]) == pytest.approx(0.57, abs=0.06)  # 30 + 20 Mb/s and headers


def test_the_number_of_flows_partitions_changes_no_figure():
    one, four = (by_port(run(topics={"partitions": count})) for count in (1, 4))
    exact = ("rate_bps", "samples", "share", "link_bps")
    assert {k: [[p[n] for n in exact] for p in v] for k, v in one.items()} == {
        k: [[p[n] for n in exact] for p in v] for k, v in four.items()
    }
