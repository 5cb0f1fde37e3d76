"""Doubtful rows counted per exporter."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from flowstream.batch import FlowBatch, Quality
from flowstream.errors import StateError
from flowstream.operators import Pane
from flowstream.quality import FLAGS, QualityConfig, QualityOperator
from tests.builders import flows

SECOND = 10**9


def pane(index: int, rows: FlowBatch | None = None) -> Pane:
    return Pane(index, index * SECOND, (index + 1) * SECOND, FlowBatch.zeros(0) if rows is None else rows)


def run(operator, panes):
    return [result for p in panes for result in operator.process([p])]


def test_a_window_counts_rows_and_flags_of_each_doubtful_exporter():
    operator = QualityOperator(QualityConfig(4), SECOND)
    first = flows(3, exporter=["192.0.2.9", "192.0.2.1", "192.0.2.9"], quality=[0, 0, 1 | 16])
    second = flows(2, exporter="192.0.2.9", quality=[1, 4])
    assert run(operator, [pane(8, first), pane(9), pane(10, second)]) == []
    (result,) = run(operator, [pane(11)])
    assert (result.stream, result.key, result.time_ns) == (
        "input-quality",
        f"{8 * SECOND}|192.0.2.9",
        12 * SECOND,
    )
    assert result.value == {
        "exporter": "192.0.2.9", "window_start_ns": 8 * SECOND, "window_end_ns": 12 * SECOND, "rows": 4,
        "sampling_rate_unknown": 2, "flow_times_implausible": 0, "in_if_pseudo": 1, "out_if_pseudo": 0,
        "zero_bytes": 1,
    }  # fmt: skip


@pytest.mark.parametrize("flag", [flag for flag in Quality if flag is not Quality.LATE])
def test_every_flag_that_reaches_a_window_has_its_own_count(flag):
    operator = QualityOperator(QualityConfig(1), SECOND)
    (result,) = run(operator, [pane(5, flows(2, quality=[int(flag), 0]))])
    assert {name: result.value[name] for name, _ in FLAGS} == {name: int(bit == int(flag)) for name, bit in FLAGS}


def test_exporters_without_a_doubtful_row_are_not_mentioned_and_those_with_come_in_address_order():
    operator = QualityOperator(QualityConfig(1), SECOND)
    exporters = ["2001:db8::1", "192.0.2.200", "192.0.2.3", "192.0.2.1"]
    results = run(operator, [pane(0, flows(4, exporter=exporters, quality=[1, 1, 1, 0]))])
    assert [r.value["exporter"] for r in results] == ["192.0.2.3", "192.0.2.200", "2001:db8::1"]


def test_a_window_starts_from_nothing():
    operator = QualityOperator(QualityConfig(2), SECOND)
    doubtful = flows(1, quality=1)
    assert [r.value["rows"] for r in run(operator, [pane(i, doubtful) for i in range(6)])] == [2, 2, 2]


def test_panes_with_a_hole_across_a_window_are_not_counted_together():
    operator = QualityOperator(QualityConfig(10), SECOND)
    doubtful = flows(1, quality=1)
    results = run(operator, [pane(3, doubtful), pane(25, doubtful), *map(pane, range(26, 30))])
    assert [(r.value["window_start_ns"], r.value["rows"]) for r in results] == [(0, 1), (20 * SECOND, 1)]


def test_it_is_quiet_only_between_windows_with_rows():
    operator = QualityOperator(QualityConfig(2), SECOND)
    seen = [operator.quiet]
    for p in (pane(0, flows(1)), pane(1)):
        operator.process([p])
        seen.append(operator.quiet)
    assert seen == [True, False, True]


def altered(change):
    operator = QualityOperator(QualityConfig(3), SECOND)
    operator.process([pane(0, flows(2, quality=1))])
    state = msgspec.json.decode(operator.snapshot())
    change(state)
    return json.dumps(state).encode()


def put(state, *path_and_value):
    *path, last, value = path_and_value
    for step in path:
        state = state[step]
    state[last] = value


@pytest.mark.parametrize(
    "path_and_value",
    [
        (0, "distances"), (1, 2), (3, 5), (4, ["zero_bytes"]), (4, []), (5, 0, 0, -1), (5, 0, 0, 1 << 64),
        (5, 0, 2, -1), (5, 0, 2, 1 << 63), (5, 0, 3, [1]), (5, 0, 3, 0, "1"), (5, [[1]]), (2, None),
    ],
)  # fmt: skip
def test_a_snapshot_of_something_else_is_refused_and_leaves_the_state_as_it_was(path_and_value):
    operator = QualityOperator(QualityConfig(3), SECOND)
    operator.process([pane(1, flows(1, quality=4))])
    before = operator.snapshot()
    with pytest.raises(StateError):
        operator.restore(altered(lambda state: put(state, *path_and_value)))
    assert operator.snapshot() == before
    operator.restore(altered(lambda state: None))
    assert operator.snapshot() != before


def test_counts_are_those_of_plain_counting():
    rng = np.random.default_rng(3)
    rows = flows(500, exporter=[f"192.0.2.{e}" for e in rng.integers(1, 6, 500)], quality=rng.integers(0, 32, 500))
    results = run(QualityOperator(QualityConfig(1), SECOND), [pane(0, rows)])
    exporters = (rows.exporter[:, 1] & np.uint64(0xFF)).tolist()
    for result in results:
        own = [
            q
            for e, q in zip(exporters, rows.quality.tolist(), strict=True)
            if f"192.0.2.{e}" == result.value["exporter"]
        ]
        assert result.value["rows"] == len(own)
        assert [result.value[name] for name, _ in FLAGS] == [sum(bool(q & bit) for q in own) for _, bit in FLAGS]
    assert len(results) == 5


def test_lengths_must_be_positive():
    with pytest.raises(ValueError, match="no length"):
        QualityConfig(0)
    with pytest.raises(ValueError, match="no length"):
        QualityOperator(QualityConfig(), 0)
