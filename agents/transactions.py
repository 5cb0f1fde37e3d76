"""Results and the progress that they belong to in one transaction: who reads committed records sees each once.

Rule 1: every partition of a stage has a transactional id of its own. Who opens the partition takes the id over: the
        broker gives up a transaction that the owner before left open, and refuses whatever that one still sends.
Rule 2: progress is read after that, up to the end of what is committed. So it cannot change behind the reader's back,
        and the next transaction begins where the last one that was kept had ended.
Rule 3: a commit is asked for once. If its answer is lost nobody knows whether it was kept; asked again, the first
        request could arrive late and commit half of the next transaction, for this protocol does not number
        transactions. Taking the id over settles it, and the progress then tells.
Rule 4: whatever else goes wrong ends the worker, or this way out: no transaction goes on after an error.

This file is the only one that reaches below the documented surface of aiokafka's transactions (pinned).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import Any

from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.producer import sender

from agents.delivery import Displaced, Outlet
from agents.progress import ProgressLog
from agents.publisher import Outgoing, OutgoingRun, Publisher
from flowstream.analysis import Progress
from flowstream.settings import Settings

#: How long the end of a transaction may take when the partition is given back.
CLOSE_WITHIN_S = 5.0

log = logging.getLogger(__name__)


class EndOnce(sender.EndTxnHandler):  # type: ignore[misc]
    """Asks for the end of a transaction; where no answer comes, the producer has had its day."""

    _answered = False

    def handle_response(self, resp: Any) -> float | None:
        """Note that the broker has answered: "not yet" may be asked again."""
        self._answered = True
        wait_s: float | None = super().handle_response(resp)
        return wait_s

    async def do(self, node_id: int) -> bool:
        """Return whether the transaction has ended; ProducerFenced where that cannot be known."""
        ended = bool(await super().do(node_id))
        if not self._answered:
            raise ProducerFenced("no answer to the end of a transaction: whether it was kept is not known")
        return ended


def install() -> None:
    """Have every producer made from now on end its transactions so."""
    sender.EndTxnHandler = EndOnce


class Transactional:
    """A producer for each partition of a stage."""

    def __init__(
        self,
        settings: Settings,
        stored: ProgressLog,
        is_member: Callable[[], Awaitable[bool]],
        stage: str = "analyses",
    ) -> None:
        """``is_member`` asks the group whether this worker still belongs to it."""
        install()
        self._settings = settings
        self._stored = stored
        self._is_member = is_member
        self._ids = settings.app if stage == "analyses" else f"{settings.app}-{stage}"

    async def open(self, partition: int) -> tuple[Outlet, Progress | None]:
        """Take the partition over, then read its progress; Displaced where the group does not know this worker."""
        # Taking over is safe whoever does it, but a worker that has slept would only disturb its successor.
        if not await self._is_member():
            raise Displaced(f"partition {partition}: the group has gone on without this worker")
        publisher = Publisher(self._settings.kafka, transactional_id=f"{self._ids}-{partition}")
        try:
            await publisher.start()
            return _Open(publisher, self._stored, partition), await self._stored.read(partition)
        except BaseException:
            await publisher.stop()
            raise


class _Open:
    def __init__(self, publisher: Publisher, stored: ProgressLog, partition: int) -> None:
        self._publisher = publisher
        self._stored = stored
        self._partition = partition
        self._turn = asyncio.Lock()
        self._is_over = False
        self._is_closed = False

    async def say(
        self,
        records: Iterable[Outgoing | OutgoingRun],
        progress: Progress | None,
        in_turn: Callable[[], Awaitable[bool]],
    ) -> bool:
        async with self._turn:
            if self._is_over or self._is_closed:
                raise Displaced(f"partition {self._partition}: it was given back, or an earlier transaction failed")
            if progress is None:
                return await in_turn()
            self._is_over = True  # unless all goes well
            try:
                await self._publisher.begin()
                await self._publisher.publish(chain(records, [self._stored.record(self._partition, progress)]))
                if not await in_turn():
                    return False
                await self._publisher.commit()
            except KafkaError as error:
                if isinstance(error, ProducerFenced) or self._is_closed:
                    raise Displaced(f"partition {self._partition}: {error}") from error
                raise
            self._is_over = False
            return True

    async def close(self) -> None:
        """Wait for the transaction in hand, give up what is open, disconnect."""
        self._is_closed = True
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                async with self._turn:
                    await self._publisher.give_up()
        except (TimeoutError, KafkaError) as error:
            # The next owner ends what is left open, and else the broker after a while.
            log.info("partition %d was not closed in order: %r", self._partition, error)
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._publisher.stop()
        except (TimeoutError, KafkaError) as error:
            log.warning("partition %d: a producer is left behind: %r", self._partition, error)
