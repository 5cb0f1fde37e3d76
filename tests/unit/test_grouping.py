"""Grouping against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream.grouping import RADIX_ROWS_MIN, Groups, group_rows

rows_of_keys = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1) | st.integers(0, 2)), max_size=40)


def by_dictionary(keys: list[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return dict(sorted(groups.items()))


def members(groups: Groups) -> list[list[int]]:
    return [groups.order[a:b].tolist() for a, b in zip(groups.bounds, groups.bounds[1:], strict=False)]


@given(rows_of_keys)
def test_groups_are_those_of_a_dictionary_in_key_order_with_rows_in_first_order(keys):
    columns = np.array([k[0] for k in keys], np.uint8), np.array([k[1] for k in keys], np.uint64)
    groups, wanted = group_rows(*columns), by_dictionary(keys)
    assert members(groups) == list(wanted.values())
    assert len(groups) == len(wanted)
    assert groups.firsts.tolist() == [rows[0] for rows in wanted.values()]
    assert groups.sizes.tolist() == [len(rows) for rows in wanted.values()]


@given(rows_of_keys)
def test_an_address_column_groups_as_its_two_words(keys):
    address = np.array(keys, np.uint64).reshape(-1, 2)
    groups = group_rows(address)
    assert members(groups) == members(group_rows(address[:, 0], address[:, 1]))
    assert members(groups) == list(by_dictionary(keys).values())


SIGNED = st.integers(-3, 3) | st.sampled_from([-(2**63), 2**63 - 1, -(2**40), 2**40])


@given(st.lists(st.tuples(st.integers(7, 8), SIGNED, st.integers(0, 2)), max_size=40))
def test_signed_keys_of_any_range_beside_constant_ones_group_as_in_a_dictionary(keys):
    columns = [np.array([k[i] for k in keys], dtype) for i, dtype in enumerate((np.uint16, np.int64, np.uint8))]
    assert members(group_rows(*columns)) == list(by_dictionary(keys).values())


FEW_OR_ANY = st.sampled_from([(0, 2), (2**63 - 2, 2**63), (0, 2**64), (0xFFFF_0A00_0000, 0xFFFF_0A00_4000)])


@settings(max_examples=15)
@given(
    st.integers(RADIX_ROWS_MIN, RADIX_ROWS_MIN + 50), st.lists(FEW_OR_ANY, min_size=1, max_size=5), st.integers(0, 99)
)
def test_many_rows_with_keys_wider_than_a_word_group_as_in_a_dictionary(rows, ranges, seed):
    rng = np.random.default_rng(seed)
    columns = [rng.integers(low, high, rows, np.uint64) for low, high in ranges]
    columns.append(rng.integers(-(2**63), 2**63, rows) // 2**60 * 2**60)  # signed, each of sixteen values often
    keys = [tuple(map(int, key)) for key in zip(*columns, strict=True)]
    assert members(group_rows(*columns)) == list(by_dictionary(keys).values())


def test_keys_that_are_not_whole_numbers_are_grouped_too():
    assert members(group_rows(np.array([0.5, -1.0, 0.5, 0.25]))) == [[1], [3], [0, 2]]


@given(rows_of_keys, st.data())
def test_sums_are_those_of_a_dictionary_in_the_columns_own_type(keys, data):
    column = data.draw(st.lists(st.integers(-(2**40), 2**40), min_size=len(keys), max_size=len(keys)))
    values = np.array(column, np.int64)
    groups = group_rows(np.array(keys, np.uint64).reshape(-1, 2))
    sums = groups.sum(values)
    assert sums.tolist() == [sum(column[r] for r in rows) for rows in by_dictionary(keys).values()]
    assert sums.dtype == np.int64
    assert groups.sum(values.astype(np.float64)).dtype == np.float64


def test_every_row_is_in_exactly_one_group_when_all_keys_are_equal_or_all_differ():
    assert members(group_rows(np.zeros(4, np.uint16))) == [[0, 1, 2, 3]]
    assert members(group_rows(np.array([3, 1, 2], np.uint16))) == [[1], [2], [0]]


@pytest.mark.parametrize("keys", [np.zeros(0, np.uint32), np.zeros((0, 2), np.uint64)])
def test_no_rows_are_no_groups(keys):
    groups = group_rows(keys)
    assert (len(groups), groups.firsts.tolist(), groups.sizes.tolist()) == (0, [], [])
    assert groups.sum(np.zeros(0, np.int64)).tolist() == []
