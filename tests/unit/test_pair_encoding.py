"""Pairs written by a kernel: byte for byte what fastavro writes of the same pairs, one at a time in plain Python."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from flowstream import pair_encoding, pairs, schemas
from flowstream.distances import DistancesConfig, DistancesOperator
from flowstream.features import feature_matrix, sample_groups
from flowstream.grouping import group_rows
from flowstream.operators import Pane, one_by_one
from flowstream.pairs import with_distinct_ids
from tests.builders import T0_NS, flows
from tests.unit.test_distance_encoding import NAMES, SECOND, flow_ids, windows

END_MS = (T0_NS + SECOND) // 10**6


def config_of(**chosen):
    return DistancesConfig(1, 1, **chosen)


def said(rows, config):
    operator = DistancesOperator(config, SECOND, NAMES)
    return list(one_by_one(operator.process([Pane(T0_NS // SECOND, T0_NS, T0_NS + SECOND, rows)])))


def all_distances(points):
    """The square roots of the kernel's sums, whose last bit depends on the order in which they are added up."""
    found = [distances for _, distances in pairs.distances_of_groups(np.array([0, points.shape[1]]), points)]
    assert found[0] == pytest.approx(pdist(points.T), rel=1e-12, abs=1e-300)
    return found[0]


def sources_of(rows, config):
    """Address, names, times and features of each source's flows."""
    groups = sample_groups(rows, group_rows(rows.src_addr), config.flows_max)
    named = with_distinct_ids(rows, groups)
    matrix = feature_matrix(rows, groups, config.features, config.scaling)
    told = [r.value["src_addr"] for r in said(rows, config) if r.stream == "distances"]
    for g, address in enumerate(told):
        own = slice(groups.bounds[g], groups.bounds[g + 1])
        index = groups.order[own]
        yield address, flow_ids(named, index, NAMES), (rows.time_ns[index] // 10**6).tolist(), matrix[:, own]


def record(address, ids, times, i, j, distance):
    value = {
        "eventid_1": ids[i], "ts_flow1": times[i], "eventid_2": ids[j], "ts_flow2": times[j],
        "distance": distance, "ts_output": END_MS,
    }  # fmt: skip
    return f"{T0_NS}|{address}|{ids[i]}|{ids[j]}", schemas.encode_body("distance_pairs", value)


def written(rows, config, stream):
    return [(r.key, r.body) for r in said(rows, config) if r.stream == stream]


@given(windows(), st.sampled_from([2, 6, 2000]))
def test_the_record_of_every_pair_is_what_fastavro_writes_of_it(rows, flows_max):
    config = config_of(pairs="all", pair_form="records", flows_max=flows_max)
    expected, rows = [], rows.in_time_order()
    for address, ids, times, points in sources_of(rows, config):
        distances = iter(all_distances(points).tolist())
        for i in range(len(ids)):
            expected += [record(address, ids, times, i, j, next(distances)) for j in range(i + 1, len(ids))]
    assert written(rows, config, "distance-pairs") == expected


@given(windows(), st.sampled_from([1, 3, 1000]))
def test_the_records_of_the_tail_are_the_farthest_pairs_above_its_threshold(rows, pairs_max):
    config = config_of(pairs="tail", pairs_max=pairs_max, tail_distance=50.0)
    expected, rows = [], rows.in_time_order()
    for address, ids, times, points in sources_of(rows, config):
        distances = iter(all_distances(points).tolist())
        each = [(i, j, next(distances)) for i in range(len(ids)) for j in range(i + 1, len(ids))]
        tail = sorted((p for p in each if p[2] > 50.0), key=lambda p: -p[2])[:pairs_max]
        expected += [record(address, ids, times, i, j, distance) for i, j, distance in tail]
    assert written(rows, config, "distance-pairs") == expected


def block_values(rows, config, bytes_max):
    """The blocks of each source: its names cut where one more would not fit, then its distances."""
    for address, ids, times, points in sources_of(rows, config):
        if len(ids) < 2:
            continue
        packed = all_distances(points).tobytes()
        common = {
            "src_addr": address, "window_start_ns": T0_NS, "window_end_ns": T0_NS + SECOND, "flows": len(ids),
            "pairs": len(packed) // 8,
        }  # fmt: skip
        cuts, size = [0], 0
        for at, (name, time_ms) in enumerate(zip(ids, times, strict=True)):
            own = len(schemas_string(name)) + len(schemas_long(time_ms))
            if size + own > bytes_max and at > cuts[-1]:
                cuts.append(at)
                size = 0
            size += own
        for a, b in zip(cuts, [*cuts[1:], len(ids)], strict=True):
            named = {"first_flow": a, "ids": ids[a:b], "times_ms": times[a:b], "first": 0, "distances": b""}
            yield f"{T0_NS}|{address}|flows|{a}", common | named
        step = bytes_max // 8 * 8
        for at in range(0, len(packed), step):
            part = {"first_flow": 0, "ids": [], "times_ms": [], "first": at // 8, "distances": packed[at : at + step]}
            yield f"{T0_NS}|{address}|pairs|{at // 8}", common | part


def schemas_long(number):
    size, number = 1, (number << 1) ^ (number >> 63)
    while number >> 7:
        size, number = size + 1, number >> 7
    return bytes(size)


def schemas_string(text):
    return schemas_long(len(text.encode())) + text.encode()


@pytest.mark.parametrize("bytes_max", [8, 100, 700, 512_000])
def test_blocks_are_what_fastavro_writes_of_them(bytes_max, monkeypatch):
    monkeypatch.setattr(pair_encoding, "BLOCK_BYTES_MAX", bytes_max)
    rng = np.random.default_rng(8)
    sizes = [1, 70, 2, 9, 1, 33]
    rows = flows(
        sum(sizes), time_ns=T0_NS + np.arange(sum(sizes)) * 10**6, bytes=rng.integers(0, 10**9, sum(sizes)),
        src_addr=np.repeat([f"10.0.0.{i}" if i % 2 else f"2001:db8::{i}" for i in range(6)], sizes).tolist(),
        origin_id=rng.choice([7, 65536, 65537], sum(sizes)), origin_offset=rng.integers(0, 10**12, sum(sizes)),
    ).in_time_order()  # fmt: skip
    config = config_of(pairs="all")
    expected = [
        (key, schemas.encode_body("distance_pair_blocks", value))
        for key, value in block_values(rows, config, bytes_max)
    ]
    assert written(rows, config, "distance-pair-blocks") == expected
    assert len(expected) >= 8


@pytest.mark.parametrize("at_once", [1, 10, 1000])
@pytest.mark.parametrize("form", ["records", "blocks"])
def test_pairs_do_not_depend_on_how_many_are_computed_or_written_at_once(at_once, form, monkeypatch):
    rows = flows(
        120, time_ns=T0_NS + np.arange(120), bytes=np.arange(120) ** 3 % 1009,
        src_addr=[f"10.0.0.{i % 7 if i % 2 else 99}" for i in range(120)],
    ).in_time_order()  # fmt: skip
    config = config_of(pairs="all", pair_form=form, flows_max=2000)
    whole = [(r.key, r.body) for r in said(rows, config)]
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", at_once)
    monkeypatch.setattr(pairs, "RECORDS_AT_ONCE", at_once)
    assert [(r.key, r.body) for r in said(rows, config)] == whole


def test_distances_of_groups_are_those_of_scipy():
    rng = np.random.default_rng(2)
    bounds = np.cumsum([0, 3, 1, 40, 2, 17])
    points = rng.normal(size=(5, bounds[-1]))
    found = np.concatenate([d for _, d in pairs.distances_of_groups(bounds, points)])
    expected = np.concatenate([pdist(points[:, a:b].T) for a, b in pairwise(bounds)])
    assert found == pytest.approx(expected, rel=1e-12)
