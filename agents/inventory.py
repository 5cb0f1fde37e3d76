"""The compacted topics of the inventory, read whole before the first pane is analysed and followed from then on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.client import client_options
from flowstream import schemas
from flowstream.errors import SchemaError, SettingsError
from flowstream.links import LinkTable
from flowstream.settings import Settings
from flowstream.topics import name
from flowstream.topology import Topology

log = logging.getLogger(__name__)
RETRY_S = 5.0
Table = TypeVar("Table")


class _Follower(Generic[Table]):
    """Keeps a table equal to a compacted topic of its rows; ``build`` raises SettingsError for rows that make none."""

    def __init__(self, settings: Settings, stream: str, build: Callable[[Iterable[Mapping[str, Any]]], Table]) -> None:
        self._settings = settings
        self._stream = stream
        self._build = build
        self._rows: dict[bytes, dict[str, Any]] = {}
        self._consumer: Any = None
        self._task: asyncio.Task[None] | None = None
        self.table = build([])

    async def start(self) -> None:
        """Read the topic up to its present end, then go on in the background."""
        topic = name(self._settings, self._stream)
        self._consumer = AIOKafkaConsumer(**client_options(self._settings.kafka), enable_auto_commit=False)
        await self._consumer.start()
        partitions = [TopicPartition(topic, p) for p in sorted(self._consumer.partitions_for_topic(topic) or {0})]
        # Asked for first: once they are assigned, the answer comes behind that to a fetch, which waits for records.
        ends = await self._consumer.end_offsets(partitions)
        self._consumer.assign(partitions)
        await self._consumer.seek_to_beginning(*partitions)
        while any([await self._consumer.position(tp) < end for tp, end in ends.items()]):
            self.take(await self._consumer.getmany(timeout_ms=500))
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._consumer is not None:
            await self._consumer.stop()

    async def _follow(self) -> None:
        while True:
            try:
                self.take(await self._consumer.getmany(timeout_ms=1000))
            except KafkaError:
                log.exception("the %s topic cannot be read; going on with what there is", self._stream)
                await asyncio.sleep(RETRY_S)

    def take(self, fetched: Mapping[Any, list[Any]]) -> None:
        """Take in fetched records; what is no row, or makes no table with the others, is logged and left out."""
        changed = False
        for record in (r for records in fetched.values() for r in records):
            changed = True
            if record.value is None:
                self._rows.pop(record.key, None)
                continue
            row = self._row(record.value)
            if row is None:
                log.warning("%s offset %d is no row of %s: ignored", record.topic, record.offset, self._stream)
            else:
                self._rows[record.key] = row
        if changed:
            try:
                self.table = self._build([self._rows[k] for k in sorted(self._rows)])
            except SettingsError as error:  # two keys for one row: the producer's, to be mended there
                log.warning("the %s topic contradicts itself (%s); going on with what there was", self._stream, error)

    def _row(self, value: bytes) -> dict[str, Any] | None:
        """Return a row; None for anything that the table would refuse."""
        try:
            stream, row = schemas.single_object_decode(value)
            self._build([row])
        except (SchemaError, SettingsError, KeyError):
            return None
        return row if stream == self._stream else None


class InventoryFollower:
    """Keeps both tables equal to their topics. Each is replaced whole, never changed."""

    def __init__(self, settings: Settings) -> None:
        self._links = _Follower(settings, "links", LinkTable.from_rows)
        self._topology = _Follower(settings, "topology", Topology.from_rows)

    @property
    def links(self) -> LinkTable:
        """The links of now."""
        return self._links.table

    @property
    def topology(self) -> Topology:
        """The cables of now."""
        return self._topology.table

    async def start(self) -> None:
        """Read both topics up to their present ends, then go on in the background."""
        await self._links.start()
        await self._topology.start()

    async def stop(self) -> None:
        """Stop following."""
        await self._links.stop()
        await self._topology.stop()
