"""The batch transport: one Faust event per fetched batch of a partition, and commit positions that are exact.

Faust's consumer makes an event, and about ten callbacks, of every record. Here the topics named in
``app.batched_topics`` are delivered as they were fetched: one event whose value is a ``FetchedBatch``. Faust's
own topics (changelogs) go the usual way.

Rule 1: batches are noted in fetch order. What may be committed is the end of the unbroken run of acked
        batches, whatever later ones are acked: nothing in flight is ever skipped.
Rule 2: a commit carries a string beside the offset, the state that belongs to it. Offset and state move
        together in one write that the group coordinator fences; an offset reset by any tool drops the state.
Rule 3: a partition's epoch changes whenever its reading position was moved. Batches of an older epoch are
        void: their acks are ignored, and their readers must drop them.
Rule 4: a batch names the end of the one before. A reader that finds one missing has the partition read again.

This file, ``agents/client_thread.py`` and ``agents/fetcher.py`` are the only ones that reach below the documented
surface of Faust's and aiokafka's consumers (both pinned).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from aiokafka.errors import IllegalStateError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from agents.batches import Committed, FetchedBatch
from agents.client_thread import BatchConsumerThread


class BatchConsumer(driver.Consumer):
    """Faust's consumer, with batches for ``app.batched_topics``."""

    app: Any
    _thread: BatchConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.committed: dict[TP, Committed] = {}
        self.delivered: dict[TP, int] = {}  # the end of the last batch that was fetched
        self._noted: dict[TP, deque[FetchedBatch | _Revision]] = {}
        self._epochs: dict[TP, int] = {}
        super().__init__(*args, **kwargs)
        self._read_offset = _ReadOffsets(self.is_batched)

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def partition_count(self, topic: str) -> int:
        """Return how many partitions a topic has, by the cluster's metadata."""
        return await self._thread.partition_count(topic)

    async def is_member(self) -> bool:
        """Ask the group whether this worker still belongs to it."""
        return await self._thread.is_member()

    def is_batched(self, topic: str) -> bool:
        """Whether a topic is delivered in batches."""
        return topic in self.app.batched_topics

    def epoch(self, tp: TP) -> int:
        """Return a number that changes whenever the partition's reading position was moved."""
        return self._epochs.get(tp, 0)

    def move(self, tps: Iterable[TP]) -> None:
        """Say that reading positions were moved; called from the client thread, together with the moving."""
        for tp in tps:
            self._epochs[tp] = self.epoch(tp) + 1
            self.delivered.pop(tp, None)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        if not isinstance(record, FetchedBatch):
            return super()._to_message(tp, record)
        if not record.void:
            self._noted.setdefault(tp, deque()).append(record)
        # The message stands at its last offset: Faust drops messages below the offset it has read.
        message = ConsumerMessage(
            tp.topic, tp.partition, record.next_offset - 1, 0.0, 0, [], None, None, None, 0, 0, tp,
            generation_id=self.app.consumer_generation_id,
        )  # fmt: skip
        message.value = record  # type: ignore[assignment]
        return message

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if not self.is_batched(tp.topic):
            await super()._add_gap(tp, offset_from, offset_to)

    def ack_batch(self, batch: FetchedBatch, state: str = "") -> None:
        """Mark a batch as done; ``state`` is what to commit with its end."""
        batch.state = state
        batch.acked = True

    def revise_state(self, tp: TP, state: str) -> None:
        """Change the state to commit with the last acked position, which may be committed already."""
        noted = self._noted.setdefault(tp, deque())
        if noted and noted[-1].acked:
            noted[-1].state = state
        elif not noted and tp in self.committed:
            noted.append(_Revision(self.committed[tp].offset, state, self.epoch(tp)))

    def _committable(self) -> dict[TP, tuple[Committed, int]]:
        """Take the acked run off the head of each partition's notes: positions with their epochs."""
        ready: dict[TP, tuple[Committed, int]] = {}
        for tp, noted in self._noted.items():
            while noted and (noted[0].acked or noted[0].epoch != self.epoch(tp)):
                batch = noted.popleft()
                if batch.epoch == self.epoch(tp):
                    ready[tp] = Committed(batch.next_offset, batch.state), batch.epoch
        return ready

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002
        """Commit batched topics by their acked runs, then the others as Faust does."""
        taken = self._committable()
        done = False
        if taken:
            # Whatever was sent because of these batches goes first: state before position.
            await self.app.producer.flush()
            # What is read again after a rewind was committed before: whoever watches the group would see it go back.
            ready = {
                tp: position
                for tp, (position, epoch) in taken.items()
                if epoch == self.epoch(tp) and position.offset >= self.committed.get(tp, _START).offset
            }
            done = await self._thread.commit_with_state(ready)
            if done:
                self.committed.update(ready)
                self._committed_offset.update({tp: c.offset for tp, c in ready.items()})
                self.app.monitor.on_tp_commit({tp: c.offset for tp, c in ready.items()})
        return bool(await super().force_commit(topics, start_new_transaction)) or done

    def on_buffer_drop(self, tp: TP) -> None:
        """Read on where a stream has room again; Faust alone would notice a second later if nothing else came."""
        was_full = tp in self._buffered_partitions
        super().on_buffer_drop(tp)
        if was_full:
            self._thread.wake()

    def lag(self, tp: TP, next_offset: int | None) -> int | None:
        """Return how many offsets lie between where a reader stands and what can be read; None: not known yet.

        Offsets that are not records (the ends of transactions) do not count once the fetch has passed them.
        """
        remaining = self._thread.remaining(tp)
        if remaining is None or (next_offset is None and tp in self.delivered):
            return None
        return remaining + max(0, self.delivered.get(tp, 0) - (next_offset or 0))

    def answered(self, tp: TP) -> int | None:
        """Return a mark that changes with every fetch that a broker answers for a partition, None before the first."""
        return self._thread.answered(tp)

    async def log_start(self, tp: TP) -> int:
        """Return the offset of the oldest record there is."""
        starts = await self.earliest_offsets(tp)
        return min(starts.values())

    async def rewind(self, tp: TP, offset: int) -> None:
        """Read a partition again from an offset below the committed one."""
        await self._thread.rewind(tp, offset)

    async def reread(self, tp: TP) -> None:
        """Read a partition again from where it is committed: a batch of it was dropped on the way to its reader."""
        found = self.committed.get(tp)
        offset = await self.log_start(tp) if found is None else found.offset
        self.log.warning("%s: a batch was dropped on its way; reading again from %d", tp, offset)
        with suppress(IllegalStateError):  # it was lost meanwhile: its next owner reads it
            await self.rewind(tp, offset)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget what was noted of lost partitions."""
        self.move(revoked)
        await super().on_partitions_revoked(revoked)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Skip Faust's livelock warnings for batched topics: they count single events."""
        if not self.is_batched(tp.topic):
            super().verify_event_path(now, tp)


_START = Committed(0, "")


class _Revision:
    """Stands in the notes where only the state of a committed position changed."""

    acked = True

    def __init__(self, next_offset: int, state: str, epoch: int) -> None:
        self.next_offset = next_offset
        self.state = state
        self.epoch = epoch


class _ReadOffsets(defaultdict[TP, int | None]):
    """What Faust drops messages below: nothing for batched topics, where a rewind may bring lower ones."""

    def __init__(self, is_batched: Callable[[str], bool]) -> None:
        super().__init__(lambda: None)
        self._is_batched = is_batched

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        super().__setitem__(tp, None if self._is_batched(tp.topic) else offset)

    def update(self, other: Mapping[TP, int | None]) -> None:  # type: ignore[override]
        """Set each: dict.update would go round ``__setitem__``."""
        for tp, offset in other.items():
            self[tp] = offset


class TableProducer(driver.Producer):
    """Faust's producer, which writes tables: it neither gives a record up nor sends it out of order.

    A producer that is not idempotent drops what it could not send within its timeout, and Faust only logs that.
    """

    app: Any

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    async def on_start(self) -> None:
        """Connect, and have what no broker answers counted."""
        await super().on_start()
        self.app.heard.listen(self._ensure_producer().client, "tables")

    async def send(self, *args: Any, **options: Any) -> Any:
        """Queue a record; one that cannot be sent ends the worker, where Faust would commit what rests on it."""
        sent: Any = await super().send(*args, **options)
        sent.add_done_callback(self._sent)
        return sent

    def _sent(self, sent: asyncio.Future[Any]) -> None:
        if not sent.cancelled() and (error := sent.exception()) is not None:
            self.add_future(self.app.crash(error))


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with our consumer, and its producer made patient."""

    Consumer = BatchConsumer
    Producer = TableProducer
