"""Results to bytes and back: Avro (single-object, or framed with a registry's schema id) or plain JSON.

Values hold what the flows say and nothing else, so that the same flows give the same bytes. In JSON, columns
packed into bytes are written out as lists or rows, and remaining bytes (a dead letter's payload) as base64.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np

from flowstream import schemas, talker_steps
from flowstream.avro_json import JsonWriter
from flowstream.byte_column import ByteColumn
from flowstream.operators import Result, Results
from flowstream.source_blocks import SourceBlock

#: Fields that are packed numbers: dtypes by schema and path.
PACKED: Mapping[str, Mapping[str, str]] = {
    "distances": {"histogram.bins": "<u2", "histogram.counts": "<i8"},
    "distance_pair_blocks": {"distances": "<f8"},
}


def _with_numbers(schema: str, value: dict[str, Any]) -> dict[str, Any]:
    for path, dtype in PACKED.get(schema, {}).items():
        outer, _, inner = path.rpartition(".")
        if outer:
            value = value | {outer: value[outer] | {inner: np.frombuffer(value[outer][inner], dtype).tolist()}}
        else:
            value = value | {inner: np.frombuffer(value[inner], dtype).tolist()}
    return value


def _unpack_sources(value: dict[str, Any]) -> dict[str, Any]:
    header = {name: value[name] for name in ("window_start_ns", "window_end_ns", "samples_min", "count")}
    return header | {"sources": list(SourceBlock.from_value(value).rows())}


#: Streams of what operators keep: for themselves to read, so always in Avro, single-object.
KEPT = frozenset({talker_steps.STREAM})

_SCHEMAS: Mapping[str, str] = {
    "dead-letters": "dead_letter",
    "flows": "flow_block",
    "partials": "partial_block",
    "late": "flow_block",
}


def schema_name(stream: str) -> str:
    """Return the schema of a stream: its name with underscores, but for streams of single things."""
    return _SCHEMAS.get(stream, stream.replace("-", "_"))


def unpack(stream: str, value: dict[str, Any]) -> dict[str, Any]:
    """Return a value with its packed columns written out, keys in the schema's order; KeyError without one."""
    schema = schema_name(stream)
    ordered = {f["name"]: value[f["name"]] for f in schemas.load(schema)["fields"]}
    return _unpack_sources(ordered) if schema == "sources" else _with_numbers(schema, ordered)


def to_json(stream: str, value: dict[str, Any]) -> bytes:
    """Return a value as one JSON object; NaN becomes null, bytes become base64."""
    return msgspec.json.encode(unpack(stream, value))


@cache
def _json_writer(schema: str) -> JsonWriter:
    return JsonWriter(schemas.load(schema), PACKED.get(schema, {}))


def column_to_json(results: Results) -> ByteColumn:
    """Return the value of each as one JSON object: the bytes of ``to_json``."""
    return _json_writer(schema_name(results.stream)).write(results.bodies)


class Encoded(NamedTuple):
    """Values for Kafka: each is the prefix and its own bytes."""

    prefix: bytes
    values: ByteColumn


class ResultEncoder:
    """Encodes results for Kafka. ``schema_ids`` maps schema names to registry ids; without one, single-object."""

    def __init__(self, output_format: str = "avro", schema_ids: Mapping[str, int] | None = None) -> None:
        self._json = output_format == "json"
        self._schema_ids = dict(schema_ids or {})

    def encode(self, result: Result) -> bytes:
        """Return a result's value in bytes."""
        if self._json or result.body is None:
            return self.encode_value(result.stream, result.value)
        return self._frame(schema_name(result.stream), result.body)

    def encode_column(self, results: Results) -> Encoded:
        """Return the values of results in bytes: as ``encode`` does one by one."""
        if self._json:
            return Encoded(b"", column_to_json(results))
        return Encoded(self._frame(schema_name(results.stream), b""), results.bodies)

    def encode_value(self, stream: str, value: dict[str, Any]) -> bytes:
        """Return a value of a stream in bytes."""
        schema = schema_name(stream)
        if stream in KEPT:
            return schemas.single_object_encode(schema, value)
        if self._json:
            return to_json(stream, value)
        return self._frame(schema, schemas.encode_body(schema, value))

    def _frame(self, name: str, body: bytes) -> bytes:
        if name in self._schema_ids:
            return schemas.confluent_frame(self._schema_ids[name], body)
        return schemas.single_object_frame(name, body)
