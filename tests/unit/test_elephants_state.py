"""Laws of state: the operator is a function of the log alone, bounded, and takes any bytes."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream import elephants
from flowstream.batch import FlowBatch
from flowstream.elephants import ElephantsConfig
from flowstream.errors import SettingsError, StateError
from flowstream.links import LinkTable
from flowstream.operators import Pane
from tests.builders import T0_NS, flows
from tests.elephant_rows import (
    LEAF_IN,
    LEAF_OUT,
    SECOND,
    SPINE,
    events,
    fabric,
    link,
    operator,
    panes,
    path,
    record,
    run,
    steady,
)

DT = st.integers(0, 12 * SECOND - 1)
ROW = st.tuples(DT, st.integers(0, 2), st.integers(0, 1), st.booleans(), st.integers(100, 9000))


def mixture(drawn):
    """A few flows at two exporters, by samples and by records, dense enough to make elephants of some."""
    parts = []
    for at, flow, exporter, sampled, size in drawn:
        common = {"src_port": flow, "exporter": f"192.0.2.{exporter + 1}", "ip_ttl": 64 - exporter}
        if sampled:
            burst = T0_NS + at + np.arange(12) * 10**7
            parts.append(flows(12, time_ns=burst, bytes=size, sampling_rate=100, **common))
        else:
            parts.append(record(size / 9000, 0, max(at / SECOND, 0.1), **common))
    batch = FlowBatch.concat(parts).in_time_order()
    return batch.replace(origin_offset=np.arange(len(batch)))


TWO_LINKS = LinkTable.from_rows([link("192.0.2.1", speed_bps=10**8), link("192.0.2.2", speed_bps=10**8, edge=True)])


@settings(max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=25), st.integers(0, 24))
def test_a_restored_operator_goes_on_as_if_nothing_had_happened(drawn, cut):
    batch = mixture(drawn)
    whole, first = operator(TWO_LINKS), operator(TWO_LINKS)
    expected = [whole.process([pane]) for pane in panes(batch, 25)]
    got = []
    for n, pane in enumerate(panes(batch, 25)):
        if n == cut:
            second = operator(TWO_LINKS)
            second.restore(first.snapshot())
            assert second.snapshot() == first.snapshot()
            assert second.quiet == first.quiet
            first = second
        got.append(first.process([pane]))
    assert got == expected
    assert first.snapshot() == whole.snapshot()


@settings(max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=25))
def test_leaving_out_unsuspicious_rows_changes_no_result(drawn):
    batch = mixture(drawn)
    quick = run(operator(TWO_LINKS), batch, 25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elephants, "suspects", lambda rows, *_: np.ones(len(rows), np.bool_))
        assert run(operator(TWO_LINKS), batch, 25) == quick


@settings(max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=25))
def test_being_quiet_means_that_an_empty_pane_says_and_changes_nothing(drawn):
    one = operator(TWO_LINKS)
    for pane in panes(mixture(drawn), 25):
        one.process([pane])
        if one.quiet:
            before = one.snapshot()
            empty = Pane(pane.index + 1, pane.end_ns, pane.end_ns + SECOND, FlowBatch.zeros(0))
            assert one.process([empty]) == []
            assert one.snapshot() == before


@pytest.mark.parametrize("pane_ns", [SECOND // 4, SECOND // 2, 5 * SECOND])
def test_the_length_of_panes_does_not_change_the_events_of_a_steady_flow(pane_ns):
    batch = path(LEAF_IN, SPINE, LEAF_OUT)
    assert run(operator(fabric(), pane_ns), batch, 40, pane_ns) == run(operator(fabric()), batch, 40)


def test_a_pane_that_is_no_whole_number_of_ticks_is_one_tick():
    pane_ns = 300_000_000
    batch = steady(0.3, 6)
    one, told = operator(pane_ns=pane_ns), []
    for index in range(T0_NS // pane_ns, T0_NS // pane_ns + 60):
        begin, end = np.searchsorted(batch.time_ns, [index * pane_ns, (index + 1) * pane_ns])
        told += one.process([Pane(index, index * pane_ns, (index + 1) * pane_ns, batch.take(slice(begin, end)))])
    assert [v["event"] for v in events(told, "onset", "offset")] == ["onset", "offset"]
    assert {v["time_ns"] % pane_ns for v in events(told)} == {0}


def many(count):
    return FlowBatch.concat(steady(0.11 + 0.01 * n, 1.0, src_port=n) for n in range(count))


def test_over_the_limit_the_weakest_suspicions_are_forgotten_and_counted():
    one, free = operator(flows_max=3), operator()
    for pane in panes(many(8), 1):
        one.process([pane])
        free.process([pane])
    kept, all_of_them = one._state.rows, free._state.rows
    assert one.evicted == len(all_of_them) - 3 > 0
    strongest = sorted(all_of_them["s"] + 1e9 * all_of_them["active"])[-3:]
    assert sorted(kept["s"] + 1e9 * kept["active"]) == strongest
    again = operator(flows_max=3)
    for pane in panes(many(8).take(slice(None, None, -1)), 1):
        again.process([pane])
    assert again.snapshot() == one.snapshot()


def test_mice_leave_no_state():
    rng = np.random.default_rng(4)
    mice = flows(
        20_000, time_ns=T0_NS + np.sort(rng.integers(0, 3 * SECOND, 20_000)),
        src_port=rng.integers(0, 65_536, 20_000),
        dst_port=rng.integers(0, 65_536, 20_000), bytes=rng.integers(64, 1519, 20_000), sampling_rate=100,
    )  # fmt: skip
    one = operator()
    assert run(one, mice, 3) == []
    assert len(one._state) < 10


@given(st.binary(max_size=300))
def test_bytes_that_are_no_snapshot_are_a_state_error(raw):
    with pytest.raises(StateError):
        operator().restore(raw)


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_snapshot_is_a_state_error_or_state_that_can_be_used(data):
    one = operator()
    run(one, steady(0.3, 3), 3)
    raw = bytearray(one.snapshot())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) - 1, len(raw) // 2]))])
    try:
        one.restore(cut)
    except StateError:
        return
    with np.errstate(all="ignore"):
        one.process([Pane(0, T0_NS + 3 * SECOND, T0_NS + 4 * SECOND, FlowBatch.zeros(0))])


def test_a_snapshot_made_with_other_ticks_is_refused():
    one = operator()
    for other in (operator(pane_ns=300_000_000), operator(window_s=2.0)):
        with pytest.raises(StateError, match="ticks"):
            other.restore(one.snapshot())


@settings(max_examples=60)
@given(st.data())
def test_no_row_however_absurd_raises(data):
    rows = data.draw(st.integers(1, 8))
    extreme = lambda low, high: st.lists(  # noqa: E731
        st.sampled_from([low, 0, 1, high]) | st.integers(low, high), min_size=rows, max_size=rows
    )
    wide, small = extreme(-(2**63), 2**63 - 1), extreme(0, 255)
    times = T0_NS + np.sort(np.array(data.draw(st.lists(DT, min_size=rows, max_size=rows))))
    batch = flows(
        rows, time_ns=times, bytes=data.draw(wide), packets=data.draw(wide),
        time_flow_start_ns=data.draw(wide), time_flow_end_ns=data.draw(wide),
        sampling_rate=data.draw(extreme(0, 2**32 - 1)),
        in_if=3, flow_type=data.draw(small), ip_ttl=data.draw(small), quality=data.draw(small),
    )  # fmt: skip
    one = operator()
    for value in events(run(one, batch, 14)):
        assert all(math.isfinite(value[name]) for name in ("rate_bps", "low_bps", "high_bps"))
    other = operator()
    other.restore(one.snapshot())
    assert other.snapshot() == one.snapshot()


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", 0.0), ("threshold", 1.5), ("threshold", math.nan), ("low", 1.0), ("high", 1.0),
     ("decision", 0.0), ("confidence", 1.0), ("window_s", 0.0), ("offset", 1.0),
     ("offset_s", 0.0), ("update_s", 0.0), ("rate_bps_min", 0.0), ("flows_max", 0), ("samples_min", -1.0)],
)  # fmt: skip
def test_a_wrong_setting_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=f"elephants.{name}"):
        replace(ElephantsConfig(), **{name: value})


def test_a_pane_without_length_is_refused():
    with pytest.raises(SettingsError, match="pane"):
        operator(pane_ns=0)
