"""What the agents share: the parts that ``create_app`` puts together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from faust.types import TP

from agents.publisher import Outgoing, Publisher
from agents.transport import BatchConsumer
from flowstream import __version__
from flowstream.errors import Reason
from flowstream.metrics import Metrics
from flowstream.record_batches import RefusedBatch
from flowstream.results import ResultEncoder
from flowstream.settings import Settings
from flowstream.topics import name

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Context:
    """Settings, metrics, the way out, and the Faust app."""

    settings: Settings
    metrics: Metrics
    publisher: Publisher
    encoder: ResultEncoder
    app: Any
    payload_bytes_max: int = 64 << 10  # of a dead letter: the rest can be read at its offset

    @property
    def consumer(self) -> BatchConsumer:
        """The running consumer."""
        consumer: BatchConsumer = self.app.consumer
        return consumer

    async def source_topics(self) -> tuple[tuple[str, int], ...]:
        """Return the input topics with their numbers of partitions, in the order of the settings."""
        return tuple([(i.topic, await self.consumer.partition_count(i.topic)) for i in self.settings.inputs])

    async def or_crash(self, work: Awaitable[None]) -> None:
        """Do a batch's work; what it raises ends the worker.

        Faust would restart the agent and go on with the next batch: the one in hand would be missing from
        every later result until a restart. A worker that ends is started again where it had committed.
        """
        try:
            await work
        except Exception as error:
            log.critical("a batch could not be processed; the worker ends", exc_info=error)
            await self.app.crash(error)
            await asyncio.Event().wait()  # until the agent is cancelled: no other batch may overtake this one

    def dead_letter(self, tp: TP, offset: int, wire_format: str, reason: Reason, payload: bytes) -> Outgoing:
        """Make the record of a message that could not be used, keyed by where it is."""
        value = self.encoder.encode_value("dead-letters", {
            "topic": tp.topic, "partition": tp.partition, "offset": offset, "format": wire_format,
            "reason": reason.label, "payload": payload[: self.payload_bytes_max], "payload_bytes": len(payload),
        })  # fmt: skip
        key = f"{tp.topic}-{tp.partition}-{offset}".encode()
        destination = tp.partition % self.settings.topics.partitions
        return Outgoing(name(self.settings, "dead-letters"), destination, key, value)

    def refused_batch(self, tp: TP, refused: RefusedBatch) -> Outgoing:
        """Make the dead letter of a whole record batch: the bytes as fetched, its offsets in the ``source`` header."""
        (wire, first, after), reason, detail = refused
        log.warning("%s offsets %d to %d: %s", tp, first, after - 1, detail)
        letter = self.dead_letter(tp, first, "record-batch", reason, wire.tobytes())
        return letter._replace(headers=self.lineage(tp.topic, tp.partition, first, after - 1))

    def lineage(self, topic: str, partition: int, first: int, last: int) -> list[tuple[str, bytes]]:
        """Return the headers that say where a record came from and what made it."""
        return [
            ("source", f"{topic}-{partition}:{first}-{last}".encode()),
            ("settings", self.settings.digest().encode()),
            ("flowstream", __version__.encode()),
        ]
