"""Every form in which a writer's schema may give a flow record, written by fastavro, against the record itself.

fastavro also reads these schemas for flowstream, so that the oracle is not its reader but what was written.
"""

from __future__ import annotations

import io
from typing import Any

import fastavro
from hypothesis import given
from hypothesis import strategies as st

from flowstream import schemas
from flowstream.batch import FlowType
from flowstream.decode import DecodeContext
from flowstream.decode.avro_writers import writer
from tests.unit.decode.batches import row

REQUIRED = {"time_received_ns", "src_addr", "bytes", "packets"}
BITS = {
    "src_port": 16, "dst_port": 16, "proto": 8, "ip_ttl": 8, "tcp_flags": 16, "src_as": 32, "dst_as": 32,
    "in_if": 32, "out_if": 32, "record_id": 63, "bytes": 63, "packets": 63, "in_bytes": 63, "in_packets": 63,
    "sampling_rate": 32, "sequence_num": 32, "time_received_ns": 63, "time_flow_start_ns": 63, "time_flow_end_ns": 63,
}  # fmt: skip
ADDRESSES = ("exporter", "src_addr", "dst_addr")
KINDS = [kind.name for kind in FlowType]

Form = tuple[Any, Any, Any]  # schema, what to write, what is meant


@st.composite
def number_forms(draw: st.DrawFn, name: str) -> Form:
    low = 1 if name == "time_received_ns" else 0
    narrow = draw(st.booleans())
    value = draw(st.integers(low, 2 ** min(BITS[name], 31 if narrow else 63) - 1))
    kind: Any = "int" if narrow else "long"
    if draw(st.booleans()):
        kind = {"type": kind, "logicalType": draw(st.sampled_from(["timestamp-micros", "date", "no-such-type"]))}
    if name not in REQUIRED and draw(st.booleans()):
        return draw(st.permutations(["null", kind])), None, 0
    plain = kind["type"] if isinstance(kind, dict) else kind
    return draw(st.sampled_from([plain, ["null", plain], [plain, "null"], [plain]])), value, value


@st.composite
def address_forms(draw: st.DrawFn, name: str) -> Form:
    address = draw(st.ip_addresses())
    packed = address.packed
    mapped = packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed
    words = [int.from_bytes(mapped[:8], "big"), int.from_bytes(mapped[8:], "big")]
    fixed = {"type": "fixed", "name": f"{name}_octets", "size": len(packed)}
    if name not in REQUIRED and draw(st.booleans()):
        empty = draw(st.sampled_from([("null", None), ("bytes", b""), ("string", "")]))
        return ["null", *({empty[0]} - {"null"})], empty[1], [0, 0]
    kind, value = draw(st.sampled_from([("bytes", packed), ("string", str(address)), (fixed, packed)]))
    return draw(st.sampled_from([kind, ["null", kind], [kind, "null"]])), value, words


@st.composite
def type_forms(draw: st.DrawFn) -> Form:
    name = draw(st.sampled_from(KINDS))
    others = draw(
        st.lists(st.sampled_from(["OTHER", "THING", *KINDS]).filter(lambda o: o != name), unique=True, max_size=3)
    )
    symbols = draw(st.permutations([name, *others]))
    enum = {"type": "enum", "name": "Kind", "symbols": symbols}
    kind, value = draw(
        st.sampled_from([(enum, name), ("string", name), ("int", int(FlowType[name])), ("long", int(FlowType[name]))])
    )
    return draw(st.sampled_from([kind, ["null", kind]])), value, int(FlowType[name])


INNER = [{"name": "a", "type": "double"}, {"name": "b", "type": ["null", "string"]}]
EXTRAS: list[tuple[Any, Any]] = [
    ("boolean", True), ("double", 0.5), ("float", 0.5), ("bytes", b"\xff\0"), ("string", "ü"), ("null", None),
    ({"type": "array", "items": "string"}, ["a", ""]), ({"type": "map", "values": "long"}, {"k": -1, "": 2}),
    ({"type": "fixed", "name": "Mac", "size": 6}, b"abcdef"), ({"type": "enum", "name": "E", "symbols": ["A"]}, "A"),
    ({"type": "record", "name": "Note", "fields": INNER}, {"a": 1.0, "b": None}),
    (["null", "long", {"type": "array", "items": ["null", "int"]}], [None, 5]),
]  # fmt: skip


def _form(name: str) -> st.SearchStrategy[Form]:
    if name == "flow_type":
        return type_forms()
    return address_forms(name) if name in ADDRESSES else number_forms(name)


@st.composite
def written(draw: st.DrawFn) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A writer's schema with fields in any order and others among them, a record of it, and its columns."""
    present = sorted(REQUIRED | draw(st.sets(st.sampled_from([*BITS, *ADDRESSES, "flow_type"]))))
    forms = {name: draw(_form(name)) for name in present}
    others = draw(st.lists(st.sampled_from(EXTRAS), max_size=3, unique_by=id))
    extras = {f"x{place}": form for place, form in enumerate(others)}
    kinds = {name: form[0] for name, form in {**forms, **extras}.items()}
    fields = [{"name": name, "type": kinds[name]} for name in draw(st.permutations(sorted(kinds)))]
    schema = {"type": "record", "name": draw(st.sampled_from(["Flow", "a.b.Flow"])), "fields": fields}
    values = {name: form[1] for name, form in {**forms, **extras}.items()}
    return schema, values, {name: form[2] for name, form in forms.items()}


def meant(found: dict[str, Any]) -> dict[str, Any]:
    """Return all columns of a record that gives some of them."""
    received = found["time_received_ns"]
    columns = dict.fromkeys(BITS, 0) | {name: [0, 0] for name in ADDRESSES} | {"flow_type": 0} | found
    columns |= {name: columns[name] or received for name in ("time_flow_start_ns", "time_flow_end_ns")}
    return columns | {"time_ns": received} | dict.fromkeys(("origin_id", "origin_offset", "origin_row", "quality"), 0)


@given(written())
def test_a_record_arrives_whatever_its_writers_schema(form: tuple[Any, dict[str, Any], dict[str, Any]]) -> None:
    schema, values, columns = form
    parsed = fastavro.parse_schema(schema)
    body = io.BytesIO()
    fastavro.schemaless_writer(body, parsed, values)
    assert writer(schema) is not None
    framed = schemas.confluent_frame(3, body.getvalue())
    assert row("avro", framed, DecodeContext({3: schema})) == meant(columns)
    assert row("avro", framed, DecodeContext(bare_schema=schema, writer_schemas={3: parsed})) == meant(columns)


@given(written())
def test_a_writers_default_is_not_ours_and_is_never_read(form: tuple[Any, dict[str, Any], dict[str, Any]]) -> None:
    """A default is for a reader whose record lacks the field; what the writer lacks has our own."""
    schema, values, columns = form
    ordinary = [f | {"default": 1} if f["type"] in ("int", "long") else f for f in schema["fields"]]
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), values)
    context = DecodeContext({3: schema | {"fields": ordinary}})
    assert row("avro", schemas.confluent_frame(3, body.getvalue()), context) == meant(columns)
