"""Fetched batches: what the batch transport delivers in place of single records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import faust
from faust.types import TP

from agents.codecs import decompress
from flowstream.record_batches import LegacyBatch, Records, WireBatch, read_batches


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

    __slots__ = (
        "_batches", "_consumer", "acked", "after", "epoch", "first_offset", "next_offset", "seen", "state", "tp",
    )  # fmt: skip

    def __init__(
        self,
        tp: TP,
        batches: Sequence[WireBatch | LegacyBatch],
        epoch: int,
        consumer: Epochs,
        after: int | None = None,
    ) -> None:
        self.tp = tp
        self.epoch = epoch
        self.after = after  # the end of the batch fetched before it, None for the first of an epoch
        self.seen = False  # by its reader
        self.acked = False
        self.state = ""
        self.first_offset = batches[0].first_offset
        self.next_offset = batches[-1].next_offset
        self._batches = batches
        self._consumer = consumer

    @property
    def void(self) -> bool:
        """Whether the partition was moved or lost since this was fetched."""
        return self._consumer.epoch(self.tp) != self.epoch

    def take(self) -> Iterator[Records]:
        """Yield the records in columns, and drop the bytes they came in: what is left can be acked later."""
        batches, self._batches = self._batches, ()
        return read_batches(batches, decompress)


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


async def fetched_batches(stream: Any, reread: Callable[[TP], Awaitable[None]]) -> AsyncIterator[FetchedBatch]:
    """Yield the batches of an agent's stream, but for the void ones; each has to be acked by its reader.

    Faust drops messages on the way while partitions are assigned anew. Nobody downstream could tell: offsets that
    are missing in a log are nothing unusual. So a batch that does not follow the one before has its partition
    read again, by ``reread``.
    """
    reached: dict[TP, tuple[int, int]] = {}
    async for event in stream.noack().events():
        batch: FetchedBatch = event.value
        batch.seen = True
        if batch.void:
            continue
        epoch, end = reached.get(batch.tp, (None, None))
        if batch.after != (end if epoch == batch.epoch else None):
            await reread(batch.tp)
            continue
        reached[batch.tp] = batch.epoch, batch.next_offset
        yield batch
