"""The elephants of the recorded CLOS test bed: 60 s of real traffic, sFlow 1-in-64, the truth being known."""

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from flowstream.batch import FlowBatch
from flowstream.decode import Payloads, decode
from flowstream.elephants import ElephantsConfig, ElephantsOperator
from flowstream.links import LinkTable
from flowstream.normalise import Normalisation, normalise
from flowstream.operators import Pane

RECORDED = Path(__file__).resolve().parents[1] / "data"
SECOND = 10**9
LINKS = LinkTable.from_path(RECORDED / "clos_links.csv")
UNMARKED = LinkTable.from_rows([row | {"edge": None} for row in LINKS.to_rows()])
LEAF1, LEAF2, LEAF3 = "10.255.0.11", "10.255.0.12", "10.255.0.13"
SPINE1, SPINE2 = "10.255.0.21", "10.255.0.22"

# Source port -> where the flow entered and how it went, as (exporter, in_if).
PATHS = {
    40001: [(LEAF1, 15), (SPINE1, 10), (LEAF3, 27)],
    40012: [(LEAF1, 15), (SPINE2, 13), (LEAF3, 30)],
    40053: [(LEAF2, 24), (SPINE2, 22), (LEAF3, 30)],
}


@cache
def recording() -> FlowBatch:
    """Every flow sample of the run, decoded as the worker does."""
    raw = gzip.decompress((RECORDED / "clos_60s_goflow2_v2.bin.gz").read_bytes())
    decoded = decode("goflow", Payloads.from_values([raw]))
    assert len(decoded.rejected) == 0
    assert len(decoded.flows) == 20_198
    return normalise(decoded.flows, Normalisation(), None)[0].in_time_order()


@cache
def sent():
    """What the generator sent, by source port: the five steady flows."""
    truth = json.loads((RECORDED / "clos_60s_truth.json").read_text())
    return {flow["sport"]: flow for flow in truth["elephants"]}


def told(links, **config):
    operator, rows = ElephantsOperator(ElephantsConfig(**config), SECOND, links), recording()
    first, last = int(rows.time_ns[0]) // SECOND, int(rows.time_ns[-1]) // SECOND
    results = []
    for index in range(first, last + 20):
        begin, end = np.searchsorted(rows.time_ns, [index * SECOND, (index + 1) * SECOND])
        pane = Pane(index, index * SECOND, (index + 1) * SECOND, rows.take(slice(begin, end)))
        results += [result.value for result in operator.process([pane])]
    assert operator.quiet
    return results


@pytest.mark.parametrize("links", [LINKS, UNMARKED], ids=["edges marked", "by time to live"])
def test_the_three_elephants_are_reported_once_each_where_they_enter_and_nothing_else_is(links):
    events = told(links)
    for name in ("onset", "offset"):
        assert sorted(e["flow"]["src_port"] for e in events if e["event"] == name) == sorted(PATHS)
    for event in events:
        assert (event["exporter"], event["in_if"]) == PATHS[event["flow"]["src_port"]][0]
        flow = sent()[event["flow"]["src_port"]]
        assert (event["flow"]["src_addr"], event["flow"]["dst_addr"]) == (flow["src"], flow["dst"])
        assert event["flow"]["dst_port"] == flow["dport"]
        assert event["flow"]["proto"] == {"tcp": 6, "udp": 17}[flow["proto"]]


def test_onsets_come_within_two_seconds_and_offsets_within_eight_of_the_end():
    for event in told(LINKS):
        flow = sent()[event["flow"]["src_port"]]
        if event["event"] == "onset":
            assert 0 < event["time_ns"] / SECOND - flow["start"] < 2.0
            assert event["first_ns"] / SECOND >= flow["start"]
        if event["event"] == "offset":
            assert 0 < event["time_ns"] / SECOND - flow["start"] - flow["seconds"] < 8.0


def test_sightings_give_the_path_leaf_spine_leaf():
    for event in told(LINKS):
        if event["event"] == "update" and event["samples"] > 40:
            path = [(s["exporter"], s["in_if"]) for s in event["sightings"]]
            assert path == PATHS[event["flow"]["src_port"]]
            assert [s["ip_ttl"] for s in event["sightings"]] == [64, 63, 62]


def test_estimates_agree_with_the_bytes_that_were_sent():
    events = told(LINKS)
    covered = []
    for port, flow in sent().items():
        # Updates six seconds into the flow and later look back on nothing but the flow.
        settled = [
            e
            for e in events
            if e["event"] == "update"
            and e["flow"]["src_port"] == port
            and flow["start"] + 6 < e["time_ns"] / SECOND < flow["start"] + flow["seconds"]
        ]
        if port not in PATHS:
            assert settled == []
            continue
        # Ethernet, IP and TCP or UDP headers and the FCS are 58 to 70 bytes on payloads of 1,400 and more.
        true_bps = flow["payload_bps"] * 1.05
        assert np.mean([e["rate_bps"] for e in settled]) == pytest.approx(true_bps, rel=0.05)
        covered += [e["low_bps"] <= true_bps <= e["high_bps"] for e in settled]
    assert np.mean(covered) > 0.9


def test_of_links_ten_times_as_fast_none_of_it_is_an_elephant():
    faster = [row | {"speed_bps": row["speed_bps"] * 10} for row in LINKS.to_rows()]
    assert told(LinkTable.from_rows(faster)) == []
