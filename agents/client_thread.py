"""The thread in which aiokafka's consumer lives: it fetches batches, moves reading positions and commits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service

from agents import fetcher
from agents.batches import Committed, FetchedBatch

if TYPE_CHECKING:
    from agents.transport import BatchConsumer

#: How long a broker may keep a fetch that finds nothing. A fetch that asks only partitions without news holds its
#: broker's one connection for as long; idle, a worker fetches this often.
FETCH_WAIT_MS = 100
#: How often it is looked whether the client's tasks are alive.
WATCH_S = 1.0

fetcher.install()


class _Takeable:
    """The partitions of which records may be taken: stands in for a set that was made before the fetch began."""

    def __init__(self, consumer: BatchConsumer) -> None:
        self._consumer = consumer

    def __contains__(self, tp: TP) -> bool:
        return self._consumer.takes(tp)


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """The client thread: reads and writes committed state beside committed offsets."""

    consumer: BatchConsumer
    _fetching: asyncio.Future[Any] | None = None

    async def getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 - it is Faust's
        """Fetch; what a call that was cancelled is still fetching is what the next one returns.

        Faust cancels its call in a rebalance, not what the call does in this thread: for up to a second that goes on,
        and takes what was fetched after partitions were assigned and their positions sought. Nobody would ever see it.
        """
        while True:
            if self._fetching is None:
                self._fetching = asyncio.ensure_future(super().getmany(active_partitions, timeout))
            try:
                fetched = await asyncio.shield(self._fetching)
            except asyncio.CancelledError:
                if not self._fetching.cancelled():
                    raise
                # It is the fetch that was given up, in its thread: it took nothing, and nothing more will come of it.
                self._fetching = None
                this_call = asyncio.current_task()
                if this_call is not None and this_call.cancelling():
                    raise
            except Exception:
                self._fetching = None
                raise
            else:
                self._fetching = None
                return fetched

    @property
    def is_fetching(self) -> bool:
        """Whether Faust asks for records: then it has handed on what it got before."""
        return self._fetching is not None

    def _create_worker_consumer(self, transport: Any) -> Any:
        client = super()._create_worker_consumer(transport)
        client._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001
        client._value_deserializer = fetcher.ColumnTopics(self.consumer.is_batched)  # noqa: SLF001
        # Records of a transaction that was given up were never said.
        client._isolation_level = "read_committed"  # noqa: SLF001
        self.consumer.app.heard.listen(client._client, "consumer")  # noqa: SLF001
        return client

    @Service.task
    async def _watch_client(self) -> None:
        """End the worker where a task of aiokafka's consumer has ended: a consumer that stands still says nothing.

        aiokafka raises such an error from the methods by which it is asked for records, which Faust goes round. The
        coordination even waits until the error was raised to somebody, and joins no group before.
        """
        while not self.should_stop:
            await self.sleep(WATCH_S)
            if self._consumer is None or self.should_stop:
                continue
            fetching = self._consumer._fetcher  # noqa: SLF001
            if fetching is not None and fetching.error_future.done() and not fetching.error_future.cancelled():
                fetching.error_future.result()
            try:
                self._consumer._coordinator.check_errors()  # noqa: SLF001
            except KafkaError as error:
                if not error.retriable:
                    raise
                self.log.warning("the group's coordinator: %r; going on", error)

    async def _fetch_records(self, consumer: Any, active_partitions: Any, *args: Any, **options: Any) -> Any:  # noqa: ARG002
        """Fetch, and make batches here: this thread does one thing at a time, so the epoch is that of the position."""
        owner = self.consumer
        takeable: Any = _Takeable(owner)
        fetched: dict[TP, Any] = dict(await super()._fetch_records(consumer, takeable, *args, **options))
        for tp, records in fetched.items():
            if records and owner.is_batched(tp.topic):
                before = owner.fetched.get(tp)
                after = None if before is None else before.next_offset
                batch = owner.fetched[tp] = FetchedBatch(tp, records, owner.epoch(tp), owner, after)
                fetched[tp] = [batch]
        return fetched

    def remaining(self, tp: TP) -> int | None:
        """Return how many offsets of a partition are still to be fetched, None while that is not known."""
        subscription = self._ensure_consumer()._subscription.subscription  # noqa: SLF001
        assignment = None if subscription is None else subscription.assignment
        state = None if assignment is None else assignment.state_value(tp)
        if state is None or not state.has_valid_position or state.lso is None:
            return None
        return max(0, int(state.lso) - int(state.position))

    def answered(self, tp: TP) -> int | None:
        """Return a mark that changes with every fetch that a broker answers for a partition, None before the first."""
        subscription = self._ensure_consumer()._subscription.subscription  # noqa: SLF001
        assignment = None if subscription is None else subscription.assignment
        state = None if assignment is None else assignment.state_value(tp)
        return None if state is None else state.timestamp

    def wake(self) -> None:
        """Have a fetch that waits look again at what has come."""
        if self._consumer is None:
            return

        def notify() -> None:
            fetching = self._ensure_consumer()._fetcher  # noqa: SLF001
            for waiter in list(fetching._fetch_waiters):  # noqa: SLF001
                fetching._notify(waiter)  # noqa: SLF001

        self.thread_loop.call_soon_threadsafe(notify)

    async def rewind(self, tp: TP, offset: int) -> None:
        """Move a partition's reading position."""
        await self.call_thread(self._rewind, tp, offset)

    async def _rewind(self, tp: TP, offset: int) -> None:
        client, here = self._ensure_consumer(), TopicPartition(tp.topic, tp.partition)
        if here in client.assignment():  # it may have been taken away since
            client.seek(here, offset)
        self.consumer.move([tp])

    async def seek_to_committed(self) -> Any:
        """Move every assigned partition to its committed offset, or to where a new group starts."""
        return await self.call_thread(self._seek_to_committed)

    async def _seek_to_committed(self) -> dict[TP, int | None]:
        client = self._ensure_consumer()
        assigned = list(client.assignment())
        if not assigned:
            return {}
        fetched = await client._coordinator.fetch_committed_offsets(assigned)  # noqa: SLF001
        positions: dict[TP, int | None] = {}
        fresh: list[TopicPartition] = []
        for tp in assigned:
            found = fetched.get(tp)
            key = TP(tp.topic, tp.partition)
            if found is None or found.offset < 0:
                positions[key] = None
                self.consumer.committed.pop(key, None)
                if self.consumer.is_batched(tp.topic):
                    fresh.append(tp)
            else:
                positions[key] = found.offset
                client.seek(tp, found.offset)
                self.consumer.committed[key] = Committed(found.offset, found.metadata or "")
        if fresh and self.app.conf.consumer_auto_offset_reset == "earliest":
            # aiokafka leaves the position alone where nothing is committed; what was fetched and then
            # dropped by a rebalance would never be read again. Not awaited: a running fetch takes seconds.
            reset = client._fetcher.request_offset_reset(fresh, OffsetResetStrategy.EARLIEST)  # noqa: SLF001
            reset.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.consumer.move(positions)
        return positions

    async def is_member(self) -> bool:
        """Ask the group whether this worker still belongs to it; where it does not, have it join again."""
        return bool(await self.call_thread(self._is_member))

    async def _is_member(self) -> bool:
        return bool(await self._ensure_consumer()._coordinator._do_heartbeat())  # noqa: SLF001

    async def partition_count(self, topic: str) -> int:
        """Return how many partitions a topic has, by the cluster's metadata."""
        return int(await self.call_thread(self._partition_count, topic))

    async def _partition_count(self, topic: str) -> int:
        client = self._ensure_consumer()._client  # noqa: SLF001
        await client._wait_on_metadata(topic)  # noqa: SLF001
        return len(client.cluster.partitions_for_topic(topic))

    async def commit_with_state(self, offsets: Mapping[TP, Committed]) -> bool:
        """Commit offsets with the state that belongs to each; False where the group has moved on."""
        return bool(await self.call_thread(self._commit_with_state, offsets))

    async def _commit_with_state(self, offsets: Mapping[TP, Committed]) -> bool:
        client = self._ensure_consumer()
        assigned = client.assignment()
        wanted = {
            TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(c.offset, c.state)
            for tp, c in offsets.items()
            if TopicPartition(tp.topic, tp.partition) in assigned
        }
        if not wanted:
            return False
        try:
            await client.commit(wanted)
        except CommitFailedError:
            return False  # rebalanced: the next owner reads again from the last commit
        return True
