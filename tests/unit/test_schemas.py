"""The project's Avro schemas: laws that hold for every file, and the framings."""

from __future__ import annotations

import io
import json
import re

import fastavro
import pytest
from fastavro.schema import to_parsing_canonical_form
from fastavro.validation import validate
from hypothesis import given
from hypothesis import strategies as st

from flowstream import schemas
from flowstream.errors import SchemaError

FILES = sorted(schemas.directory().glob("*"))
SCHEMAS = [(name, version) for name in schemas.names() for version in schemas.versions(name)]
every_schema = pytest.mark.parametrize(("name", "version"), SCHEMAS)


def crc_64_avro(message: bytes) -> int:
    """The specification's own bit by bit definition, without its table."""
    empty = 0xC15D213AA4D7A795
    remainder = empty
    for byte in message:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (empty if remainder & 1 else 0)
    return remainder


def source(name: str, version: int) -> dict[str, object]:
    return json.loads((schemas.directory() / f"{name}.v{version}.avsc").read_text("utf-8"))


def records_in(schema: object) -> list[dict[str, object]]:
    """Every record type in a schema, the outermost first."""
    if isinstance(schema, list):
        return [record for part in schema for record in records_in(part)]
    if not isinstance(schema, dict):
        return []
    inner = [record for key in ("type", "items", "values") for record in records_in(schema.get(key))]
    inner += [record for field in schema.get("fields", []) for record in records_in(field["type"])]
    return [schema, *inner] if schema["type"] == "record" else inner


def test_every_file_is_a_schema_or_the_readme():
    names = {f"{name}.v{version}.avsc" for name, version in SCHEMAS}
    assert {path.name for path in FILES} == names | {"README.md"}
    assert "flow_record" in schemas.names()


@every_schema
def test_a_file_is_named_after_its_record_in_snake_case(name, version):
    schema = source(name, version)
    assert schema["type"] == "record"
    assert schema["namespace"] == "flowstream"
    assert re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", schema["name"]).lower() == name


@every_schema
def test_every_schema_and_field_is_documented(name, version):
    assert source(name, version).get("doc")
    for record in records_in(source(name, version)):
        for field in record["fields"]:
            assert field.get("doc"), f"{record['name']}.{field['name']}"


@every_schema
def test_every_default_fits_the_first_branch_of_its_field(name, version):
    schemas.load(name, version)
    for record in records_in(source(name, version)):
        for field in record["fields"]:
            if "default" in field:
                first = field["type"][0] if isinstance(field["type"], list) else field["type"]
                default = field["default"].encode() if first == "bytes" else field["default"]
                assert validate(default, fastavro.parse_schema(first), raise_errors=False), field["name"]


@every_schema
def test_the_fingerprint_is_the_crc_of_the_canonical_form_little_endian(name, version):
    canonical = to_parsing_canonical_form(schemas.load(name, version))
    assert schemas.fingerprint(name, version) == crc_64_avro(canonical.encode()).to_bytes(8, "little")


def test_no_two_schemas_have_one_fingerprint():
    assert len({schemas.fingerprint(*one) for one in SCHEMAS}) == len(SCHEMAS)


def flow_record(**changes: object) -> dict[str, object]:
    return {"time_received_ns": 1, "src_addr": bytes(4), "bytes": 2, "packets": 3, **changes}


@given(st.integers(1, 2**63 - 1), st.binary(max_size=20))
def test_a_single_object_decodes_to_what_was_encoded(received, exporter):
    record = flow_record(time_received_ns=received, exporter=exporter)
    name, decoded = schemas.single_object_decode(schemas.single_object_encode("flow_record", record))
    assert name == "flow_record"
    assert {key: decoded[key] for key in record} == record


@given(st.data())
def test_a_single_object_that_is_damaged_is_refused_or_another_record(data):
    payload = bytearray(schemas.single_object_encode("flow_record", flow_record()))
    payload[data.draw(st.integers(0, 9))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SchemaError):
        schemas.single_object_decode(bytes(payload))


@given(st.integers(0, 40))
def test_a_single_object_cut_short_is_refused(size):
    payload = schemas.single_object_encode("flow_record", flow_record())
    with pytest.raises(SchemaError):
        schemas.single_object_decode(payload[: min(size, len(payload) - 1)])


def test_bytes_after_a_single_object_are_refused():
    with pytest.raises(SchemaError, match="1 bytes are left"):
        schemas.single_object_decode(schemas.single_object_encode("flow_record", flow_record()) + b"x")


@pytest.mark.parametrize(
    "record", [{}, flow_record(bytes="many"), flow_record(src_addr=None), flow_record(bytes=2**64)]
)
def test_a_record_that_does_not_fit_is_refused(record):
    with pytest.raises(SchemaError, match=r"flow_record\.v1"):
        schemas.single_object_encode("flow_record", record)


@given(st.integers(0, 2**32 - 1), st.binary(max_size=9))
def test_a_confluent_frame_is_a_zero_the_id_and_the_body(schema_id, body):
    framed = schemas.confluent_frame(schema_id, body)
    assert (framed[0], int.from_bytes(framed[1:5]), framed[5:]) == (0, schema_id, body)


@pytest.mark.parametrize("schema_id", [-1, 2**32])
def test_a_schema_id_that_is_not_32_bits_is_refused(schema_id):
    with pytest.raises(SchemaError, match="32 bits"):
        schemas.confluent_frame(schema_id, b"")


@pytest.mark.parametrize(("name", "version"), [("nothing", 1), ("flow_record", 99), ("../pyproject", 1)])
def test_an_unknown_schema_is_named_in_the_error(name, version):
    with pytest.raises(SchemaError, match=re.escape(name)):
        schemas.load(name, version)


def test_the_body_is_what_fastavro_writes():
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, schemas.load("flow_record"), flow_record())
    assert schemas.encode_body("flow_record", flow_record()) == buffer.getvalue()
