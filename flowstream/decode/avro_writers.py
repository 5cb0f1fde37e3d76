"""Avro records in a writer's own schema: checked once, then read by fastavro down to the fields we know.

Fields are matched by name, as in the specification's "Schema Resolution": numbers are promoted, and a field
that the writer lacks takes our default. Beyond it, the record may have any name, and addresses may be text
or fixed.

A schema from a registry is trusted less than code. Refused are recursive types (a message could nest as deep
as it is long), arrays of things that take no bytes (ten bytes could claim a billion of them), and schemas
that unfold to thousands of fields.
"""

from __future__ import annotations

import io
import json
from functools import lru_cache
from typing import Any, Final

import fastavro
from fastavro.schema import parse_schema

from flowstream import schemas
from flowstream.errors import Reason, SchemaError

REQUIRED: Final = ("time_received_ns", "src_addr", "bytes", "packets")
ADDRESSES: Final = ("exporter", "src_addr", "dst_addr")
MAX_FIELDS: Final = 4096

_INTEGERS: Final = {"null", "int", "long"}
_TEXT_OR_BYTES: Final = {"null", "bytes", "string", "fixed"}
_NAMES: Final = {"null", "enum", "string", "int", "long"}


class Writer:
    """A writer's schema, ready to read with; SchemaError where it holds no flow records or is refused."""

    def __init__(self, schema: Any) -> None:
        try:
            parsed: Any = parse_schema(_plain(schema))
        except Exception as error:  # fastavro's own exceptions have no common base
            raise SchemaError(f"not an Avro schema: {error}") from error
        if not isinstance(parsed, dict) or parsed.get("type") != "record":
            raise SchemaError("a flow record's schema is a record")
        self._writer = parsed
        self.is_ours = schemas.fingerprint_of(parsed) == schemas.fingerprint("flow_record")
        named = _measured(parsed)
        known = {field["name"] for field in schemas.load("flow_record")["fields"]}
        fields = [field for field in parsed["fields"] if field["name"] in known]
        lacking = set(REQUIRED) - {field["name"] for field in fields}
        if lacking:
            raise SchemaError(f"{parsed['name']} lacks {', '.join(sorted(lacking))}")
        defined: set[str] = set()
        reduced = [{"name": f["name"], "type": _known_type(f, named, defined)} for f in fields]
        self._reader = parse_schema({"type": "record", "name": parsed["name"], "fields": reduced})

    def read(self, body: bytes) -> dict[str, Any] | Reason:
        """Read one record: the fields we know that the writer has, or why not."""
        stream = io.BytesIO(body)
        try:
            record: Any = fastavro.schemaless_reader(stream, self._writer, self._reader)
        except EOFError:
            return Reason.TRUNCATED
        except IndexError:
            # An index beyond a union or an enum, or a varint without its end.
            return Reason.TRUNCATED if body[-1:] >= b"\x80" else Reason.MALFORMED
        except Exception:  # noqa: BLE001 - hostile bytes must not raise out, and there is no common base
            return Reason.MALFORMED
        return record if stream.tell() == len(body) else Reason.MALFORMED


def _measured(parsed: Any) -> dict[str, Any]:
    """Return the named types of a parsed schema; SchemaError where it is dangerous to read with."""
    named: dict[str, Any] = {}
    sizes: dict[str, tuple[int, bool]] = {}

    def measure(schema: Any) -> tuple[int, bool]:
        """Return how many fields a type unfolds to, and whether a value of it can take no bytes."""
        if isinstance(schema, str):
            if schema in named and schema not in sizes:
                raise SchemaError(f"{schema} is recursive")
            return sizes.get(schema, (1, schema == "null"))
        if isinstance(schema, list):
            return sum(measure(branch)[0] for branch in schema), False
        kind = schema["type"]
        if "name" in schema:
            named[schema["name"]] = schema
        if kind in {"record", "error"}:
            parts = [measure(field["type"]) for field in schema["fields"]]
            size = 1 + sum(part[0] for part in parts), all(part[1] for part in parts)
            if size[0] > MAX_FIELDS:
                raise SchemaError(f"{schema['name']} unfolds to {size[0]} fields")
        elif kind in {"array", "map"}:
            fields, empty = measure(schema["items" if kind == "array" else "values"])
            if empty and kind == "array":
                raise SchemaError("an array of items that take no bytes")
            size = 1 + fields, False
        elif kind in {"enum", "fixed"}:
            size = 1, kind == "fixed" and schema["size"] == 0
        else:
            return measure(kind)
        if "name" in schema:
            sizes[schema["name"]] = size
        return size

    measure(parsed)
    return named


def _known_type(field: dict[str, Any], named: dict[str, Any], defined: set[str]) -> Any:
    """Return the type of a field we know, named ones spelt out at first use; SchemaError if of no use."""
    name = field["name"]
    allowed = _TEXT_OR_BYTES if name in ADDRESSES else _NAMES if name == "flow_type" else _INTEGERS

    def spelt(schema: Any) -> Any:
        full = named.get(schema, schema) if isinstance(schema, str) else schema
        kind = full["type"] if isinstance(full, dict) else full
        if not isinstance(kind, str) or kind not in allowed:
            raise SchemaError(f"field {name} is {kind}, which is none of {', '.join(sorted(allowed))}")
        if isinstance(full, dict) and "name" in full:
            if full["name"] in defined:
                return full["name"]
            defined.add(full["name"])
        return full

    return list(map(spelt, field["type"])) if isinstance(field["type"], list) else spelt(field["type"])


def _plain(schema: Any) -> Any:
    """Drop logical types and fastavro's marks: values come as on the wire, and parsing starts anew."""
    if isinstance(schema, dict):
        return {k: _plain(v) for k, v in schema.items() if k != "logicalType" and not k.startswith("__")}
    return [_plain(part) for part in schema] if isinstance(schema, list) else schema


@lru_cache(maxsize=256)
def _writer(text: str) -> Writer | None:
    try:
        return Writer(json.loads(text))
    except (SchemaError, RecursionError):
        return None


def writer(schema: Any) -> Writer | None:
    """Return the reader of a writer's schema, or None where it cannot be one; remembered by content."""
    try:
        return _writer(json.dumps(schema))
    except (TypeError, ValueError, RecursionError):
        return None
