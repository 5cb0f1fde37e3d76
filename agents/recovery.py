"""Restoring tables, which waits for a broker that is away.

Faust gives each step ``broker_request_timeout`` and takes the end of that time for being stopped: its recovery
ends without a word, the worker stays in its group, holds its partitions, and never processes anything again.
Where brokers answer and still nothing comes, waiting mends nothing: the worker ends, and its next life begins anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from aiokafka.errors import KafkaError, KafkaTimeoutError
from faust.tables.manager import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped
from mode import Service

from flowstream.errors import StateError

#: Between two tries.
RETRY_S = 1.0
#: Without a record of a changelog for so long while brokers answer: longer than large records take over a slow line.
STALLED_S = 30.0
WATCH_S = 1.0

log = logging.getLogger(__name__)


class PatientRecovery(Recovery):
    """Faust's recovery, which begins again where a step did not get its answer."""

    app: Any

    @Service.task
    async def _watch_progress(self) -> None:
        read, read_at = dict(self.active_offsets), time.monotonic()
        while not self.should_stop:
            await self.sleep(WATCH_S)
            offsets, now = dict(self.active_offsets), time.monotonic()
            is_silent = self.app.heard.silence_s() > WATCH_S * 5
            if not self.in_recovery or offsets != read or is_silent:
                read, read_at = offsets, now
            elif now - read_at > STALLED_S:
                log.critical("tables are not restored: brokers answer, but no record came for %g s", STALLED_S)
                await self.app.crash(StateError("tables are not restored"))
                return

    async def _wait(self, coro: Any, timeout: Any = None) -> None:  # noqa: ASYNC109 - it is Faust's
        try:
            return await super()._wait(coro, timeout)
        except ServiceStopped:
            if self.should_stop:
                raise
            why = "no answer in time"
        except (KafkaError, TimeoutError) as error:
            if isinstance(error, KafkaError) and not (error.retriable or isinstance(error, KafkaTimeoutError)):
                raise
            why = repr(error)
        log.warning("tables cannot be restored (%s): trying again", why)
        await asyncio.sleep(RETRY_S)
        # As if partitions had been assigned anew, and they were the same.
        self.signal_recovery_start.set()
        raise RebalanceAgain


class PatientTableManager(TableManager):
    """Faust's tables, with the recovery above."""

    async def on_start(self) -> None:
        """Register the tables. Faust sleeps a second first, for tables that are declared late: ours all are there."""
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()

    @property
    def recovery(self) -> Recovery:
        """The recovery service."""
        if self._recovery is None:
            self._recovery = PatientRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
