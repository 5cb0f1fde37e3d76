"""The Faust table of sources: it stores state and nothing more. Windows, expiry and time are ours.

A key is written to the changelog partition of the flows partition that is being processed, so that a table
moves with its partition. Values are bytes: one message per window and partition, however many sources.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flowstream import schemas
from flowstream.metrics import Metrics
from flowstream.operators import Result, Said
from flowstream.settings import Settings
from flowstream.sources import SourceBlock
from flowstream.topics import BLOCK_BYTES_MAX

_STREAM = "sources"


class Tables:
    """The table of sources."""

    def __init__(self, app: Any, settings: Settings, metrics: Metrics) -> None:
        self._kept = settings.sources.windows_kept
        self._metrics = metrics
        self._app = app

        self._sources = app.Table(
            _STREAM, partitions=settings.topics.partitions, key_type=bytes, value_type=bytes,
            extra_topic_configs={"max.message.bytes": BLOCK_BYTES_MAX},
        )  # fmt: skip
        # A table takes its serializers from its types alone, and for bytes that would be JSON.
        self._sources.key_serializer = self._sources.value_serializer = "raw"

    async def keep_results(self, partition: int, said: Iterable[Said]) -> None:
        """Put the windows of sources into their table and drop the oldest beyond ``windows_kept``.

        Must be called while the partition's event is being processed. Returns when the brokers have them: what
        progress says is done will not be said again.
        """
        fresh = [r for r in said if isinstance(r, Result) and r.stream == _STREAM]
        if not fresh:
            return
        for result in fresh:
            key = _key(partition, result.value["window_start_ns"])
            self._sources[key] = schemas.single_object_encode(_STREAM, result.value)
        mine = sorted(k for k in self._sources if k.startswith(_prefix(partition)))
        for key in mine[: -self._kept]:
            del self._sources[key]
        await self._app.producer.flush()
        self._metrics.table_entries.labels("sources").set(len(self._sources))

    def windows(self, partition: int | None = None) -> list[tuple[int, int]]:
        """Return (window start, partition) of every stored window, newest first."""
        found = [_read_key(k) for k in self._sources]
        return sorted(((start, p) for p, start in found if partition in (None, p)), reverse=True)

    def sources(self, partition: int, window_start_ns: int) -> SourceBlock | None:
        """Return a partition's sources of a window."""
        raw = self._sources.get(_key(partition, window_start_ns))
        return None if raw is None else SourceBlock.from_value(schemas.single_object_decode(raw)[1])

    @property
    def sources_table(self) -> Any:
        """The Faust table, for finding which worker holds a partition."""
        return self._sources


def _prefix(partition: int) -> bytes:
    return f"{partition:05d}|".encode()


def _key(partition: int, window_start_ns: int) -> bytes:
    return _prefix(partition) + f"{window_start_ns:020d}".encode()


def _read_key(key: bytes) -> tuple[int, int]:
    partition, _, start = key.partition(b"|")
    return int(partition), int(start)
