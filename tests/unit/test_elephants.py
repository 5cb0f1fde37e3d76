"""Laws of the elephants operator: what is promised, the test itself, the life of an elephant, capacity."""

import io
import json
import math
from pathlib import Path

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream.batch import FlowBatch
from flowstream.links import LinkTable
from flowstream.operators import Pane
from tests.builders import T0_NS, flows
from tests.elephant_rows import (
    GIGABIT,
    LINKS,
    SECOND,
    events,
    first_onsets_s,
    link,
    operator,
    panes,
    poisson,
    run,
    steady,
)

SCHEMA = Path(__file__).resolve().parents[2] / "avro_schemas/elephants.v1.avsc"


# What is promised


@pytest.mark.parametrize(("share", "median_s"), [(0.20, 1.25), (0.15, 2.5), (0.12, 4.5), (0.50, 0.5)])
def test_at_one_sample_per_megabit_of_link_large_flows_are_found_in_the_promised_time(share, median_s):
    onsets = first_onsets_s(share, seed=1)
    assert np.median(onsets) <= median_s
    assert max(onsets) < math.inf


def test_of_two_thousand_flows_of_5_percent_under_1_percent_are_ever_reported_in_30_s():
    onsets = first_onsets_s(0.05, seed=7, count=2000, seconds=30)
    assert sum(at < math.inf for at in onsets) < 20


def test_flows_of_1_percent_are_never_reported():
    assert set(first_onsets_s(0.01, seed=3, count=500, seconds=30)) == {math.inf}


def test_the_interval_of_a_settled_flow_covers_its_rate_about_as_often_as_it_says():
    batch, links = poisson(0.25, 5, 200, 12)
    told = events(run(operator(links), batch, 12), "update")
    settled = [v for v in told if v["time_ns"] > T0_NS + 11 * SECOND]
    covered = np.mean([v["low_bps"] <= 0.25 * GIGABIT <= v["high_bps"] for v in settled])
    assert len(settled) >= 200
    assert 0.92 <= covered <= 0.995


# The test itself


def plain_cusum(batch, level_bps, ticks):
    """The same test written for one sighting, one tick after the other: S at the end of each."""
    s = count = weight = 0.0
    s_at = []
    gain, drift = math.log(1.5 / 0.7), 0.8
    for tick in range(ticks):
        begin = T0_NS + tick * SECOND // 4
        inside = (batch.time_ns >= begin) & (batch.time_ns < begin + SECOND // 4)
        w = [int(b) * int(n) for b, n in zip(batch.bytes[inside], batch.sampling_rate[inside], strict=True)]
        count, weight = count + len(w), weight + sum(w)
        if count:
            mean = weight / count
            s = max(0.0, s + sum(w) / mean * gain - drift * level_bps / 8 / 4 / mean)
        if s == 0.0:
            count = weight = 0.0  # at zero nothing is remembered
        s_at.append(s)
    return s_at


SAMPLED = st.lists(st.tuples(st.integers(0, 8 * SECOND - 1), st.integers(64, 1518)), min_size=1, max_size=150)


def sampled(drawn):
    times, sizes = zip(*sorted(drawn), strict=True)
    return flows(len(times), time_ns=T0_NS + np.array(times), bytes=np.array(sizes), sampling_rate=100)


@settings(max_examples=100)
@given(SAMPLED, st.integers(10, 200))
def test_the_statistic_is_that_of_a_plain_cusum_in_every_tick(drawn, megabits):
    batch, speed = sampled(drawn), megabits * 10**6
    # Panes of one tick: at S = 0 a sighting is forgotten at the end of a pane, the oracle does so every tick.
    one = operator(LinkTable.from_rows([link(speed_bps=speed)]), SECOND // 4, decision=1e12)
    got = []
    for pane in panes(batch, 8, SECOND // 4):
        assert one.process([pane]) == []
        got.append(float(one._state.rows["s"].sum()))
    assert got == pytest.approx(plain_cusum(batch, 0.1 * speed, 32), rel=1e-9, abs=1e-9)


@settings(max_examples=100)
@given(SAMPLED, st.integers(10, 200))
def test_the_first_onset_is_where_the_statistic_exceeds_5(drawn, megabits):
    batch, speed = sampled(drawn), megabits * 10**6
    links = LinkTable.from_rows([link(speed_bps=speed)])
    told = run(operator(links, SECOND // 4, samples_min=0.0), batch, 8, SECOND // 4)
    onsets = [(v["time_ns"] - T0_NS) * 4 // SECOND for v in events(told, "onset")]
    crossed = [tick + 1 for tick, s in enumerate(plain_cusum(batch, 0.1 * speed, 32)) if s > 5.0]
    assert onsets[:1] == crossed[:1]


def test_one_jumbo_frame_among_small_ones_is_no_evidence():
    small = flows(40, time_ns=T0_NS + np.arange(40) * SECOND // 20, bytes=64)
    busy = steady(0.10, 2.0)
    jumbo = flows(1, time_ns=T0_NS + 2 * SECOND, bytes=64_000)
    told = run(operator(samples_min=0.0), FlowBatch.concat([small, jumbo]))
    assert events(told, "onset") == []  # the flow was not remembered, so the frame weighs as one sample
    batch = FlowBatch.concat([busy, small, jumbo])
    assert events(run(operator(samples_min=0.0), batch), "onset")
    assert events(run(operator(), batch), "onset") == []


def test_rows_without_bytes_say_nothing():
    batch = steady(0.3, 5)
    assert run(operator(), batch.replace(bytes=np.zeros(len(batch)))) == []


# A life


def test_an_elephant_begins_once_goes_on_every_second_and_ends_once():
    told = run(operator(), steady(0.3, 10), 30)
    names = [v["event"] for v in events(told)]
    assert names[0] == "onset"
    assert names[-1] == "offset"
    assert set(names[1:-1]) == {"update"}
    times = [v["time_ns"] for v in events(told, "onset", "update")]
    assert set(np.diff(times)) == {SECOND}
    onset, offset = events(told, "onset")[0], events(told, "offset")[0]
    assert onset["first_ns"] == int(steady(0.3, 10).time_ns[0])
    assert onset["time_ns"] - onset["first_ns"] < SECOND
    assert 13 * SECOND < offset["time_ns"] - T0_NS < 10 * SECOND + (5 + 3 + 1) * SECOND
    for update in events(told, "update")[2:8]:
        assert update["rate_bps"] == pytest.approx(0.3 * GIGABIT, rel=0.1)
        assert update["low_bps"] < update["rate_bps"] < update["high_bps"]
        assert update["share"] == update["rate_bps"] / GIGABIT
        assert update["link_bps"] == GIGABIT


def test_a_pause_shorter_than_the_hold_does_not_end_an_elephant():
    batch = FlowBatch.concat([steady(0.3, 5), steady(0.3, 5, begin_s=7.0)])
    assert [v["event"] for v in events(run(operator(), batch), "onset", "offset")] == ["onset", "offset"]


def test_an_elephant_that_shrinks_to_a_fifth_ends_though_it_is_still_seen():
    batch = FlowBatch.concat([steady(0.3, 10), steady(0.03, 30, begin_s=10.0)])
    ends = events(run(operator(), batch), "offset")
    assert [v["samples"] > 0 for v in ends] == [True]


def test_a_flow_that_comes_back_begins_anew():
    batch = FlowBatch.concat([steady(0.3, 5), steady(0.3, 5, begin_s=20.0)])
    names = [v["event"] for v in events(run(operator(), batch), "onset", "offset")]
    assert names == ["onset", "offset"] * 2


def test_empty_panes_bring_the_offset_and_then_nothing_is_left():
    one = operator()
    assert one.quiet
    assert events(run(one, steady(0.3, 4), 4), "offset") == []
    assert not one.quiet
    later = [Pane(p.index + 4, p.start_ns + 4 * SECOND, p.end_ns + 4 * SECOND, p.rows) for p in
             panes(FlowBatch.zeros(0), 20)]  # fmt: skip
    told = [r for pane in later for r in one.process([pane])]
    assert len(events(told, "offset")) == 1
    assert one.quiet
    assert one.process([later[-1]]) == []


def test_keys_are_the_tick_the_flow_and_the_event_and_values_fit_the_schema_in_plain_types():
    schema = fastavro.parse_schema(json.loads(SCHEMA.read_text()))
    told = run(operator(), steady(0.3, 5, src_addr="2001:db8::1", dst_addr="2001:db8::2"))
    told += run(operator(LinkTable(), rate_bps_min=1e8), steady(0.3, 5))
    assert {r.value["event"] for r in told} == {"onset", "update", "offset"}
    for result in told:
        value = result.value
        flow = "|".join(str(part) for part in value["flow"].values())
        assert result.stream == "elephants"
        assert result.key == f"{value['time_ns']}|{flow}|{value['event']}"
        assert result.time_ns == value["time_ns"]
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schema, value, strict=True)
        stream.seek(0)
        assert fastavro.schemaless_reader(stream, schema, None) == value
        assert json.loads(json.dumps(value)) == value
    assert len({r.key for r in told}) == len(told)


# Capacity


def test_without_a_capacity_nothing_is_said_unless_an_absolute_rate_is_set():
    batch = steady(0.3, 5)
    assert run(operator(LinkTable()), batch) == []
    told = events(run(operator(LinkTable(), rate_bps_min=1e8), batch))
    assert told
    assert {(v["share"], v["link_bps"]) for v in told} == {(None, None)}
    assert run(operator(LinkTable(), rate_bps_min=6e8), batch) == []


def test_the_threshold_is_a_share_of_the_link_and_the_test_moves_with_it():
    batch = steady(0.3, 10)
    for speed, threshold, found in (
        (GIGABIT, 0.1, True), (10 * GIGABIT, 0.1, False), (10 * GIGABIT, 0.01, True), (GIGABIT, 0.5, False),
    ):  # fmt: skip
        links = LinkTable.from_rows([link(speed_bps=speed)])
        assert bool(run(operator(links, threshold=threshold), batch)) is found


def test_a_link_table_given_between_two_panes_counts_from_the_next_on():
    one, cut = operator(LinkTable()), list(panes(steady(0.3, 10), 10))
    assert [r for pane in cut[:5] for r in one.process([pane])] == []
    one.links = LINKS
    told = [r for pane in cut[5:] for r in one.process([pane])]
    assert [v["time_ns"] < T0_NS + 6 * SECOND for v in events(told, "onset")] == [True]


def test_when_the_capacity_is_taken_away_an_elephant_ends():
    one, cut = operator(), list(panes(steady(0.3, 20), 20))
    assert events([r for pane in cut[:5] for r in one.process([pane])], "onset")
    one.links = LinkTable()
    ends = events([r for pane in cut[5:] for r in one.process([pane])])
    assert ends[-1]["event"] == "offset"
    assert ends[-1]["link_bps"] is None
