"""The links topic, read whole before the first pane is analysed and followed from then on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.client import client_options
from flowstream import schemas
from flowstream.errors import SchemaError, SettingsError
from flowstream.links import LinkTable
from flowstream.settings import Settings
from flowstream.topics import name

log = logging.getLogger(__name__)
RETRY_S = 5.0


class LinkFollower:
    """Keeps a ``LinkTable`` equal to the compacted links topic."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rows: dict[bytes, dict[str, Any]] = {}
        self._consumer: Any = None
        self._task: asyncio.Task[None] | None = None
        self.table = LinkTable.from_rows([])

    async def start(self) -> None:
        """Read the topic up to its present end, then go on in the background."""
        topic = name(self._settings, "links")
        self._consumer = AIOKafkaConsumer(**client_options(self._settings.kafka), enable_auto_commit=False)
        await self._consumer.start()
        partitions = [TopicPartition(topic, p) for p in sorted(self._consumer.partitions_for_topic(topic) or {0})]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_beginning(*partitions)
        ends = await self._consumer.end_offsets(partitions)
        while any([await self._consumer.position(tp) < end for tp, end in ends.items()]):
            self._take(await self._consumer.getmany(timeout_ms=500))
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
                self._take(await self._consumer.getmany(timeout_ms=1000))
            except KafkaError:
                log.exception("the links topic cannot be read; going on with the links there are")
                await asyncio.sleep(RETRY_S)

    def _take(self, fetched: dict[Any, list[Any]]) -> None:
        changed = False
        for record in (r for records in fetched.values() for r in records):
            changed = True
            if record.value is None:
                self._rows.pop(record.key, None)
                continue
            row = _link(record.value)
            if row is None:
                log.warning("%s offset %d is not a link: ignored", record.topic, record.offset)
            else:
                self._rows[record.key] = row
        if changed:
            try:
                self.table = LinkTable.from_rows([self._rows[k] for k in sorted(self._rows)])
            except SettingsError as error:  # two keys for one link: the producer's, to be mended there
                log.warning("the links topic contradicts itself (%s); going on with the links there were", error)


def _link(value: bytes) -> dict[str, Any] | None:
    """Return a link's row; None for anything a ``LinkTable`` would refuse."""
    try:
        stream, row = schemas.single_object_decode(value)
        LinkTable.from_rows([row])
    except (SchemaError, SettingsError, KeyError):
        return None
    return row if stream == "links" else None
