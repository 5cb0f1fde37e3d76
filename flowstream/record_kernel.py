"""The records of a Kafka record batch (message format 2), written from columns by compiled code.

A record is its length, attributes (none), the differences of its timestamp and offset to the batch's, key, value
and headers; numbers are zig-zag varints, as in Avro, and a key that is not there has the length -1 (Kafka protocol
guide, "Record"). All records of a batch are made at the same time here, so the difference of timestamps is 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream.byte_column import ByteColumn, bytes_array
from flowstream.text_kernels import long_size, put_bytes, put_long

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Run:
    """Records with the same headers. The value of each is ``prefix`` and its value; without ``keys`` none has one."""

    keys: ByteColumn | None
    values: ByteColumn
    prefix: bytes = b""
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Section:
    """The records of one batch, as many as ``count``."""

    records: NDArray[np.uint8]
    count: int


class SectionWriter:
    """Cuts records into sections of at most ``bytes_max``, or of a single record that is longer."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._buffer = np.empty(bytes_max, np.uint8)
        self._at = 0
        self._count = 0

    def put(self, run: Run) -> Iterator[Section]:
        """Write records; yield every section that is full. Its array is the reader's to keep."""
        keys = run.keys or ByteColumn(_NOTHING, run.values.bounds)
        columns = (
            keys.buffer, keys.bounds, run.keys is None, bytes_array(run.prefix), run.values.buffer, run.values.bounds,
            bytes_array(encode_headers(run.headers)),
        )  # fmt: skip
        written = 0
        while written < len(run.values):
            written, self._at, self._count, needed = _put_records(
                *columns, written, self._buffer, self._at, self._count, self._bytes_max
            )
            if needed and self._count:
                yield from self.rest()
            elif needed:
                self._buffer = np.empty(needed, np.uint8)

    def rest(self) -> Iterator[Section]:
        """Yield what is left, if anything is."""
        if self._count:
            yield Section(self._buffer[: self._at], self._count)
            self._buffer, self._at, self._count = np.empty(self._bytes_max, np.uint8), 0, 0


_NOTHING = np.zeros(0, np.uint8)


def encode_headers(headers: Headers) -> bytes:
    """Return a record's headers, the number of them first."""
    texts = [text for name, value in headers for text in (name.encode(), value)]
    buffer = np.empty(10 * (len(texts) + 1) + sum(map(len, texts)), np.uint8)
    at = put_long(buffer, 0, len(headers))
    for text in texts:
        at = put_bytes(buffer, put_long(buffer, at, len(text)), bytes_array(text), 0, len(text))
    return buffer[:at].tobytes()


@njit(nogil=True, cache=True, error_model="numpy")
def _put_records(  # type: ignore[no-untyped-def]
    keys, key_bounds, keyless, prefix, values, value_bounds, headers, start, buffer, at, count, bytes_max,
):  # fmt: skip
    """Write records from ``start`` on while there is room.

    Return the first one not written, where the section ends, how many records it has, and the bytes that the next
    one needs if it is what there is no room for.
    """
    for r in range(start, len(value_bounds) - 1):
        value, value_end = value_bounds[r], value_bounds[r + 1]
        length = len(prefix) + value_end - value
        body = 2 + long_size(count) + long_size(length) + length + len(headers)
        if keyless:
            body += 1
        else:
            key, key_end = key_bounds[r], key_bounds[r + 1]
            body += long_size(key_end - key) + key_end - key
        needed = long_size(body) + body
        if at + needed > len(buffer) or (at + needed > bytes_max and count):
            return r, at, count, needed
        at = put_long(buffer, at, body)
        buffer[at] = 0
        buffer[at + 1] = 0
        at = put_long(buffer, at + 2, count)
        if keyless:
            at = put_long(buffer, at, -1)
        else:
            at = put_bytes(buffer, put_long(buffer, at, key_end - key), keys, key, key_end)
        at = put_bytes(buffer, put_long(buffer, at, length), prefix, 0, len(prefix))
        at = put_bytes(buffer, at, values, value, value_end)
        at = put_bytes(buffer, at, headers, 0, len(headers))
        count += 1
    return len(value_bounds) - 1, at, count, 0
