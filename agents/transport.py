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
Rule 5: records are taken from aiokafka only when Faust will hand them on: what is taken counts as read.

This file, ``agents/client_thread.py`` and ``agents/fetcher.py`` are the only ones that reach below the documented
surface of Faust's and aiokafka's consumers (both pinned).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from aiokafka.errors import IllegalStateError, KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from mode import Service

from agents.batches import Committed, FetchedBatch
from agents.client_thread import BatchConsumerThread
from agents.table_producer import TableProducer

#: How often it is looked for batches that nobody got, and how often in a row one has to be missing.
WATCH_S = 1.0
MISSING_ROUNDS = 3


class BatchConsumer(driver.Consumer):
    """Faust's consumer, with batches for ``app.batched_topics``."""

    app: Any
    _thread: BatchConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.committed: dict[TP, Committed] = {}
        self.fetched: dict[TP, FetchedBatch] = {}  # the last batch of each partition
        self._missing: dict[TP, tuple[FetchedBatch, int]] = {}  # nobody got it; in how many rounds it was missing
        self._open_generation: int | None = None  # of the group, in which batches may be taken
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
            self.fetched.pop(tp, None)

    def takes(self, tp: TP) -> bool:
        """Whether what was fetched of a partition may be taken now; asked in the client thread, at that moment.

        A fetch may wait through a whole rebalance. Faust drops what it brings while the flow is stopped, and clears
        its queues each time it resumes the flow. A table's changelog was sought before that, and streams as well:
        nobody would ever read those records again. So tables are taken while the flow is active, and batches once
        it was resumed for the last time.
        """
        if not self.flow_active or tp not in self._get_active_partitions():
            return False
        return self._streams_are_open() or not self.is_batched(tp.topic)

    def _streams_are_open(self) -> bool:
        return self.flow_active and self._open_generation == self.app.consumer_generation_id

    def resume_flow(self) -> None:
        """Let messages come; a fetch that waits looks again at what it may take."""
        super().resume_flow()
        self._thread.wake()

    def open_streams(self) -> None:
        """Let batches come: tables are restored, positions sought, queues cleared for the last time."""
        self._open_generation = self.app.tables.recovery._generation_id  # noqa: SLF001
        self._thread.wake()

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
        fetched = self.fetched.get(tp)
        if remaining is None or (next_offset is None and fetched is not None):
            return None
        return remaining + max(0, (fetched.next_offset if fetched is not None else 0) - (next_offset or 0))

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

    @Service.task
    async def _watch_batches(self) -> None:
        while not self.should_stop:
            await self.sleep(WATCH_S)
            try:
                await self.reread_missing()
            except KafkaError as error:
                self.log.warning("a partition could not be read again: %r; trying again", error)

    async def reread_missing(self) -> None:
        """Read partitions again whose last batch never reached its reader: no later one would tell it.

        Called every second. A batch counts as lost where it is missing for some rounds in a row, in which the stream
        of its topic holds nothing, and Faust has handed on all that was fetched before it asked for more.
        """
        asks = self._streams_are_open() and self._thread.is_fetching
        found = {
            tp: (batch, self._missing[tp][1] + 1 if tp in self._missing and self._missing[tp][0] is batch else 1)
            for tp, batch in list(self.fetched.items())
            if asks and not batch.seen and not batch.void and self._holds_nothing(tp.topic)
        }
        self._missing = found
        for tp, (_, rounds) in found.items():
            if rounds >= MISSING_ROUNDS:
                await self.reread(tp)

    def _holds_nothing(self, topic: str) -> bool:
        return all(channel.queue.empty() for channel in self.app.topics._topic_name_index[topic])  # noqa: SLF001

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


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with our consumer, and its producer made patient."""

    Consumer = BatchConsumer
    Producer = TableProducer
