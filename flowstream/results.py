"""Results to bytes and back: Avro (single-object, or framed with a registry's schema id) or plain JSON.

Values hold what the flows say and nothing else, so that the same flows give the same bytes. In JSON, columns
packed into bytes are written out as lists or rows, and remaining bytes (a dead letter's payload) as base64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from flowstream import schemas
from flowstream.operators import Result
from flowstream.sources import SourceBlock


def _numbers(packed: bytes, dtype: str) -> list[Any]:
    numbers: list[Any] = np.frombuffer(packed, dtype).tolist()
    return numbers


def _unpack_sources(value: dict[str, Any]) -> dict[str, Any]:
    rows = list(SourceBlock.from_value(value).rows())
    return {name: value[name] for name in ("window_start_ns", "window_end_ns", "count")} | {"sources": rows}


def _unpack_histogram(value: dict[str, Any]) -> dict[str, Any]:
    packed = value["histogram"]
    return value | {"histogram": {"bins": _numbers(packed["bins"], "<u2"), "counts": _numbers(packed["counts"], "<i8")}}


def _unpack_pairs(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"distances": _numbers(value["distances"], "<f8")}


#: Schemas with packed columns, and how to write those out.
UNPACK: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "sources": _unpack_sources,
    "distances": _unpack_histogram,
    "distance_pair_blocks": _unpack_pairs,
}

_SCHEMAS: Mapping[str, str] = {"dead-letters": "dead_letter", "flows": "flow_block", "late": "flow_block"}


def schema_name(stream: str) -> str:
    """Return the schema of a stream: its name with underscores, but for streams of single things."""
    return _SCHEMAS.get(stream, stream.replace("-", "_"))


def unpack(stream: str, value: dict[str, Any]) -> dict[str, Any]:
    """Return a value with its packed columns written out, keys in the schema's order; KeyError without one."""
    schema = schema_name(stream)
    ordered = {f["name"]: value[f["name"]] for f in schemas.load(schema)["fields"]}
    return UNPACK[schema](ordered) if schema in UNPACK else ordered


def to_json(stream: str, value: dict[str, Any]) -> bytes:
    """Return a value as one JSON object; NaN becomes null, bytes become base64."""
    return msgspec.json.encode(unpack(stream, value))


class ResultEncoder:
    """Encodes results for Kafka. ``schema_ids`` maps schema names to registry ids; without one, single-object."""

    def __init__(self, output_format: str = "avro", schema_ids: Mapping[str, int] | None = None) -> None:
        self._json = output_format == "json"
        self._schema_ids = dict(schema_ids or {})

    def encode(self, result: Result) -> bytes:
        """Return a result's value in bytes."""
        if self._json:
            return to_json(result.stream, result.value)
        schema = schema_name(result.stream)
        return self.encode_record(schema, result.value) if result.body is None else self._frame(schema, result.body)

    def encode_record(self, name: str, record: dict[str, Any]) -> bytes:
        """Return a record of a named schema in Avro, framed as configured."""
        return self._frame(name, schemas.encode_body(name, record))

    def _frame(self, name: str, body: bytes) -> bytes:
        if name in self._schema_ids:
            return schemas.confluent_frame(self._schema_ids[name], body)
        return schemas.single_object_frame(name, body)
