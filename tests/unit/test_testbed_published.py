"""What the worker publishes, taken as what the truth is held against, and the verdicts on it."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.testbed import verdicts
from deploy.testbed.published import inbound_rates, source_bytes, whole_paths
from deploy.testbed.truth import Flow, Truth

SECOND_NS = 10**9
FLOW = Flow("10.0.1.10", "10.0.3.10", 6, 40_001, 5201)
HOPS = [("10.255.0.11", 15, 12), ("10.255.0.22", 13, 31), ("10.255.0.13", 30, 33)]


def talkers(size_s: int = 10, **changed: Any) -> dict[str, Any]:
    row = {"src_addr": "10.0.1.10", "bytes": 640, "bytes_low": 600, "bytes_high": 700, "records": 10}
    few = {"src_addr": "10.0.1.11", "bytes": None, "bytes_low": 1, "bytes_high": 90, "records": 1}
    value = {"window_start_ns": 0, "window_end_ns": size_s * SECOND_NS, "by": "source", "ranked_by": "bytes"}
    return value | {"top": [row, few]} | changed


def test_sources_are_taken_from_windows_of_the_length_ranked_by_bytes():
    others = [talkers(60), talkers(by="destination"), talkers(ranked_by="packets")]
    assert source_bytes(others, 10 * SECOND_NS) == {}
    found = source_bytes([*others, talkers()], 10 * SECOND_NS)
    assert {key: (e.low, e.high, e.samples, e.stated) for key, e in found.items()} == {
        (0, "10.0.1.10"): (600, 700, 10, True),
        (0, "10.0.1.11"): (1, 90, 1, False),
    }


def test_the_whole_run_is_the_last_of_the_longest_windows():
    late = talkers(90, window_start_ns=5 * SECOND_NS, window_end_ns=95 * SECOND_NS)
    late["top"] = late["top"][:1]
    found = source_bytes([late, talkers(90), talkers(10), talkers(900, by="pair")], 0)
    assert {key: estimate.low for key, estimate in found.items()} == {(0, "10.0.1.10"): 600}
    assert source_bytes([], 0) == {}


def path(*hops: tuple[str, int, int], **changed: Any) -> dict[str, Any]:
    named = [{"exporter": e, "in_if": i, "out_if": o, "inferred": False} for e, i, o in hops]
    return {"flow": FLOW._asdict(), "ambiguous": False, "paths": [{"complete": True, "hops": named}]} | changed


def test_only_paths_that_are_one_and_whole_and_reported_at_every_hop_are_judged():
    whole = path(*HOPS)
    assert whole_paths([whole]) == [(FLOW, HOPS)]
    assert whole_paths([path(*HOPS, ambiguous=True), whole | {"paths": whole["paths"] * 2}]) == []
    cut, guessed = path(*HOPS[:2]), path(*HOPS)
    cut["paths"][0]["complete"] = False
    guessed["paths"][0]["hops"][1]["inferred"] = True
    assert whole_paths([cut, guessed]) == []


def link_use(*rates: tuple[str, int | None]) -> dict[str, Any]:
    ports = [{"direction": way, "if_index": 15, "rate_bps": rate, "low_bps": 7, "high_bps": 9} for way, rate in rates]
    return {"window_start_ns": 0, "exporter": "10.255.0.11", "interfaces": ports}


def test_loads_are_those_inbound_that_have_a_number():
    assert inbound_rates([link_use(("out", 8), ("in", None))]) == {}
    assert inbound_rates([link_use(("out", 8), ("in", 8))]) == {(0, ("10.255.0.11", 15)): (7, 8, 9)}


@pytest.mark.parametrize(("wire_bytes", "good"), [(8, False), (9, True), (11, True), (12, False)])
def test_a_load_has_to_lie_within_its_interval(wire_bytes: int, good: bool):
    truth = Truth(10**8, 10 * SECOND_NS, {}, {}, {("leaf1", "l1h"): wire_bytes})
    rates = {(0, ("10.255.0.11", 15)): (7.0, 8.0, 9.0)}
    assert verdicts.link_coverage(truth, rates, {("10.255.0.11", 15): ("leaf1", "l1h")}).good == good
