"""Flow messages as goflow2 v2 sends them: protobuf behind a varint length, made a chunk at a time in numpy.

Half of the exporters are sFlow agents (one sampled packet a record), half send IPFIX (flows of up to five
seconds). With a skew of 0 every source has as many records as any other, give or take one; a few elephant
flows lie on top. The same ``Traffic`` gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

START_NS = 1_700_000_040 * 10**9  # a whole minute, so that windows begin with the records
CHUNK = 1 << 16
JITTER_NS = 200_000_000  # records come out of order by this much at most
CLOSING_NS = 62 * 10**9  # the longest window and the allowed out-of-orderness
ELEPHANTS = 16
ELEPHANT_SHARE = 0.02  # of the records
SAMPLING_RATE = 1000
LINK_BPS = 10_000_000_000
IFS = 8  # interfaces of an exporter
RECORDS_PER_DATAGRAM = 8
V6_EVERY = 8  # of the sources, one in so many has an IPv6 address
SFLOW, IPFIX = 1, 4

Column = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent. ``rate`` is records per second of event time, ``skew`` the exponent of Zipf's law (0: even).

    At least 32 sources, so that the elephants have one each, unless their share is 0; exporters are an even
    number up to 254.
    """

    records: int = 1_000_000
    sources: int = 50_000
    rate: int = 100_000
    exporters: int = 100
    skew: float = 0.0
    seed: int = 1
    start_ns: int = START_NS  # event time of the first record
    elephant_share: float = ELEPHANT_SHARE

    def chunks(self) -> Iterator[list[bytes]]:
        """Yield the messages in runs of up to ``CHUNK``, in the order they are received."""
        for number, first in enumerate(range(0, self.records, CHUNK)):
            rng = np.random.default_rng((self.seed, number))
            yield _messages(self._fields(rng, np.arange(first, min(first + CHUNK, self.records))))

    def closers(self, count: int) -> list[bytes]:
        """Return one message per raw partition so far ahead in event time that every window before it closes."""
        index = np.arange(count)
        fields = self._fields(np.random.default_rng(self.seed), index)
        at_ns = self.start_ns + self.records * 10**9 // self.rate + CLOSING_NS
        for name in ("time_received_ns", "time_flow_start_ns", "time_flow_end_ns"):
            fields[name] = (fields[name][0], np.full(count, at_ns, np.uint64))
        return _messages(fields)

    def links(self) -> list[dict[str, Any]]:
        """Return the capacities of all interfaces, as rows of the links topic."""
        return [
            {
                "exporter": f"192.0.2.{e}",
                "if_index": i,
                "name": f"e{e}i{i}",
                "speed_bps": LINK_BPS,
                "edge": True,
            }
            for e in range(1, self.exporters + 1)
            for i in range(1, IFS + 1)
        ]

    def source_of(self, rng: np.random.Generator, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each record's source."""
        if self.skew:
            weight = np.cumsum(np.arange(1, self.sources + 1, dtype=np.float64) ** -self.skew)
            drawn: NDArray[np.int64] = np.searchsorted(weight, rng.random(len(index)) * weight[-1])
            return drawn
        return np.asarray(index * self._stride % self.sources)

    @property
    def _stride(self) -> int:
        """A step without a common divisor with ``sources``: sources come in turn, neighbours far apart."""
        step = int(self.sources * 0.618) | 1
        while np.gcd(step, self.sources) != 1:
            step += 2
        return step

    def _fields(self, rng: np.random.Generator, index: NDArray[np.int64]) -> dict[str, Any]:
        """Return the fields by name: (number, column) of numbers, or of bytes with their lengths."""
        n = len(index)
        source, flow = self.source_of(rng, index), rng.integers(0, 1 << 40, n, np.uint64)
        elephant = rng.random(n) < self.elephant_share
        # Even numbers: behind sFlow exporters, whose samples make a rate of known error within a second.
        source = np.where(elephant, index % ELEPHANTS * (self.sources // ELEPHANTS) & ~1, source)
        flow = np.where(elephant, source.astype(np.uint64), flow)
        exporter = source % self.exporters
        sflow = exporter % 2 == 0
        turn = index // self.exporters  # exporters come in turn, but for those of the elephants
        packets = np.where(sflow, 1, rng.integers(1, 50, n))
        size = np.where(elephant, 1500, rng.integers(64, 1515, n))
        received = self.start_ns + index * 10**9 // self.rate + rng.integers(0, JITTER_NS, n)
        duration = np.where(sflow, 0, rng.integers(0, 5 * 10**9, n))
        v6 = source % V6_EVERY == V6_EVERY - 1
        tcp = flow % 10 < 8
        in_if = 1 + source // self.exporters % IFS

        def number(field: int, column: Any) -> tuple[int, Column]:
            return field, np.broadcast_to(np.asarray(column, np.uint64), (n,))

        return {
            "type": number(1, np.where(sflow, SFLOW, IPFIX)),
            "sampling_rate": number(3, SAMPLING_RATE),
            # An exporter numbers its own datagrams, of eight records each: sFlow by one, IPFIX by its records.
            "sequence_num": number(
                4, 500_000 + turn // RECORDS_PER_DATAGRAM * np.where(sflow, 1, RECORDS_PER_DATAGRAM)
            ),
            "src_addr": (6, *_addresses(source, v6, 0x0A)),
            "dst_addr": (7, *_addresses(flow % np.uint64(1 << 22), v6, 0x64)),
            "bytes": number(9, packets * size),
            "packets": number(10, packets),
            "sampler_address": (11, *_exporters(exporter)),
            "in_if": number(18, in_if),
            "out_if": number(19, 1 + in_if % IFS),
            "proto": number(20, np.where(tcp, 6, 17)),
            "src_port": number(21, 32_768 + flow % np.uint64(28_000)),
            "dst_port": number(22, np.array([443, 80, 53, 8443, 3306, 123, 22, 5201])[flow % np.uint64(8)]),
            "ip_ttl": number(25, 61),
            "tcp_flags": number(26, np.where(tcp, 16, 0)),
            "src_mac": number(27, 0x0200_0000_0000 + source),
            "dst_mac": number(28, 0x0200_0001_0000 + in_if),
            "etype": number(30, np.where(v6, 0x86DD, 0x0800)),
            "fragment_id": number(35, np.where(v6, 0, flow % np.uint64(65_536))),
            "ip_flags": number(38, 2),
            "layer_stack": (103, *_constant(b"\x00\x01\x03", n)),
            "layer_size": (104, *_constant(b"\x0e\x14\x14", n)),
            "time_received_ns": number(110, received),
            "time_flow_start_ns": number(111, received - duration),
            "time_flow_end_ns": number(112, received),
        }


def _constant(text: bytes, rows: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return np.tile(np.frombuffer(text, np.uint8), (rows, 1)), np.full(rows, len(text))


def _addresses(number: Any, v6: NDArray[np.bool_], first: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return (n, 16) address bytes and their lengths: 4 within ``first``.0.0.0/8, or 16 in 2001:db8::/32."""
    low = (number + 1).astype(">u4").view(np.uint8).reshape(-1, 4)
    packed = np.zeros((len(v6), 16), np.uint8)
    packed[:, :4] = low
    packed[:, 0] = first
    packed[v6, :4] = (0x20, 0x01, 0x0D, 0xB8)
    packed[v6, 4] = first
    packed[v6, 12:] = low[v6]
    return packed, np.where(v6, 16, 4)


def _exporters(number: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    packed, sizes = _constant(bytes([192, 0, 2, 0]), len(number))
    packed[:, 3] = number + 1
    return packed, sizes


def _varint(number: Column) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return each number's varint, low bits first, padded to the longest, and which bytes belong to it."""
    width = max(1, -(-int(number.max(initial=0)).bit_length() // 7))
    shifts = np.arange(width, dtype=np.uint64) * np.uint64(7)
    rest = number[:, None] >> shifts
    used = rest > 0
    used[:, 0] = True
    more = np.zeros_like(used)
    more[:, :-1] = used[:, 1:]
    return ((rest & np.uint64(0x7F)) | (more.astype(np.uint64) << np.uint64(7))).astype(np.uint8), used


def _messages(fields: dict[str, Any]) -> list[bytes]:
    """Encode rows of fields, in order of their numbers; proto3 leaves out what is zero or empty."""
    parts: list[tuple[NDArray[np.uint8], NDArray[np.bool_]]] = []
    for number, column, *sizes in sorted(fields.values(), key=lambda field: field[0]):
        rows = len(column)
        tag = _varint(np.full(rows, number << 3 | (2 if sizes else 0), np.uint64))[0]
        present = (sizes[0] > 0) if sizes else (column > 0)
        parts.append((tag, np.repeat(present[:, None], tag.shape[1], axis=1)))
        if sizes:
            parts.append((sizes[0].astype(np.uint8)[:, None], present[:, None]))
            parts.append((column, np.arange(column.shape[1]) < sizes[0][:, None]))
        else:
            encoded, used = _varint(column)
            parts.append((encoded, used & present[:, None]))
    body = np.concatenate([used for _, used in parts], axis=1).sum(axis=1)
    parts.insert(0, _varint(body.astype(np.uint64)))
    used = np.concatenate([used for _, used in parts], axis=1)
    stream = np.concatenate([encoded for encoded, _ in parts], axis=1)[used].tobytes()
    cuts = np.concatenate([[0], np.cumsum(used.sum(axis=1))]).tolist()
    return [stream[a:b] for a, b in pairwise(cuts)]
