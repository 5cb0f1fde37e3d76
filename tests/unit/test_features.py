"""Flows as points, and the sampling of large groups."""

from __future__ import annotations

import ipaddress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.features import (
    FEATURES,
    check_scaling,
    feature_matrix,
    feature_names,
    origin_hash,
    sample_groups,
)
from flowstream.grouping import group_rows
from tests.builders import T0_NS, flows


def matrix(rows, names, scaling="none"):
    return feature_matrix(rows, group_rows(rows.src_addr), names, scaling)


def test_each_feature_is_the_number_of_its_column():
    rows = flows(
        1, src_addr="10.0.0.1", dst_addr="192.0.2.7", src_port=40000, dst_port=53, in_bytes=70, in_packets=2,
        bytes=1500, packets=3, time_flow_start_ns=T0_NS, time_flow_end_ns=T0_NS + 2_500_000_000,
    )  # fmt: skip
    expected = {
        "src_addr": 10 * 2**24 + 1, "dst_addr": 192 * 2**24 + 2 * 2**8 + 7, "src_port": 40000, "dst_port": 53,
        "duration": 2.5, "in_bytes": 70, "in_packets": 2, "out_bytes": 1500, "out_packets": 3,
    }  # fmt: skip
    assert dict(zip(FEATURES, matrix(rows, tuple(FEATURES))[:, 0].tolist(), strict=True)) == expected


@given(st.ip_addresses(v=6))
def test_an_ipv6_address_is_the_float_nearest_to_its_128_bits(address):
    number = matrix(flows(1, dst_addr=str(address)), ("dst_addr",))[0, 0]
    if address.ipv4_mapped is not None:
        assert number == int(address.ipv4_mapped)
    else:
        assert number == pytest.approx(int(address), rel=2**-52)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_its_32_bit_number(address):
    assert matrix(flows(1, dst_addr=str(address)), ("dst_addr",))[0, 0] == int(ipaddress.IPv4Address(address))


def test_a_flow_that_ends_before_it_starts_lasts_no_time():
    rows = flows(1, time_flow_start_ns=T0_NS, time_flow_end_ns=T0_NS - 1)
    assert matrix(rows, ("duration",)).tolist() == [[0.0]]


def scaled_by_hand(values, scaling):
    values = np.log1p(values) if scaling == "log" else values
    # The computed deviation of equal values may be a rounding error.
    spread = np.where(np.ptp(values, axis=1, keepdims=True) > 0, values.std(axis=1, keepdims=True), 0)
    return np.where(spread > 0, (values - values.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1), 0)


@pytest.mark.parametrize("scaling", ["standard", "log"])
@given(seed=st.integers(0, 2**32 - 1), sources=st.integers(1, 4))
def test_scaling_is_by_the_spread_of_each_source_alone(scaling, seed, sources):
    rng = np.random.default_rng(seed)
    own = rng.integers(0, sources, 40)
    rows = flows(
        40,
        src_addr=[f"10.0.0.{s}" for s in own],
        bytes=rng.integers(0, 10**9, 40),
        packets=rng.integers(0, 9, 40),
    )
    names = ("out_bytes", "out_packets", "in_bytes")
    scaled = matrix(rows, names, scaling)
    plain = matrix(rows, names)
    bounds = group_rows(rows.src_addr).bounds
    for a, b in pairwise(bounds):
        assert scaled[:, a:b] == pytest.approx(scaled_by_hand(plain[:, a:b], scaling), rel=1e-9, abs=1e-9)


def test_equal_values_scale_to_zero_and_not_to_their_rounding_error():
    rows = flows(3, time_flow_end_ns=T0_NS + 100_000_001, time_flow_start_ns=T0_NS)
    values = matrix(rows, ("duration",))[0]
    assert values.mean() - values[0] != 0.0 or values.std() == 0.0
    assert matrix(rows, ("duration",), "standard").tolist() == [[0.0, 0.0, 0.0]]
    assert matrix(rows, ("duration",), "log").tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("features", [("speed",), (), ("duration", "duration"), "duration"])
def test_features_that_are_none_are_refused(features):
    with pytest.raises(ValueError, match="feature"):
        feature_names(features)


def test_all_means_the_nine_and_a_scaling_must_be_one_of_three():
    assert feature_names(("all",)) == feature_names("all") == tuple(FEATURES)
    assert len(FEATURES) == 9
    with pytest.raises(ValueError, match="scaling"):
        check_scaling("robust")


def big_and_small(count):
    return flows(
        count + 3,
        src_addr=["10.0.0.2"] * count + ["10.0.0.1", "10.0.0.3", "10.0.0.3"],
        origin_id=7,
        origin_offset=np.arange(count + 3) // 2,
        origin_row=np.arange(count + 3) % 2,
    )


def test_sampling_keeps_the_least_hashes_in_their_order_and_small_groups_whole():
    rows = big_and_small(500)
    seen = group_rows(rows.src_addr)
    kept = sample_groups(rows, seen, 100)
    assert kept.sizes.tolist() == [1, 100, 2]
    hashes = origin_hash(rows)
    large = seen.order[seen.bounds[1] : seen.bounds[2]]
    least = set(sorted(large.tolist(), key=lambda at: int(hashes[at]))[:100])
    chosen = kept.order[kept.bounds[1] : kept.bounds[2]].tolist()
    assert chosen == [at for at in large.tolist() if at in least]


def test_sampling_depends_on_where_rows_came_from_and_not_on_what_is_beside_them():
    rows = big_and_small(300)
    mixed = rows.take(np.random.default_rng(1).permutation(len(rows)))

    def chosen(batch):
        kept = sample_groups(batch, group_rows(batch.src_addr), 50)
        return {(int(batch.origin_offset[at]), int(batch.origin_row[at])) for at in kept.order}

    assert chosen(rows) == chosen(mixed)
    assert sample_groups(rows, group_rows(rows.src_addr), 300).sizes.tolist() == [1, 300, 2]


def test_origin_hashes_of_neighbours_differ():
    rows = flows(4, origin_id=[1, 1, 1, 2], origin_offset=[5, 5, 6, 5], origin_row=[0, 1, 0, 0])
    assert len(set(origin_hash(rows).tolist())) == 4
