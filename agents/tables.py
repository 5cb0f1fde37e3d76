"""The Faust table of sources: it stores state and nothing more. Windows, expiry and time are ours.

A key is written to the changelog partition of the flows partition that is being processed, so that a table
moves with its partition. Values are bytes: a block of sources, of which a window and partition mostly has one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from flowstream import schemas
from flowstream.metrics import Metrics
from flowstream.operators import Result, Said
from flowstream.settings import Settings
from flowstream.source_blocks import SourceBlock
from flowstream.topics import BLOCK_BYTES_MAX

_STREAM = "sources"


class Tables:
    """The table of sources."""

    def __init__(self, app: Any, settings: Settings, metrics: Metrics) -> None:
        self._kept = settings.sources.windows_kept
        self._bytes_max = settings.sources.kept_bytes_max
        self._metrics = metrics
        self._app = app

        self._sources = app.Table(
            _STREAM, partitions=settings.topics.partitions, key_type=bytes, value_type=bytes,
            extra_topic_configs={"max.message.bytes": BLOCK_BYTES_MAX},
        )  # fmt: skip
        # A table takes its serializers from its types alone, and for bytes that would be JSON.
        self._sources.key_serializer = self._sources.value_serializer = "raw"

    async def keep_results(self, partition: int, said: Iterable[Said]) -> None:
        """Put the windows of sources into their table and drop the oldest beyond what is kept.

        Must be called while the partition's event is being processed. Returns when the brokers have them: what
        progress says is done will not be said again.
        """
        fresh = [r for r in said if isinstance(r, Result) and r.stream == _STREAM]
        if not fresh:
            return
        for result in fresh:
            _, _, part = result.key.partition("|")
            key = _key(partition, result.value["window_start_ns"], int(part or 0))
            self._sources[key] = schemas.single_object_encode(_STREAM, result.value)
        self._drop_oldest(partition)
        await self._app.producer.flush()

    def count_entries(self, held: Collection[int]) -> None:
        """Set the metric of the table's size; what is kept of partitions that moved away does not count."""
        sources = sum(read_window_key(key)[0] in held for key in self._sources)
        self._metrics.table_entries.labels("sources").set(sources)

    def _drop_oldest(self, partition: int) -> None:
        """Keep the newest windows of a partition: so many at most, and so many bytes, but one in any case."""
        kept_bytes = 0
        for at, (_, keys) in enumerate(self._windows(partition)):
            kept_bytes += sum(len(self._sources[key]) for key in keys)
            if at and (at >= self._kept or kept_bytes > self._bytes_max):
                for key in keys:
                    del self._sources[key]

    def _windows(self, partition: int) -> list[tuple[int, list[bytes]]]:
        """Return the starts of a partition's windows, newest first, with the keys of their parts in order."""
        keys: dict[int, list[bytes]] = {}
        for key in sorted(k for k in self._sources if k.startswith(_prefix(partition))):
            keys.setdefault(read_window_key(key)[1], []).append(key)
        return sorted(keys.items(), reverse=True)

    def windows(self, partition: int | None = None) -> list[tuple[int, int]]:
        """Return (window start, partition) of every stored window, newest first."""
        found = {read_window_key(k) for k in self._sources}
        return sorted(((start, p) for p, start in found if partition in (None, p)), reverse=True)

    def sources(self, partition: int, window_start_ns: int) -> SourceBlock | None:
        """Return a partition's sources of a window."""
        raw = [
            self._sources[key] for start, keys in self._windows(partition) if start == window_start_ns for key in keys
        ]
        parts = [SourceBlock.from_value(schemas.single_object_decode(part)[1]) for part in raw]
        return (parts[0] if len(parts) == 1 else SourceBlock.merged(parts)) if parts else None

    @property
    def sources_table(self) -> Any:
        """The Faust table, for finding which worker holds a partition."""
        return self._sources


def _prefix(partition: int) -> bytes:
    return f"{partition:05d}|".encode()


def _key(partition: int, window_start_ns: int, part: int) -> bytes:
    start = _prefix(partition) + f"{window_start_ns:020d}".encode()
    return start + f"|{part:05d}".encode() if part else start


def read_window_key(key: bytes) -> tuple[int, int]:
    """Return the flows partition and the window start (ns) of a key in the table of sources, of whichever part."""
    partition, start, *_ = key.split(b"|")
    return int(partition), int(start)
