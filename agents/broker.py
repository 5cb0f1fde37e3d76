"""A real Kafka broker on this machine: one node, KRaft, loopback only, a process of its own.

For development, demonstrations, benchmarks and tests; ``MockCluster`` stands in where there is no JVM.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from agents import kafka_node
from agents.kafka_jars import JARS, resolve_jars
from agents.mock_cluster import MockCluster
from agents.pidfile import Mark, live_mark, write_mark
from flowstream.errors import BrokerError

__all__ = ["BrokerStatus", "LocalBroker", "MockCluster"]

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """What is known about the broker of a folder; ``pid`` and ``bootstrap`` are None unless it runs."""

    pid: int | None
    bootstrap: str | None
    detail: str

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.pid is not None

    def __str__(self) -> str:
        return self.detail


class LocalBroker:
    """The broker whose data, log and pid file are in ``folder``; the data outlives ``stop``.

    A port of 0 takes a free one at the first start and keeps it for as long as this object lives. The broker
    does not end with the process that started it: another LocalBroker on the folder finds and stops it.
    ``properties`` are Kafka's own, set over ours from the next start on.
    The methods block; in a coroutine call them by ``asyncio.to_thread``.
    """

    def __init__(
        self,
        folder: Path,
        port: int = 19092,
        controller_port: int = 19093,
        heap_mb: int = 512,
        jars: Path = JARS,
    ) -> None:
        self.folder = folder.absolute()
        self.port = port
        self.controller_port = controller_port
        self.heap_mb = heap_mb
        self.jars = jars
        self.properties: dict[str, str] = {}
        self.log_path = self.folder / "broker.log"
        self._pid_path = self.folder / "broker.pid"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """What clients connect to, ``host:port``; BrokerError while no port is chosen yet."""
        if not self.port:
            raise BrokerError("the broker was not started: it has no port yet")
        return f"{kafka_node.HOST}:{self.port}"

    def start(self, timeout_s: float = 60, *, wipe: bool = False) -> str:
        """Start the broker, wait until it answers, and return its bootstrap address.

        One that already runs in the folder is used as it is. ``wipe`` begins with no topics. Fetching the
        jars, once, does not count towards ``timeout_s``. Raises BrokerError: no jars, no JDK, a port in use,
        or a broker that ends or does not answer in time (with the last lines of its log).
        """
        mark = self._mark()
        if mark is not None:
            if wipe:
                raise BrokerError(f"a broker runs in {self.folder} (pid {mark.pid}): stop it before wiping")
            self.port = mark.port
            return self.bootstrap
        command = [kafka_node.find_java(), *kafka_node.JVM, f"-Xmx{self.heap_mb}m"]
        command += ["-cp", f"{resolve_jars(self.jars)}/*"]
        if wipe:
            shutil.rmtree(self.folder / "kraft", ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self._write_properties()
        cluster_id = kafka_node.format_storage(command, properties, self.folder)
        log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [*command, "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # an interrupt typed at our terminal is not for the broker
            )
        write_mark(self._pid_path, self._process.pid, self.port)
        try:
            self._await_ready(self._process, cluster_id, log_start, timeout_s)
        except BaseException:
            self.kill()
            raise
        return self.bootstrap

    def stop(self, timeout_s: float = 20) -> None:
        """End the broker in good order, or by force after ``timeout_s``; nothing happens if none runs."""
        self._end(signal.SIGTERM, timeout_s)
        self._end(signal.SIGKILL, 10)

    def kill(self) -> None:
        """End the broker at once, as a crash would."""
        self._end(signal.SIGKILL, 10)

    def pause(self) -> None:
        """Freeze the broker: it keeps its connections and answers nothing. BrokerError if none runs."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen broker go on. BrokerError if none runs."""
        self._signal(signal.SIGCONT)

    def status(self) -> BrokerStatus:
        """Say whether a broker runs in the folder, whoever started it."""
        mark = self._mark()
        if mark is not None:
            bootstrap = f"{kafka_node.HOST}:{mark.port}"
            return BrokerStatus(mark.pid, bootstrap, f"running on {bootstrap}, pid {mark.pid}")
        stale = self._pid_path.exists()
        return BrokerStatus(None, None, "not running" + (" (it ended without being stopped)" if stale else ""))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _mark(self) -> Mark | None:
        # The process we started ourselves is known better than by its pid file; asking also reaps it.
        if self._process is not None and self._process.poll() is None:
            return Mark(self._process.pid, "", self.port)
        return live_mark(self._pid_path)

    def _signal(self, number: signal.Signals) -> None:
        mark = self._mark()
        if mark is None:
            raise BrokerError(f"no broker runs in {self.folder}")
        os.kill(mark.pid, number)

    def _end(self, number: signal.Signals, timeout_s: float) -> None:
        mark = self._mark()
        if mark is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(mark.pid, number)
                os.kill(mark.pid, signal.SIGCONT)  # a frozen one could not act on SIGTERM
            deadline = time.monotonic() + timeout_s
            while self._mark() == mark:
                if time.monotonic() > deadline:
                    return
                time.sleep(_POLL_S)
        self._pid_path.unlink(missing_ok=True)
        self._process = None

    def _write_properties(self) -> Path:
        self.port = self.port or kafka_node.free_port()
        self.controller_port = self.controller_port or kafka_node.free_port()
        for port in self.port, self.controller_port:
            kafka_node.require_free(port)
        path = self.folder / "server.properties"
        text = kafka_node.PROPERTIES.format(
            host=kafka_node.HOST,
            port=self.port,
            controller_port=self.controller_port,
            log_dirs=self.folder / "kraft",
        )
        path.write_text(text + "".join(f"{key}={value}\n" for key, value in self.properties.items()))
        return path

    def _await_ready(self, process: subprocess.Popen[bytes], cluster_id: str, log_start: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        trouble = f"did not answer within {timeout_s:g} s"
        while (left_s := deadline - time.monotonic()) > 0:
            if process.poll() is not None:
                trouble = f"ended with status {process.returncode} while starting"
                break
            if kafka_node.cluster_at(self.port, left_s) == cluster_id:
                return
            time.sleep(_POLL_S)
        said = kafka_node.tail(self.log_path.read_bytes()[log_start:].decode(errors="replace"))
        raise BrokerError(f"the broker on {self.bootstrap} {trouble}: {said}")
