"""Top talkers against sums in dicts, row by row: their windows, ties and bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream import schemas
from flowstream.batch import address_words
from flowstream.counting import Rule
from flowstream.talker_results import Wanted
from flowstream.talker_tables import SUM_MAX, Table, folded
from flowstream.talkers import TalkersConfig, TopTalkers
from tests.talkers import CONFIG, FIRST, SECOND, Row, expected, fed, of_all, pane_of, ruled, run, summed, told, traffic

ROWS = st.lists(
    st.builds(
        Row, st.integers(FIRST, FIRST + 40), st.tuples(st.integers(0, 6)), st.integers(0, 3), st.integers(0, 3),
        st.integers(1, 2), st.integers(0, 3), st.just("protocol"), st.sampled_from(Rule),
    ),
    min_size=1, max_size=60,
)  # fmt: skip


@given(ROWS)
def test_every_window_has_the_sums_of_its_rows_and_ties_are_in_the_order_of_keys(rows):
    assert told(run(CONFIG, rows)) == expected(CONFIG, rows)


@given(ROWS, st.integers(3, 9))
def test_every_window_names_the_rules_by_which_its_rows_count_also_those_of_keys_that_were_dropped(rows, keys_max):
    config = replace(CONFIG, keys_max=keys_max)
    named = {r.key: r.value["counted_by"] for r in run(config, rows)}
    assert named == ruled(config, rows)


@given(ROWS, st.integers(3, 9), st.sampled_from([0.0, 4.0]))
def test_the_total_of_a_window_is_as_sure_as_all_its_rows_together_also_those_of_keys_that_were_dropped(
    rows, keys_max, samples_min
):
    config = replace(CONFIG, keys_max=keys_max, wanted=replace(CONFIG.wanted, samples_min=samples_min))
    rows = [row._replace(sent=100_000 * row.sent) for row in rows]
    values = {r.key: r.value for r in run(config, rows)}
    wanted = of_all(config, rows)
    assert {key: value["bytes"] for key, value in values.items()} == {key: named for key, (named, *_) in wanted.items()}
    for key, (named, low, high) in wanted.items():
        assert (values[key]["bytes_low"], values[key]["bytes_high"]) == pytest.approx((low, high), rel=1e-6, abs=1)
        assert (values[key]["packets"] is None) == (named is None)
        if named is None and values[key]["ranked_by"] != "records":
            assert all(entry["share"] is None for entry in values[key]["top"])


def test_many_windows_that_slide_by_a_pane_have_the_sums_of_their_rows():
    config = TalkersConfig(((10, 1), (60, 5)), by=("protocol",), wanted=Wanted(count=5, samples_min=0.0))
    rows = traffic(1, panes=200)
    results = run(config, rows)
    assert told(results) == expected(config, rows)
    assert len(results) > 450


@given(ROWS, st.randoms(use_true_random=False))
def test_how_rows_are_spread_over_flows_partitions_changes_nothing(rows, random):
    spread = [row._replace(partition=random.randrange(4)) for row in rows]
    assert run(CONFIG, spread) == run(CONFIG, [row._replace(partition=0) for row in rows])


def test_a_window_that_reaches_back_before_the_first_row_says_from_when_on_it_is_covered():
    rows = [Row(pane, (6,), 1) for pane in range(FIRST + 3, FIRST + 20)]
    covered = [
        r.value["covered_from_ns"] // SECOND - FIRST
        for r in run(TalkersConfig(((8, 2),), wanted=Wanted(("bytes",))), rows)
    ]
    assert covered == [3, 3, 3, 3, 4, 6, 8, 10, 12]


def test_keys_are_read_as_what_they_are():
    source, destination = address_words("10.0.0.1"), address_words("2001:db8::2")
    keys = {
        "source": source, "destination": destination, "pair": source + destination, "protocol": (17,),
        "conversation": (*source, *destination, 40_000 << 32 | 443 << 8 | 6), "port": (17 << 16 | 53,),
        "as": (64_512 << 32 | 4_200_000_000,), "interface": (*source, 7),
    }  # fmt: skip
    rows = [Row(FIRST, key, 100, by=by) for by, key in keys.items()]
    results = run(TalkersConfig(((1, 1),), wanted=Wanted(("bytes",))), rows)
    fields = {r.value["by"]: {k: v for k, v in r.value["top"][0].items() if v is not None} for r in results}
    figures = {"bytes", "bytes_low", "bytes_high", "packets", "records", "share"}
    assert {by: {k: v for k, v in found.items() if k not in figures} for by, found in fields.items()} == {
        "source": {"src_addr": "10.0.0.1"},
        "destination": {"dst_addr": "2001:db8::2"},
        "pair": {"src_addr": "10.0.0.1", "dst_addr": "2001:db8::2"},
        "conversation": {
            "src_addr": "10.0.0.1", "dst_addr": "2001:db8::2", "src_port": 40_000, "dst_port": 443, "proto": 6,
        },
        "port": {"proto": 17, "port": 53},
        "protocol": {"proto": 17},
        "as": {"src_as": 64_512, "dst_as": 4_200_000_000},
        "interface": {"exporter": "10.0.0.1", "in_if": 7},
    }  # fmt: skip


def test_what_was_said_fits_its_schema():
    operator = TopTalkers(CONFIG, SECOND)
    for _, said in fed(operator, traffic(3)):
        for result in said:
            schema = result.stream.replace("-", "_")
            assert schemas.decode_body(schema, schemas.encode_body(schema, result.value)) == result.value


@given(ROWS)
def test_bounds_hold_the_estimate_and_shares_add_up_to_one_at_the_most(rows):
    for result in run(CONFIG, rows):
        for entry in result.value["top"]:
            assert entry["bytes_low"] <= entry["bytes"] <= entry["bytes_high"]
        assert sum(entry["share"] for entry in result.value["top"]) <= 1 + 1e-9


@given(st.lists(st.dictionaries(st.integers(0, 30), st.integers(1, 50), max_size=20), max_size=8), st.integers(3, 20))
def test_beyond_the_cap_counts_are_too_small_by_no_more_than_is_said(steps, keys_max):
    tables = [
        Table.of_rows(pane_of(0, [Row(0, (k,), sent, sent // 2, 1) for k, sent in step.items()]).rows, 1).cut(keys_max)
        for step in steps
    ]
    total, was_cut = folded(tables, Table.empty(1, 0), keys_max)
    true = summed(Row(0, (k,), sent, sent // 2, 1) for step in steps for k, sent in step.items())
    assert len(total) <= keys_max
    counters = keys_max // 3
    found = {int(key): sums for key, sums in zip(total.keys[:, 0], total.sums.tolist(), strict=True)}
    for m in range(3):
        assert total.totals[m] == sum(sums[m] for sums in true.values())
        assert total.errors[m] * (counters + 1) <= total.totals[m]
        for (key,), sums in true.items():
            assert sums[m] - total.errors[m] <= found.get(key, [0, 0, 0])[m] <= sums[m]
    if len(true) <= keys_max:
        assert not was_cut
        assert total.errors == (0, 0, 0)


def test_windows_beyond_the_cap_say_their_error_and_name_what_is_large():
    config = TalkersConfig(((20, 5),), ("protocol",), 30, Wanted(("bytes",), 3, 0.0))
    rows = traffic(4, panes=120, keys=4000) + [Row(p, (5000,), 40) for p in range(FIRST, FIRST + 120)]
    exact = {k: v for k, v in expected(config, rows).items() if v[0] > 30}
    results = {r.key: r.value for r in run(config, rows)}
    assert len(exact) > 10
    for key, (_, total, top) in exact.items():
        value = results[key]
        assert 0 < value["bytes_error_max"] <= total // 11
        assert value["keys"] <= 30
        assert value["bytes"] == total
        assert value["top"][0]["proto"] == 5000 & 0xFF
        assert value["top"][0]["bytes"] <= top[0][1] <= value["top"][0]["bytes_high"]
        assert top[0][1] - value["top"][0]["bytes"] <= value["bytes_error_max"]


def test_a_day_costs_memory_by_keys_and_not_by_rows():
    config = TalkersConfig(
        ((6, 1), (360, 6), (8640, 90)), ("protocol",), wanted=Wanted(count=50, samples_min=0.0)
    )  # in panes of ten seconds
    rng = np.random.default_rng(5)
    panes = range(FIRST, FIRST + 10_000, 19)  # more than a day
    rows = [Row(pane, (int(key),), int(rng.integers(1, 99))) for pane in panes for key in rng.integers(0, 25, 6)]
    operator, results, held = TopTalkers(config, SECOND), [], 0
    for _, said in fed(operator, rows):
        results += [r for r in said if r.stream == "talkers"]
        held = max(held, operator.keys_held)
    slots = sum(config.kept(step) // step for step in config.steps) + len(config.windows)
    assert held <= slots * 25  # keys times steps
    assert told(results) == expected(config, rows)
    assert sum("|8640|" in r.key for r in results) > 250


def test_more_keys_than_the_cap_are_not_held():
    config = TalkersConfig(((8, 2), (16, 4)), by=("protocol",), keys_max=9)
    operator = TopTalkers(config, SECOND)
    rows = [Row(pane, (key,), key + 1) for pane in range(FIRST, FIRST + 40) for key in range(pane % 5, 60)]
    for _ in fed(operator, rows):
        assert operator.keys_held <= 9 * (4 + 4 + 2)


def test_sums_of_absurd_rows_stop_at_the_limit_and_leave_no_trace_when_they_leave():
    config = TalkersConfig(((4, 1),), by=("protocol",), wanted=Wanted(("bytes",), samples_min=0.0))
    rows = [Row(FIRST, (6,), (1 << 63) - 1), Row(FIRST, (6,), 5), Row(FIRST, (7,), -9)]
    rows += [Row(pane, (6,), 10) for pane in range(FIRST, FIRST + 9)]
    sums = [r.value["bytes"] for r in run(config, rows)]
    assert sums == [SUM_MAX, SUM_MAX + 10, SUM_MAX + 20, SUM_MAX + 30, 40, 40, 40, 40, 40]
