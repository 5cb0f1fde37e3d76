"""Finding and parsing the JSON objects of messages: each message is judged as if it were alone."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import FlowBatch
from flowstream.decode import Payloads
from flowstream.decode.json_kernel import MAX_DEPTH
from flowstream.decode.json_lines import MAX_PAYLOAD_BYTES, U8, U16, conclude, numbers, parse
from flowstream.errors import Reason
from tests.unit.decode.batches import HOSTILE_JSON


class Pair(msgspec.Struct):
    a: msgspec.Raw = msgspec.Raw()
    n: U16 = 0


DECODER = msgspec.json.Decoder(Pair, strict=False)

FRAGMENTS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b'"',
    b"\\",
    b":",
    b"1",
    b"{}",
    b"\n",
    b" ",
    b'"a":',
    b'{"a":1}',
    b"null",
]
messages = st.lists(
    st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map(b"".join), st.sampled_from(HOSTILE_JSON))
)


def parsed(values):
    objects = parse(Payloads.from_values(values), DECODER)
    return [(m, bytes(o.a), o.n) for m, o in zip(objects.message.tolist(), objects.values, strict=True)], (
        objects.reasons.tolist()
    )


def lines_by_json(message: bytes) -> int | None:
    """How many objects the standard library finds in a message, or None where it is not objects in lines."""

    def refuse(constant):
        raise ValueError(constant)

    reader = json.JSONDecoder(parse_constant=refuse)
    try:
        text = message.decode()
        position, found = 0, 0
        while True:
            gap = len(text[position:]) - len(text[position:].lstrip(" \t\r\n"))
            after = position + gap
            if after == len(text):
                return found or None
            if text[after] != "{" or (found and "\n" not in text[position:after]):
                return None
            _, position = reader.raw_decode(text, after)
            found += 1
    except (ValueError, RecursionError):
        return None


@given(messages)
def test_a_batch_parses_to_what_its_messages_parse_to_alone(values):
    together, reasons = parsed(values)
    apart = [parsed([value]) for value in values]
    assert together == [(i, *row[1:]) for i, (rows, _) in enumerate(apart) for row in rows]
    assert reasons == [reason for _, (reason,) in apart]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(b"".join))
def test_a_message_parses_iff_the_standard_library_finds_objects_in_lines(message):
    rows, (reason,) = parsed([message])
    assert (len(rows) or None) == lines_by_json(message)
    assert (reason == 0) == bool(rows)


@pytest.mark.parametrize("message", HOSTILE_JSON, ids=lambda m: repr(m[:12]))
def test_hostile_messages_get_a_reason_or_the_objects_they_are_made_of(message):
    rows, (reason,) = parsed([message])
    allowed = {b"{}\n{}": 2, b'{"a":1e999}': 1, b'{"a":' + b"9" * 5000 + b"}": 1}
    assert len(rows) == allowed.get(message, 0)
    assert (reason == 0) == (message in allowed)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", Reason.EMPTY),
        (b" \r\n", Reason.MALFORMED),
        (b'{"a":1', Reason.TRUNCATED),
        (b'{"a":"x', Reason.TRUNCATED),
        (b'{"a":1}\n{"a"', Reason.TRUNCATED),
        (b"{]", Reason.MALFORMED),
        (b'{"a":]}', Reason.MALFORMED),
        (b"[{}]", Reason.MALFORMED),
        (b"\xef\xbb\xbf{}", Reason.MALFORMED),
        (b'{"z":"\xc3"}', Reason.MALFORMED),
        (b'{"z\xff":1}', Reason.MALFORMED),
        (b'{"z":NaN}', Reason.MALFORMED),
        (b'{"z":"\n"}', Reason.MALFORMED),
        (b'{"n":true}', Reason.MALFORMED),
        (b'{"n":1.5}', Reason.MALFORMED),
        (b'{"n":65536}', Reason.OUT_OF_RANGE),
        (b'{"n":-1}', Reason.OUT_OF_RANGE),
        (b'{"n":"70000"}', Reason.OUT_OF_RANGE),
        (b'{"n":' + b"9" * 5000 + b"}", Reason.OUT_OF_RANGE),
        (b"{}" + b" " * MAX_PAYLOAD_BYTES, Reason.TOO_LARGE),
    ],
)
def test_each_kind_of_bad_message_has_its_reason(message, reason):
    good = b'{"n":7}'
    assert parsed([good, message, good])[1] == [0, reason, 0]


def test_nesting_is_refused_beyond_the_limit_and_not_before():
    def nested(depth):
        return b'{"z":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

    assert parsed([nested(MAX_DEPTH), nested(MAX_DEPTH + 1)])[1] == [0, Reason.MALFORMED]


def test_brackets_and_quotes_inside_strings_do_not_count():
    message = json.dumps({"z": '}]{["\\', "n": 5}).encode()
    assert parsed([message]) == ([(0, b"", 5)], [0])


def test_the_last_of_equal_keys_counts():
    assert parsed([b'{"n":1,"n":2}']) == ([(0, b"", 2)], [0])


@given(st.integers(2, 60))
def test_more_objects_than_messages_are_all_found(count):
    rows, reasons = parsed([b'{"n":1}\n' * count, b'{"n":2}'])
    assert [n for _, _, n in rows] == [1] * count + [2]
    assert reasons == [0, 0]


def test_the_spare_reader_is_asked_only_for_what_the_decoder_refuses():
    asked = []

    def spare(line):
        asked.append(line)
        return Pair(n=99) if b"spared" in line else None

    values = [b'{"n":1}', b'{"n":"spared"}', b'{"n":"other"}']
    objects = parse(Payloads.from_values(values), DECODER, spare)
    assert asked == values[1:]
    assert [o.n for o in objects.values] == [1, 99]
    assert objects.reasons.tolist() == [0, 0, Reason.MALFORMED]


@given(st.lists(st.one_of(st.none(), st.integers(0, 255))))
def test_null_counts_as_zero_in_a_column(values):
    class One(msgspec.Struct):
        x: U8 = 0

    assert numbers([One(v) for v in values], "x", "u1").tolist() == [v or 0 for v in values]


@given(st.lists(st.lists(st.sampled_from([0, 4, 5]), max_size=4), max_size=6))
def test_the_first_bad_row_rejects_its_message_and_the_others_keep_their_rows(rows_of_messages):
    objects = parse(Payloads.from_values([b"{}\n" * len(r) or None for r in rows_of_messages]), DECODER)
    row_reasons = np.array([reason for rows in rows_of_messages for reason in rows], np.uint8)
    decoded = conclude(objects, FlowBatch.zeros(len(row_reasons)), row_reasons)
    bad = {m: next(r for r in rows if r) for m, rows in enumerate(rows_of_messages) if any(rows)}
    assert dict(zip(decoded.rejected.tolist(), decoded.reasons.tolist(), strict=True)) == bad
    assert decoded.skipped.tolist() == [m for m, rows in enumerate(rows_of_messages) if not rows]
    origins = zip(decoded.flows.origin_offset.tolist(), decoded.flows.origin_row.tolist(), strict=True)
    assert list(origins) == [
        (m, r) for m, rows in enumerate(rows_of_messages) if m not in bad for r in range(len(rows))
    ]


@given(messages, st.binary(max_size=5), st.binary(max_size=5))
def test_bytes_around_the_messages_are_never_looked_at(values, before, after):
    plain = Payloads.from_values(values)
    framed = Payloads(before + plain.buffer + after, plain.bounds + len(before), plain.null)
    assert outcome_of(parse(framed, DECODER)) == outcome_of(parse(plain, DECODER))


def outcome_of(objects):
    return [(bytes(o.a), o.n) for o in objects.values], objects.message.tolist(), objects.reasons.tolist()
