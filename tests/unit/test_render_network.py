"""A line of top talkers or link use says the numbers of the record, word for word."""

from __future__ import annotations

import pytest

from flowstream.render import render_line
from tests.unit.test_render import FLOW, T_NS

NO_KEY = dict.fromkeys(
    ("src_addr", "dst_addr", "src_port", "dst_port", "proto", "port", "src_as", "dst_as", "exporter", "in_if")
)
ALL = "12,000 bytes [9,000 to 16,000]"
FIGURES = {"bytes": 3000, "bytes_low": 2000, "bytes_high": 4500, "packets": 7, "records": 3, "share": 0.25}


@pytest.mark.parametrize(
    ("by", "key", "shown"),
    [
        ("source", {"src_addr": "10.0.1.10"}, "10.0.1.10"),
        ("destination", {"dst_addr": "10.0.3.10"}, "10.0.3.10"),
        ("pair", {"src_addr": "10.0.1.10", "dst_addr": "10.0.3.10"}, "10.0.1.10 > 10.0.3.10"),
        ("conversation", FLOW, "tcp 10.0.1.11:40012 > 10.0.3.11:5202"),
        ("port", {"proto": 17, "port": 53}, "udp/53"),
        ("protocol", {"proto": 132}, "132"),
        ("as", {"src_as": 64512, "dst_as": 64513}, "AS64512 > AS64513"),
        ("interface", {"exporter": "10.255.0.11", "in_if": 15}, "10.255.0.11 if 15"),
    ],
)
def test_talkers_are_named_by_what_they_are_grouped_by(by, key, shown):
    value = talkers(by, [{**NO_KEY, **key, **FIGURES}])
    assert render_line("talkers", "", value) == (
        f"01:33:27.354 1 min 40 s, {ALL}, 1,234 by {by}, counted by edge, ttl: {shown} 3,000 bytes 25% [2,000 to 4,500]"
    )


def talkers(by, top, ranked_by="bytes"):
    return {
        "window_start_ns": T_NS - 100 * 10**9, "window_end_ns": T_NS, "covered_from_ns": T_NS - 100 * 10**9,
        "by": by, "ranked_by": ranked_by, "counted_by": ["EDGE", "TTL"], "keys": 1234, "correction": 1.0,
        "lost_share": 0.0, "bytes": 12_000, "bytes_low": 9000, "bytes_high": 16_000, "packets": 28, "records": 12,
        "top": top,
    }  # fmt: skip


def test_talkers_show_the_first_five_by_their_rank_and_what_is_not_sure():
    top = [{**NO_KEY, "src_addr": f"10.0.0.{n}", **FIGURES} for n in range(7)]
    line = render_line("talkers", "", talkers("source", top, "packets"))
    assert line.startswith("01:33:27.354 1 min 40 s, 28 packets, 1,234 by source, counted by edge, ttl: 10.0.0.0 7 p")
    assert line.endswith(": " + "; ".join(f"10.0.0.{n} 7 packets 25%" for n in range(5)))
    unsure = talkers("source", [top[0] | {"bytes": None, "packets": None, "share": None}])
    told = "10.0.0.0 2,000 to 4,500 bytes, not enough samples"
    assert (
        render_line("talkers", "", unsure)
        == f"01:33:27.354 1 min 40 s, {ALL}, 1,234 by source, counted by edge, ttl: {told}"
    )
    few = unsure | {"bytes": None, "packets": None}
    assert "s, 9,000 to 16,000 bytes, not enough samples, 1,234 by source" in render_line("talkers", "", few)
    cut = unsure | {"covered_from_ns": T_NS - 10**9, "lost_share": 0.05}
    assert render_line("talkers", "", cut) == (
        f"01:33:27.354 1 min 40 s (the log began within it), {ALL}, 1,234 by source, counted by edge, ttl: "
        f"{told}; 5.0% lost at most"
    )


def decided(kind, number, low, high, records=9):
    names = (f"bytes_{kind}", f"bytes_{kind}_low", f"bytes_{kind}_high", f"records_{kind}")
    return dict(zip(names, (number, low, high, records), strict=True))


def test_counting_says_what_each_rule_left_and_what_a_sum_over_exporters_would_be():
    rules = [
        {"rule": "EDGE", **decided("counted", 1000, 900, 1200), **decided("removed", 2000, 2000, 2000)},
        {"rule": "ONLY", **decided("counted", 5, 5, 5), **decided("removed", 0, 0, 0, 0)},
        {"rule": "TTL", **decided("counted", 9, 9, 9), **decided("removed", None, 1, 90)},
    ]
    value = {"window_start_ns": T_NS, "rules": rules, "sum_over_exporters": 2.99}
    line = (
        "01:33:27.354 counted once: edge 1,000 B [900 to 1,200], removed 2,000 B; only 5 B; "
        "ttl 9 B, removed 1 to 90 B, not enough samples"
    )
    assert render_line("counting", "", value) == f"{line}; summed over exporters 2.99 times as much"
    assert render_line("counting", "", value | {"sum_over_exporters": None}) == line


def port(if_index, share, rate_bps, **more):
    return {
        "if_index": if_index, "direction": "out", "name": "", "rate_bps": rate_bps, "low_bps": 3_000_000,
        "high_bps": 5_000_000, "samples": 44, "share": share, "link_bps": None if share is None else 10**8,
    } | more  # fmt: skip


LINK_USE = {
    "window_start_ns": T_NS, "node": "", "exporter": "10.255.0.11", "late_bytes": 0, "correction": 1.0,
    "lost_share": 0.0,
}  # fmt: skip


def test_link_use_shows_the_three_fullest_interfaces_by_share_and_then_by_rate():
    ports = [
        port(1, None, 9e9), port(2, 0.4, 4e7, name="l1s1", direction="in"), port(3, None, 8e9), port(4, 0.1, 1e7),
        port(5, None, None),
    ]  # fmt: skip
    value = LINK_USE | {"interfaces": ports, "late_bytes": 1234}
    bounds = "[3.0 Mb/s to 5.0 Mb/s]"
    assert render_line("link-use", "", value) == (
        f"01:33:27.354 10.255.0.11: 5 interfaces, l1s1 in 40.0 Mb/s {bounds}, 40% of 100.0 Mb/s; "
        f"if 4 out 10.0 Mb/s {bounds}, 10% of 100.0 Mb/s; if 1 out 9.0 Gb/s {bounds}; 1,234 B too late"
    )
    alone = LINK_USE | {"node": "leaf1", "interfaces": ports[4:]}
    assert render_line("link-use", "", alone) == (
        f"01:33:27.354 leaf1: 1 interfaces, if 5 out not enough samples {bounds}"
    )


def test_percentiles_say_of_which_period_and_show_the_three_fullest():
    ports = [
        port(n, None, None, p95_bps=n * 10**6, p95_low_bps=5 * 10**5, p95_high_bps=n * 2 * 10**6) for n in (1, 2, 3, 4)
    ]
    ports[0] |= {"share": 0.01, "link_bps": 10**8, "name": "l1s1", "direction": "in"}
    value = LINK_USE | {"interfaces": ports, "period": "day", "node": "leaf1"}
    assert render_line("link-use-percentiles", "", value) == (
        "2026-11-21T01:33:27.354Z day leaf1: 4 interfaces, l1s1 in p95 1.0 Mb/s "
        "[500.0 kb/s to 2.0 Mb/s], 1% of 100.0 Mb/s; "
        "if 4 out p95 4.0 Mb/s [500.0 kb/s to 8.0 Mb/s]; if 3 out p95 3.0 Mb/s [500.0 kb/s to 6.0 Mb/s]"
    )


def test_an_event_of_a_link_says_which_and_on_how_many_samples_it_rests():
    value = LINK_USE | port(9, 0.85, 8.5e7, name="l1s1") | {"event": "onset", "time_ns": T_NS}
    assert render_line("link-events", "", value) == (
        "01:33:27.354 onset  10.255.0.11 l1s1 out 85.0 Mb/s [3.0 Mb/s to 5.0 Mb/s], 85% of 100.0 Mb/s, 44 samples"
    )
