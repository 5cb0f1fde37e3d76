"""A line for people says the numbers of the record, whole and in the usual units, whatever the record holds."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowstream.render import (
    RENDERED,
    duration_text,
    flow_text,
    moment_text,
    number_text,
    rate_text,
    render_line,
    time_text,
)
from flowstream.topics import STREAMS

T_NS = 1_795_224_807_354_413_963
FLOW = {"src_addr": "10.0.1.11", "dst_addr": "10.0.3.11", "proto": 6, "src_port": 40012, "dst_port": 5202}
ELEPHANT = {
    "flow": FLOW, "event": "onset", "exporter": "10.255.0.11", "in_if": 15, "rate_bps": 18_653_184.0,
    "low_bps": 11_106_472.69, "high_bps": 29_400_773.4, "samples": 18, "link_bps": 100_000_000,
    "share": 0.18653184, "first_ns": T_NS, "last_ns": T_NS, "time_ns": 1_795_224_808_000_000_000,
    "sightings": [{"exporter": "10.255.0.11"}, {"exporter": "10.255.0.22"}, {"exporter": "10.255.0.13"}],
}  # fmt: skip
DISTANCES = {
    "src_addr": "10.0.1.10", "window_start_ns": T_NS, "flows": 2001, "pairs": 2_001_000, "min": 0.0,
    "p50": 12.3456, "p99": 123_456.7, "p999": 1448.0, "max": 9_999.7,
}  # fmt: skip
UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@given(st.floats(-1e15, 1e15))
@example(999.96)
@example(999_960.0)
@example(-1e6)
def test_a_rate_reads_back_to_a_digit_behind_the_point_and_never_shows_a_thousand_of_a_unit(bits):
    number, prefix = re.fullmatch(r"(-?[0-9.]+) ([kMG]?|T)b/s", rate_text(bits)).groups()
    assert float(number) * UNITS[prefix] == pytest.approx(bits, abs=0.0501 * UNITS[prefix])
    assert prefix == "T" or abs(float(number)) < 1000


@given(st.floats(-1e12, 1e12))
@example(9999.7)
@example(9999.4)
def test_a_number_reads_back_to_four_digits_and_large_ones_have_no_exponent(number):
    text = number_text(number)
    assert float(text.replace(",", "")) == pytest.approx(number, rel=5e-4)
    assert "e+" not in text


def test_no_number_is_a_dash():
    assert number_text(None) == "-"


@given(st.integers(0, 2**62))
def test_a_time_is_the_time_of_day_in_utc_cut_to_milliseconds(time_ns):
    hour, minute, second, millisecond = map(int, re.split("[:.]", time_text(time_ns)))
    assert ((hour * 60 + minute) * 60 + second) * 1000 + millisecond == time_ns // 10**6 % 86_400_000


def test_a_flow_is_protocol_and_ends_with_brackets_about_ipv6():
    assert flow_text(FLOW) == "tcp 10.0.1.11:40012 > 10.0.3.11:5202"
    v6 = FLOW | {"src_addr": "fd00::1", "dst_addr": "fd00::2", "proto": 17}
    assert flow_text(v6) == "udp [fd00::1]:40012 > [fd00::2]:5202"
    assert flow_text(FLOW | {"proto": 132}).startswith("132 ")


def test_an_elephant_says_when_who_how_much_of_what_and_by_which_way():
    assert render_line("elephants", "key", ELEPHANT) == (
        "01:33:28.000 onset  tcp 10.0.1.11:40012 > 10.0.3.11:5202  18.7 Mb/s [11.1 Mb/s to 29.4 Mb/s], "
        "19% of 100.0 Mb/s, 18 samples, seen 10.255.0.11 > 10.255.0.22 > 10.255.0.13"
    )
    assert datetime.fromtimestamp(1_795_224_808, UTC).strftime("%H:%M:%S") == "01:33:28"


def test_an_elephant_on_a_link_of_unknown_capacity_claims_no_share():
    line = render_line("elephants", "", ELEPHANT | {"link_bps": None, "share": None})
    assert "%" not in line
    assert "29.4 Mb/s], 18 samples" in line


def test_distances_say_their_quantiles_and_nothing_of_them_where_there_is_no_pair():
    assert render_line("distances", "", DISTANCES) == (
        "01:33:27.354 10.0.1.10: 2001 flows, 2,001,000 pairs, min 0, p50 12.35, p99 123,457, p999 1,448, max 10,000"
    )
    alone = DISTANCES | {
        "flows": 1,
        "pairs": 0,
        "min": None,
        "p50": None,
        "p99": None,
        "p999": None,
        "max": None,
    }
    assert render_line("distances", "", alone) == "01:33:27.354 10.0.1.10: 1 flows, 0 pairs"


def test_sources_name_the_three_largest_and_ties_by_address():
    rows = [
        {"src_addr": address, "estimated_bytes": sent, "estimated_bytes_low": sent, "estimated_bytes_high": sent}
        for address, sent in (("d", 1), ("c", 9000), ("b", 9000), ("a", 5))
    ]
    line = render_line("sources", "", {"window_start_ns": T_NS, "sources": rows})
    assert line == "01:33:27.354 4 sources: b 9,000 B, c 9,000 B, a 5 B"


def test_sources_that_were_sampled_have_bounds_and_those_of_too_few_samples_no_number_and_come_last():
    rows = [
        {"src_addr": address, "estimated_bytes": sent, "estimated_bytes_low": low, "estimated_bytes_high": high}
        for address, sent, low, high in (("a", None, 0, 5600), ("b", 9000, 4000, 17_000), ("c", None, 30, 9_000_000))
    ]
    line = render_line("sources", "", {"window_start_ns": T_NS, "sources": rows})
    assert line == (
        "01:33:27.354 3 sources: b 9,000 B [4,000 to 17,000], a 0 to 5,600 B, not enough samples, "
        "c 30 to 9,000,000 B, not enough samples"
    )


def test_totals_say_what_was_lost_on_the_way_only_where_something_was():
    value = {
        "window_start_ns": T_NS, "node": "leaf1", "exporter": "10.255.0.11", "late_bytes": 0, "interfaces": [],
        "correction": 1.0, "lost_share": 0.0,
    }  # fmt: skip
    line = "01:33:27.354 leaf1: 0 interfaces, "
    assert render_line("link-use", "", value) == line
    assert render_line("link-use", "", value | {"lost_share": 0.1}) == f"{line}; 10.0% lost at most"
    made_up = value | {"lost_share": 0.1, "correction": 1.05}
    assert render_line("link-use", "", made_up) == f"{line}; 10.0% lost at most, made up for where known"


def test_loss_that_is_not_exact_is_said_to_be_at_most_so_much():
    value = {
        "window_start_ns": T_NS, "exporter": "10.255.0.11", "flow_type": "SFLOW_5", "counts": "DATAGRAMS",
        "received": 858, "lost": 9, "lost_share": 9 / 867, "exact": False,
    }  # fmt: skip
    line = "01:33:27.354 10.255.0.11 SFLOW_5: 858 datagrams received, 9 lost at most (1.0%)"
    assert render_line("export-loss", "", value) == line
    exact = value | {"counts": "FLOW_RECORDS", "exact": True}
    assert render_line("export-loss", "", exact).endswith("858 flow records received, 9 lost (1.0%)")


def test_a_dead_letter_says_where_it_lies_and_why():
    value = {
        "topic": "raw",
        "partition": 3,
        "offset": 12,
        "reason": "truncated",
        "payload_bytes": 7,
        "payload": b"",
    }
    assert render_line("dead-letters", "", value) == "raw-3 offset 12: truncated (7 bytes)"


def test_other_streams_are_names_and_values_cut_where_they_are_long():
    line = render_line("late", "a|b", {"rows": 3, "raw": b"\x00" * 5, "text": "x" * 500})
    assert line == "a|b  rows=3 raw=<5 bytes> text=" + "x" * 197 + "..."


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    stream=st.sampled_from([*STREAMS, "dead-letters", "late", ""]),
    base=st.sampled_from([ELEPHANT, DISTANCES, {}]),
    changes=st.dictionaries(st.sampled_from([*ELEPHANT, *DISTANCES, "sources", "deleted"]), json_values, max_size=3),
)
def test_any_record_of_any_stream_makes_one_line(stream, base, changes):
    line = render_line(stream, "key", base | changes)
    assert line.startswith("key  ") or re.match(r"\d\d:\d\d:", line) or "offset" in line
    assert line.isprintable()


def test_no_record_can_end_the_line_or_speak_to_the_terminal():
    hostile = {"topic": "raw\n\x1b[2J", "partition": 0, "offset": 1, "reason": "\ud800", "payload_bytes": 1}
    assert render_line("dead-letters", "", hostile) == r"raw\n\x1b[2J-0 offset 1: \ud800 (1 bytes)"
    assert render_line("late", "k\r", {"a": "\x07"}) == r"k\r  a=\x07"


def test_a_tombstone_and_an_undecodable_record_are_said_as_they_are():
    assert render_line("elephants", "k", {"deleted": True}) == "k  deleted=True"
    assert render_line("distances", "k", {"undecodable": "why", "bytes": 3}) == "k  undecodable=why bytes=3"


@given(st.integers(0, 4 * 10**18))
def test_a_moment_is_the_time_to_the_millisecond_below(time_ns: int):
    shown = moment_text(time_ns)
    milliseconds = int(datetime.fromisoformat(shown).timestamp() * 1000 + 0.5)
    assert milliseconds == time_ns // 1_000_000
    assert shown.endswith("Z")


@pytest.mark.parametrize(
    ("time_ns", "shown"), [(None, "-"), (T_NS, "2026-11-21T01:33:27.354Z"), (2**63 - 1, "2262-04-11T23:47:16.854Z"),
                           (2**90, f"{2**90} ns"), (-1, "1969-12-31T23:59:59.999Z")],
)  # fmt: skip
def test_a_moment_that_is_none_or_odd_is_shown_all_the_same(time_ns: int | None, shown: str):
    assert moment_text(time_ns) == shown


@pytest.mark.parametrize(
    ("duration_ns", "shown"), [(None, "-"), (0, "0.0 s"), (1_250_000_000, "1.2 s"), (99_000_000_000, "99.0 s"),
                               (100_000_000_000, "1 min 40 s"), (5_999 * 10**9, "99 min 59 s"),
                               (93_900 * 10**9, "26 h 05 min")],
)  # fmt: skip
def test_a_duration_has_two_figures_that_matter(duration_ns: int | None, shown: str):
    assert duration_text(duration_ns) == shown


def test_a_shared_link_says_who_is_on_it_and_what_is_idle_beside_it():
    value = {
        "window_end_ns": T_NS, "exporter": "10.0.0.1", "out_if": 9, "node": "leaf1", "port": "l1s1", "rate_bps": 5e7,
        "low_bps": 4e7, "high_bps": 7e7, "share": 0.5, "link_bps": 10**8, "correction": 1.0, "lost_share": 0.0,
        "elephants": [
            {"flow": FLOW, "rate_bps": 4.8e7, "low_bps": 3e7, "high_bps": 6e7},
            {"flow": FLOW, "rate_bps": None, "low_bps": 1e6, "high_bps": 9e6},
        ],
        "idle_links": [{"port": "l1s2", "peer": "spine2"}],
    }  # fmt: skip
    assert render_line("elephant-links", "", value) == (
        "01:33:27.354 leaf1[l1s1] 50.0 Mb/s [40.0 Mb/s to 70.0 Mb/s], 50% of 100.0 Mb/s: "
        "tcp 10.0.1.11:40012 > 10.0.3.11:5202 48.0 Mb/s [30.0 Mb/s to 60.0 Mb/s], "
        "tcp 10.0.1.11:40012 > 10.0.3.11:5202 not enough samples [1.0 Mb/s to 9.0 Mb/s]; idle beside it: l1s2 to spine2"
    )
    bare = value | {"node": None, "port": None, "share": None, "idle_links": [], "lost_share": 0.02}
    assert render_line("elephant-links", "", bare).startswith("01:33:27.354 10.0.0.1[9] 50.0 Mb/s [40.0 Mb/s to ")
    assert render_line("elephant-links", "", bare).endswith("idle beside it: none; 2.0% lost at most")


def test_every_result_that_people_read_has_a_line_of_its_own():
    """Not what a worker keeps for itself, and not pairs in blocks; a pair and a doubt are a few plain fields."""
    plain = {"talker-steps", "distance-pair-blocks", "distance-pairs", "input-quality"}
    assert set(STREAMS) - plain <= set(RENDERED)
