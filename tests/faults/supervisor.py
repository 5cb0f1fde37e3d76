"""A service manager in small: what has ended without being told to is started again."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from tests.integration.lab import Lab

LOOK_S = 0.2


class Supervisor:
    """Starts workers of a lab again that have ended, ``stop`` excepted."""

    def __init__(self, lab: Lab, pause_s: float = 1.0) -> None:
        self.restarts = 0
        self._lab = lab
        self._pause_s = pause_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go, name="supervisor", daemon=True)

    def _go(self) -> None:
        while not self._ended.wait(LOOK_S):
            for worker in list(self._lab.workers):
                if worker.alive or worker.stopped:
                    continue
                if self._ended.wait(self._pause_s):
                    return
                self._lab.again(worker)
                self.restarts += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
