"""Laws of loss: what is dropped on the way is what is missing, however numbers go round, start again or are spread."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import FlowBatch, FlowType
from flowstream.errors import StateError
from flowstream.export_loss import Loss, correction, overall, widening
from flowstream.export_loss_results import ExportLoss
from flowstream.operators import Pane
from flowstream.partials import PartialBatch
from flowstream.sequence_gaps import LossTracker
from tests.partial_rows import SECOND, numbers, summed

TURN = 2**32
PER_DATAGRAM = 30


def followed(panes: list[FlowBatch], partitions: int = 1) -> tuple[LossTracker, Loss]:
    """Return what a tracker says of all panes; rows are spread over partitions by source."""
    tracker, losses = LossTracker(), []
    for index, rows in enumerate(panes):
        home = rows.src_addr[:, 1] % partitions
        parts = [summed(rows.take(home == p), partition=p, index=index) for p in range(partitions)]
        losses.append(tracker.take(PartialBatch.concat(parts).in_time_order()))
    return tracker, Loss.merged(losses)


def of(loss: Loss) -> list[tuple[int, int, int, int]]:
    columns = (loss.exporter[:, 1], loss.flow_type, loss.received, loss.lost)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@st.composite
def datagrams(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """Return a first number, and which of the datagrams after it come in which pane; the first and last do."""
    first = draw(st.sampled_from([0, 1, 63, 1000, TURN - 20, TURN - 1]))
    fate = draw(st.lists(st.booleans(), min_size=1, max_size=150))
    panes: list[list[int]] = [[0]]
    for n, comes in enumerate(fate, 1):
        if draw(st.integers(0, 9)) == 0:
            panes.append([])
        if comes:
            panes[-1].append(n)
    panes[-1].append(len(fate) + 1)
    return first, panes


@given(datagrams(), st.sampled_from([FlowType.SFLOW_5, FlowType.NETFLOW_V9]), st.integers(1, 3))
def test_what_is_missing_between_the_first_and_the_last_datagram_is_lost(sent, kind, partitions):
    first, panes = sent
    came = [n for pane in panes for n in pane]
    rows = [numbers([first + n for n in p], [3] * len(p), kind=kind, index=i) for i, p in enumerate(panes)]
    assert of(followed(rows, partitions)[1]) == [(1, kind, len(came), came[-1] + 1 - len(came))]


@given(datagrams(), st.sampled_from([FlowType.NETFLOW_V5, FlowType.IPFIX]), st.integers(1, 3), st.booleans())
def test_where_records_are_numbered_what_is_missing_is_records(sent, kind, partitions, of_the_last):
    """A datagram has the number of its first record, or (Open vSwitch) of its last."""
    first, panes = sent
    came = [n for pane in panes for n in pane]
    rows = [
        numbers([first + (n + of_the_last) * PER_DATAGRAM for n in p], [PER_DATAGRAM] * len(p), kind=kind, index=i)
        for i, p in enumerate(panes)
    ]
    lost = (came[-1] + 1 - len(came)) * PER_DATAGRAM
    assert of(followed(rows, partitions)[1]) == [(1, kind, len(came) * PER_DATAGRAM, lost)]


@given(st.lists(st.integers(1, PER_DATAGRAM), min_size=2, max_size=60), st.booleans(), st.integers(0, TURN - 1))
def test_datagrams_of_any_sizes_that_all_come_lose_nothing(sizes, of_the_last, start):
    ends = np.cumsum(sizes).tolist()
    first = [start + end - (0 if of_the_last else size) for end, size in zip(ends, sizes, strict=True)]
    half = len(sizes) // 2
    panes = [numbers(first[:half], sizes[:half], kind=2), numbers(first[half:], sizes[half:], kind=2, index=1)]
    assert of(followed(panes)[1]) == [(1, 2, sum(sizes), 0)]


@given(st.permutations(range(100, 140)), st.integers(1, 39))
def test_datagrams_that_overtake_each_other_are_not_lost(order, cut):
    panes = [numbers(order[:cut]), numbers(order[cut:], index=1)]
    first_pane, second = (of(followed(panes[:n])[1])[0][3] for n in (1, 2))
    # What came before the tracker knew the exporter may come late as well: it was never missed.
    early = sum(n < min(order[:cut]) for n in order[cut:])
    assert (first_pane, second) == (max(order[:cut]) - min(order[:cut]) + 1 - cut, -early)


@pytest.mark.parametrize("begins_again", [0, 1, 4_000_000_000])
def test_an_exporter_that_starts_again_has_lost_nothing(begins_again):
    panes = [numbers(range(100_000, 100_010)), numbers(range(begins_again, begins_again + 10), index=1)]
    assert of(followed(panes)[1]) == [(1, 1, 20, 0)]


def test_an_exporter_that_counts_in_several_places_is_followed_in_each():
    near, far = [10, 11, 13], [900_000, 900_001, 900_002]
    panes = [numbers([*near, *far]), numbers([14, 16, 900_003, 900_005], index=1)]
    assert of(followed(panes)[1]) == [(1, 1, 10, 3)]


def test_exporters_and_flow_types_do_not_mix():
    rows = FlowBatch.concat(
        [numbers([1, 3]), numbers([1, 4], exporter=2), numbers([1, 6], kind=3), numbers([0], kind=16)]
    )
    assert of(followed([rows])[1]) == [(1, 1, 2, 1), (1, 3, 2, 4), (1, 16, 0, 0), (2, 1, 2, 2)]


def test_records_whose_event_time_is_not_their_arrival_say_nothing_of_loss():
    rows = numbers([1, 50])
    rows.time_received_ns[:] += 1
    assert of(followed([rows])[1]) == [(1, 1, 0, 0)]


@given(datagrams(), st.data())
def test_a_tracker_that_is_restored_goes_on_as_if_nothing_had_happened(sent, data):
    first, panes = sent
    rows = [numbers([first + n for n in p], index=i) for i, p in enumerate(panes)]
    stop = data.draw(st.integers(0, len(rows)))
    through, again = LossTracker(), LossTracker()
    for index, pane in enumerate(rows):
        if index == stop:
            again.restore(through.snapshot())
        told = through.take(summed(pane, index=index))
        if index >= stop:
            assert of(again.take(summed(pane, index=index))) == of(told)
    if stop < len(rows):
        assert again.snapshot() == through.snapshot()


@given(datagrams(), st.data())
def test_trackers_of_the_same_panes_follow_them_each_on_its_own(sent, data):
    first, panes = sent
    rows = [summed(numbers([first + n for n in p], index=i), index=i) for i, p in enumerate(panes)]
    begin = data.draw(st.integers(0, len(rows)))
    for since in 0, begin:  # the second reads panes that the first has read
        shared, alone = LossTracker(), LossTracker()
        for pane in rows[since:]:
            copied = PartialBatch.of(len(pane), {name: column.copy() for name, column in pane.columns.items()})
            assert of(shared.take(pane)) == of(alone.take(copied))
        assert shared.snapshot() == alone.snapshot()


def test_counters_that_never_go_on_are_forgotten_and_those_of_one_exporter_are_few():
    tracker = LossTracker()
    for index in range(40):
        tracker.take(summed(numbers([index * 10_000_000], index=index), index=index))
    at_most = len(tracker.snapshot())
    tracker.take(summed(numbers([7], exporter=9, index=5000), index=5000))
    assert len(tracker.snapshot()) < at_most < 16 * 24 + 40


@pytest.mark.parametrize("state", [b"", b"\x90", b"[]", b"\x93\x02\x00\x90", b"\x93\x01\x00\x91\x01"])
def test_what_is_no_snapshot_is_refused(state):
    with pytest.raises(StateError):
        LossTracker().restore(state)


LOSSES = st.lists(
    st.tuples(
        st.integers(1, 3), st.sampled_from([1, 2, 3]), st.integers(0, 50), st.integers(-5, 50), st.integers(0, 99)
    ),
    max_size=8,
    unique_by=lambda row: row[:2],
)


def loss_of(rows) -> Loss:
    rows = sorted(rows)
    words = np.array([(0, row[0]) for row in rows], np.uint64).reshape(-1, 2)
    sums = [np.array([row[n] for row in rows], np.int64) for n in (2, 3, 4)]
    return Loss(words, np.array([row[1] for row in rows], np.uint8), *sums)


@given(LOSSES)
def test_factors_are_one_and_what_was_lost_for_each_received_weighted_by_bytes(rows):
    """Only NetFlow v5 (2) is exact."""
    asked = np.array([(0, 3), (0, 1), (0, 9), (0, 1), (0, 2)], np.uint64)

    def mean(exporters, kinds):
        chosen = [row for row in rows if row[0] in exporters]
        weight = [max(row[4], 1) for row in chosen]
        extra = [max(row[3], 0) / max(row[2], 1) if row[1] in kinds else 0.0 for row in chosen]
        return 1 + sum(w * e for w, e in zip(weight, extra, strict=True)) / max(sum(weight), 1)

    loss = loss_of(rows)
    exact, possible = {2}, {1, 2, 3}
    assert correction(loss, asked).tolist() == pytest.approx([mean({e}, exact) for e in (3, 1, 9, 1, 2)])
    assert widening(loss, asked).tolist() == pytest.approx([mean({e}, possible) for e in (3, 1, 9, 1, 2)])
    assert overall(loss) == pytest.approx((mean({1, 2, 3}, exact), mean({1, 2, 3}, possible)))


@given(st.lists(LOSSES, max_size=4))
def test_losses_of_panes_add_up_per_exporter_and_flow_type(panes):
    expected: dict[tuple[int, int], Counter[int]] = {}
    for exporter, kind, *sums in (row for rows in panes for row in rows):
        expected.setdefault((exporter, kind), Counter()).update(dict(enumerate(sums)))
    merged = Loss.merged(map(loss_of, panes))
    assert of(merged) == [(*key, sums[0], sums[1]) for key, sums in sorted(expected.items())]
    assert merged.bytes.tolist() == [sums[2] for _, sums in sorted(expected.items())]


def test_the_operator_says_per_window_what_each_exporter_lost():
    operator = ExportLoss(2, SECOND)
    said = []
    sent = {0: numbers([1, 2, 4]), 1: numbers([5, 9], index=1), 3: numbers([10, 11], index=3)}
    sent[0] = FlowBatch.concat([sent[0], numbers([0, 60], [30, 30], exporter=2, kind=2)])
    for index in range(4):
        rows = summed(sent[index], index=index) if index in sent else PartialBatch.zeros(0)
        said += operator.process([Pane(index, index * SECOND, (index + 1) * SECOND, rows)])
    assert [(r.key, r.value["received"], r.value["lost"], r.value["exact"]) for r in said] == [
        ("0|::1|SFLOW_5", 5, 4, False),
        ("0|::2|NETFLOW_V5", 60, 30, True),
        ("2000000000|::1|SFLOW_5", 2, 0, False),
    ]
    assert [r.value["lost_share"] for r in said] == [4 / 9, 1 / 3, 0.0]
    assert [r.value["counts"] for r in said] == ["DATAGRAMS", "FLOW_RECORDS", "DATAGRAMS"]
