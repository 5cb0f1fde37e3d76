"""Fetched batches: what the batch transport delivers in place of single records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Protocol

import faust
import numpy as np
from faust.types import TP
from numpy.typing import NDArray

from flowstream.decode import Payloads


class Epochs(Protocol):
    """Who knows whether a partition's reading position was moved: the consumer."""

    def epoch(self, tp: TP) -> int:
        """Return a number that changes whenever it was."""
        ...


class Committed(NamedTuple):
    """A committed position and the state that was committed with it ("" where none was)."""

    offset: int
    state: str


class FetchedBatch:
    """Consecutive records of one partition, as fetched."""

    __slots__ = ("_consumer", "acked", "epoch", "first_offset", "next_offset", "records", "state", "tp")

    def __init__(self, tp: TP, records: list[Any], epoch: int, consumer: Epochs) -> None:
        self.tp = tp
        self.records = records
        self.epoch = epoch
        self.acked = False
        self.state = ""
        self.first_offset: int = records[0].offset
        self.next_offset: int = records[-1].offset + 1
        self._consumer = consumer

    def __len__(self) -> int:
        return len(self.records)

    def release(self) -> None:
        """Drop the records: what is left is enough to ack the batch later."""
        self.records = []

    @property
    def void(self) -> bool:
        """Whether the partition was moved or lost since this was fetched."""
        return self._consumer.epoch(self.tp) != self.epoch

    def payloads(self) -> Payloads:
        """Return the records' values."""
        return Payloads.from_values([r.value for r in self.records])

    def offsets(self) -> NDArray[np.int64]:
        """Return the records' offsets."""
        return np.fromiter((r.offset for r in self.records), np.int64, len(self.records))

    def timestamps_ns(self) -> NDArray[np.int64]:
        """Return the records' timestamps: the log's clock."""
        return np.fromiter((r.timestamp for r in self.records), np.int64, len(self.records)) * 1_000_000


class BatchSchema(faust.Schema):  # type: ignore[type-arg]
    """Hand a fetched batch through Faust as it is."""

    async def decode(self, app: Any, message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG002
        """Make the event; there is nothing to decode yet."""
        return app.create_event(None, message.value, {}, message)

    def compile(self, app: Any, **_options: Any) -> Any:
        """Return the function Faust calls for each message."""

        async def decode(message: Any, **_: Any) -> Any:
            return app.create_event(None, message.value, {}, message)

        return decode


async def fetched_batches(stream: Any) -> AsyncIterator[FetchedBatch]:
    """Yield the batches of an agent's stream, but for the void ones; each has to be acked by its reader."""
    async for event in stream.noack().events():
        batch: FetchedBatch = event.value
        if not batch.void:
            yield batch
