"""Numbers, repeated keys and spellings of JSON formats against the standard library's parser.

The rule for every whole number, written here anew: null and absent are 0; a JSON number, or a string that is one, is
what it says if it is whole, no more than its field holds, and exact. flowstream differs from the standard library on
purpose where that would guess:

* of a repeated key the last counts, but each of its values must be one that the field can have;
* true is not 1, and 1.5 is not 1;
* a number with a point or an exponent is read as a double, and is a whole number only up to 2**53: 1e18 is refused;
* "null" in quotes is null, in any case;
* half a surrogate pair is no text, whether a column is made of it or not.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowstream.decode import Payloads, decode
from flowstream.errors import Reason
from tests.unit.decode.batches import outcome
from tests.unit.decode.examples import EVE_FLOW, EVENT, GOFLOW2_V1, GOFLOW2_V2

#: Key, column and bits of every whole number, by an example that has it. A dotted key is that of an inner object.
FORMATS: dict[str, tuple[str, dict[str, Any], dict[str, tuple[str, int]]]] = {
    "goflow2 v2": (
        "goflow-json", GOFLOW2_V2, {
            "src_port": ("src_port", 16), "dst_port": ("dst_port", 16), "ip_ttl": ("ip_ttl", 8), "in_if": ("in_if", 32),
            "tcp_flags": ("tcp_flags", 16), "out_if": ("out_if", 32), "bytes": ("bytes", 63),
            "packets": ("packets", 63), "sampling_rate": ("sampling_rate", 32), "sequence_num": ("sequence_num", 32),
            "src_as": ("src_as", 32), "dst_as": ("dst_as", 32),
        },
    ),
    "goflow2 v1": (
        "goflow-json", GOFLOW2_V1, {
            "Bytes": ("bytes", 63), "SrcPort": ("src_port", 16), "InIf": ("in_if", 32), "IpTtl": ("ip_ttl", 8),
            "SrcAs": ("src_as", 32), "DstAS": ("dst_as", 32),
        },
    ),
    "event": (
        "flow-event-json", EVENT, {
            "eventid": ("record_id", 64), "src_port": ("src_port", 16), "dst_port": ("dst_port", 16),
            "out_bytes": ("bytes", 63), "out_packets": ("packets", 63), "in_bytes": ("in_bytes", 63),
            "in_packets": ("in_packets", 63),
        },
    ),
    "eve": (
        "suricata-eve", EVE_FLOW, {
            "flow_id": ("record_id", 64), "src_port": ("src_port", 16), "dest_port": ("dst_port", 16),
            "flow.bytes_toserver": ("bytes", 63), "flow.pkts_toserver": ("packets", 63),
            "flow.bytes_toclient": ("in_bytes", 63), "flow.pkts_toclient": ("in_packets", 63),
        },
    ),
}  # fmt: skip
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
EXACT_MAX = 2**53


class WrongError(Exception):
    """A value that the field cannot have."""


def whole(text: str) -> int:
    """Return the whole number that a JSON number's text says."""
    if not set(text) & set(".eE"):
        return int(text)
    number = float(text)
    if not abs(number) <= EXACT_MAX or number != int(number):
        raise WrongError(text)
    return int(number)


def meant(value: Any, bits: int) -> int:
    """Return what a value says as a number of a field."""
    if value is None:
        return 0
    if isinstance(value, Spelt):
        number = whole(value.text)
    elif isinstance(value, str) and value.lower() == "null":
        return 0
    elif isinstance(value, str) and _NUMBER.fullmatch(value):
        number = whole(value)
    else:
        raise WrongError(value)
    if not 0 <= number < 1 << bits:
        raise WrongError(value)
    return number


class Spelt:
    """A JSON number as it was spelt."""

    def __init__(self, text: str) -> None:
        self.text = text


def pairs(text: str) -> list[tuple[str, Any]]:
    """Return all keys and values of an object by the standard library, those of inner objects with a dot."""
    found: Any = json.loads(text, object_pairs_hook=tuple, parse_int=Spelt, parse_float=Spelt)
    flat: list[tuple[str, Any]] = []
    for key, value in found:
        is_object = isinstance(value, tuple) and value and all(isinstance(pair, tuple) for pair in value)
        flat += [(f"{key}.{inner}", v) for inner, v in value] if is_object else [(key, value)]
    return flat


spelt_numbers = st.one_of(
    st.integers(0, 2**64).map(str), st.integers(-9, 300).map(str), st.integers(0, 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr), st.integers(0, 2**54).map(lambda n: f"{n}.0"),
    st.tuples(st.integers(0, 99), st.integers(-3, 20)).map(lambda n: f"{n[0]}e{n[1]}"),
    st.sampled_from(["-0", "-0.0", "1E2", "0e9", "1e400", "1e-400", str(2**63), str(2**64 - 1), "9" * 30]),
)  # fmt: skip
QUOTED = ("1 ", " 1", "+1", "0x1", "1_0", "01", "\u0661", "1e", ".5", "5.", "Infinity", "NaN", "-")
odd = st.sampled_from(
    [
        *("null", "true", "false", "[]", "[1]", '"null"', '"NULL"', '""', '"\\u0031\\u0030"'),
        *(f'"{text}"' for text in QUOTED),
    ]
)
tokens = spelt_numbers | spelt_numbers.map(lambda number: f'"{number}"') | odd


def escaped(key: str, chosen: bool) -> str:
    return "".join(f"\\u{ord(c):04x}" for c in key) if chosen else key


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, str]:
    """A message with some numbers replaced, some twice, keys escaped or not, and white space anywhere."""
    name = draw(st.sampled_from(sorted(FORMATS)))
    _, flow, fields = FORMATS[name]
    chosen = draw(st.lists(st.sampled_from(sorted(fields)), max_size=3))
    space = st.sampled_from(["", "", " ", "\t\r\n "])
    members = [(key, json.dumps(value)) for key, value in flow.items() if not isinstance(value, dict)]
    inner = [(key, json.dumps(value)) for key, value in flow.get("flow", {}).items()]
    for key in chosen:
        (inner if "." in key else members).append((key.rpartition(".")[2], draw(tokens)))

    def joined(given: list[tuple[str, str]]) -> str:
        spelt = [
            f'{draw(space)}"{escaped(k, draw(st.integers(0, 9)) == 0)}"{draw(space)}:{draw(space)}{v}{draw(space)}'
            for k, v in given
        ]
        return "{" + ",".join(spelt) + "}"

    return name, joined([*members, ("flow", joined(inner))] if inner else members)


@given(messages())
@example(("goflow2 v2", json.dumps(GOFLOW2_V2)[:-1] + ', "bytes": 5, "bytes": 6}'))
@example(("goflow2 v2", json.dumps(GOFLOW2_V2)[:-1] + ', "bytes": true, "bytes": 6}'))
def test_every_number_is_what_the_standard_library_reads_or_the_message_is_refused(message: tuple[str, str]) -> None:
    name, text = message
    wire_format, _, fields = FORMATS[name]
    given_pairs = [(key, value) for key, value in pairs(text) if key in fields]
    decoded = decode(wire_format, Payloads.from_values([text.encode()]))
    try:
        columns = {fields[key][0]: meant(value, fields[key][1]) for key, value in given_pairs}
    except WrongError:
        assert decoded.rejected.tolist() == [0]
        assert decoded.reason(0) in {Reason.MALFORMED, Reason.OUT_OF_RANGE}
    else:
        assert len(decoded.flows) == 1
        assert {column: int(decoded.flows.columns[column][0]) for column in columns} == columns


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "spoilt",
    [b"\xef\xbb\xbf%s", b"%s\0", b"\xc2\xa0%s", b"%s\xe2\x80\xa8", b"\x0b%s", b"%s,", b"[%s]", b"%s%s", b"\xfe\xff%s"],
)
def test_what_the_standard_library_takes_for_no_white_space_is_none(name: str, spoilt: bytes) -> None:
    wire_format, flow, _ = FORMATS[name]
    good = json.dumps(flow).encode()
    decoded = decode(wire_format, Payloads.from_values([spoilt.replace(b"%s", good)]))
    assert decoded.rejected.tolist() == [0]
    assert decoded.reason(0) == Reason.MALFORMED


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "harmless",
    [
        '"\\ud83d\\ude00"',
        "1" * 5000,
        "-1e999",
        "[" * 40 + "]" * 40,
        '{"":{"":{}}}',
        '"\\u0000"',
        "1E-9999",
    ],
)
def test_what_no_column_holds_may_be_any_json(name: str, harmless: str) -> None:
    wire_format, flow, _ = FORMATS[name]
    plain = json.dumps(flow)
    more = plain[:-1] + f', "no_such_key": {harmless}}}'
    found = [outcome(decode(wire_format, Payloads.from_values([text.encode()]))) for text in (plain, more)]
    assert found[0] == found[1]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("half", ['"\\ud800"', '"\\udc00\\ud800"', '"\\ud800\\u0041"'])
def test_half_a_surrogate_pair_is_refused_wherever_it_is(name: str, half: str) -> None:
    wire_format, flow, _ = FORMATS[name]
    text = json.dumps(flow)[:-1] + f', "no_such_key": {half}}}'
    assert json.loads(text)
    decoded = decode(wire_format, Payloads.from_values([text.encode()]))
    assert (decoded.rejected.tolist(), decoded.reason(0)) == ([0], Reason.MALFORMED)
