"""The end of a worker: it comes within a time, whatever is being waited for, and says by its exit code what it was.

Faust ends in good order: it commits, flushes its producer, joins its threads. Each of these waits for a broker
for as long as it takes, one of them without the event loop, so a worker that crashed because no broker answers, or
that is told to end while none does, would stay: a process that does nothing and that no supervisor starts again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import faust

from flowstream.errors import FlowstreamError

#: From the crash, or the signal, to the end of the process. Docker and systemd kill after 10 s and 90 s by themselves.
ENDING_S = 20.0
#: For tasks that are cancelled at the very end.
CANCELLED_S = 1.0
#: The exit code of an end that had to be forced, as of a crash: start me again.
EX_FAILURE = 1
#: Of a start that was refused.
EX_REFUSED = 2

log = logging.getLogger(__name__)


class BoundedWorker(faust.Worker):
    """Faust's worker, which ends within ``ENDING_S`` of a crash or a signal.

    ``refusal`` is set where it could not start for a reason that is best said in one line.
    """

    refusal: FlowstreamError | None = None
    _deadline: threading.Timer | None = None

    async def start(self) -> None:
        """Run; a refusal to start is kept for the command line, which says it in one line."""
        try:
            await super().start()
        except FlowstreamError as error:
            self.refusal = error
            raise SystemExit(EX_FAILURE) from error

    def on_worker_shutdown(self) -> None:
        """Set the deadline: called before anything is waited for, whatever the reason."""
        self._must_end("ending")
        super().on_worker_shutdown()

    def _crash(self, reason: BaseException) -> None:
        self._must_end(f"after {reason!r}")
        super()._crash(reason)
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(lambda: None)  # a crash in another thread does not wake the loop by itself

    def _schedule_shutdown(self, number: signal.Signals) -> None:
        self._must_end(f"after {number.name}")
        super()._schedule_shutdown(number)

    async def _sentinel_task(self) -> None:
        """Let tasks that were cancelled end before the loop is closed; Faust sleeps a second, whether there are any."""
        cancelled = asyncio.all_tasks() - {asyncio.current_task()}
        if cancelled:
            await asyncio.wait(cancelled, timeout=CANCELLED_S)
        await asyncio.sleep(0)  # connections that were closed let go of their sockets in the next round of the loop

    def _must_end(self, why: str) -> None:
        if self._deadline is None:
            self._deadline = threading.Timer(ENDING_S, _end, [why])
            self._deadline.daemon = True
            self._deadline.start()

    def run(self) -> NoReturn:
        """Run until a signal or a crash; SystemExit tells how it went, FlowstreamError why it did not start."""
        try:
            super().execute_from_commandline()
        except SystemExit:
            if self.refusal is not None:
                raise self.refusal from None
            raise

    def execute_from_commandline(self) -> NoReturn:
        """Run as ``faust -A agents.app worker`` does: here a refusal is said."""
        try:
            self.run()
        except FlowstreamError as refusal:
            sys.stderr.write(f"flowstream: {refusal}\n")
            raise SystemExit(EX_REFUSED) from None


def _end(why: str, *_: Any) -> None:
    """End the process. Nothing is lost by it: what is not committed is read again."""
    log.critical("%s: not done within %g s, so the worker ends as it is", why, ENDING_S)
    logging.shutdown()
    os._exit(EX_FAILURE)
