"""Numbers and addresses as bytes: the same as Python, ipaddress and fastavro write them."""

from __future__ import annotations

import io
import ipaddress
from itertools import pairwise

import fastavro
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowstream.batch import address_text, address_words
from flowstream.text_kernels import (
    ADDRESS_MAX,
    digits_of,
    long_size,
    packed_addresses,
    put_bytes,
    put_digits,
    put_long,
    put_signed,
    put_word,
)

U64 = st.integers(0, 2**64 - 1)
#: Hextets that make runs of zeros likely, which is what RFC 5952 is about.
HEXTETS = st.lists(st.sampled_from([0, 0, 0, 1, 0xF, 0x10, 0xFFF, 0xFFFF]), min_size=8, max_size=8)


def written(put, *numbers):
    """Return what a kernel writes behind three bytes, which it must leave alone, and nothing after its end."""
    buffer = np.full(40, 0xAA, np.uint8)
    end = put(buffer, 3, *numbers)
    assert set(buffer[:3].tolist()) | set(buffer[end:].tolist()) == {0xAA}
    return buffer[3:end].tobytes()


@given(U64)
@example(0)
@example(9)
@example(10)
@example(2**64 - 1)
def test_digits_are_those_of_python(number):
    assert written(put_digits, np.uint64(number)) == str(number).encode()
    assert digits_of(np.uint64(number)) == len(str(number))


@given(st.integers(-(2**63), 2**63 - 1))
@example(-(2**63))
@example(2**63 - 1)
@example(63)
@example(64)
@example(-65)
def test_longs_are_those_of_fastavro(number):
    expected = io.BytesIO()
    fastavro.schemaless_writer(expected, "long", number)
    assert written(put_long, np.int64(number)) == expected.getvalue()
    assert long_size(np.int64(number)) == len(expected.getvalue())


@given(st.integers(-(2**63), 2**63 - 1))
@example(-(2**63))
@example(0)
def test_signed_numbers_are_those_of_python(number):
    assert written(put_signed, np.int64(number)) == str(number).encode()


@given(U64)
def test_words_are_little_endian(number):
    assert written(put_word, np.uint64(number)) == number.to_bytes(8, "little")


@given(st.binary(max_size=30), st.integers(0, 30), st.integers(0, 30))
def test_a_piece_is_copied_as_it_is(piece, first, last):
    last = min(last, len(piece))
    first = min(first, last)
    assert written(put_bytes, np.frombuffer(bytearray(piece), np.uint8), first, last) == piece[first:last]


def texts_of(words):
    packed, bounds = packed_addresses(words)
    assert len(bounds) == len(words) + 1
    assert bounds[0] == 0
    return [packed[a:b].tobytes().decode("ascii") for a, b in pairwise(bounds)]


@given(
    st.lists(
        st.one_of(HEXTETS, st.builds(lambda n: [0] * 5 + [0xFFFF, n >> 16, n & 0xFFFF], st.integers(0, 2**32 - 1)))
    )
)
@example(
    [[0] * 8, [0] * 7 + [1], [1] + [0] * 7, [0, 0, 1, 0, 0, 0, 0, 1], [1, 0, 0, 2, 2, 0, 0, 3], [1, 0] * 4, [0, 1] * 4]
)
@example([[0xFFFF] * 8, [0] * 5 + [0xFFFF, 0xFFFF, 0xFFFF], [0] * 5 + [0xFFFF, 0, 0], [0] * 4 + [1, 0xFFFF, 1, 1]])
def test_addresses_are_those_of_ipaddress(hextets):
    numbers = [sum(h << 16 * (7 - i) for i, h in enumerate(parts)) for parts in hextets]
    words = np.array([(n >> 64, n % 2**64) for n in numbers], np.uint64).reshape(-1, 2)
    expected = []
    for number in numbers:
        address = ipaddress.IPv6Address(number)
        expected.append(str(address.ipv4_mapped or address) if number else "")
    assert texts_of(words) == expected == [address_text(high, low) for high, low in words.tolist()]
    assert max(map(len, expected), default=0) <= ADDRESS_MAX


@pytest.mark.parametrize("text", ["0.0.0.0", "10.0.200.9", "255.255.255.255", "2001:db8::17", "::1", "64:ff9b::1"])
def test_an_address_reads_back_as_it_was_written(text):
    assert texts_of(np.array([address_words(text)], np.uint64)) == [text]
