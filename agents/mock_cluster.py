"""librdkafka's mock cluster as a process: a stand-in for a broker where no JVM or no jars can be had."""

from __future__ import annotations

import importlib.util
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from flowstream.errors import BrokerError

LIMITS = (
    "a mock cluster, not Kafka: everything is in memory and gone when it stops",
    "topics appear when named, always with 4 partitions; they cannot be created, deleted or configured",
    "a partition keeps 5 MiB or 100,000 message sets, older ones are dropped",
    "no replay by time, no compaction, no retention, no aborted transactions, no list of groups",
)


class MockCluster:
    """The same verbs as ``LocalBroker``; ``limits`` says in sentences what it cannot do."""

    limits = LIMITS

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._bootstrap = ""

    @property
    def bootstrap(self) -> str:
        """What clients connect to, ``host:port``; BrokerError while it does not run."""
        if not self._bootstrap:
            raise BrokerError("the mock cluster was not started")
        return self._bootstrap

    def start(self, timeout_s: float = 20) -> str:
        """Start it, write its limits to standard error, and return its bootstrap address.

        Raises BrokerError where confluent-kafka is not installed or the process does not come up.
        """
        if self._process is not None:
            return self.bootstrap
        if importlib.util.find_spec("confluent_kafka") is None:
            raise BrokerError("no mock cluster: confluent-kafka is not installed (pip install confluent-kafka)")
        # It lives until its standard input ends, so it cannot outlive the process that started it.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agents.mock_cluster"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=Path(__file__).resolve().parents[1],
        )
        assert self._process.stdout is not None  # noqa: S101
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        self._bootstrap = self._process.stdout.readline().strip() if readable else ""
        if not self._bootstrap:
            self.stop()
            raise BrokerError(f"the mock cluster did not come up within {timeout_s:g} s")
        sys.stderr.write("".join(f"note: {limit}\n" for limit in self.limits))
        return self._bootstrap

    def stop(self, timeout_s: float = 10) -> None:
        """End it, with everything that was in it; nothing happens if it does not run."""
        process, self._process, self._bootstrap = self._process, None, ""
        if process is None:
            return
        try:
            process.communicate(timeout=timeout_s)  # closes its standard input
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _serve() -> None:
    from confluent_kafka import Producer  # noqa: PLC0415 - only this process needs it

    owner = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(owner.list_topics(timeout=10).brokers.values()))
    sys.stdout.write(f"{broker.host}:{broker.port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _serve()
