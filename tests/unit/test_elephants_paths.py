"""Laws of where an elephant is reported."""

import pytest

from flowstream.batch import FlowBatch
from flowstream.elephant_events import SIGHTINGS_MAX
from flowstream.links import LinkTable
from tests.elephant_rows import GIGABIT, LEAF_IN, LEAF_OUT, SPINE, events, fabric, link, operator, path, run


@pytest.mark.parametrize("links", [fabric(), fabric("192.0.2.11")])
def test_a_flow_seen_on_three_switches_is_reported_once_with_its_path(links):
    told = run(operator(links), path(LEAF_OUT, LEAF_IN, SPINE))
    assert len(events(told, "onset")) == len(events(told, "offset")) == 1
    assert {(v["exporter"], v["in_if"]) for v in events(told)} == {LEAF_IN[:2]}
    for value in events(told, "onset", "update")[:7]:
        hops = [(s["exporter"], s["in_if"], s["ip_ttl"]) for s in value["sightings"]]
        assert hops == [LEAF_IN, SPINE, LEAF_OUT]
        assert {s["out_if"] for s in value["sightings"]} == {9}


def test_an_edge_mark_beats_the_ttl():
    told = events(run(operator(fabric("192.0.2.13")), path(LEAF_IN, SPINE, LEAF_OUT)))
    assert {v["exporter"] for v in told} == {"192.0.2.13"}


def test_without_edge_and_ttl_the_largest_estimate_wins_and_then_the_lowest_address():
    hops = [(exporter, in_if, 0) for exporter, in_if, _ in (LEAF_IN, SPINE, LEAF_OUT)]
    told = events(run(operator(fabric()), path(*hops)), "onset")
    assert [v["exporter"] for v in told] == ["192.0.2.11"]
    larger = FlowBatch.concat([path(*hops), path(hops[1], share=0.5)])
    told = events(run(operator(fabric()), larger), "onset")
    assert [v["exporter"] for v in told] == ["192.0.2.21"]


def test_one_exporter_with_two_interfaces_reports_the_lower_one():
    links = LinkTable.from_rows([link(if_index=4), link(if_index=3)])
    told = run(operator(links), path(("192.0.2.1", 4, 60), ("192.0.2.1", 3, 60)))
    assert [v["in_if"] for v in events(told, "onset")] == [3]


def test_inside_the_fabric_nothing_reports_while_the_edge_sees_less():
    # The same flow is 30 % of the spine's slow link, and 3 % of the edge port's fast one.
    links = fabric("192.0.2.11").upserted(link("192.0.2.11", 1, 10 * GIGABIT, edge=True))
    assert run(operator(links), path(LEAF_IN, SPINE)) == []
    told = run(operator(links), path(SPINE))
    assert [v["exporter"] for v in events(told, "onset")] == ["192.0.2.21"]


def test_a_sighting_without_capacity_is_listed_but_does_not_report():
    links = LinkTable.from_rows([link("192.0.2.21", 2)])
    told = events(run(operator(links), path(LEAF_IN, SPINE)), "onset")
    assert [v["exporter"] for v in told] == ["192.0.2.21"]
    assert [s["exporter"] for s in told[0]["sightings"]] == ["192.0.2.11", "192.0.2.21"]


def test_made_up_exporters_do_not_make_a_record_grow():
    crowd = [(f"198.51.{n >> 8}.{n & 255}", 1, 60) for n in range(3 * SIGHTINGS_MAX)]
    told = events(run(operator(fabric("192.0.2.13")), path(LEAF_OUT, *crowd, seconds=4), seconds=6), "onset")
    assert [v["exporter"] for v in told] == ["192.0.2.13"]
    assert len(told[0]["sightings"]) == SIGHTINGS_MAX
    assert told[0]["sightings"][0]["exporter"] == "192.0.2.13"
    last = path((LEAF_OUT[0], LEAF_OUT[1], 1), *crowd, seconds=4)
    told = events(run(operator(fabric("192.0.2.13")), last, seconds=6), "onset")
    assert len(told[0]["sightings"]) == SIGHTINGS_MAX
    assert told[0]["sightings"][-1]["exporter"] == "192.0.2.13", "the one that is published is always among them"
