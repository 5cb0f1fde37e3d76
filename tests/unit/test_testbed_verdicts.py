"""Judging results by the truth: each verdict turns bad by exactly what it is there to find."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from deploy.testbed import verdicts
from deploy.testbed.check import RECORDED, as_table, port_names, status
from deploy.testbed.samples import read_rows, sampled_paths, summed_over_agents
from deploy.testbed.truth import Flow, SentFlow, Truth, recorded
from deploy.testbed.verdicts import SourceEstimate, Verdict
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
        assert [verdict.good for verdict in verdicts.coverage(truth, found)] == [good, good]


def test_a_second_of_delay_is_allowed_for_and_what_holds_without_is_told_beside():
    moved = replace(TRUTH, before={(0, "10.0.1.10"): 100, (10, "10.0.1.10"): 300})
    bounds = {(0, "10.0.1.10"): (700, 1100), (10, "10.0.1.10"): (2000, 2300)}
    for key, (least, most) in bounds.items():
        for low, high, good in ((least - 9, least, True), (least - 9, least - 1, False), (most, most + 9, True),
                                (most + 1, most + 9, False)):  # fmt: skip
            allowed, strictly = verdicts.coverage(moved, {key: estimate(low, high)})
            assert (allowed.good, strictly.good) == (good, low <= moved.sources[key] <= high)
            assert (allowed.decides, strictly.decides) == (True, False)


def test_what_was_sent_by_nobody_is_not_held_and_what_is_not_stated_does_not_count():
    stranger = {(0, "10.9.9.9"): estimate(1, 5)}
    beside = {(0, "10.9.9.9"): estimate(1, 5, stated=False), (0, "10.0.1.10"): estimate(1, 1e6)}
    for found, good in ((stranger, False), (beside, True), ({}, False)):
        assert [verdict.good for verdict in verdicts.coverage(TRUTH, found)] == [good, good]


def test_a_run_is_bad_by_what_decides_alone_and_its_table_prints_brackets():
    told = Verdict("leaf1[l1h]", "[x]", "[y]", good=False, decides=False)
    assert status([replace(told, good=True), told]) == 0
    assert status([told, replace(told, decides=True)]) == 1
    out = Console(file=StringIO(), width=100)
    out.print(as_table([told]))
    assert all(text in out.file.getvalue() for text in ("leaf1[l1h]", "[x]", "[y]"))  # type: ignore[attr-defined]


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


OTHER = (("leaf1", "l1h", "l1s1"), ("spine1", "s1l1", "s1l3"), ("leaf3", "l3s1", "l3h"))
HUNDRED = {
    LARGE._replace(src_port=port): SentFlow(700_000, 500, 1e5, 1e5, OTHER if port < 58 else PATH)
    for port in range(100)
}  # fmt: skip


def test_a_hundred_flows_are_judged_by_both_spines_and_without_iperf3s_own_connections():
    control = LARGE._replace(src_port=200)
    truth = replace(TRUTH, flows=HUNDRED | {control: SentFlow(9_000, 40, 1e3, 1e3, PATH)})
    seen = [(flow, HOPS) for flow, sent in HUNDRED.items() if sent.path == PATH]
    by_one = [(LARGE._replace(src_port=n), [("10.255.0.11", 15, 9), *HOPS[1:]]) for n in range(58)]
    names = NAMES | {("10.255.0.11", 9): ("leaf1", "l1s1"), ("10.255.0.21", 1): ("spine1", "s1l1"),
                     ("10.255.0.21", 3): ("spine1", "s1l3"), ("10.255.0.13", 27): ("leaf3", "l3s1")}  # fmt: skip
    right = [(flow, [("10.255.0.11", 15, 9), ("10.255.0.21", 1, 3), ("10.255.0.13", 27, 33)]) for flow, _ in by_one]
    verdict = verdicts.hundred(truth, [*seen, *right, (control, HOPS), (SMALL, HOPS)], names)
    assert verdict.good
    assert verdict.found == "58 by spine1 and 42 by spine2; 100 of 100 paths of 100 flows equal"
    assert not verdicts.hundred(truth, [*seen, *by_one], names).good  # by other ports than they went
    assert not verdicts.hundred(truth, seen, names).good  # less than half of them known
    one_spine = replace(truth, flows={flow: replace_path(sent) for flow, sent in truth.flows.items()})
    assert not verdicts.hundred(one_spine, [(flow, HOPS) for flow in HUNDRED], names).good
    fewer = replace(truth, flows=dict(list(HUNDRED.items())[1:]))
    assert not verdicts.hundred(fewer, [*seen, *right[1:]], names).good


def replace_path(sent: SentFlow) -> SentFlow:
    return sent._replace(path=PATH)


def shared(*flows: Flow, place: tuple[str, int] = ("10.255.0.22", 31)) -> dict[str, Any]:
    return {"exporter": place[0], "out_if": place[1], "elephants": [{"flow": flow._asdict()} for flow in flows]}


def test_links_that_elephants_share_are_all_told_and_no_other():
    second = LARGE._replace(src_port=7)
    elsewhere = (("leaf1", "l1h", "l1s1"), ("spine1", "s1l1", "s1l2"), ("leaf2", "l2s1", "l2h"))
    alone = LARGE._replace(dst_addr="10.0.2.10"), TRUTH.flows[LARGE]._replace(path=elsewhere)
    truth = replace(TRUTH, flows=TRUTH.flows | {second: TRUTH.flows[LARGE]} | dict([alone]))
    both = [shared(LARGE, second, place=(exporter, out_if)) for exporter, _, out_if in HOPS]
    assert verdicts.shared_links(truth, both, NAMES).good
    assert not verdicts.shared_links(truth, both[:2], NAMES).good
    assert not verdicts.shared_links(truth, [*both, shared(LARGE, SMALL)], NAMES).good
    assert not verdicts.shared_links(truth, [*both, shared(LARGE, second, place=("10.255.0.22", 13))], NAMES).good
    assert not verdicts.shared_links(TRUTH, [], NAMES).good  # nothing was shared, nothing is shown


@cache
def rows() -> FlowBatch:
    return read_rows(RECORDED / "clos_60s_goflow2_v2.bin.gz")


def test_summed_over_agents_the_recorded_fabric_has_three_times_what_was_sent():
    truth = recorded(RECORDED)
    times = sum(summed_over_agents(rows()).values()) / sum(truth.sources.values())
    assert times == pytest.approx(3.0, rel=0.02)
    assert verdicts.overcounting(truth, summed_over_agents(rows())).good


def test_every_sampled_path_of_the_recorded_minute_is_true():
    truth, names = recorded(RECORDED), port_names(LinkTable.from_path(RECORDED / "clos_links.csv"))
    paths = sampled_paths(rows())
    assert verdicts.paths("paths", truth, list(paths.items()), names).good
    wrong = [(flow, [(exporter, in_if, in_if) for exporter, in_if, _ in hops]) for flow, hops in paths.items()]
    assert not verdicts.paths("paths", truth, wrong, names).good
