"""Puts generated flows on the raw topic, all at once or at a rate, and remembers what the broker acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.faults import client
from tests.faults.flows import Flows

TICK_S = 0.02
FLUSH_S = 300.0


class Sender:
    """One sender of one raw topic; flow ``n`` goes to partition ``n`` modulo their number."""

    def __init__(self, address: str, topic: str, partitions: int, seed: int) -> None:
        self.flows = Flows(seed)
        self.topic = topic
        self.partitions = partitions
        self.acknowledged: list[tuple[int, int, int]] = []
        self._producer = client.producer(address)
        self._lock = threading.Lock()

    def send(self, records: int, step_ns: int, sources: int, hot: float) -> None:
        """Queue flows."""
        with self._lock:
            for _ in range(records):
                number = self.flows.number
                self.put(number, number % self.partitions, self.flows.next(step_ns, sources, hot))

    def put(self, number: int, partition: int, value: bytes | None) -> None:
        """Queue any value, under the number that it is to be known by in ``acknowledged``."""

        def done(error: Any, message: Any) -> None:
            if error is None:
                self.acknowledged.append((number, message.partition(), message.offset()))

        while True:
            try:
                self._producer.produce(self.topic, value, key=b"k", partition=partition, on_delivery=done)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until the broker has acknowledged everything."""
        left = self._producer.flush(FLUSH_S)
        assert not left, f"{left} flows were not acknowledged within {FLUSH_S:g} s"

    @contextmanager
    def running(self, rate: float, step_ns: int, sources: int, hot: float) -> Iterator[None]:
        """Send ``rate`` flows a second in a thread, until the block ends."""
        ended = threading.Event()

        def go() -> None:
            began, sent = time.monotonic(), 0
            while not ended.wait(TICK_S):
                due = int((time.monotonic() - began) * rate) - sent
                self.send(due, step_ns, sources, hot)
                sent += due

        thread = threading.Thread(target=go, name="sender", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.flush()

    def close_windows(self) -> None:
        """Send one flow to each partition that lies so far ahead that every window before it closes."""
        with self._lock:
            for partition in range(self.partitions):
                number = self.flows.number
                self.put(number, partition, self.flows.closing(130 if partition == 0 else 0))
            self.flows.time_ns += 10**9
        self.flush()
