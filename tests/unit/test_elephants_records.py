"""Laws of flow records (NetFlow, IPFIX, events) in the elephants operator."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream.batch import FlowBatch, Quality
from flowstream.operators import Pane
from tests.builders import T0_NS
from tests.elephant_rows import GIGABIT, SECOND, events, operator, record, run


def test_a_long_record_of_a_small_flow_makes_no_onset_and_no_rate_above_its_average():
    for share in (0.03, 0.08):
        assert run(operator(), record(share, 0, 60), 90) == []


def test_a_long_record_of_a_large_flow_makes_an_onset_when_it_arrives_which_says_when_it_began():
    told = run(operator(), record(0.3, 0, 60, export_s=61), 160)
    onset = events(told, "onset")[0]
    assert onset["first_ns"] == T0_NS
    assert onset["last_ns"] == T0_NS + 60 * SECOND
    assert T0_NS + 61 * SECOND <= onset["time_ns"] <= T0_NS + 62 * SECOND
    assert onset["rate_bps"] == pytest.approx(0.3 * GIGABIT, rel=1e-6)
    assert [v["event"] for v in events(told)] == ["onset", "offset"]


LIFE = st.tuples(st.integers(5, 16), st.integers(1, 20), st.integers(0, 8), st.booleans())


@settings(max_examples=100)
@given(st.lists(LIFE, min_size=1, max_size=6))
def test_stepping_over_records_ends_where_ticking_through_them_would(lives):
    one, at, s = operator(decision=1e12), 0, 0.0
    gain, drift, packet = math.log(1.5 / 0.7), 0.8, 1000
    for percent, life_s, silence_s, in_two in lives:
        start, end = at + silence_s, at + silence_s + life_s
        parts = [record(percent / 100 / (1 + in_two), start, end, end + 0.5 * n) for n in range(1 + in_two)]
        rows = FlowBatch.concat(parts)
        rows = rows.replace(bytes=rows.bytes // packet * packet)
        one.process([Pane(T0_NS // SECOND + end, T0_NS + end * SECOND, T0_NS + (end + 1) * SECOND, rows)])
        for tick in range((end - at) * 4):
            carried = int(rows.bytes.sum()) / life_s / 4 if tick >= silence_s * 4 else 0.0
            s = max(0.0, s + (gain * carried - drift * 0.1 * GIGABIT / 8 / 4) / packet)
        assert float(one._state.rows["s"].sum()) == pytest.approx(s, rel=1e-6, abs=1e-6)
        at = end


@settings(max_examples=40)
@given(
    st.floats(0.01, 1.0),
    st.floats(1.0, 60.0),
    st.floats(0.0, 10.0),
    st.integers(1, 5),
    st.sampled_from([1, 100]),
)
def test_no_flow_is_ever_faster_than_its_link_however_its_records_are_cut(share, life_s, delay_s, parts, rate):
    cuts = np.linspace(0.0, life_s, parts + 1)
    batch = FlowBatch.concat(record(share, a, b, export_s=b + delay_s, rate=rate) for a, b in itertools.pairwise(cuts))
    for value in events(run(operator(), batch, 80)):
        assert value["rate_bps"] <= GIGABIT * (1 + 1e-6)
        assert value["rate_bps"] <= share * GIGABIT * (1 + 1e-6)


def test_consecutive_records_of_one_flow_are_one_elephant_until_the_next_is_overdue():
    batch = FlowBatch.concat(record(0.3, 10 * n, 10 * (n + 1)) for n in range(5))
    told = run(operator(), batch, 100)
    assert [v["event"] for v in events(told)] == ["onset"] + ["update"] * 4 + ["offset"]
    assert events(told, "offset")[0]["time_ns"] - T0_NS <= 70 * SECOND
    assert {v["first_ns"] for v in events(told)} == {T0_NS}


def test_a_record_that_falls_low_ends_the_elephant_at_once_when_it_covers_the_hold():
    batch = FlowBatch.concat([record(0.3, 0, 10), record(0.02, 10, 20)])
    ends = events(run(operator(), batch, 60), "offset")
    assert [(v["time_ns"] - T0_NS) // SECOND for v in ends] == [20]


def test_a_flow_split_into_records_of_the_same_time_has_the_rate_of_their_sum():
    halves = [record(0.04, 0, 60, dst_port=443), record(0.04, 0, 60, export_s=60.5)]
    assert run(operator(), FlowBatch.concat(halves), 90) == []
    halves = [record(0.15, 0, 60, export_s=60), record(0.15, 0, 60, export_s=60.6)]
    told = run(operator(), FlowBatch.concat(halves), 63)
    assert events(told)[-1]["rate_bps"] == pytest.approx(0.3 * GIGABIT, rel=1e-6)


def test_an_exporter_whose_start_never_moves_gives_the_rate_of_all_its_records():
    batch = FlowBatch.concat(record(0.3, 10 * n, 10 * (n + 1), time_flow_start_ns=T0_NS) for n in range(4))
    told = events(run(operator(), batch, 42), "onset", "update")
    assert [v["rate_bps"] for v in told] == [pytest.approx(0.3 * GIGABIT, rel=1e-6)] * 4


def test_a_burst_counts_as_a_second_at_least():
    burst = {"time_flow_start_ns": T0_NS + 10**6}
    assert run(operator(), record(0.08, 0, 1, **burst), 30) == []
    assert run(operator(), record(0.08, 0, 1, time_flow_start_ns=T0_NS + SECOND), 30) == []
    assert events(run(operator(), record(0.2, 0, 1, **burst), 30), "onset")


def test_a_record_without_times_is_left_out_and_counted():
    one = operator()
    doubtful = [
        record(0.9, 0, 5, quality=Quality.FLOW_TIMES_IMPLAUSIBLE),
        record(0.9, 0, 5, time_flow_start_ns=0),
        record(0.9, 0, 5, time_flow_start_ns=T0_NS + 6 * SECOND),
    ]
    assert run(one, FlowBatch.concat(doubtful)) == []
    assert one.untimed == 3


def test_a_record_that_was_counted_and_not_sampled_is_certain():
    onset = events(run(operator(), record(0.3, 0, 30), 40), "onset")[0]
    assert onset["low_bps"] == onset["rate_bps"] == onset["high_bps"]
    onset = events(run(operator(), record(0.3, 0, 30, rate=1000), 40), "onset")[0]
    assert onset["low_bps"] < onset["rate_bps"] < onset["high_bps"]
