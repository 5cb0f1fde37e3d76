"""What every operator keeps to, whatever it computes. A new operator is one row in ``OPERATORS``."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fastavro
import fastavro.validation
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream import schemas
from flowstream.batch import FlowBatch
from flowstream.counting import CountOnce
from flowstream.counting_results import CountingResults
from flowstream.distances import DistancesConfig, DistancesOperator
from flowstream.elephants import ElephantsConfig, ElephantsOperator
from flowstream.errors import StateError
from flowstream.export_loss_results import ExportLoss
from flowstream.links import LinkTable
from flowstream.operators import Operator, Pane, Result, one_by_one
from flowstream.paths import PathsConfig, PathsOperator
from flowstream.quality import QualityConfig, QualityOperator
from flowstream.sources import SourcesConfig, SourcesOperator
from flowstream.topology import Topology
from tests.builders import T0_NS, flows
from tests.partial_rows import OverCubes

SECOND = 10**9
FIRST = T0_NS // SECOND
PANES = 24
LINKS = LinkTable.from_csv("exporter,if_index,name,speed_bps,edge\n192.0.2.1,3,port3,100000000,true\n")

OPERATORS: Mapping[str, Callable[[], Operator]] = {
    "distances": lambda: DistancesOperator(DistancesConfig(), SECOND),
    "distances, hopping, pairs of the tail": lambda: DistancesOperator(
        DistancesConfig(5, 2, features=("all",), scaling="log", pairs="tail", tail_quantile=0.9),
        SECOND,
        {1: "raw-1"},
    ),
    "distances, all pairs, sampled": lambda: DistancesOperator(
        DistancesConfig(2, 2, pairs="all", flows_max=6, scaling="standard"), SECOND
    ),
    "distances, pairs as records": lambda: DistancesOperator(
        DistancesConfig(2, 1, pairs="all", pair_form="records", flows_max=12), SECOND
    ),
    "sources": lambda: SourcesOperator(SourcesConfig(), SECOND, CountOnce(LINKS)),
    "sources, hopping, no distances": lambda: SourcesOperator(
        SourcesConfig(4, 2, distances=None), SECOND, CountOnce(LinkTable())
    ),
    "paths": lambda: PathsOperator(PathsConfig(4, flows_max=3), SECOND, CountOnce(LINKS), Topology()),
    "quality": lambda: QualityOperator(QualityConfig(7), SECOND),
    "counting": lambda: OverCubes(CountingResults(7, SECOND), LinkTable()),
    "export loss": lambda: OverCubes(ExportLoss(7, SECOND), LINKS),
    "elephants": lambda: ElephantsOperator(ElephantsConfig(rate_bps_min=1e6), SECOND, LINKS),
}  # fmt: skip

operators = pytest.mark.parametrize("build", OPERATORS.values(), ids=OPERATORS.keys())


def traffic(seed: int, gaps: bool = True) -> list[Pane]:
    """Return consecutive panes: a few sources, one large flow in the middle, doubtful rows, empty panes."""
    rng = np.random.default_rng(seed)
    panes, offset = [], 0
    for k in range(PANES):
        start = (FIRST + k) * SECOND
        count = 0 if gaps and k % 5 in (3, 4) else int(rng.integers(1, 12))
        steady = 40 if 4 <= k < 15 else 0
        rows = count + steady
        small = rng.integers(1, 5, count)
        batch = flows(
            rows,
            time_ns=start + np.sort(rng.integers(0, SECOND, rows)),
            origin_id=rng.integers(0, 2, rows), origin_offset=offset + np.arange(rows),
            record_id=offset + np.arange(rows) * (rows % 2),  # some are shared, some are none
            src_addr=[f"10.0.0.{s}" if s % 2 else f"2001:db8::{s}" for s in small] + ["10.0.0.77"] * steady,
            dst_addr=["192.0.2.9"] * rows, packets=1, sampling_rate=100,
            bytes=np.concatenate([rng.integers(64, 1518, count), np.full(steady, 1500)]),
            quality=np.concatenate([rng.integers(0, 32, count), np.zeros(steady, int)]),
        )  # fmt: skip
        panes.append(Pane(FIRST + k, start, start + SECOND, batch.in_time_order()))
        offset += rows
    return panes


def step(operator: Operator, panes: Sequence[Pane], k: int) -> list[Result]:
    return list(one_by_one(operator.process(panes[max(0, k - operator.lookback) : k + 1])))


def run(operator: Operator, panes: Sequence[Pane]) -> list[Result]:
    return [result for k in range(len(panes)) for result in step(operator, panes, k)]


def plain(value: Any) -> bool:
    """Whether a value is made of plain types only; a numpy float is a float by inheritance, not by type."""
    if type(value) is dict:
        return all(type(k) is str and plain(v) for k, v in value.items())
    if type(value) is list:
        return all(map(plain, value))
    return type(value) in (str, int, float, bool, bytes, type(None))


@operators
def test_the_same_panes_give_the_same_results(build):
    first, second = build(), build()
    results = run(first, traffic(1))
    assert results == run(second, traffic(1))
    assert first.snapshot() == second.snapshot()
    assert len(results) > 0


@operators
def test_a_restored_operator_continues_as_if_nothing_had_happened(build):
    panes = traffic(2)
    through = build()
    expected = [(step(through, panes, k), through.snapshot()) for k in range(PANES)]
    for stop in range(PANES):
        again = build()
        if stop:
            again.restore(expected[stop - 1][1])
            assert again.snapshot() == expected[stop - 1][1]
        for k in range(stop, min(stop + 9, PANES)):
            assert (step(again, panes, k), again.snapshot()) == expected[k]


@operators
def test_the_order_in_which_rows_arrived_changes_nothing(build):
    panes = traffic(3)
    rng = np.random.default_rng(3)
    mixed = [
        Pane(p.index, p.start_ns, p.end_ns, p.rows.take(rng.permutation(len(p.rows))).in_time_order()) for p in panes
    ]
    assert run(build(), mixed) == run(build(), panes)


@operators
def test_input_rows_are_left_as_they_were(build):
    panes = traffic(4)
    before = copy.deepcopy([dict(p.rows.columns) for p in panes])
    for pane in panes:
        for column in pane.rows.columns.values():
            column.setflags(write=False)
    run(build(), panes)
    for pane, columns in zip(panes, before, strict=True):
        assert all(np.array_equal(pane.rows.columns[name], column) for name, column in columns.items())


@operators
def test_a_quiet_operator_says_nothing_and_changes_nothing_on_an_empty_pane(build):
    operator = build()
    panes = traffic(5)
    panes += [
        Pane(p.index + PANES, p.start_ns + PANES * SECOND, p.end_ns + PANES * SECOND, FlowBatch.zeros(0)) for p in panes
    ]
    asked = 0
    for k, pane in enumerate(panes):
        looked_back = panes[max(0, k - operator.lookback) : k]
        quiet = operator.quiet and not any(len(p.rows) for p in looked_back) and not len(pane.rows)
        before = operator.snapshot()
        results = step(operator, panes, k)
        if quiet:
            asked += 1
            assert results == []
            assert operator.snapshot() == before
    assert asked > 0


@operators
def test_keys_are_unique_and_values_fit_their_schemas(build):
    results = run(build(), traffic(6))
    keys = [(r.stream, r.key) for r in results]
    assert len(set(keys)) == len(keys)
    for result in results:
        schema = schemas.load(result.stream.replace("-", "_"))
        assert fastavro.validation.validate(result.value, schema, strict=True, raise_errors=True)
        body = schemas.encode_body(result.stream.replace("-", "_"), result.value)
        assert len(body) > 0


@operators
def test_values_are_plain_and_can_be_written_as_json(build):
    for result in run(build(), traffic(7)):
        assert plain(result.value)
        assert type(result.time_ns) is int
        json.dumps(result.value, default=bytes.hex, allow_nan=False)


@operators
def test_results_hold_for_a_time_that_the_panes_have_reached(build):
    operator, panes = build(), traffic(8)
    for k, pane in enumerate(panes):
        assert all(r.time_ns <= pane.end_ns for r in step(operator, panes, k))


@operators
@given(garbage=st.binary(max_size=60))
def test_garbage_is_no_state(build, garbage):
    operator = build()
    before = operator.snapshot()
    for state in (garbage, before[:-1], before + garbage + b"}", b"{}", b"[]", b"null"):
        with pytest.raises(StateError):
            operator.restore(state)
        assert operator.snapshot() == before


@pytest.mark.parametrize("other", OPERATORS.values(), ids=OPERATORS.keys())
@operators
def test_the_state_of_another_operator_is_refused(build, other):
    operator, stranger = build(), other()
    if operator.name == stranger.name:
        operator.restore(stranger.snapshot())
        return
    with pytest.raises(StateError):
        operator.restore(stranger.snapshot())
