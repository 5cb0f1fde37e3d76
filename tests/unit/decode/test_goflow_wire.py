"""Messages built field by field, in every way the wire format allows and in some that it does not, against upb.

``tests/fuzz/protobuf_oracle.py`` says what upb makes of them, and lists where flowstream differs on purpose; each of
those has its case at the end.
"""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from flowstream.decode import Payloads, decode
from flowstream.errors import Reason
from tests.builders import delimited, field, goflow2_v2, varint
from tests.fuzz.messages import check_goflow
from tests.fuzz.protobuf_oracle import ADDRESSES, FLOW, NUMBERS
from tests.unit.decode.batches import rejection, row

KNOWN = sorted({*NUMBERS.values(), *ADDRESSES.values()})
FIELD_MAX = 2**29 - 1
ANY_U64 = st.integers(0, 2**64 - 1) | st.integers(0, 300) | st.sampled_from([0, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
NEGATIVE = st.integers(-(2**31), -1).map(lambda number: number % 2**64)  # as an int32 or int64 of proto3 is written


def padded(number: int, size: int) -> bytes:
    """Return a varint in at least ``size`` bytes: more than it needs, where there is room for more."""
    short = varint(number)
    if len(short) >= size:
        return short
    return short[:-1] + bytes([short[-1] | 0x80]) + b"\x80" * (size - len(short) - 1) + b"\0"


numbers = st.sampled_from(sorted(NUMBERS.values()))
unknown = st.integers(1, FIELD_MAX).filter(lambda number: number not in KNOWN) | st.sampled_from([8, 113, FIELD_MAX])
plausible = st.sampled_from([2, 110]).map(lambda number: field(number, 1_700_000_000 * (10**9 if number == 110 else 1)))
sizes = st.sampled_from([4, 16, 4, 16, 0, 5])


@st.composite
def one_field(draw: st.DrawFn) -> bytes:
    """A field: known or not, of the right wire type or another, its numbers as short as they could be or not."""
    kind = draw(
        st.sampled_from(
            ["time", "number", "number", "address", "address", "unknown", "packed", "odd", "group", "beyond"]
        )
    )
    tag_size, number_size = draw(st.sampled_from([1, 1, 1, 2, 5, 6, 10])), draw(st.sampled_from([1, 1, 2, 5, 10]))
    if kind == "time":
        return draw(plausible)
    if kind == "number":
        return padded(draw(numbers) << 3, tag_size) + padded(draw(ANY_U64 | NEGATIVE), number_size)
    if kind == "address":
        octets = draw(sizes.flatmap(lambda size: st.binary(min_size=size, max_size=size)))
        return padded(draw(st.sampled_from([6, 7, 11])) << 3 | 2, tag_size) + padded(len(octets), number_size) + octets
    if kind == "packed":
        elements = b"".join(map(varint, draw(st.lists(ANY_U64, max_size=4))))
        return padded(draw(unknown) << 3 | 2, tag_size) + varint(len(elements)) + elements
    if kind == "group":
        number = draw(unknown)
        return varint(number << 3 | 3) + draw(st.just(b"") | one_field()) + varint(number << 3 | 4)
    if kind == "beyond":
        return varint(draw(st.integers(FIELD_MAX + 1, 2**61 - 1)) << 3) + b"\1"
    number = draw(unknown if kind == "unknown" else st.sampled_from(KNOWN))
    wire_type = draw(st.sampled_from([0, 1, 2, 5] if kind == "unknown" else [0, 1, 2, 5, 6, 7]))
    octets = draw(st.binary(max_size=20))
    body = {0: padded(draw(ANY_U64), number_size), 1: octets[:8].ljust(8), 5: octets[:4].ljust(4)}
    return varint(number << 3 | wire_type) + body.get(wire_type, varint(len(octets)) + octets)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A record that starts good more often than not, with fields repeated, added, put in any order, or cut off."""
    fields = [field(6, bytes([10, 0, 0, 1])), draw(plausible)] if draw(st.integers(0, 9)) else []
    fields += draw(st.lists(one_field(), max_size=6))
    wire = b"".join(draw(st.permutations(fields)))
    return wire[: draw(st.integers(0, len(wire)))] if draw(st.integers(0, 9)) == 0 else wire


@given(st.lists(records(), min_size=1, max_size=3), st.sampled_from(["bare", "delimited", "both"]))
def test_a_message_of_any_fields_is_what_upb_makes_of_it(wires: list[bytes], framing: str) -> None:
    check_goflow(wires[0] if framing == "bare" else delimited(*wires) + (wires[0] if framing == "both" else b""))


@given(st.lists(ANY_U64, min_size=2, max_size=5))
def test_of_a_repeated_number_the_last_counts_as_upb_counts_it(values: list[int]) -> None:
    wire = goflow2_v2(bytes=None) + b"".join(field(9, value) for value in values)
    assert FLOW.FromString(wire).bytes == values[-1]
    check_goflow(wire)


def upb(wire: bytes) -> Any:
    try:
        return FLOW.FromString(wire)
    except DecodeError:
        return None


GOOD = goflow2_v2(bytes=7)


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (GOOD + b"\x43\x44", "a group of an unknown field"),
        (GOOD + b"\x43\x48\x05\x44", "a group that holds a known field"),
        (GOOD + b"\x4a\x01\x05", "a known number that is packed"),
        (GOOD + b"\x49" + bytes(8), "a known number in eight bytes"),
        (GOOD + b"\x30\x05", "an address that is a number"),
        (GOOD + b"\x48" + b"\xff" * 9 + b"\x7f", "a varint of more than 64 bits"),
        (GOOD + b"\x40" + b"\xff" * 9 + b"\x02", "an unknown field's varint of more than 64 bits"),
    ],
)
def test_what_upb_passes_over_is_refused_where_its_meaning_is_not_known(wire: bytes, why: str) -> None:
    assert upb(wire) is not None, why
    assert rejection("goflow", delimited(wire)) == Reason.MALFORMED


@pytest.mark.parametrize("size", [6, 10])
def test_tags_and_lengths_may_be_longer_than_upb_takes_them(size: int) -> None:
    for wire in (GOOD + padded(9 << 3, size) + b"\7", GOOD + b"\x32" + padded(4, size) + bytes([10, 0, 0, 1])):
        assert upb(wire) is None
        assert row("goflow", delimited(wire)) == row("goflow", delimited(GOOD))


def test_a_number_beyond_its_field_is_refused_where_upb_would_cut_it() -> None:
    for number in (2**32 + 1, -1 % 2**64):
        assert rejection("goflow", delimited(goflow2_v2(in_if=number))) == Reason.OUT_OF_RANGE


def test_of_a_negative_type_nothing_is_known() -> None:
    decoded = decode("goflow", Payloads.from_values([delimited(goflow2_v2(type=-1 % 2**64))]))
    assert decoded.flows.flow_type.tolist() == [0]
