"""Avro to JSON by a kernel: the bytes that msgspec writes of the value that fastavro reads."""

from __future__ import annotations

import io

import fastavro
import msgspec
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from flowstream.avro_json import JsonWriter
from flowstream.byte_column import ByteColumn
from flowstream.errors import SchemaError

LONGS = st.integers(-(2**63), 2**63 - 1)
PRIMITIVES = {"string": st.text(), "long": LONGS, "double": st.floats(), "boolean": st.booleans()}
DTYPES = {"<u2": np.uint16, "<i8": np.int64, "<f8": np.float64}


def schemas_within(inner):
    one = inner.filter(lambda schema: not isinstance(schema, list))  # a union is not a branch of another
    return st.one_of(
        inner.map(lambda schema: {"type": "array", "items": schema}),
        one.map(lambda schema: ["null", schema]),
        one.map(lambda schema: [schema, "null"]),
        records_of(inner),
    )


def records_of(inner):
    fields = st.lists(st.tuples(st.sampled_from("abcdefgh"), inner), min_size=1, max_size=4, unique_by=lambda f: f[0])
    return fields.map(lambda fs: {"type": "record", "fields": [{"name": n, "type": s} for n, s in fs]})


SCHEMAS = records_of(st.recursive(st.sampled_from(list(PRIMITIVES)), schemas_within, max_leaves=8))


def values_of(schema):
    if isinstance(schema, str):
        return PRIMITIVES[schema]
    if isinstance(schema, list):
        return st.one_of(st.none(), values_of(next(s for s in schema if s != "null")))
    if schema["type"] == "array":
        return st.lists(values_of(schema["items"]), max_size=4)
    names = [f["name"] for f in schema["fields"]]
    members = st.tuples(*(values_of(f["type"]) for f in schema["fields"]))
    return members.map(lambda values: dict(zip(names, values, strict=True)))


def named(schema, numbers=None):
    """Give each record its own name, as Avro wants it."""
    numbers = iter(range(100)) if numbers is None else numbers
    if isinstance(schema, list):
        return [named(s, numbers) for s in schema]
    if isinstance(schema, str):
        return schema
    if schema["type"] == "array":
        return schema | {"items": named(schema["items"], numbers)}
    fields = [f | {"type": named(f["type"], numbers)} for f in schema["fields"]]
    return {"type": "record", "name": f"R{next(numbers)}", "fields": fields}


def encoded(parsed, value):
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, parsed, value)
    return buffer.getvalue()


@st.composite
def columns(draw):
    schema = draw(SCHEMAS)
    return schema, draw(st.lists(values_of(schema), max_size=5))


@given(columns())
def test_json_is_what_msgspec_writes_of_the_value(drawn):
    schema, values = drawn
    parsed = fastavro.parse_schema(named(schema))
    bodies = ByteColumn.of([b"before", *(encoded(parsed, value) for value in values)])
    written = JsonWriter(parsed, {}).write(ByteColumn(bodies.buffer, bodies.bounds[1:]))
    assert written.values() == [msgspec.json.encode(value) for value in values]


@given(st.text())
@example("".join(map(chr, range(0x120))) + "\u2028\ud7ff\U0001f600")
def test_strings_are_escaped_as_msgspec_does(text):
    schema = fastavro.parse_schema({"type": "record", "name": "R", "fields": [{"name": "a", "type": "string"}]})
    (written,) = JsonWriter(schema, {}).write(ByteColumn.of([encoded(schema, {"a": text})])).values()
    assert written == msgspec.json.encode({"a": text})


@given(st.sampled_from(list(DTYPES)), st.binary(max_size=80))
@example("<u2", b"\xff" * 2000)
@example("<i8", np.full(300, -(2**63)).tobytes())
@example("<f8", np.full(300, -2.2250738585072014e-308).tobytes())
def test_packed_numbers_are_a_list(dtype, packed):
    packed = packed[: len(packed) // 8 * 8]
    inner = {"type": "record", "name": "I", "fields": [{"name": "b", "type": "bytes"}]}
    schema = fastavro.parse_schema({"type": "record", "name": "R", "fields": [{"name": "a", "type": inner}]})
    body = encoded(schema, {"a": {"b": packed}})
    (written,) = JsonWriter(schema, {"a.b": dtype}).write(ByteColumn.of([body])).values()
    assert written == msgspec.json.encode({"a": {"b": np.frombuffer(packed, dtype).tolist()}})


EVERYTHING = fastavro.parse_schema({
    "type": "record", "name": "R", "fields": [
        {"name": "s", "type": "string"}, {"name": "l", "type": "long"}, {"name": "d", "type": "double"},
        {"name": "u", "type": ["null", "double"]}, {"name": "p", "type": "bytes"}, {"name": "b", "type": "boolean"},
        {"name": "a", "type": {"type": "array", "items": "string"}},
    ],
})  # fmt: skip
BODY = encoded(EVERYTHING, {"s": "é", "l": -300, "d": 0.5, "u": 1.5, "p": bytes(16), "b": True, "a": ["x", ""]})


def read(body):
    """The value of a body, None where it is none."""
    try:
        return fastavro.schemaless_reader(io.BytesIO(body), EVERYTHING)
    except (ValueError, EOFError, IndexError, TypeError, OverflowError):
        return None


@given(st.binary(max_size=60))
def test_a_body_that_is_not_of_the_schema_is_an_error_and_nothing_is_read_beyond_it(body):
    assume(read(body) is None)
    with pytest.raises(SchemaError, match="body 1 "):
        JsonWriter(EVERYTHING, {"p": "<f8"}).write(ByteColumn.of([BODY, body, b"\xff" * 80]))


@pytest.mark.parametrize("cut", range(len(BODY)))
def test_a_body_cut_short_or_too_long_is_an_error(cut):
    for body in (BODY[:cut], BODY + BODY[:cut] if cut else BODY + b"\0"):
        with pytest.raises(SchemaError, match="body 0 "):
            JsonWriter(EVERYTHING, {"p": "<f8"}).write(ByteColumn.of([body, BODY]))


@pytest.mark.parametrize("kind", ["bytes", "float", {"type": "map", "values": "long"}, ["long", "string"]])
def test_a_schema_with_what_there_is_no_step_for_is_refused(kind):
    with pytest.raises(SchemaError, match="at 'a'"):
        JsonWriter({"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]}, {})
