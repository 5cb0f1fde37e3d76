"""What must hold at every moment, looked at twice a second while a scenario runs.

Committed offsets go forward and never lie beyond the log's end; a result that is said again has the same bytes.
Memory and descriptors of each worker are taken down, and when which window of which partition came out.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil
from confluent_kafka import KafkaException, TopicPartition

from tests.faults import checker, client
from tests.integration.lab import Worker

INTERVAL_S = 0.5
_ASK_S = 3.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker's process takes, ``at_s`` on the monotonic clock."""

    at_s: float
    pid: int
    rss_bytes: int
    descriptors: int


@dataclass(slots=True)
class Seen:
    """What the watcher has come to know."""

    committed: dict[tuple[str, int], int] = field(default_factory=dict)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    newest: dict[int, int] = field(default_factory=dict)  # window start by partition of the topic of sources
    sources: dict[tuple[int, bytes], bytes] = field(default_factory=dict)  # last value by (partition, key)
    results: int = 0  # records of all result topics
    usage: list[Usage] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


class Watch(threading.Thread):
    """The watcher of one scenario: a thread that is stopped by ``stop``."""

    def __init__(
        self, address: str, group: str, inputs: Sequence[str], results: Sequence[str], sources: str,
        workers: Callable[[], Sequence[Worker]],
    ) -> None:  # fmt: skip
        super().__init__(name="watch", daemon=True)
        self.seen = Seen()
        self._address = address
        self._inputs = tuple(inputs)
        self._results = tuple(results)
        self._sources = sources
        self._workers = workers
        self._digests: dict[tuple[str, int, bytes], bytes] = {}
        self._ended = threading.Event()
        self._reader = client.consumer(address)
        # A member of the group it is not: it joins none, but the offsets it asks for are those of this group.
        self._asker = client.consumer(address, **{"group.id": group})

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        if self.is_alive():
            self.join()
        self._reader.close()
        self._asker.close()

    def run(self) -> None:
        """Look, until stopped. A broker that does not answer is looked at again later."""
        assigned = False
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                if not assigned:
                    self._reader.assign([
                        TopicPartition(topic, p, 0)
                        for topic in self._results
                        for p in client.partitions_of(self._reader, topic)
                    ])  # fmt: skip
                    assigned = True
                self._look_at_results()
                self._look_at_commits()
            except KafkaException:
                self._ended.wait(INTERVAL_S)
            self._look_at_workers()
            self._ended.wait(max(0.0, INTERVAL_S - (time.monotonic() - began)))

    def _look_at_results(self) -> None:
        seen = self.seen
        for message in self._reader.consume(5_000, 0.05):
            if message.error() is not None or message.value() is None:
                continue
            one = client.record(message)
            at = one.topic, one.partition, checker.key_of(one.topic, one.key, one.value)
            digest = hashlib.blake2b(one.value or b"", digest_size=16).digest()
            if self._digests.setdefault(at, digest) != digest:
                seen.violations.append(f"{one.topic}-{one.partition}: key {at[2]!r} was said again with other bytes")
                self._digests[at] = digest
            if one.topic == self._sources:
                seen.sources[one.partition, at[2]] = one.value or b""
                seen.newest[one.partition] = max(int(at[2].partition(b"|")[0]), seen.newest.get(one.partition, 0))
            seen.results += 1

    def _look_at_commits(self) -> None:
        inputs = [TopicPartition(topic, p) for topic in self._inputs for p in client.partitions_of(self._asker, topic)]
        found = self._asker.committed(inputs, _ASK_S)
        committed = {(t.topic, t.partition): t.offset for t in found if t.error is None and t.offset >= 0}
        # The ends are asked for afterwards: a log that grows meanwhile accuses nobody.
        ends = {(t.topic, t.partition): self._asker.get_watermark_offsets(t, _ASK_S)[1] for t in inputs}
        for at, offset in committed.items():
            before = self.seen.committed.get(at, 0)
            if offset < before:
                self.seen.violations.append(f"the committed offset of {at[0]}-{at[1]} went back: {before} to {offset}")
            if offset > ends.get(at, offset):
                self.seen.violations.append(f"{at[0]}-{at[1]}: {offset} is committed, the log ends at {ends[at]}")
        self.seen.committed, self.seen.ends = committed, ends

    def _look_at_workers(self) -> None:
        for worker in list(self._workers()):
            try:
                usage = Usage(time.monotonic(), worker.process.pid, worker.rss_bytes(), worker.descriptors())
            except psutil.Error:
                continue  # it has ended
            self.seen.usage.append(usage)
