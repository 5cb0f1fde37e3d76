"""The Faust table of what the stage of merges has said last: of talkers, of link use, and of its percentiles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flowstream import schemas
from flowstream.operators import Result, Said
from flowstream.results import schema_name
from flowstream.settings import Settings
from flowstream.topics import BLOCK_BYTES_MAX

NAME = "newest"
STREAMS = frozenset({"talkers", "link-use", "link-use-percentiles"})
#: Said when an hour is over, which is the time to forget.
PERCENTILES = "link-use-percentiles"
#: Of event time. An exporter that is alive has a record of the day before, up to a day after that one has ended.
LINKS_KEPT_NS = 48 * 3600 * 10**9
#: The load of every interface is written every ten seconds: segments of a gigabyte, which is Kafka's default, are
#: compacted too late for a worker that has to read them when it starts.
CHANGELOG_CONFIG = {"max.message.bytes": str(BLOCK_BYTES_MAX), "segment.bytes": str(2 * BLOCK_BYTES_MAX)}

_TIME_BYTES = 8


class NewestTable:
    """Keeps the newest record of everything that is said again and again: of each key without its window's start."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self.table = app.Table(
            NAME, partitions=settings.topics.partitions, key_type=bytes, value_type=bytes,
            extra_topic_configs=CHANGELOG_CONFIG,
        )  # fmt: skip
        # A table takes its serializers from its types alone, and for bytes that would be JSON.
        self.table.key_serializer = self.table.value_serializer = "raw"
        self._app = app

    async def keep_results(self, partition: int, said: Iterable[Said]) -> None:
        """Put the newest records into the table: while the partition's event is being processed.

        Returns when the brokers have them: what progress says is done will not be said again.
        """
        newest = {_key(partition, r): r for r in said if isinstance(r, Result) and r.stream in STREAMS}
        for key, result in newest.items():
            value = schemas.single_object_encode(schema_name(result.stream), result.value)
            self.table[key] = result.time_ns.to_bytes(_TIME_BYTES, "big") + value
        over_ns = max((r.time_ns for r in newest.values() if r.stream == PERCENTILES), default=None)
        if over_ns is not None:
            self._forget_links(partition, max(0, over_ns - LINKS_KEPT_NS))
        if newest:
            await self._app.producer.flush()

    def record(self, partition: int, stream: str, place: str) -> dict[str, Any] | None:
        """Return the newest record of a place, which is a key without its window's start; None where there is none."""
        raw = self.table.get(_prefix(partition, stream) + place.encode())
        return None if raw is None else decoded(raw)

    def values(self, partition: int, stream: str) -> list[bytes]:
        """Return the newest records of a stream, each for ``decoded``."""
        prefix = _prefix(partition, stream)
        return [value for key, value in self.table.items() if key.startswith(prefix)]

    def _forget_links(self, partition: int, before_ns: int) -> None:
        """Drop what ended before a time: of exporters that are gone, or else they would add up."""
        links = tuple(_prefix(partition, stream) for stream in STREAMS if stream.startswith("link-use"))
        least = before_ns.to_bytes(_TIME_BYTES, "big")
        for key in [key for key, value in self.table.items() if key.startswith(links) and value[:_TIME_BYTES] < least]:
            del self.table[key]


def end_ns(value: bytes) -> int:
    """Return the event time at which the window of a value in the table ends."""
    return int.from_bytes(value[:_TIME_BYTES], "big")


def decoded(value: bytes) -> dict[str, Any]:
    """Return the record in a value of the table."""
    return schemas.single_object_decode(value[_TIME_BYTES:])[1]


def _prefix(partition: int, stream: str) -> bytes:
    return f"{partition:05d}|{stream}|".encode()


def _key(partition: int, result: Result) -> bytes:
    return _prefix(partition, result.stream) + result.key.partition("|")[2].encode()
