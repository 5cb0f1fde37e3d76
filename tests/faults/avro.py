"""Results as their schemas tell them, read without flowstream's own code."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
import numpy as np

SCHEMAS = Path(__file__).resolve().parents[2] / "avro_schemas"


@cache
def _schema(name: str) -> Any:
    return fastavro.parse_schema(json.loads((SCHEMAS / f"{name}.v1.avsc").read_text("utf-8")))


def read(name: str, value: bytes) -> dict[str, Any]:
    """Read a value in single-object encoding: two bytes of mark, eight of fingerprint, then the record."""
    assert value[:2] == b"\xc3\x01", f"{name}: {value[:10]!r} is no single-object encoding"
    record: dict[str, Any] = fastavro.schemaless_reader(io.BytesIO(value[10:]), _schema(name), None)  # type: ignore[assignment]
    return record


def encoded(name: str, record: Mapping[str, Any]) -> bytes:
    """Return a record in single-object encoding."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, _schema(name), record)
    mark = fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(_schema(name)), "CRC-64-AVRO")
    return b"\xc3\x01" + bytes.fromhex(mark) + body.getvalue()


def unpacked(raw: bytes, rows: int) -> list[int]:
    """Read a packed column of whole numbers, as the schemas' own documentation tells it."""
    if not rows:
        return []
    width, least = raw[0], np.frombuffer(raw, "<u8", 1, 1)
    differences = np.frombuffer(raw, f"<u{width}", rows, 9).astype("<u8") if width else np.zeros(rows, "<u8")
    values: list[int] = (differences + least).view("<i8").tolist()
    return values
