"""Packed columns give back the very values, in no more bytes than their range needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.errors import StateError
from flowstream.narrow import (
    HEADER_BYTES,
    check,
    check_words,
    pack,
    pack_words,
    unpack,
    unpack_words,
    unpack_words_into,
)  # fmt: skip

DTYPES = ("u1", "u2", "u4", "i8", "u8")


def bounds(dtype: str) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


@st.composite
def columns(draw: st.DrawFn) -> tuple[str, list[int]]:
    """Values of a type, some spread over all of it and some close together anywhere in it."""
    dtype = draw(st.sampled_from(DTYPES))
    low, high = bounds(dtype)
    first = draw(st.integers(low, high))
    near = st.integers(max(low, first - 300), min(high, first + 300))
    return dtype, draw(st.lists(draw(st.sampled_from([near, st.integers(low, high)])), max_size=50))


@given(columns())
def test_unpacking_gives_back_what_was_packed(column: tuple[str, list[int]]) -> None:
    dtype, values = column
    raw = pack(np.array(values, dtype))
    check(raw, len(values), dtype)
    back = unpack(raw, len(values), dtype)
    assert back.tolist() == values
    assert back.dtype == np.dtype(dtype)


@given(columns())
def test_a_row_takes_the_bytes_that_the_range_needs(column: tuple[str, list[int]]) -> None:
    dtype, values = column
    span = max(values) - min(values) if values else 0
    width = next(w for w in (0, 1, 2, 4, 8) if span < 1 << 8 * w)
    assert len(pack(np.array(values, dtype))) == (HEADER_BYTES + width * len(values) if values else 0)


def test_a_column_that_is_a_view_is_packed_by_its_values() -> None:
    words = np.arange(20, dtype=np.uint64).reshape(10, 2)
    assert unpack(pack(words[:, 1]), 10, "u8").tolist() == words[:, 1].tolist()


@given(st.binary(max_size=60), st.integers(0, 20), st.sampled_from(DTYPES))
def test_bytes_that_pass_the_check_can_be_unpacked(raw: bytes, rows: int, dtype: str) -> None:
    try:
        check(raw, rows, dtype)
    except StateError:
        return
    assert len(unpack(raw, rows, dtype)) == rows


@pytest.mark.parametrize("raw", [b"", b"\x03" + bytes(8 + 6), b"\x02" + bytes(8 + 3), b"\x08" + bytes(8 + 16)])
def test_a_width_that_there_is_not_or_that_does_not_fit_is_refused(raw: bytes) -> None:
    with pytest.raises(StateError):
        check(raw, 2, "u4")


word = st.integers(0, 2**64 - 1)
nearby = st.builds(lambda first, more: [min(first + n, 2**64 - 1) for n in more], word, st.lists(st.integers(0, 300)))


@given(st.integers(0, 40), st.data())
def test_unpacking_gives_back_the_words_of_addresses_that_were_packed_and_writes_nothing_else(
    rows: int, given_words: st.DataObject
) -> None:
    sides = [
        given_words.draw(
            st.lists(st.sampled_from(given_words.draw(nearby) or [7]) | word, min_size=rows, max_size=rows)
        )
        for _ in range(2)
    ]
    words = np.array(sides, np.uint64).T.reshape(rows, 2)
    raw = pack_words(words)
    check_words(raw, rows)
    assert unpack_words(raw, rows).tolist() == words.tolist()
    around = np.full((rows + 2, 2), 5, np.uint64)
    unpack_words_into(raw, around[1:-1])
    assert around.tolist() == [[5, 5], *words.tolist(), [5, 5]]


@given(st.binary(max_size=80) | st.builds(lambda w, n: bytes([w]) + bytes(n), st.sampled_from([0, 1, 2, 4, 8]),
                                          st.integers(0, 80)), st.integers(1, 20))  # fmt: skip
def test_bytes_that_are_too_few_for_addresses_are_refused_without_reading_past_them(raw: bytes, rows: int) -> None:
    """Also where nobody has checked them before; that the columns are read as the check reads them is the other law."""
    try:
        check_words(raw, rows)
    except StateError:
        try:
            assert len(unpack_words(raw, rows)) == rows
        except StateError:
            return
        at = HEADER_BYTES + raw[0] * rows
        assert len(raw) >= at + HEADER_BYTES + raw[at] * rows
        return
    high, low = (unpack(part, rows, "u8") for part in (raw, raw[HEADER_BYTES + raw[0] * rows :]))
    assert unpack_words(raw, rows).tolist() == [list(pair) for pair in zip(high.tolist(), low.tolist(), strict=True)]
