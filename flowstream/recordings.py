"""Recorded telemetry in files: find out what is in one, and read it message by message.

Files may be compressed (.gz, .bz2, .xz). ``goflow`` files are runs of varint-delimited protobuf, as goflow2's
file transport writes them, with or without its newline behind each message; JSON formats are one object per
line; ``avro`` files are Avro object containers.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import fastavro
import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream import schemas
from flowstream.decode import Payloads, decode
from flowstream.decode.avro_writers import Writer
from flowstream.errors import FlowstreamError, SchemaError

CHUNK_BYTES = 1 << 20
MESSAGE_BYTES_MAX = 16 << 20  # a declared length beyond is no message
BLOCK_BYTES_MAX = 256 << 20  # of an Avro container
LEFTOVER_BYTES_MAX = 1 << 16  # of what cannot be split: enough to see what it is
LINE_BYTES_MAX = 1 << 20
_HEAD_BYTES = 1 << 16
_NEWLINE, _NO_SEPARATOR = 0x0A, -1
_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b\x08": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
#: What fastavro raises over damaged bytes, found by damaging them.
_CONTAINER_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    RecursionError,
    zlib.error,
    SchemaError,
    fastavro.schema.SchemaParseException,
    fastavro.read.SchemaResolutionError,
)


class RecordingError(FlowstreamError):
    """A file cannot be read, or not told what it is."""


class Recording:
    """A file of telemetry. Raises RecordingError, in one line, for anything wrong with it."""

    def __init__(self, path: Path, wire_format: str | None = None) -> None:
        if not path.is_file():
            raise RecordingError(f"{path}: no such file")
        self.path = path
        with _one_line(path), path.open("rb") as opened:
            magic = opened.read(6)
            self.bytes_total = path.stat().st_size
        self._opener = next((o for start, o in _OPENERS.items() if magic.startswith(start)), None)
        self.wire_format = wire_format or self._recognise()
        self._raw: IO[bytes] | None = None

    @property
    def bytes_read(self) -> int:
        """How much of the file (as it lies on disk) has been read: for a progress bar."""
        return 0 if self._raw is None or self._raw.closed else self._raw.tell()

    def messages(self) -> Iterator[bytes]:
        """Yield the messages as a collector would have put them on Kafka."""
        with _one_line(self.path), self.path.open("rb") as self._raw:
            opened = self._opened(self._raw)
            if self.wire_format == "goflow":
                yield from _delimited(opened.read)
            elif self.wire_format == "avro":
                yield from _container(opened, self.path)
            else:
                # A line is read in pieces beyond the limit, so that a file without line ends stays bounded.
                lines = iter(partial(opened.readline, LINE_BYTES_MAX), b"")
                yield from (line for line in map(bytes.strip, lines) if line)

    def _opened(self, raw: IO[bytes]) -> Any:
        return raw if self._opener is None else self._opener(raw, "rb")

    def _recognise(self) -> str:
        with _one_line(self.path), self.path.open("rb") as raw:
            head = self._opened(raw).read(_HEAD_BYTES)
        if head.startswith(b"Obj\x01"):
            return "avro"
        # A delimited message of 123 bytes begins with the byte of "{", so JSON must also parse as such.
        line = head.lstrip().split(b"\n", 1)[0]
        json_format = _json_format(line) if line.startswith(b"{") else None
        if json_format is not None:
            return json_format
        first = list(_delimited(io.BytesIO(head).read))[:100]
        if first and len(decode("goflow", Payloads.from_values(first)).flows):
            return "goflow"
        raise RecordingError(f"{self.path}: cannot tell its format; name it with --format")


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn whatever reading a file can raise into a RecordingError."""
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        said = (getattr(error, "strerror", None) or str(error) or "it ends too early").splitlines()[0]
        raise RecordingError(f"{path}: cannot be read: {said}") from error


def _json_format(line: bytes) -> str | None:
    """Return which JSON format a line is of, None where it is not a JSON object."""
    try:
        keys = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if "event_type" in keys or "event" in keys:
        return "suricata-eve"
    if "eventid" in keys or "eventtime" in keys:
        return "flow-event-json"
    return "goflow-json"


def _delimited(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Split a run of varint-delimited messages, prefix kept. What cannot be split is one last message.

    goflow2 by default writes a newline behind each message. A newline is also the length of a message of ten
    bytes, so it counts as a separator only where one is behind every message of the first chunk.
    """
    rest = b""
    separator: int | None = None
    ends = np.empty((1 << 16, 2), np.int64)
    hopeless = False
    while not hopeless and (chunk := read(CHUNK_BYTES)):
        buffer = rest + chunk
        view = np.frombuffer(buffer, np.uint8)
        if separator is None:
            count, _, hopeless, followed = _split(view, ends, MESSAGE_BYTES_MAX, _NEWLINE)
            if count == 0 and not hopeless:
                rest = buffer
                continue
            separator = _NEWLINE if followed == count > 0 else _NO_SEPARATOR
        at = 0
        while True:
            count, rest_at, hopeless, _ = _split(view[at:], ends, MESSAGE_BYTES_MAX, separator)
            yield from (buffer[at + a : at + b] for a, b in ends[:count].tolist())
            at += rest_at
            if count < len(ends):
                break
        rest = buffer[at:]
    if rest:
        yield rest[:LEFTOVER_BYTES_MAX] if hopeless else rest


@njit(nogil=True, cache=True, error_model="numpy")
def _split(
    buffer: NDArray[np.uint8], ends: NDArray[np.int64], length_max: int, separator: int
) -> tuple[int, int, bool, int]:
    """Find the whole messages of a buffer, each a varint length and as many bytes.

    Fills rows of ``ends`` with (start, end) and returns how many, where the rest begins, whether the rest can
    never become a message, and behind how many messages the ``separator`` was (a byte, dropped where it is;
    negative for none). With a separator a message is whole once the byte behind it is there, too.
    """
    size = len(buffer)
    at = count = followed = 0
    while count < len(ends):
        length = np.int64(0)
        shift = 0
        position = at
        while position < size and position < at + 5:
            length |= (np.int64(buffer[position]) & 0x7F) << shift
            position += 1
            if buffer[position - 1] < 0x80:
                break
            shift += 7
        if position == at or (buffer[position - 1] >= 0x80 and position < at + 5):
            break
        if buffer[position - 1] >= 0x80 or length > length_max:
            return count, at, True, followed
        end = int(position + length)
        if end > size or (separator >= 0 and end == size):
            break
        ends[count, 0] = at
        ends[count, 1] = end
        count += 1
        at = end
        if separator >= 0 and buffer[at] == separator:
            followed += 1
            at += 1
    return count, at, False, followed


class _Sized:
    """What a container is read from: a read that the file declares too large is the end of it."""

    def __init__(self, opened: IO[bytes]) -> None:
        self._opened = opened

    def read(self, size: int) -> bytes:
        """Return so many bytes, or fewer at the end. Python would set ``size`` bytes aside before it looks."""
        if size > BLOCK_BYTES_MAX:
            raise EOFError(f"a block of {size} bytes")
        return self._opened.read(size)


def _container(opened: IO[bytes], path: Path) -> Iterator[bytes]:
    try:
        sized: Any = _Sized(opened)
        records: Any = fastavro.reader(sized, reader_schema=schemas.load("flow_record"))
        Writer(records.writer_schema)  # refuses what is dangerous to read with
        for record in records:
            yield schemas.single_object_encode("flow_record", record)
    except _CONTAINER_ERRORS as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecordingError(f"{path}: not a container of flow records: {said}") from error
