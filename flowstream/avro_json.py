"""Avro bodies to JSON in one compiled pass: a schema becomes a list of steps, which a kernel walks for each record.

The bytes are those of ``msgspec.json.encode`` for the decoded value with its packed columns written out. What can be
in a schema here is what results in columns have: records, strings, numbers, booleans, unions with null, arrays, and
bytes that are packed numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import msgspec
import numpy as np
from numba import njit

from flowstream.byte_column import ByteColumn, bytes_array
from flowstream.double_kernel import DOUBLE_MAX, put_double
from flowstream.errors import SchemaError
from flowstream.text_kernels import put_bytes, put_signed

_LITERAL, _LONG, _DOUBLE, _BOOLEAN, _STRING, _PACKED, _NULL_OR, _ARRAY, _NEXT = range(9)
_PRIMITIVES = {"string": _STRING, "long": _LONG, "int": _LONG, "double": _DOUBLE, "boolean": _BOOLEAN}
#: Packed numbers: their size in bytes, negative for floating point.
_SIZES = {"<u2": 2, "<i8": 8, "<f8": -8}
_DEPTH_MAX = 8  # of arrays within arrays
_WIDEST = 6  # bytes of JSON for one of a string, if it is escaped; three to four for one of packed numbers
_WORDS = b"nulltruefalse"
_NULL, _TRUE, _FALSE = (0, 4), (4, 8), (8, 13)
_FULL, _WRONG = -1, -2


class JsonWriter:
    """Writes the records of one schema. ``packed`` gives the dtype of bytes fields, by the path of their names."""

    def __init__(self, schema: Any, packed: Mapping[str, str]) -> None:
        """SchemaError where the schema holds what there is no step for."""
        self._steps: list[tuple[int, int, int]] = []
        self._literals = bytearray(_WORDS)
        self._packed = packed
        self._add(schema, "", 0)
        self._program = np.array(self._steps, np.int64)
        self._texts = bytes_array(self._literals)
        self._room = max([DOUBLE_MAX, *(b - a for code, a, b in self._steps if code == _LITERAL)]) + 8

    def write(self, bodies: ByteColumn) -> ByteColumn:
        """Return each body's record in JSON; SchemaError where one is not of the schema, whole and alone."""
        bounds = np.zeros(len(bodies) + 1, np.int64)
        buffer = np.empty(3 * bodies.size_bytes + (len(self._texts) + 16) * len(bodies) + self._room, np.uint8)
        written = 0
        for growth in count():
            written, wrong = _write(
                self._program, self._texts, self._room, bodies.buffer, bodies.bounds, written, buffer, bounds
            )
            if wrong:
                raise SchemaError(f"body {written} is not of the schema")
            if written == len(bodies):
                break
            buffer = np.concatenate([buffer[: bounds[written]], np.empty(len(buffer) << growth, np.uint8)])
        return ByteColumn(buffer, bounds)

    def _step(self, code: int, a: int = 0, b: int = 0) -> int:
        self._steps.append((code, a, b))
        return len(self._steps) - 1

    def _literal(self, text: bytes) -> None:
        at = len(self._literals)
        self._literals += text
        if self._steps and self._steps[-1][0] == _LITERAL and self._steps[-1][2] == at:
            at = self._steps.pop()[1]
        self._step(_LITERAL, at, len(self._literals))

    def _add(self, schema: Any, path: str, depth: int) -> None:
        kind = schema["type"] if isinstance(schema, dict) else schema
        if isinstance(kind, str) and kind in _PRIMITIVES:
            self._step(_PRIMITIVES[kind])
        elif kind == "record":
            for number, member in enumerate(schema["fields"]):
                self._literal((b"," if number else b"{") + msgspec.json.encode(member["name"]) + b":")
                self._add(member["type"], f"{path}.{member['name']}".lstrip("."), depth)
            self._literal(b"}")
        elif kind == "array" and depth < _DEPTH_MAX:
            start = self._step(_ARRAY)
            self._step(_LITERAL)  # of no bytes: nothing before the elements is joined to what is in each
            self._add(schema["items"], path, depth + 1)
            end = self._step(_NEXT, start + 1, len(self._steps) + 1)
            self._steps[start] = _ARRAY, start + 1, end + 1
        elif kind == "bytes" and path in self._packed:
            self._step(_PACKED, _SIZES[self._packed[path]])
        elif isinstance(schema, list) and len(schema) == 2 and "null" in schema:
            start = self._step(_NULL_OR)
            self._add(schema[1 - schema.index("null")], path, depth)
            self._steps[start] = _NULL_OR, schema.index("null"), len(self._steps)
            self._step(_LITERAL)  # a place to go on from that no literal is joined to
        else:
            raise SchemaError(f"no way to write {schema!r} at {path!r}")


@njit(nogil=True, cache=True, error_model="numpy")
def _long(body, at, end):  # type: ignore[no-untyped-def]
    """Return an Avro long and where it ends, beyond ``end`` if it does not end before."""
    number, shift = np.uint64(0), 0
    while at < end and shift < 64:
        byte = np.uint64(body[at])
        number |= (byte & np.uint64(0x7F)) << np.uint64(shift)
        at += 1
        shift += 7
        if byte < np.uint64(0x80):
            return np.int64(number >> np.uint64(1)) ^ -np.int64(number & np.uint64(1)), at
    return np.int64(0), end + 1


@njit(nogil=True, cache=True, error_model="numpy")
def _word(body, at, size):  # type: ignore[no-untyped-def]
    word = np.uint64(0)
    for b in range(size):
        word |= np.uint64(body[np.uint64(at + b)]) << np.uint64(8 * b)
    return word


@njit(nogil=True, cache=True, error_model="numpy")
def _put_string(buffer, at, body, first, last):  # type: ignore[no-untyped-def]
    """Write a string in quotes, escaped as RFC 8259, section 7 demands, with the short escapes where there is one."""
    buffer[at] = 34
    at += 1
    for b in range(first, last):
        byte = body[np.uint64(b)]
        if byte >= 32 and byte not in (34, 92):
            buffer[np.uint64(at)] = byte
            at += 1
            continue
        short = byte
        if byte == 8:
            short = 98
        elif byte == 9:
            short = 116
        elif byte == 10:
            short = 110
        elif byte == 12:
            short = 102
        elif byte == 13:
            short = 114
        buffer[at] = 92
        if short >= 32:
            buffer[at + 1] = short
            at += 2
            continue
        buffer[at + 1] = 117
        buffer[at + 2] = buffer[at + 3] = 48
        buffer[at + 4] = 48 + (byte >> 4)
        digit = byte & 15
        buffer[at + 5] = 48 + digit if digit < 10 else 87 + digit
        at += 6
    buffer[at] = 34
    return at + 1


@njit(nogil=True, cache=True, error_model="numpy")
def _put_packed(buffer, at, body, first, last, size):  # type: ignore[no-untyped-def]
    buffer[at] = 91
    at += 1
    for b in range(first, last, abs(size)):
        if b > first:
            buffer[at] = 44
            at += 1
        word = _word(body, b, abs(size))
        at = put_double(buffer, at, word) if size < 0 else put_signed(buffer, at, np.int64(word))
    buffer[at] = 93
    return at + 1


@njit(nogil=True, cache=True, error_model="numpy")
def _read(code, body, at, end):  # type: ignore[no-untyped-def]
    """Return what a step begins with, as 64 bits, and where that ends, beyond ``end`` if the body is too short."""
    if code == _DOUBLE:
        return (np.int64(_word(body, at, 8)) if at + 8 <= end else np.int64(0)), at + 8
    if code == _BOOLEAN:
        return (np.int64(body[at]) if at < end else np.int64(0)), at + 1
    return _long(body, at, end)


@njit(nogil=True, cache=True, error_model="numpy")
def _put_scalar(code, number, texts, buffer, at):  # type: ignore[no-untyped-def]
    if code == _LONG:
        return put_signed(buffer, at, number)
    if code == _DOUBLE:
        return put_double(buffer, at, np.uint64(number))
    first, last = _TRUE if number else _FALSE
    return put_bytes(buffer, at, texts, first, last)


@njit(nogil=True, cache=True, error_model="numpy")
def _put_sized(code, size, buffer, at, body, first, last):  # type: ignore[no-untyped-def]
    if code == _STRING:
        return _put_string(buffer, at, body, first, last)
    return _put_packed(buffer, at, body, first, last, size)


@njit(nogil=True, cache=True, error_model="numpy")
def _put_array_mark(code, number, buffer, at):  # type: ignore[no-untyped-def]
    """Write what stands before a block of so many elements, or after the last one."""
    if code == _ARRAY:
        buffer[at] = 91
        at += 1
    if number == 0:
        buffer[at] = 93
        at += 1
    elif code == _NEXT:
        buffer[at] = 44
        at += 1
    return at


@njit(nogil=True, cache=True, error_model="numpy")
def _write_record(program, texts, room, body, place, end, buffer, at, left):  # type: ignore[no-untyped-def]
    """Write the record of ``body[place:end]``; return where it ends, or ``_FULL`` or ``_WRONG``."""
    depth, step = 0, 0
    while step < len(program):
        if at + room > len(buffer):
            return _FULL
        code, a, b = program[step]
        step += 1
        if code == _LITERAL:
            at = put_bytes(buffer, at, texts, a, b)
            continue
        if code == _NEXT and left[depth] > 1:
            left[depth] -= 1
            buffer[at] = 44
            at, step = at + 1, a
            continue
        number, place = _read(code, body, place, end)
        if place > end:
            return _WRONG
        if code <= _BOOLEAN:
            at = _put_scalar(code, number, texts, buffer, at)
        elif code == _NULL_OR and 0 <= number <= 1:
            if number == a:
                at, step = put_bytes(buffer, at, texts, _NULL[0], _NULL[1]), b
        elif (
            number < 0 or code == _NULL_OR
        ):  # no length, or no branch; nor is a block of an array preceded by its size, as we write it
            return _WRONG
        elif code >= _ARRAY:
            at = _put_array_mark(code, number, buffer, at)
            depth += code == _ARRAY
            if number:
                left[depth], step = number, a
            else:
                depth, step = depth - 1, b
        else:
            if number > end - place or (code == _PACKED and number % abs(a)):
                return _WRONG
            if at + _WIDEST * number + room > len(buffer):
                return _FULL
            at = _put_sized(code, a, buffer, at, body, place, place + number)
            place += number
    return at if place == end else _WRONG


@njit(nogil=True, cache=True, error_model="numpy")
def _write(program, texts, room, bodies, bounds, start, buffer, ends):  # type: ignore[no-untyped-def]
    """Write records from ``start`` on while there is room; return the first one not written, and if it is wrong."""
    left = np.zeros(_DEPTH_MAX + 1, np.int64)  # elements still to come of the arrays around
    for r in range(start, len(bounds) - 1):
        end = _write_record(program, texts, room, bodies, bounds[r], bounds[r + 1], buffer, ends[r], left)
        if end < 0:
            return r, end == _WRONG
        ends[r + 1] = end
    return len(bounds) - 1, False
