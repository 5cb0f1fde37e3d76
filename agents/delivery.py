"""How the results of a partition reach the brokers, together with the progress that they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Protocol

from agents.progress import ProgressLog
from agents.publisher import Outgoing, OutgoingRun, Publisher
from flowstream.analysis import Progress
from flowstream.operators import Result, Said
from flowstream.record_kernel import Headers, Run
from flowstream.results import ResultEncoder


def outgoing_results(
    said: Iterable[Said], encoder: ResultEncoder, topic: Callable[[str], str], partition: int, headers: Headers = ()
) -> Iterator[Outgoing | OutgoingRun]:
    """Yield the records of results, encoded as they are taken; ``topic`` gives the topic of a stream."""
    for results in said:
        if isinstance(results, Result):
            yield Outgoing(topic(results.stream), partition, results.key.encode(), encoder.encode(results), headers)
        else:
            prefix, values = encoder.encode_column(results)
            yield OutgoingRun(topic(results.stream), partition, Run(results.keys, values, prefix, headers))


class Displaced(Exception):  # noqa: N818 - not the worker's fault, and not the end of it
    """Another owner writes for the partition, or it is not known whether the last records were kept: open it anew."""


class Outlet(Protocol):
    """The way out of one partition."""

    async def say(
        self,
        records: Iterable[Outgoing | OutgoingRun],
        progress: Progress | None,
        in_turn: Callable[[], Awaitable[bool]],
    ) -> bool:
        """Send records and store the progress that goes with them; return whether that was done.

        ``in_turn`` is awaited when the records are with the brokers, and False if the progress must not be stored.
        Called again before it has returned, it sends in the order of the calls. Displaced: what came of it is unknown.
        """
        ...

    async def close(self) -> None:
        """Say nothing more."""
        ...


class Delivery(Protocol):
    """Makes the ways out."""

    async def open(self, partition: int) -> tuple[Outlet, Progress | None]:
        """Make ready to write for a partition, and return its progress. Displaced: not now."""
        ...


class AtLeastOnce:
    """Results, then progress: a crash in between has results sent again, under the same keys with the same values."""

    def __init__(self, publisher: Publisher, stored: ProgressLog) -> None:
        self._publisher = publisher
        self._stored = stored

    async def open(self, partition: int) -> tuple[Outlet, Progress | None]:
        """Return the way out and the progress. A worker that was replaced unawares may still store an older one."""
        return _Open(self._publisher, self._stored, partition), await self._stored.read(partition)


class _Open:
    def __init__(self, publisher: Publisher, stored: ProgressLog, partition: int) -> None:
        self._publisher = publisher
        self._stored = stored
        self._partition = partition
        self._sending = asyncio.Lock()

    async def say(
        self,
        records: Iterable[Outgoing | OutgoingRun],
        progress: Progress | None,
        in_turn: Callable[[], Awaitable[bool]],
    ) -> bool:
        async with self._sending:
            sent = await self._publisher.enqueue(records)
        await sent
        if not await in_turn():
            return False
        if progress is not None:
            await self._publisher.publish([self._stored.record(self._partition, progress)])
        return True

    async def close(self) -> None:
        """Do nothing: the producer serves all partitions."""
