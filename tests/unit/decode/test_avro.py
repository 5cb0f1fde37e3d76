"""Avro flow records: framing, our own schema by kernel, and writers' schemas by fastavro."""

from __future__ import annotations

import io
import tracemalloc

import fastavro
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowstream import schemas
from flowstream.batch import FlowType, packed_to_words
from flowstream.decode import DecodeContext, Payloads, decode
from flowstream.decode.avro_writers import writer
from flowstream.errors import Reason
from tests.unit.decode.batches import assert_batch_equals_singles, outcome, rejection, row
from tests.unit.decode.examples import AVRO_FULL, AVRO_SHORT, VALID

FORMAT = "avro"

OURS = schemas.load("flow_record")
# The same fields in another order: another fingerprint, so that fastavro reads what the kernel would.
REORDERED = {"type": "record", "name": "elsewhere.Flow", "fields": OURS["fields"][::-1]}
MINIMAL = {
    "type": "record",
    "name": "Minimal",
    "fields": [
        {"name": "comment", "type": {"type": "array", "items": "string"}},
        {"name": "packets", "type": "int"},
        {"name": "bytes", "type": ["null", "int"]},
        {"name": "src_addr", "type": "string"},
        {"name": "dst_addr", "type": {"type": "fixed", "name": "Quad", "size": 4}},
        {"name": "time_received_ns", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
CONTEXT = DecodeContext({7: REORDERED, 8: fastavro.parse_schema(MINIMAL), 9: dict(OURS), 10: "string"})

u16, u32, u63 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1)
optional_time = st.one_of(st.none(), st.integers(1, 2**63 - 1))
address = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
records = st.fixed_dictionaries(
    {
        "time_received_ns": st.integers(1, 2**63 - 1), "time_flow_start_ns": optional_time,
        "time_flow_end_ns": optional_time, "record_id": st.one_of(st.none(), u63),
        "exporter": st.one_of(st.none(), address), "src_addr": address,
        "dst_addr": st.one_of(st.none(), address), "src_port": u16, "dst_port": u16,
        "proto": st.integers(0, 255), "ip_ttl": st.integers(0, 255), "tcp_flags": u16,
        "src_as": u32, "dst_as": u32, "in_if": u32, "out_if": u32,
        "bytes": u63, "packets": u63, "in_bytes": u63, "in_packets": u63, "sampling_rate": u32,
        "sequence_num": u32, "flow_type": st.sampled_from([t.name for t in FlowType]),
    }
)  # fmt: skip


def body(schema, record) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, schema, record)
    return buffer.getvalue()


def words(packed: bytes | None) -> list[int]:
    if packed is None:
        return [0, 0]
    return packed_to_words(packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed)[0].tolist()


def expected_row(record) -> dict[str, object]:
    received = record["time_received_ns"]
    found = {name: value or 0 for name, value in record.items()}
    found |= {name: words(record[name]) for name in ("exporter", "src_addr", "dst_addr")}
    found |= {name: record[name] or received for name in ("time_flow_start_ns", "time_flow_end_ns")}
    found |= {"time_ns": received, "flow_type": FlowType[record["flow_type"]]}
    return found | dict.fromkeys(("origin_id", "origin_offset", "origin_row", "quality"), 0)


@given(records)
@example(AVRO_FULL)
def test_every_field_arrives_exactly_in_every_framing(record):
    bare = body(OURS, record)
    for message in (
        bare,
        schemas.single_object_encode("flow_record", record),
        schemas.confluent_frame(9, bare),
        schemas.confluent_frame(7, body(REORDERED, record)),
    ):
        assert row(FORMAT, message, CONTEXT) == expected_row(record)


@given(records, st.integers(0, 300), st.integers(0, 255))
def test_the_kernel_and_fastavro_agree_on_damaged_records(record, position, byte):
    """Both see the same bytes; the kernel may be stricter only where an int is longer than ten bytes."""
    damaged = bytearray(body(OURS, record))
    damaged[position % len(damaged)] = byte
    message = bytes(damaged)
    # The same layout under another name has another fingerprint, which keeps the kernel out.
    foreign = DecodeContext(bare_schema=OURS | {"name": "flowstream.Renamed"})
    theirs = decode(
        FORMAT,
        Payloads.from_values([b"\x00\x00\x00\x00\x07" + message]),
        DecodeContext({7: foreign.bare_schema}),
    )
    ours = decode(FORMAT, Payloads.from_values([b"\x00\x00\x00\x00\x07" + message]), DecodeContext({7: OURS}))
    if not (len(ours.rejected) and ours.reason(0) == Reason.MALFORMED):
        assert outcome(theirs) == outcome(ours)


@given(records, st.data())
def test_a_record_cut_short_or_with_bytes_to_spare_is_rejected(record, data):
    whole = body(OURS, record)
    cut = data.draw(st.integers(1, len(whole) - 1))
    framed = schemas.SINGLE_OBJECT_MARKER + schemas.fingerprint("flow_record")
    assert rejection(FORMAT, framed + whole[:cut]) == Reason.TRUNCATED
    assert rejection(FORMAT, framed + whole + b"\x00") == Reason.MALFORMED
    reordered = body(REORDERED, record)
    assert rejection(FORMAT, schemas.confluent_frame(7, reordered + b"\x00"), CONTEXT) == Reason.MALFORMED
    cut = data.draw(st.integers(0, len(reordered) - 1))
    assert rejection(FORMAT, schemas.confluent_frame(7, reordered[:cut]), CONTEXT) == Reason.TRUNCATED


MESSAGES = [
    *VALID[FORMAT],
    schemas.confluent_frame(7, body(REORDERED, AVRO_FULL)),
    schemas.confluent_frame(9, body(OURS, AVRO_SHORT)),
    schemas.confluent_frame(10, b"\x02a"),
    schemas.confluent_frame(99, body(OURS, AVRO_SHORT)),
    b"\x00", b"\x00\x00\x00\x00\x07", b"\xc3\x01", b"\xc3\x01" + bytes(8), b"\x80" * 30, b"", None,
]  # fmt: skip


@given(
    st.lists(st.one_of(st.sampled_from(MESSAGES), st.binary(max_size=60)), max_size=8),
    st.sampled_from([CONTEXT, DecodeContext(), DecodeContext(CONTEXT.writer_schemas, MINIMAL)]),
)
def test_a_batch_decodes_as_its_messages_one_by_one(messages, context):
    assert_batch_equals_singles(FORMAT, messages, context)


def test_a_writer_may_have_other_types_and_lack_what_we_default():
    record = {
        "comment": ["a", "b"], "packets": 3, "bytes": 77, "src_addr": "2001:db8::5",
        "dst_addr": bytes([10, 0, 0, 9]), "time_received_ns": 1_700_000_000_000_000_001,
    }  # fmt: skip
    plain = {**MINIMAL, "fields": [*MINIMAL["fields"][:-1], {"name": "time_received_ns", "type": "long"}]}
    found = row(FORMAT, schemas.confluent_frame(8, body(plain, record)), CONTEXT)
    assert found["src_addr"] == words(bytes.fromhex("20010db8000000000000000000000005"))
    assert found["dst_addr"] == words(bytes([10, 0, 0, 9]))
    assert (found["bytes"], found["packets"], found["sampling_rate"], found["flow_type"]) == (77, 3, 0, 0)
    assert found["time_ns"] == found["time_flow_end_ns"] == 1_700_000_000_000_000_001
    assert row(FORMAT, body(plain, record), DecodeContext(bare_schema=MINIMAL)) == found


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("string", "NETFLOW_V9", FlowType.NETFLOW_V9),
        ("string", "something", FlowType.UNKNOWN),
        ("int", 16, FlowType.EVENT),
        ("int", 9, FlowType.UNKNOWN),
        ({"type": "enum", "name": "K", "symbols": ["IPFIX", "OTHER"]}, "IPFIX", FlowType.IPFIX),
        ({"type": "enum", "name": "K", "symbols": ["IPFIX", "OTHER"]}, "OTHER", FlowType.UNKNOWN),
        (["null", "string"], None, FlowType.UNKNOWN),
    ],
)
def test_a_writer_names_the_flow_type_in_its_own_way(kind, value, expected):
    schema = REORDERED | {"fields": [f for f in OURS["fields"] if f["name"] != "flow_type"]}
    schema["fields"] = [*schema["fields"], {"name": "flow_type", "type": kind}]
    message = schemas.confluent_frame(1, body(schema, AVRO_FULL | {"flow_type": value}))
    assert row(FORMAT, message, DecodeContext({1: schema}))["flow_type"] == expected


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", Reason.EMPTY),
        (schemas.confluent_frame(6, VALID[FORMAT][0]), Reason.UNKNOWN_SCHEMA),
        (schemas.confluent_frame(10, b"\x02a"), Reason.UNKNOWN_SCHEMA),
        (b"\xc3\x01" + bytes(8) + VALID[FORMAT][0], Reason.UNKNOWN_SCHEMA),
        (bytes((16 << 20) + 1), Reason.TOO_LARGE),
    ],
)
def test_messages_that_cannot_be_read_have_their_reason(message, reason):
    assert rejection(FORMAT, message, CONTEXT) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"time_received_ns": 0}, Reason.NO_TIME),
        ({"time_received_ns": -1}, Reason.TIME_OUT_OF_RANGE),
        ({"src_addr": b""}, Reason.NO_ADDRESS),
        ({"src_addr": b"12345"}, Reason.NO_ADDRESS),
        ({"dst_addr": b"1"}, Reason.NO_ADDRESS),
        ({"exporter": bytes(17)}, Reason.NO_ADDRESS),
        ({"src_port": 65536}, Reason.OUT_OF_RANGE),
        ({"dst_port": -1}, Reason.OUT_OF_RANGE),
        ({"proto": 256}, Reason.OUT_OF_RANGE),
        ({"tcp_flags": 65536}, Reason.OUT_OF_RANGE),
        ({"in_if": 2**32}, Reason.OUT_OF_RANGE),
        ({"bytes": -1}, Reason.OUT_OF_RANGE),
        ({"record_id": -1}, Reason.OUT_OF_RANGE),
        ({"sampling_rate": 2**32}, Reason.OUT_OF_RANGE),
    ],
)
def test_values_that_are_no_column_reject_the_message_whoever_reads_it(changes, reason):
    record = AVRO_FULL | changes
    assert rejection(FORMAT, schemas.single_object_encode("flow_record", record)) == reason
    assert rejection(FORMAT, schemas.confluent_frame(7, body(REORDERED, record)), CONTEXT) == reason


@settings(max_examples=30)
@given(st.integers(2**20, 2**63 - 1), st.booleans())
@example(length=2**63 - 1, foreign=False)
@example(length=2**63 - 1, foreign=True)
def test_a_length_that_lies_allocates_nothing(length, foreign):
    lie = io.BytesIO()
    fastavro.schemaless_writer(lie, "long", length)
    start = body("long", AVRO_FULL["time_received_ns"]) + bytes(4) + lie.getvalue() + b"abcd"
    context = DecodeContext({1: OURS | {"name": "Renamed"} if foreign else OURS})
    message = schemas.confluent_frame(1, start)
    rejection(FORMAT, message, context)  # Schemas and kernels are made ready outside the measurement.
    tracemalloc.start()
    reason = rejection(FORMAT, message, context)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reason == Reason.TRUNCATED
    assert peak < 2**19


def of_fields(*fields) -> dict[str, object]:
    """Our schema with more fields: one that reads unless these are refused."""
    extra = [{"name": f"x{i}", "type": kind} for i, kind in enumerate(fields)]
    return {"type": "record", "name": "R", "fields": [*OURS["fields"], *extra]}


def deep_record(levels: int) -> object:
    """A record that holds two of the record before it, which holds two of the one before it, ..."""
    inner: object = {"type": "record", "name": "L0", "fields": []}
    for i in range(1, levels):
        fields = [{"name": "a", "type": inner}, {"name": "b", "type": f"L{i - 1}"}]
        inner = {"type": "record", "name": f"L{i}", "fields": fields}
    return inner


@pytest.mark.parametrize(
    "schema",
    [
        "string", [], ["null", "R"], {}, 7, None, {"type": "record", "name": "R", "fields": []},
        {"type": "nonsense"},
        {"type": "record", "name": "R", "fields": [f for f in OURS["fields"] if f["name"] != "src_addr"]},
        {
            "type": "record", "name": "R",
            "fields": [*OURS["fields"][1:], {"name": "time_received_ns", "type": "double"}],
        },
        of_fields({"type": "array", "items": "null"}),
        of_fields({"type": "array", "items": {"type": "fixed", "name": "Z", "size": 0}}),
        of_fields({"type": "array", "items": {"type": "record", "name": "E", "fields": []}}),
        of_fields(["null", "R"]),
        of_fields({"type": "record", "name": "N", "fields": [{"name": "n", "type": ["null", "N"]}]}),
        of_fields(deep_record(20)),
    ],
)  # fmt: skip
def test_a_schema_that_holds_no_flows_or_is_dangerous_is_an_unknown_one(schema):
    assert writer(schema) is None
    message = schemas.confluent_frame(1, VALID[FORMAT][0] + bytes(8))
    assert rejection(FORMAT, message, DecodeContext({1: schema})) == Reason.UNKNOWN_SCHEMA


def test_a_schema_with_harmless_extras_is_read():
    schema = of_fields({"type": "array", "items": ["null"]}, {"type": "map", "values": "null"}, deep_record(3))
    extra = {"x0": [None], "x1": {"k": None}, "x2": {"a": {"a": {}, "b": {}}, "b": {"a": {}, "b": {}}}}
    message = schemas.confluent_frame(1, body(schema, AVRO_FULL | extra))
    assert row(FORMAT, message, DecodeContext({1: schema})) == expected_row(AVRO_FULL)


def test_unknown_ids_by_the_thousand_are_one_answer():
    messages = [schemas.confluent_frame(i, b"x") for i in range(1000, 3000)]
    decoded = decode(FORMAT, Payloads.from_values(messages), CONTEXT)
    assert (decoded.reasons == Reason.UNKNOWN_SCHEMA).all()
    assert np.array_equal(decoded.rejected, np.arange(2000))
