"""Recorded telemetry in files: find out what is in one, and read it message by message.

Files may be compressed (.gz, .bz2, .xz). ``goflow`` files are runs of varint-delimited protobuf, as goflow2's
file transport writes them; JSON formats are one object per line; ``avro`` files are Avro object containers.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fastavro
import msgspec

from flowstream import schemas
from flowstream.errors import FlowstreamError

CHUNK_BYTES = 1 << 22
_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_MESSAGE_BYTES_MAX = 16 << 20


class RecordingError(FlowstreamError):
    """A file cannot be read, or not told what it is."""


class Recording:
    """A file of telemetry. Raises RecordingError, in one line, for anything wrong with it."""

    def __init__(self, path: Path, wire_format: str | None = None) -> None:
        if not path.is_file():
            raise RecordingError(f"{path}: no such file")
        self.path = path
        self._opener = _OPENERS.get(_head(path, 2), open)
        self.wire_format = wire_format or self._recognise()
        self.bytes_total = path.stat().st_size
        self._raw: IO[bytes] | None = None

    @property
    def bytes_read(self) -> int:
        """How much of the file (as it lies on disk) has been read: for a progress bar."""
        return 0 if self._raw is None or self._raw.closed else self._raw.tell()

    def messages(self) -> Iterator[bytes]:
        """Yield the messages as a collector would have put them on Kafka."""
        with self.path.open("rb") as self._raw:
            opened = self._raw if self._opener is open else self._opener(self._raw, "rb")
            try:
                if self.wire_format == "goflow":
                    yield from _delimited(opened)
                elif self.wire_format == "avro":
                    yield from _container(opened)
                else:
                    yield from (line for line in map(bytes.strip, opened) if line)
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise RecordingError(f"{self.path}: {error}") from error

    def _recognise(self) -> str:
        opener = self.path.open if self._opener is open else lambda mode: self._opener(self.path, mode)
        try:
            with opener("rb") as opened:
                head = opened.read(1 << 16)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise RecordingError(f"{self.path}: {error}") from error
        if head.startswith(b"Obj\x01"):
            return "avro"
        if head.lstrip()[:1] == b"{":
            return _json_format(head.lstrip().split(b"\n", 1)[0], self.path)
        if head and next(_delimited(io.BytesIO(head)), None) is not None:
            return "goflow"
        raise RecordingError(f"{self.path}: cannot tell its format; name it with --format")


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as opened:
        return opened.read(size)


def _json_format(line: bytes, path: Path) -> str:
    try:
        keys = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise RecordingError(f"{path}: first line is not JSON ({error}); name its format with --format") from error
    if "event_type" in keys or "event" in keys:
        return "suricata-eve"
    if "eventid" in keys or "eventtime" in keys:
        return "flow-event-json"
    return "goflow-json"


def _delimited(opened: IO[bytes]) -> Iterator[bytes]:
    """Split a run of varint-delimited messages, prefix kept. What cannot be split is one last message."""
    rest = b""
    while chunk := opened.read(CHUNK_BYTES):
        buffer = rest + chunk
        at = 0
        while True:
            end = _message_end(buffer, at)
            if end < 0 or end > len(buffer):
                break
            yield buffer[at:end]
            at = end
        rest = buffer[at:]
        if len(rest) > _MESSAGE_BYTES_MAX:
            break
    if rest:
        yield rest


def _message_end(buffer: bytes, at: int) -> int:
    """Return where the message at ``at`` ends, -1 where its prefix is not whole."""
    length = shift = 0
    for position in range(at, min(at + 5, len(buffer))):
        byte = buffer[position]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return position + 1 + length
        shift += 7
    return -1


def _container(opened: IO[bytes]) -> Iterator[bytes]:
    try:
        for record in fastavro.reader(opened, reader_schema=schemas.load("flow_record")):
            yield schemas.single_object_encode("flow_record", record)
    except (ValueError, EOFError, fastavro.schema.SchemaParseException) as error:
        raise RecordingError(f"not a container of flow records: {error}") from error
