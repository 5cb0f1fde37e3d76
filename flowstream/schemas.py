"""The project's Avro schemas: finding, naming, fingerprinting and framing them.

Files are ``<name>.v<version>.avsc``. Framings: single-object encoding (Avro specification, "Single-object
encoding") and Confluent's wire format, a zero byte and a 4-byte big-endian schema id before the body.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from struct import Struct
from typing import Any, Final

import fastavro
from fastavro.schema import fingerprint as fastavro_fingerprint
from fastavro.schema import parse_schema, to_parsing_canonical_form

from flowstream.errors import SchemaError

Schema = dict[str, Any]  # a record's schema as fastavro parses it

SINGLE_OBJECT_MARKER: Final = b"\xc3\x01"
CONFLUENT_MAGIC: Final = b"\x00"
_CONFLUENT: Final = Struct(">bI")


@cache
def directory() -> Path:
    """Return where the schemas are: inside the installed package, else beside it in the repository."""
    package = Path(__file__).parent
    for place in (package / "avro_schemas", package.parent / "avro_schemas"):
        if place.is_dir():
            return place
    raise SchemaError(f"no avro_schemas directory in {package} or beside it")


@cache
def _versions() -> Mapping[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for path in directory().glob("*.v*.avsc"):
        name, _, version = path.name.removesuffix(".avsc").rpartition(".v")
        if version.isdecimal():
            found.setdefault(name, []).append(int(version))
    return {name: tuple(sorted(found[name])) for name in sorted(found)}


def names() -> tuple[str, ...]:
    """Return the names of all schemas, in order."""
    return tuple(_versions())


def versions(name: str) -> tuple[int, ...]:
    """Return the versions there are of a schema, ascending; SchemaError where there is none."""
    try:
        return _versions()[name]
    except KeyError:
        raise SchemaError(f"no schema named {name}; there are {', '.join(names())}") from None


@cache
def load(name: str, version: int = 1) -> Schema:
    """Return a schema as fastavro parses it; SchemaError where there is none, or it is not one."""
    if version not in versions(name):
        raise SchemaError(f"schema {name} has no version {version}; there are {versions(name)}")
    path = directory() / f"{name}.v{version}.avsc"
    try:
        parsed = parse_schema(json.loads(path.read_text("utf-8")))
    except (ValueError, fastavro.schema.SchemaParseException, fastavro.schema.UnknownType) as error:
        raise SchemaError(f"{path.name}: {error}") from error
    if not isinstance(parsed, dict):
        raise SchemaError(f"{path.name}: not one named type")
    return parsed


def fingerprint_of(schema: Any) -> bytes:
    """Return the CRC-64-AVRO fingerprint of a schema's Parsing Canonical Form: 8 bytes, little-endian."""
    return bytes.fromhex(fastavro_fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


@cache
def fingerprint(name: str, version: int = 1) -> bytes:
    """Return the fingerprint of one of our schemas, as single-object encoding carries it."""
    return fingerprint_of(load(name, version))


@cache
def _by_fingerprint() -> Mapping[bytes, tuple[str, int]]:
    return {fingerprint(name, version): (name, version) for name in names() for version in versions(name)}


def encode_body(name: str, record: Mapping[str, Any], version: int = 1) -> bytes:
    """Return the Avro body of a record, without framing; SchemaError where it does not fit the schema."""
    buffer = io.BytesIO()
    try:
        fastavro.schemaless_writer(buffer, load(name, version), record)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise SchemaError(f"the record does not fit {name}.v{version}: {error}") from error
    return buffer.getvalue()


def single_object_encode(name: str, record: Mapping[str, Any], version: int = 1) -> bytes:
    """Return a record behind the marker and fingerprint of its schema; SchemaError where it does not fit."""
    return single_object_frame(name, encode_body(name, record, version), version)


def single_object_frame(name: str, body: bytes, version: int = 1) -> bytes:
    """Return a body behind the marker and fingerprint of its schema."""
    return SINGLE_OBJECT_MARKER + fingerprint(name, version) + body


def single_object_decode(payload: bytes) -> tuple[str, dict[str, Any]]:
    """Return the schema's name and the record; SchemaError where it is not one of ours, whole and alone."""
    if payload[:2] != SINGLE_OBJECT_MARKER:
        raise SchemaError("not a single-object encoding: it does not begin with c3 01")
    known = _by_fingerprint().get(payload[2:10])
    if known is None:
        raise SchemaError(f"no schema has the fingerprint {payload[2:10].hex()}")
    return known[0], _read(payload, 10, *known)


def decode_body(name: str, body: bytes, version: int = 1) -> dict[str, Any]:
    """Return the record of an Avro body without framing; SchemaError where it is not one, whole and alone."""
    return _read(body, 0, name, version)


def _read(payload: bytes, start: int, name: str, version: int) -> dict[str, Any]:
    body = io.BytesIO(payload)
    body.seek(start)
    try:
        record: Any = fastavro.schemaless_reader(body, load(name, version), None)
    except (ValueError, EOFError, IndexError, TypeError, OverflowError) as error:
        raise SchemaError(f"the bytes are not a {name}: {error}") from error
    if body.tell() != len(payload):
        raise SchemaError(f"{len(payload) - body.tell()} bytes are left after the {name}")
    return dict(record)


def confluent_frame(schema_id: int, body: bytes) -> bytes:
    """Return a body behind Confluent's framing; SchemaError where the id is not 32 bits."""
    if not 0 <= schema_id < 1 << 32:
        raise SchemaError(f"schema id {schema_id} does not fit 32 bits")
    return _CONFLUENT.pack(0, schema_id) + body
