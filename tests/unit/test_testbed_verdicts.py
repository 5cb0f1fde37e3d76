"""Judging results by the truth: each verdict turns bad by exactly what it is there to find."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from deploy.testbed import verdicts
from deploy.testbed.check import RECORDED
from deploy.testbed.estimates import (
    SourceEstimate,
    read_rows,
    sampled_paths,
    source_estimates,
    summed_over_agents,
)
from deploy.testbed.truth import Flow, SentFlow, Truth, recorded
from flowstream.batch import FlowBatch
from flowstream.links import LinkTable

LARGE = Flow("10.0.1.10", "10.0.3.10", 6, 40_001, 5201)
MIDDLE = Flow("10.0.1.11", "10.0.3.10", 6, 40_002, 5201)
SMALL = Flow("10.0.2.10", "10.0.3.10", 6, 40_003, 5201)
PATH = (("leaf1", "l1h", "l1s2"), ("spine2", "s2l1", "s2l3"), ("leaf3", "l3s2", "l3h"))
TRUTH = Truth(
    100_000_000,
    10,
    {(0, "10.0.1.10"): 1000, (10, "10.0.1.10"): 2000},
    {
        LARGE: SentFlow(10**8, 10**5, 32e6, 15e6, PATH),
        MIDDLE: SentFlow(10**7, 10**4, 5e6, 14.9e6, ()),
        SMALL: SentFlow(10**6, 10**3, 4.9e6, 4e6, ()),
    },
    {},
)
NAMES = {
    ("10.255.0.11", 15): ("leaf1", "l1h"), ("10.255.0.11", 12): ("leaf1", "l1s2"),
    ("10.255.0.22", 13): ("spine2", "s2l1"), ("10.255.0.22", 31): ("spine2", "s2l3"),
    ("10.255.0.13", 30): ("leaf3", "l3s2"), ("10.255.0.13", 33): ("leaf3", "l3h"),
}  # fmt: skip
HOPS = [("10.255.0.11", 15, 12), ("10.255.0.22", 13, 31), ("10.255.0.13", 30, 33)]


def onset(*flows: Flow) -> list[dict[str, object]]:
    return [{"event": "onset", "flow": flow._asdict()} for flow in flows]


def estimate(low: float, high: float, *, stated: bool = True) -> SourceEstimate:
    return SourceEstimate((low + high) / 2, low, high, 9, stated)


def test_switches_that_did_not_take_one_frame_in_a_thousand_are_found_out():
    sent = sum(flow.packets for flow in TRUTH.flows.values())
    assert verdicts.delivery(replace(TRUTH, frames_lost=sent // 1000)).good
    assert not verdicts.delivery(replace(TRUTH, frames_lost=sent // 1000 + 1)).good


def test_intervals_are_good_down_to_93_in_a_hundred():
    truth = replace(TRUTH, sources={(n, "10.0.1.10"): 1000 for n in range(100)})
    for held, good in ((93, True), (92, False)):
        found = {(n, "10.0.1.10"): estimate(900, 1000) if n < held else estimate(1001, 1100) for n in range(100)}
        assert verdicts.coverage("intervals", truth, found).good == good


def test_what_was_sent_by_nobody_is_not_held_and_what_is_not_stated_does_not_count():
    stranger = {(0, "10.9.9.9"): estimate(1, 5)}
    assert not verdicts.coverage("intervals", TRUTH, stranger).good
    assert verdicts.coverage(
        "intervals", TRUTH, {(0, "10.9.9.9"): estimate(1, 5, stated=False), (0, "10.0.1.10"): estimate(1, 1e6)}
    ).good
    assert not verdicts.coverage("intervals", TRUTH, {}).good


@pytest.mark.parametrize(
    ("told", "missed_none", "false_none"),
    [
        ([LARGE], True, True),
        ([LARGE, MIDDLE], True, True),
        ([], False, True),
        ([MIDDLE], False, True),
        ([LARGE, SMALL], True, False),
        ([LARGE, LARGE._replace(src_port=1)], True, False),
    ],
)
def test_a_missed_and_a_false_elephant_are_each_found_out(told: list[Flow], missed_none: bool, false_none: bool):
    missed, false = verdicts.elephants(TRUTH, onset(*told))
    assert (missed.good, false.good) == (missed_none, false_none)


def test_a_path_is_equal_by_switches_ports_and_order():
    def good(hops: list[tuple[str, int, int]]) -> bool:
        return verdicts.paths("paths", TRUTH, [(LARGE, hops)], NAMES).good

    assert good(HOPS)
    assert not good([HOPS[1], HOPS[0], HOPS[2]])
    assert not good([HOPS[0], ("10.255.0.21", 10, 28), HOPS[2]])
    assert not good([("10.255.0.11", 15, 9), *HOPS[1:]])
    assert not good([*HOPS, HOPS[2]])


def test_a_path_of_which_a_hop_was_not_sampled_says_nothing():
    verdict = verdicts.paths("paths", TRUTH, [(LARGE, HOPS), (LARGE, HOPS[:2])], NAMES)
    assert verdict.good
    assert not verdicts.paths("paths", TRUTH, [(LARGE, HOPS[:2])], NAMES).good


@cache
def rows() -> FlowBatch:
    return read_rows(RECORDED / "clos_60s_goflow2_v2.bin.gz")


@cache
def links() -> LinkTable:
    return LinkTable.from_path(RECORDED / "clos_links.csv")


def test_counted_once_the_estimates_are_the_oracles_to_the_byte():
    oracle = json.loads(Path(RECORDED, "clos_60s_oracle.json").read_text())["sources"]
    wanted = {row["src"]: row["sflow_bytes"] + 4 * row["sflow_packets"] for row in oracle if row["sflow_packets"]}
    found = source_estimates(rows(), links(), 0)
    assert {src: estimate.bytes for (_, src), estimate in found.items()} == wanted


def test_summed_over_agents_the_recorded_fabric_has_three_times_what_was_sent():
    truth = recorded(RECORDED)
    times = sum(summed_over_agents(rows()).values()) / sum(truth.sources.values())
    assert times == pytest.approx(3.0, rel=0.02)
    assert verdicts.overcounting(truth, summed_over_agents(rows())).good


def test_the_recorded_minute_is_covered_and_every_path_of_it_is_true():
    truth = recorded(RECORDED)
    names = {(row["exporter"], row["if_index"]): (row["node"], row["name"]) for row in links().to_rows()}
    assert verdicts.coverage("intervals", truth, source_estimates(rows(), links(), truth.window_ns)).good
    paths = sampled_paths(rows())
    assert verdicts.paths("paths", truth, list(paths.items()), names).good
    wrong = [(flow, [(exporter, in_if, in_if) for exporter, in_if, _ in hops]) for flow, hops in paths.items()]
    assert not verdicts.paths("paths", truth, wrong, names).good
