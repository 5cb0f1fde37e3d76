"""Laws of normalisation: each rule at its boundary, and what holds for any rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import COLUMNS, FlowBatch, FlowType, Quality, address_words
from flowstream.normalise import EARLIEST_NS, LATEST_NS, Normalisation, normalise
from tests.builders import T0_NS, flows

SECOND = 10**9
DAY = 86_400 * SECOND
INT64 = np.iinfo(np.int64)


def normalised(rows: FlowBatch, **config: Any) -> FlowBatch:
    return normalise(rows, Normalisation(**config), None)[0]


def flags(rows: FlowBatch) -> list[Quality]:
    return [Quality(q) for q in rows.quality.tolist()]


def same(left: FlowBatch, right: FlowBatch) -> bool:
    return all(left.columns[n].tobytes() == right.columns[n].tobytes() for n in COLUMNS) and len(left) == len(right)


def test_a_plausible_row_is_left_as_it_is():
    rows = flows(3)
    assert same(normalised(rows), rows)


def test_a_known_sampling_rate_is_kept_whatever_is_configured():
    rows = normalised(flows(sampling_rate=[1, 512]), default_sampling_rate=9, exporter_sampling_rates={"192.0.2.1": 8})
    assert rows.sampling_rate.tolist() == [1, 512]
    assert flags(rows) == [Quality(0)] * 2


def test_an_unknown_sampling_rate_is_the_exporters_else_the_default_else_one_and_is_flagged():
    exporters = ["192.0.2.1", "2001:db8::1", "192.0.2.3", "192.0.2.1"]
    rows = flows(exporter=exporters, sampling_rate=[0, 0, 0, 7])
    configured = {"192.0.2.1": 100, "2001:db8::1": 200, "198.51.100.1": 300}
    both = normalised(rows, default_sampling_rate=50, exporter_sampling_rates=configured)
    assert both.sampling_rate.tolist() == [100, 200, 50, 7]
    assert flags(both) == [Quality.SAMPLING_RATE_UNKNOWN] * 3 + [Quality(0)]
    assert normalised(rows, exporter_sampling_rates=configured).sampling_rate.tolist() == [100, 200, 1, 7]
    assert normalised(rows, default_sampling_rate=50).sampling_rate.tolist() == [50, 50, 50, 7]
    assert normalised(rows).sampling_rate.tolist() == [1, 1, 1, 7]


@given(
    known=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0, 0, 1, 4096])), max_size=40),
    configured=st.dictionaries(st.integers(0, 4), st.integers(1, 2**32 - 1)),
    default=st.integers(0, 2**32 - 1),
)
def test_sampling_rates_are_those_of_a_look_up_row_by_row(known, configured, default):
    name = "10.9.0.{}".format
    rows = flows(len(known), exporter=[name(e) for e, _ in known], sampling_rate=[r for _, r in known])
    config = {name(e): rate for e, rate in configured.items()}
    wanted = [rate or configured.get(e, default or 1) for e, rate in known]
    got = normalised(rows, default_sampling_rate=default, exporter_sampling_rates=config)
    assert got.sampling_rate.tolist() == wanted


@pytest.mark.parametrize(
    ("start", "end", "plausible"),
    [
        (-DAY, 0, True),
        (-DAY - 1, 0, False),
        (0, 60 * SECOND, True),
        (0, 60 * SECOND + 1, False),
        (-5, -5, True),
        (-4, -5, False),
        (INT64.min, INT64.max, False),
    ],
)
def test_flow_times_count_within_a_day_before_and_a_minute_after_the_receive_time(start, end, plausible):
    absolute = [t if abs(t) > 2**62 else T0_NS + t for t in (start, end)]
    rows = normalised(flows(1, time_flow_start_ns=absolute[0], time_flow_end_ns=absolute[1]))
    got = [rows.time_flow_start_ns[0], rows.time_flow_end_ns[0]]
    assert got == (absolute if plausible else [T0_NS, T0_NS])
    assert flags(rows) == [Quality(0) if plausible else Quality.FLOW_TIMES_IMPLAUSIBLE]


def test_an_event_may_have_lasted_for_weeks_but_not_backwards():
    start, end = [T0_NS - 30 * DAY, T0_NS - 5], [T0_NS - 20 * DAY, T0_NS - 6]
    rows = normalised(flows(flow_type=FlowType.EVENT, time_ns=T0_NS, time_flow_start_ns=start, time_flow_end_ns=end))
    assert rows.time_flow_start_ns.tolist() == [start[0], T0_NS]
    assert rows.time_flow_end_ns.tolist() == [end[0], T0_NS]
    assert flags(rows) == [Quality(0), Quality.FLOW_TIMES_IMPLAUSIBLE]


@pytest.mark.parametrize(("column", "flag"), [("in_if", Quality.IN_IF_PSEUDO), ("out_if", Quality.OUT_IF_PSEUDO)])
def test_a_pseudo_interface_is_flagged_and_its_number_kept(column, flag):
    numbers = [0x3FFF_FFFE, 0x3FFF_FFFF, 0x4000_0101, 0x8000_0002, 2**32 - 1]
    rows = normalised(flows(**{column: numbers}))
    assert flags(rows) == [Quality(0)] + [flag] * 4
    assert rows.columns[column].tolist() == numbers


def test_only_a_row_without_bytes_in_both_directions_is_flagged_as_empty():
    rows = normalised(flows(bytes=[0, 0, 5], in_bytes=[0, 5, 0]))
    assert flags(rows) == [Quality.ZERO_BYTES, Quality(0), Quality(0)]


def test_doubts_add_up_and_those_of_the_decoder_stay():
    rows = flows(1, quality=Quality.FLOW_TIMES_IMPLAUSIBLE, sampling_rate=0, bytes=0, in_if=2**31, out_if=2**30)
    assert normalised(rows).quality.tolist() == [31]


def test_event_time_is_the_column_chosen_after_flow_times_were_judged():
    rows = flows(
        time_ns=T0_NS + 7,
        time_received_ns=T0_NS,
        time_flow_start_ns=[T0_NS - 9, 1],
        time_flow_end_ns=[T0_NS - 3, 2],
    )
    wanted = {"default": [7, 7], "received": [0, 0], "start": [-9, 0], "end": [-3, 0]}
    for choice, offsets in wanted.items():
        assert (normalised(rows, event_time=choice).time_ns - T0_NS).tolist() == offsets


def test_event_times_outside_the_century_are_out_of_range():
    times = [INT64.min, 0, EARLIEST_NS - 1, EARLIEST_NS, T0_NS, LATEST_NS - 1, LATEST_NS, INT64.max]
    absurd = normalise(flows(time_ns=times), Normalisation(), None)[1]
    assert absurd.tolist() == [True, True, True, False, False, False, True, True]
    assert str(np.datetime64(EARLIEST_NS, "ns"))[:19] == "2000-01-01T00:00:00"
    assert str(np.datetime64(LATEST_NS, "ns"))[:19] == "2100-01-01T00:00:00"


def test_event_times_too_far_ahead_of_their_own_record_are_out_of_range():
    reference = np.array([T0_NS, T0_NS, T0_NS + 1, -1, INT64.min, INT64.max, 0], np.int64)
    times = np.full(len(reference), T0_NS + 100)
    times[0] -= 90
    config = Normalisation(ahead_max_ns=99)
    assert normalise(flows(time_ns=times), config, reference)[1].tolist() == [
        False, True, False, False, False, False, True,
    ]  # fmt: skip
    assert not normalise(flows(time_ns=times), config, None)[1].any()


@pytest.mark.parametrize(
    "config",
    [
        {"default_sampling_rate": -1},
        {"default_sampling_rate": 2**32},
        {"exporter_sampling_rates": {"192.0.2.1": 0}},
        {"exporter_sampling_rates": {"not an address": 5}},
        {"event_time": "arrival"},
        {"ahead_max_ns": -1},
        {"ahead_max_ns": 2**64},
    ],
)
def test_a_setting_out_of_its_range_is_refused_with_its_value(config):
    named = str(next(iter(config.values())))
    with pytest.raises(ValueError, match=r"\d|address|arrival") as refused:
        Normalisation(**config)
    assert named.strip("{}'").split("'")[0] in str(refused.value)


@st.composite
def any_rows(draw: st.DrawFn) -> FlowBatch:
    count = draw(st.integers(0, 12))
    columns = {}
    for name, column in COLUMNS.items():
        edges = [np.iinfo(column.dtype).min, np.iinfo(column.dtype).max, 0, 1]
        edges += [T0_NS, T0_NS + 60 * SECOND] if column.dtype == "i8" else []
        shape = (count,) if column.width == 1 else (count, 2)
        chosen = draw(st.lists(st.sampled_from(edges), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        columns[name] = np.array(chosen, column.dtype).reshape(shape)
    return FlowBatch.of(count, columns)


configs = st.builds(
    Normalisation,
    default_sampling_rate=st.sampled_from([0, 100]),
    exporter_sampling_rates=st.sampled_from([{}, {"::1": 5}]),
    event_time=st.sampled_from(["default", "received", "start", "end"]),
)


@given(rows=any_rows(), config=configs)
def test_normalising_twice_is_normalising_once_and_the_input_is_left_alone(rows, config):
    before = {name: column.tobytes() for name, column in rows.columns.items()}
    once, absurd = normalise(rows, config, rows.time_received_ns)
    assert {name: column.tobytes() for name, column in rows.columns.items()} == before
    twice, again = normalise(once, config, rows.time_received_ns)
    assert same(once, twice)
    assert absurd.tolist() == again.tolist()
    assert (once.sampling_rate > 0).all()
    assert (once.time_flow_start_ns <= once.time_flow_end_ns).all()


@given(rows=any_rows(), config=configs, cut=st.integers(0, 12))
def test_rows_are_normalised_independently_of_their_neighbours(rows, config, cut):
    whole, absurd = normalise(rows, config, None)
    parts = [normalise(rows.take(part), config, None) for part in (slice(0, cut), slice(cut, None))]
    assert same(whole, FlowBatch.concat(part for part, _ in parts))
    assert absurd.tolist() == [a for _, mask in parts for a in mask.tolist()]


def test_exporters_are_configured_by_address_however_it_is_written():
    rows = flows(exporter="2001:db8::1", sampling_rate=0)
    assert normalised(rows, exporter_sampling_rates={"2001:0DB8:0::1": 6}).sampling_rate.tolist() == [6]
    assert address_words("192.0.2.1") == address_words("::ffff:192.0.2.1")
