"""Laws of FlowBatch and of addresses as words."""

from __future__ import annotations

import ipaddress
import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowstream.batch import COLUMNS, FlowBatch, address_text, address_words, packed_to_words, words_to_packed
from flowstream.columns import picked
from tests.builders import T0_NS, flows

addresses = st.ip_addresses()


def same(left: FlowBatch, right: FlowBatch) -> bool:
    return len(left) == len(right) and all(
        left.columns[n].dtype == right.columns[n].dtype
        and left.columns[n].shape == right.columns[n].shape
        and left.columns[n].tobytes() == right.columns[n].tobytes()
        for n in COLUMNS
    )


def numbered(count: int, first: int = 0) -> FlowBatch:
    """Rows told apart by every column."""
    columns = {}
    for name, column in COLUMNS.items():
        numbers = np.arange(first, first + count)
        columns[name] = numbers if column.width == 1 else np.stack([numbers, numbers + 100], axis=1)
    return FlowBatch.of(count, columns)


@given(addresses)
@example(ipaddress.ip_address("0.0.0.0"))
@example(ipaddress.ip_address("255.255.255.255"))
@example(ipaddress.ip_address("::1"))
@example(ipaddress.ip_address("::ffff:0:0"))
@example(ipaddress.ip_address("::1:ffff:a00:1"))
@example(ipaddress.ip_address("::fffe:a00:1"))
@example(ipaddress.ip_address("1::ffff:a00:1"))
def test_an_address_comes_back_from_its_words_as_the_standard_library_writes_it(address):
    high, low = address_words(str(address))
    mapped = getattr(address, "ipv4_mapped", None)
    unspecified = address == ipaddress.ip_address("::")  # all zero, as "no address" is
    assert address_text(high, low) == ("" if unspecified else str(mapped or address))


@given(addresses)
def test_words_are_the_sixteen_bytes_in_network_order_with_ipv4_mapped(address):
    packed = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
    words = packed_to_words(packed)
    assert tuple(words[0].tolist()) == address_words(str(address))
    assert words_to_packed(words) == packed


@given(st.lists(st.binary(min_size=16, max_size=16)))
def test_packed_addresses_round_trip_many_at_a_time(packed):
    words = packed_to_words(b"".join(packed))
    assert words.shape == (len(packed), 2)
    assert words.dtype == np.uint64
    assert words_to_packed(words) == b"".join(packed)


@given(st.lists(st.ip_addresses(v=4), min_size=2), st.lists(st.ip_addresses(v=6), min_size=2))
def test_words_sort_as_addresses_do(v4, v6):
    for family in (v4, v6):
        assert sorted(map(str, family), key=address_words) == [str(a) for a in sorted(family)]


def test_no_address_is_no_text():
    assert address_text(0, 0) == ""


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.256", "2001:db8::g", "host", "10.0.0.1/8"])
def test_what_is_not_an_address_is_refused(text):
    with pytest.raises(ValueError, match="does not appear to be"):
        address_words(text)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_zeros_has_every_column_in_order_with_its_type_and_width(rows):
    batch = FlowBatch.zeros(rows)
    assert len(batch) == rows
    assert list(batch.columns) == list(COLUMNS)
    for name, column in COLUMNS.items():
        assert batch.columns[name].dtype == np.dtype(column.dtype)
        assert batch.columns[name].shape == ((rows,) if column.width == 1 else (rows, column.width))
        assert not batch.columns[name].any()


def test_of_casts_the_columns_given_and_zeroes_the_others():
    batch = FlowBatch.of(2, {"bytes": [1, 2], "src_port": np.array([443, 53], np.int64)})
    assert batch.bytes.dtype == np.int64
    assert (batch.bytes.tolist(), batch.src_port.tolist()) == ([1, 2], [443, 53])
    assert batch.src_port.dtype == np.uint16
    assert batch.dst_addr.tolist() == [[0, 0], [0, 0]]


def test_of_refuses_unknown_columns_and_other_shapes():
    with pytest.raises(ValueError, match=r"unknown columns \['octets'\]"):
        FlowBatch.of(1, {"octets": [1]})
    for name, column in {"bytes": [1], "src_addr": [1, 2], "exporter": [[1, 2]]}.items():
        with pytest.raises(ValueError, match=f"column {name} has shape"):
            FlowBatch.of(2, {name: column})


def test_an_attribute_that_is_no_column_does_not_exist():
    with pytest.raises(AttributeError, match="octets"):
        _ = flows().octets


@given(st.lists(st.integers(0, 4), max_size=6))
def test_concat_joins_in_order_and_cutting_it_again_gives_the_parts(sizes):
    starts = np.cumsum([0, *sizes]).tolist()
    parts = [numbered(size, first) for size, first in zip(sizes, starts, strict=False)]
    whole = FlowBatch.concat(parts)
    assert same(whole, numbered(starts[-1]))
    for part, start in zip(parts, starts, strict=False):
        assert same(whole.take(slice(start, start + len(part))), part)


@given(st.lists(st.integers(0, 9), max_size=20))
def test_take_by_position_picks_those_rows_in_that_order(positions):
    taken = numbered(10).take(np.array(positions, np.int64))
    for name in COLUMNS:
        assert taken.columns[name].tolist() == [numbered(10).columns[name].tolist()[i] for i in positions]


@given(st.lists(st.booleans(), min_size=8, max_size=8))
def test_take_by_mask_is_take_by_the_positions_it_marks(mask):
    marked = np.array(mask)
    assert same(numbered(8).take(marked), numbered(8).take(np.flatnonzero(marked)))


def test_take_by_slice_shares_memory():
    batch = numbered(10)
    assert np.shares_memory(batch.take(slice(2, 5)).bytes, batch.bytes)


def test_replace_changes_the_columns_named_in_a_new_batch_only():
    batch = numbered(3)
    replaced = batch.replace(bytes=np.array([7, 8, 9]))
    assert replaced.bytes.tolist() == [7, 8, 9]
    assert replaced.bytes.dtype == np.int64
    assert same(batch, numbered(3))
    assert same(replaced.replace(bytes=batch.bytes), batch)


keys = st.tuples(st.integers(-3, 3), st.integers(0, 2), st.integers(0, 3), st.integers(0, 2))


@given(st.lists(keys, max_size=20, unique=True), st.randoms(use_true_random=False))
def test_time_order_is_one_order_for_one_set_of_rows(rows, shuffler):
    def batch(order: list[tuple[int, int, int, int]]) -> FlowBatch:
        columns = np.array(order, np.int64).reshape(-1, 4).T
        names = ("time_ns", "origin_id", "origin_offset", "origin_row")
        return FlowBatch.of(len(order), dict(zip(names, columns, strict=True)))

    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    ordered = batch(shuffled).in_time_order()
    assert same(ordered, batch(sorted(rows)))
    assert same(ordered.in_time_order(), ordered)


def test_time_order_keeps_whole_rows_together():
    order = list(range(50))
    random.Random(7).shuffle(order)
    shuffled = numbered(50).take(np.array(order)).replace(time_ns=np.array(order) + T0_NS)
    assert same(shuffled.in_time_order(), numbered(50).replace(time_ns=np.arange(50) + T0_NS))


@given(st.integers(0, 30), st.data())
def test_rows_picked_by_position_mask_or_slice_are_those_that_an_index_gives(count, data):
    rows = st.lists(st.integers(0, max(count - 1, 0)), max_size=40 if count else 0)
    positions = np.array(data.draw(rows), np.int64)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), np.bool_)
    for column in np.arange(count), np.arange(3 * count, dtype=np.uint64).reshape(count, 3):
        for index in positions, mask, slice(*sorted(data.draw(st.tuples(st.integers(-2, 32), st.integers(-2, 32))))):
            got, wanted = picked(column, index), column[index]
            assert (got.dtype, got.shape, got.tolist()) == (wanted.dtype, wanted.shape, wanted.tolist())


def test_rows_of_several_panes_have_no_one_order_to_arrange_by():
    panes = [flows(3, time_ns=[3, 1, 2]).in_time_order() for _ in range(2)]
    assert panes[0].arranged(np.array([30, 10, 20])).tolist() == [10, 20, 30]
    with pytest.raises(TypeError, match="several panes"):
        FlowBatch.concat(panes).arranged(np.arange(6))
