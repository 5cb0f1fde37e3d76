"""The distances operator: windows of flows in, statistics and pairs out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from flowstream.distances import DistancesConfig, DistancesOperator
from flowstream.features import feature_matrix
from flowstream.grouping import group_rows
from flowstream.histogram import LogLinearHistogram
from flowstream.operators import Pane, one_by_one
from flowstream.pair_encoding import BLOCK_BYTES_MAX
from tests.builders import T0_NS, flows

SECOND = 10**9
T0_MS = T0_NS // 10**6
PANE = T0_NS // SECOND
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


def run(rows, names=None, **settings):
    """Run one window of one pane."""
    config = DistancesConfig(**{"size_panes": 1, "step_panes": 1} | settings)
    operator = DistancesOperator(config, SECOND, names)
    return list(one_by_one(operator.process([Pane(PANE, T0_NS, T0_NS + SECOND, rows.in_time_order())])))


def only(results, stream="distances"):
    return [r.value for r in results if r.stream == stream]


def of_source(count, address="10.0.0.1", seed=0, **columns):
    rng = np.random.default_rng(seed)
    usual = {
        "src_addr": address, "bytes": rng.lognormal(8, 3, count).astype(np.int64),
        "packets": rng.integers(1, 500, count), "time_ns": T0_NS + np.arange(count) * 1000,
        "time_flow_start_ns": T0_NS - rng.integers(0, 10**10, count), "time_flow_end_ns": T0_NS,
        "dst_addr": [f"192.0.2.{d}" for d in rng.integers(1, 250, count)],
        "dst_port": rng.integers(1, 65536, count),
    }  # fmt: skip
    return flows(count, **usual | columns)


def points(rows, config):
    return feature_matrix(rows, group_rows(rows.src_addr), config.features, config.scaling)


@pytest.mark.parametrize("address", ["10.0.0.1", "2001:db8::17"])
@pytest.mark.parametrize("features", [DistancesConfig().features, ("all",)])
@pytest.mark.parametrize("scaling", ["none", "standard", "log"])
@pytest.mark.parametrize("count", [2, 3, 1000])
def test_statistics_are_those_of_scipy_over_all_pairs(address, features, scaling, count):
    rows = of_source(count, address, dst_addr="2001:db8:ffff::9" if count == 3 else "10.9.8.7")
    (value,) = only(run(rows, features=features, scaling=scaling))
    expected = pdist(points(rows, DistancesConfig(features=features, scaling=scaling)).T)
    assert value["src_addr"] == address
    assert value["pairs"] == len(expected)
    assert value["min"] == pytest.approx(expected.min(), rel=1e-12, abs=1e-300)
    assert value["max"] == pytest.approx(expected.max(), rel=1e-12)
    assert value["mean"] == pytest.approx(expected.mean(), rel=1e-12)
    for name, q in QUANTILES.items():
        assert value[name] == pytest.approx(np.quantile(expected, q), rel=1e-12, abs=1e-300)
    assert LogLinearHistogram.from_value(value["histogram"]).total == len(expected)


def test_a_source_with_one_flow_has_no_pairs_and_no_statistics():
    (value,) = only(run(flows(1, time_ns=T0_NS)))
    assert (value["flows"], value["flows_seen"], value["sampled"], value["pairs"]) == (1, 1, False, 0)
    for name in ("min", "max", "mean", "tail_threshold", *QUANTILES):
        assert value[name] is None
    assert (value["top"], value["tails"], value["tail_pairs"]) == ([], [], 0)
    assert LogLinearHistogram.from_value(value["histogram"]).total == 0


def test_every_source_of_a_window_is_said_once_in_address_order():
    rows = flows(5, time_ns=T0_NS, src_addr=["2001:db8::1", "10.0.0.9", "10.0.0.2", "10.0.0.9", "::"])
    results = run(rows)
    expected = ["", "10.0.0.2", "10.0.0.9", "2001:db8::1"]
    assert [r.value["src_addr"] for r in results] == expected
    assert [r.key for r in results] == [f"{T0_NS}|{a}" for a in expected]
    assert {r.time_ns for r in results} == {T0_NS + SECOND}
    assert [v["flows"] for v in only(results)] == [1, 1, 2, 1]


def test_the_tail_lists_the_pairs_above_its_threshold_and_the_flows_with_most_of_them():
    rows = flows(6, bytes=[100, 200, 300, 400, 500, 10_000], time_ns=T0_NS + np.arange(6))
    (value,) = only(run(rows, tail_quantile=0.7, top_k=2))
    expected = np.sort(pdist(rows.bytes[:, None].astype(float)))
    assert value["tail_threshold"] == np.quantile(expected, 0.7)
    assert value["tail_pairs"] == (expected > value["tail_threshold"]).sum() == 5
    assert value["tails"][0] == {"id": "0-5", "pairs": 5}
    assert [t["id"] for t in value["tails"][1:]] == [f"0-{i}" for i in range(5)]
    assert value["top"] == [
        {"id_1": "0-0", "id_2": "0-5", "distance": 9900.0},
        {"id_1": "0-1", "id_2": "0-5", "distance": 9800.0},
    ]


def test_lists_are_bounded_and_equal_ones_come_in_flow_order():
    rows = flows(40, bytes=np.arange(40) % 2, time_ns=T0_NS + np.arange(40))
    (value,) = only(run(rows, top_k=3, tails_max=2, tail_distance=0.5))
    assert [(t["id_1"], t["id_2"]) for t in value["top"]] == [("0-0", "0-1"), ("0-0", "0-3"), ("0-0", "0-5")]
    assert value["tails"] == [{"id": "0-0", "pairs": 20}, {"id": "0-1", "pairs": 20}]
    assert (value["tail_pairs"], value["tail_threshold"]) == (400, 0.5)
    (none,) = only(run(rows, top_k=0, tails_max=0))
    assert (none["top"], none["tails"]) == ([], [])


def test_flows_are_named_by_their_record_id_or_by_where_they_came_from():
    rows = flows(
        4, time_ns=T0_NS + np.arange(4), bytes=[0, 10, 25, 45], record_id=[77, 0, 0, 2**64 - 1],
        origin_id=[0, 65537, 65537, 5], origin_offset=[1, 41, 41, 3], origin_row=[0, 0, 2, 0],
    )  # fmt: skip
    names = {65537: "netflow-1"}
    (value,) = only(run(rows, names, top_k=6))
    first = {"id_1": "77", "id_2": str(2**64 - 1), "distance": 45.0}
    assert value["top"][0] == first
    assert {t[k] for t in value["top"] for k in ("id_1", "id_2")} == {
        "77", "netflow-1-41", "netflow-1-41-2", str(2**64 - 1),
    }  # fmt: skip


def test_a_record_id_that_two_flows_of_a_source_share_names_neither():
    rows = flows(
        4, time_ns=T0_NS + np.arange(4), bytes=[0, 10, 25, 45], record_id=[9, 9, 8, 9],
        src_addr=["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2"],
    )  # fmt: skip
    first, _ = only(run(rows))
    assert {t[k] for t in first["top"] for k in ("id_1", "id_2")} == {"0-0", "0-1", "8"}
    assert rows.record_id.tolist() == [9, 9, 8, 9]


def test_names_learnt_after_the_operator_was_built_are_used():
    names: dict[int, str] = {}
    operator = DistancesOperator(DistancesConfig(1, 1), SECOND, names)
    names[3] = "flows-3"
    (result,) = one_by_one(operator.process([Pane(PANE, T0_NS, T0_NS + SECOND, flows(2, origin_id=3, time_ns=T0_NS))]))
    assert result.value["top"][0]["id_2"] == "flows-3-1"


def test_pairs_of_the_tail_are_published_farthest_first_in_milliseconds():
    rows = flows(4, bytes=[0, 1, 5, 1000], time_ns=T0_NS + np.arange(4) * 1_500_000)
    results = run(rows, pairs="tail", tail_quantile=0.5)
    pairs = [r for r in results if r.stream == "distance-pairs"]
    assert [r.value for r in pairs] == [
        {"eventid_1": f"0-{i}", "ts_flow1": T0_MS + i * 3 // 2, "eventid_2": "0-3", "ts_flow2": T0_MS + 4,
         "distance": d, "ts_output": T0_MS + 1000}
        for i, d in ((0, 1000.0), (1, 999.0), (2, 995.0))
    ]  # fmt: skip
    assert [r.key for r in pairs] == [f"{T0_NS}|10.0.0.1|0-{i}|0-3" for i in range(3)]
    assert results[0].value["pairs_truncated"] is False


def test_pairs_of_the_tail_beyond_the_bound_are_left_out_and_said_so():
    rows = of_source(200)
    whole = run(rows, pairs="tail", tail_quantile=0.9)
    cut = run(rows, pairs="tail", tail_quantile=0.9, pairs_max=7)
    assert len(only(whole, "distance-pairs")) == 1000 < whole[0].value["tail_pairs"]
    assert only(cut, "distance-pairs") == only(whole, "distance-pairs")[:7]
    assert whole[0].value["pairs_truncated"] is True
    assert cut[0].value["pairs_truncated"] is True
    assert cut[0].value["tail_pairs"] == whole[0].value["tail_pairs"]


def test_equal_flows_have_no_tail():
    results = run(flows(50, time_ns=T0_NS), pairs="tail")
    assert only(results, "distance-pairs") == []
    assert results[0].value["tail_pairs"] == 0
    assert results[0].value["p999"] == 0.0


def test_blocks_hold_the_names_once_and_every_distance_in_condensed_order():
    rows = of_source(600)
    blocks = only(run(rows, pairs="all"), "distance-pair-blocks")
    named = [b for b in blocks if b["ids"]]
    assert [name for b in named for name in b["ids"]] == [f"0-{i}" for i in range(600)]
    assert [t for b in named for t in b["times_ms"]] == [t // 10**6 for t in rows.time_ns.tolist()]
    packed = [b for b in blocks if b["distances"]]
    assert len(packed) == math.ceil(600 * 599 / 2 / (BLOCK_BYTES_MAX // 8))
    distances = np.concatenate([np.frombuffer(b["distances"], "<f8") for b in packed])
    assert distances == pytest.approx(pdist(points(rows, DistancesConfig()).T), rel=1e-12)
    starts = np.cumsum([0, *(len(b["distances"]) // 8 for b in packed)])
    assert [b["first"] for b in packed] == starts[:-1].tolist()
    assert {(b["flows"], b["pairs"]) for b in blocks} == {(600, 600 * 599 // 2)}
    assert all(len(b["distances"]) <= BLOCK_BYTES_MAX for b in blocks)


def test_names_too_long_for_one_block_are_cut_between_names():
    rows, names = of_source(3000), {0: "t" * 249}
    named = [b for b in only(run(rows, names, pairs="all"), "distance-pair-blocks") if b["ids"]]
    assert len(named) > 1
    assert all(sum(len(i) for i in b["ids"]) <= BLOCK_BYTES_MAX for b in named)
    assert [b["first_flow"] for b in named] == np.cumsum([0, *(len(b["ids"]) for b in named)])[:-1].tolist()
    assert sum(len(b["ids"]) for b in named) == 3000


def test_all_pairs_as_records_are_the_same_pairs_as_in_blocks():
    rows = of_source(30)
    records = only(run(rows, pairs="all", pair_form="records", flows_max=2000), "distance-pairs")
    (packed,) = (b for b in only(run(rows, pairs="all"), "distance-pair-blocks") if b["distances"])
    assert [r["distance"] for r in records] == np.frombuffer(packed["distances"], "<f8").tolist()
    expected = [(f"0-{i}", f"0-{j}") for i in range(30) for j in range(i + 1, 30)]
    assert [(r["eventid_1"], r["eventid_2"]) for r in records] == expected


def test_a_source_with_too_many_flows_is_sampled_and_says_so():
    rows = of_source(400)
    (value,) = only(run(rows, flows_max=100))
    assert (value["flows"], value["flows_seen"], value["sampled"]) == (100, 400, True)
    assert value["pairs"] == 100 * 99 // 2
    (again,) = only(run(rows.take(np.random.default_rng(5).permutation(400)), flows_max=100))
    assert again == value
    (whole,) = only(run(rows, flows_max=400))
    assert (whole["flows"], whole["sampled"]) == (400, False)


def test_hopping_windows_hold_the_rows_of_their_panes():
    operator = DistancesOperator(DistancesConfig(3, 1), SECOND)
    assert operator.lookback == 2
    panes = [
        Pane(PANE + i, T0_NS + i * SECOND, T0_NS + (i + 1) * SECOND, flows(1, time_ns=T0_NS + i * SECOND))
        for i in range(4)
    ]
    seen = [operator.process(panes[max(0, i - 2) : i + 1]) for i in range(4)]
    assert [(r.value["flows"], r.value["window_start_ns"]) for rs in seen for r in one_by_one(rs)] == [
        (1, T0_NS - 2 * SECOND), (2, T0_NS - SECOND), (3, T0_NS), (3, T0_NS + SECOND),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size_panes": 2, "step_panes": 3}, "cannot step"),
        ({"features": ("speed",)}, "unknown features"),
        ({"scaling": "robust"}, "scaling"),
        ({"pairs": "some"}, "pairs 'some'"),
        ({"pair_form": "heap"}, "pair_form"),
        ({"tail_quantile": 1.0}, "tail_quantile"),
        ({"tail_quantile": math.nan}, "tail_quantile"),
        ({"tail_distance": -1.0}, "tail_distance"),
        ({"tail_distance": math.inf}, "tail_distance"),
        ({"top_k": -1}, "top_k"),
        ({"pairs_max": 0}, "pairs_max"),
        ({"flows_max": 1}, "flows_max"),
        ({"flows_max": 65537}, "flows_max"),
        ({"pairs": "all", "pair_form": "records"}, "flows_max <= 2001"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_what_is_wrong(settings, told):
    with pytest.raises(ValueError, match=told):
        DistancesConfig(**settings)


def test_a_pane_must_have_a_length():
    with pytest.raises(ValueError, match="no length"):
        DistancesOperator(DistancesConfig(), 0)
