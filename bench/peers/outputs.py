"""The results a peer published, read by a plain client once they stop coming, and put in the oracle's form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from bench.peers.jobs import JOBS, MS, PARTITIONS
from bench.peers.oracle import PAIR_BITS, Expected, Verdict, address, judge
from bench.report import BenchError
from flowstream import schemas
from flowstream.source_blocks import SourceBlock

#: From (expected, key, value) of a message to its results: pairs of key and figures.
Decode = Callable[[Expected, bytes, bytes], Iterator[tuple[int, tuple[float, ...]]]]
EMPTY_MAX = 6  # answers without a message before a topic counts as read to its end
_json = msgspec.json.Decoder()


def plain(expected: Expected, _key: bytes, value: bytes) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Read what peers publish: a JSON object per result."""
    said = _json.decode(value)
    first, second = said.get("first", 0), said.get("second", 0)
    key = expected.key(address(said["src_addr"]), said["window_start_ms"], first, second)
    if key is not None:
        fits = 0 <= first <= second < 1 << PAIR_BITS
        yield key if fits else -1, tuple(said[name] for name in JOBS[expected.job].figures)


def faust_table(expected: Expected, key: bytes, value: bytes) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Read the changelog of a windowed table of [bytes, packets, flows] by source."""
    source, (start_s, _end_s) = json.loads(key)
    found = expected.key(address(source), round(start_s * 1000))
    if found is not None and value:
        yield found, tuple(_json.decode(value))


def flowstream_sources(expected: Expected, _key: bytes, value: bytes) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Read flowstream's table of sources: a block of columns per window and partition."""
    block = SourceBlock.from_value(schemas.single_object_decode(value)[1])
    packed = block.addresses.astype(">u8").tobytes()
    figures = [block.columns[name].tolist() for name in JOBS["a"].figures]
    for at, row in enumerate(zip(*figures, strict=True)):
        key = expected.key(packed[16 * at : 16 * at + 16], block.window_start_ns // MS)
        if key is not None:
            yield key, row


def flowstream_pairs(expected: Expected, key: bytes, value: bytes) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Read flowstream's pairs, which name flows by topic, partition and offset."""
    start_ns, source, _rest = key.decode().split("|", 2)
    said = _json.decode(value)
    places = [expected.flow_place.get(_origin(said[name])) for name in ("eventid_1", "eventid_2")]
    if places[0] is None or places[1] is None:
        return  # of the warm-up, or of what closes windows
    (number, window_ms, first), (_number, _window, second) = places
    belongs = expected.source_number.get(address(source)) == number and int(start_ns) // MS == window_ms
    fits = belongs and places[0][:2] == places[1][:2] and first < second
    yield expected.key_of(number, window_ms, first, second) if fits else -1, (said["distance"],)


def _origin(name: str) -> tuple[int, int]:
    _topic, partition, offset = name.rsplit("-", 2)
    return int(partition), int(offset)


def flowstream_distances(expected: Expected, _key: bytes, value: bytes) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Read flowstream's summaries of distances."""
    said = schemas.single_object_decode(value)[1]
    key = expected.key(address(said["src_addr"]), said["window_start_ns"] // MS)
    if key is not None:
        yield key, tuple(said[name] for name in JOBS["c"].figures)


class Output:
    """The topic of a peer's results."""

    def __init__(self, bootstrap: str, topic: str, decode: Decode) -> None:
        self._topic, self._decode = topic, decode
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False,
             "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
        )  # fmt: skip
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
        self._ends = [0] * PARTITIONS
        self._next = [0] * PARTITIONS
        self._messages: list[tuple[bytes, bytes]] = []
        self._keys: list[int] = []
        self._figures: list[tuple[float, ...]] = []

    def size(self) -> int:
        """Return how many messages the topic has taken so far."""
        asked = {TopicPartition(self._topic, p): OffsetSpec.latest() for p in range(PARTITIONS)}
        for tp, future in self._admin.list_offsets(asked, request_timeout=10).items():
            # A topic just created may have no leader yet, and a busy broker no time: the next look will tell.
            with suppress(KafkaException):
                self._ends[tp.partition] = future.result(15).offset
        return sum(self._ends)

    def forget(self) -> None:
        """Leave out of later verdicts what was read so far."""
        self._keys.clear()
        self._figures.clear()

    def verdict(self, expected: Expected) -> Verdict:
        """Read what is new, and compare all since ``forget``."""
        self._fetch()
        for key, value in self._messages:
            for found, figures in self._decode(expected, key, value):
                self._keys.append(found)
                self._figures.append(figures)
        self._messages.clear()
        columns = len(JOBS[expected.job].figures)
        keys, figures = np.array(self._keys, np.int64), np.array(self._figures, np.float64).reshape(-1, columns)
        if self._decode is faust_table:
            # One worker holds all partitions in one table, but logs a source's sums to the partition of the
            # record at hand. Sums only grow, so the one with most flows is the last.
            order = np.argsort(figures[:, 2], kind="stable")
            keys, figures = keys[order], figures[order]
        return judge(expected, keys, figures)

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _fetch(self) -> None:
        ends, empty = list(self._ends), 0
        while any(at < end for at, end in zip(self._next, ends, strict=True)) and empty < EMPTY_MAX:
            batch = self._consumer.consume(20_000, 0.5)
            empty = 0 if batch else empty + 1  # the broker is slow, or the topic ends in the marker of a transaction
            for message in batch:
                if message.error() is not None:
                    raise BenchError(f"{self._topic}: {message.error()}")
                self._messages.append((message.key() or b"", message.value() or b""))
                self._next[message.partition()] = message.offset() + 1
