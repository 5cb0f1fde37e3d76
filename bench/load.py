"""Flow messages of one size, framed into Kafka record batches, all in numpy: millions of records a second.

``generate.Traffic`` resembles what exporters send; a ``Load`` is for measuring. Its messages are goflow2 v2
protobuf whose numbers are drawn from ranges of one varint width, so that every message has the same layout:
a template is copied, and columns of bytes are written over it. What is left of ``message_bytes`` behind the
fields that fit is one unknown field. Records come in event time order but for ``jitter_ns``.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from aiokafka.record.util import calc_crc32c
from numpy.typing import NDArray

from bench.generate import CLOSING_NS, START_NS

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]

BATCH_RECORDS = 8192  # zigzag offsets below 16,384 take two bytes
BATCH_BYTES = 1_000_000  # below the broker's default of a record batch
HEADER = struct.Struct(">qiibIhiqqqhii")  # base offset ... number of records
CRC_FROM = 21  # the checksum covers what follows it
NARROW = 64  # offsets below it take one byte
PAD_FIELD = 200
STEP = 40_503  # odd and prime to ten: with any even number of sources, each comes in turn, neighbours far apart

# Field number and bytes of its value, by name: the twelve that the analyses need, then more as long as there is room.
# A value of four bytes behind a length is an address; the rest are varints.
NEEDED = {
    "type": (1, 1), "sampling_rate": (3, 2), "src_addr": (6, 4), "dst_addr": (7, 4), "bytes": (9, 2),
    "packets": (10, 1), "sampler_address": (11, 4), "in_if": (18, 1), "proto": (20, 1), "src_port": (21, 3),
    "dst_port": (22, 2), "time_received_ns": (110, 9),
}  # fmt: skip
OTHERS = {
    "time_flow_start_ns": (111, 9), "time_flow_end_ns": (112, 9), "out_if": (19, 1), "etype": (30, 2),
    "tcp_flags": (26, 1), "ip_ttl": (25, 1), "sequence_num": (4, 3), "src_mac": (27, 6), "dst_mac": (28, 6),
    "fragment_id": (35, 3), "ip_flags": (38, 1),
}  # fmt: skip
ADDRESSES = frozenset({"src_addr", "dst_addr", "sampler_address"})
MESSAGE_BYTES_MIN = 60


@dataclass(frozen=True, slots=True)
class Load:
    """``records`` messages of ``sources`` addresses in turn, one every ``interval_ns`` of event time.

    ``first`` numbers the first record: two loads that differ in it only follow one another. ``sources`` is a
    number without a common divisor with ``STEP``.
    """

    records: int
    sources: int = 50_000
    interval_ns: int = 10_000
    message_bytes: int = 150
    partitions: int = 4
    jitter_ns: int = 0
    start_ns: int = START_NS
    first: int = 0

    def __post_init__(self) -> None:
        if np.gcd(self.sources, STEP) != 1:
            raise ValueError(f"{self.sources} sources do not come in turn: they share a divisor with {STEP}")
        # With its length before it, a message of 127 bytes takes 128 and one of 128 takes 130.
        if not MESSAGE_BYTES_MIN <= self.message_bytes <= 8000 or self.message_bytes == 129:
            raise ValueError(f"messages of {self.message_bytes} bytes: there are {MESSAGE_BYTES_MIN} to 8,000, not 129")

    @property
    def end_ns(self) -> int:
        """Event time of the record after the last, without jitter."""
        return self.start_ns + (self.first + self.records) * self.interval_ns

    @property
    def batch_records(self) -> int:
        """Records of one batch at most."""
        return min(BATCH_RECORDS, BATCH_BYTES // (self.message_bytes + 16))

    def closing(self) -> Load:
        """Return one record per partition that closes every window before it."""
        count = self.partitions
        return replace(self, records=count, first=0, interval_ns=1, jitter_ns=0, start_ns=self.end_ns + CLOSING_NS)

    def following(self, records: int) -> Load:
        """Return the load that comes after this one."""
        return replace(self, first=self.first + self.records, records=records)

    def times_ns(self, index: Numbers) -> Numbers:
        """Return the event times of records."""
        shift = (_mixed(index) >> np.uint64(40)).astype(np.int64) * self.jitter_ns >> 24
        return np.asarray(self.start_ns + index * self.interval_ns + shift)

    def source_of(self, index: Numbers) -> Numbers:
        """Return the number of each record's source."""
        return np.asarray(index % self.sources * STEP % self.sources)

    def batches(self) -> Iterator[tuple[int, bytes]]:
        """Yield (partition, record batch); partition p has every record whose number is p modulo partitions."""
        step, last = self.partitions, self.first + self.records
        writer = MessageWriter(self.message_bytes)
        for begin in range(self.first, last, step * self.batch_records):
            end = min(begin + step * self.batch_records, last)
            for p in range(step):
                index = np.arange(begin + (p - begin) % step, end, step, dtype=np.int64)
                if len(index):
                    yield p, record_batch(writer.write(self, index))


class MessageWriter:
    """Writes messages of one size. The array it returns is overwritten by the next call."""

    def __init__(self, message_bytes: int) -> None:
        self._template, self._places = _template(message_bytes)
        self._space = np.tile(self._template, (BATCH_RECORDS, 1))

    def write(self, load: Load, index: Numbers) -> Bytes:
        """Return the messages of records as (records, message_bytes)."""
        out = self._space[: len(index)]
        source, times_ns, mixed = load.source_of(index), load.times_ns(index), _mixed(index)
        low = (mixed & np.uint64(0xFFFF_FFFF)).astype(np.int64)
        ipfix = source & 1
        duration = low * 7919 % 5_000_000_000 * ipfix
        columns = {
            "type": 1 + 3 * ipfix,
            "bytes": 128 + low % 1386,
            "packets": 1 + (low >> 11) % 50 * ipfix,
            "src_addr": 0x0A00_0001 + source,
            "dst_addr": 0x6400_0001 + (low >> 5) % (1 << 22),
            "sampler_address": 0xC000_0201 + source % 100,
            "in_if": 1 + source // 100 % 8,
            "src_port": 32_768 + low % 28_000,
            "dst_port": np.array([443, 8443, 3306, 5201])[(low >> 7) & 3],
            "sequence_num": 500_000 + index % 500_000,
            "time_received_ns": times_ns,
            "time_flow_start_ns": times_ns - duration,
            "time_flow_end_ns": times_ns,
        }
        for name, column in columns.items():
            if name in self._places:
                at, width = self._places[name]
                out[:, at : at + width] = _big_endian(column) if name in ADDRESSES else _varints(column, width)
        return out


def _mixed(index: Numbers) -> NDArray[np.uint64]:
    """Return numbers that look drawn, one per record: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    z = index.astype(np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    return z ^ (z >> np.uint64(27))


def _big_endian(column: Numbers) -> Bytes:
    return column.astype(">u4").view(np.uint8).reshape(-1, 4)


def _varints(column: Numbers, width: int) -> Bytes:
    """Return varints of exactly ``width`` bytes; every number must need as many."""
    shifted = column.astype(np.uint64)[:, None] >> (np.arange(width, dtype=np.uint64) * np.uint64(7))
    encoded = shifted.astype(np.uint8) & np.uint8(0x7F)
    encoded[:, : width - 1] |= np.uint8(0x80)
    return encoded


def varint(number: int) -> bytes:
    """Return a varint."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _template(message_bytes: int) -> tuple[Bytes, dict[str, tuple[int, int]]]:
    """Return a message and where in it each field's value is."""
    constant = {
        "sampling_rate": 1000, "proto": 6, "out_if": 5, "etype": 0x0800, "tcp_flags": 16, "ip_ttl": 61,
        "src_mac": 0x0200_0000_0001, "dst_mac": 0x0200_0001_0001, "fragment_id": 20_000, "ip_flags": 2,
    }  # fmt: skip
    content_bytes = message_bytes - (1 if message_bytes <= 0x80 else 2)
    pad_min = len(varint(PAD_FIELD << 3 | 2)) + 1

    def size(name: str, number: int, width: int) -> int:
        return len(varint(number << 3)) + width + (name in ADDRESSES)

    left = content_bytes - sum(size(name, *field) for name, field in NEEDED.items())
    chosen = dict(NEEDED)
    for name, field in OTHERS.items():
        if left - size(name, *field) >= pad_min:
            chosen[name] = field
            left -= size(name, *field)
    message = bytearray(varint(content_bytes))
    places = {}
    for name, (number, width) in sorted(chosen.items(), key=lambda named: named[1]):
        packed = name in ADDRESSES
        message += varint(number << 3 | (2 if packed else 0)) + (b"\x04" if packed else b"")
        places[name] = (len(message), width)
        message += varint(constant[name]) if name in constant else bytes(width)
    pad = left - pad_min
    length = varint(pad) if pad <= 0x7F else _varints(np.array([pad - 1]), 2).tobytes()
    message += varint(PAD_FIELD << 3 | 2) + length + bytes(pad - len(length) + 1)
    return np.frombuffer(bytes(message), np.uint8).copy(), places


def _segment(messages: Bytes, first: int, width: int) -> Bytes:
    """Frame messages as records whose offset delta takes ``width`` bytes."""
    rows, size = messages.shape
    body = 6 + width + size if size > 63 else 5 + width + size
    ahead = varint(2 * body) + b"\0\0"
    middle = b"\x01" + varint(2 * size)  # no key; then the value's length
    out = np.zeros((rows, len(ahead) + width + len(middle) + size + 1), np.uint8)
    out[:, : len(ahead)] = np.frombuffer(ahead, np.uint8)
    at = len(ahead)
    out[:, at : at + width] = _varints(2 * np.arange(first, first + rows), width)
    out[:, at + width : at + width + len(middle)] = np.frombuffer(middle, np.uint8)
    out[:, at + width + len(middle) : -1] = messages
    return out


def record_batch(messages: Bytes, timestamp_ms: int | None = None) -> bytes:
    """Frame (records, size) messages as one uncompressed record batch of Kafka's format 2."""
    rows = len(messages)
    stamp = now_ms() if timestamp_ms is None else timestamp_ms
    parts = [_segment(messages[:NARROW], 0, 1)]
    if rows > NARROW:
        parts.append(_segment(messages[NARROW:], NARROW, 2))
    records = b"".join(part.tobytes() for part in parts)
    tail = HEADER.pack(0, HEADER.size - 12 + len(records), -1, 2, 0, 0, rows - 1, stamp, stamp, -1, -1, -1, rows)
    covered = tail[CRC_FROM:] + records
    return tail[: CRC_FROM - 4] + struct.pack(">I", calc_crc32c(covered)) + covered


def now_ms() -> int:
    """Return the wall clock in milliseconds, as Kafka stamps records."""
    return int(time.time() * 1000)
