"""Results to bytes and back: Avro (single-object, or framed with a registry's schema id) or plain JSON.

Values hold what the flows say and nothing else, so that the same flows give the same bytes. In JSON, columns
packed into bytes are written out as rows, and remaining bytes as base64.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from flowstream import schemas
from flowstream.operators import Result
from flowstream.sources import SourceBlock

#: Streams whose Avro value is columnar, and how to write them out.
UNPACK: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "sources": lambda value: {
        "window_start_ns": value["window_start_ns"],
        "window_end_ns": value["window_end_ns"],
        "sources": list(SourceBlock.from_value(value).rows()),
    }
}


def schema_name(stream: str) -> str:
    """Return the schema of a stream: its name with underscores."""
    return stream.replace("-", "_")


def unpack(stream: str, value: dict[str, Any]) -> dict[str, Any]:
    """Return a value with its packed columns written out, keys in the schema's order."""
    if stream in UNPACK:
        return UNPACK[stream](value)
    fields = schemas.load(schema_name(stream))["fields"]
    return {f["name"]: value[f["name"]] for f in fields}


def to_json(stream: str, value: dict[str, Any]) -> bytes:
    """Return a value as one JSON object; NaN becomes null."""
    return msgspec.json.encode(unpack(stream, value), enc_hook=_bytes_as_text)


def _bytes_as_text(value: Any) -> str:
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode()
    raise NotImplementedError(type(value).__name__)


class ResultEncoder:
    """Encodes results for Kafka. ``schema_ids`` maps schema names to registry ids; without one, single-object."""

    def __init__(self, output_format: str = "avro", schema_ids: Mapping[str, int] | None = None) -> None:
        self._json = output_format == "json"
        self._schema_ids = dict(schema_ids or {})

    def encode(self, result: Result) -> bytes:
        """Return a result's value in bytes."""
        if self._json:
            return to_json(result.stream, result.value)
        return self.encode_record(schema_name(result.stream), result.value)

    def encode_record(self, name: str, record: dict[str, Any]) -> bytes:
        """Return a record of a named schema in Avro, framed as configured."""
        if name in self._schema_ids:
            return schemas.confluent_frame(self._schema_ids[name], schemas.encode_body(name, record))
        return schemas.single_object_encode(name, record)
