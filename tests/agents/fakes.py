"""Stand-ins for what surrounds the agents: they record in which order things were done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

from aiohttp.web import Response
from faust.types import TP
from prometheus_client import CollectorRegistry

from agents.batches import Committed, FetchedBatch
from agents.context import Context
from agents.delivery import AtLeastOnce
from agents.newest_table import NewestTable
from agents.publisher import Outgoing, OutgoingRun
from agents.web_peers import Peers
from agents.web_query import page
from flowstream.analysis import Progress
from flowstream.links import LinkTable
from flowstream.metrics import Metrics
from flowstream.operators import Said, one_by_one
from flowstream.record_batches import LegacyBatch
from flowstream.results import ResultEncoder
from flowstream.settings import Settings
from flowstream.topology import Topology

PROGRESS = "progress"


@dataclass
class FakeConsumer:
    done: list[tuple[str, Any]]
    partitions: int = 1
    start: int = 0
    flow_active: bool = True
    ends: dict[TP, int] = field(default_factory=dict)
    committed: dict[TP, Committed] = field(default_factory=dict)
    epochs: dict[TP, int] = field(default_factory=dict)
    assigned: set[TP] = field(default_factory=set)
    answering: bool = True  # whether brokers answer fetches
    answers: int = 0

    def epoch(self, tp: TP) -> int:
        return self.epochs.get(tp, 0)

    def lag(self, tp: TP, next_offset: int | None) -> int | None:
        end = self.ends.get(tp)
        return None if end is None else max(0, end - (next_offset or 0))

    def answered(self, _tp: TP) -> int | None:
        self.answers += self.answering
        return self.answers

    def assignment(self) -> set[TP]:
        return self.assigned

    async def partition_count(self, _topic: str) -> int:
        return self.partitions

    def ack_batch(self, batch: FetchedBatch, state: str = "") -> None:
        self.done.append(("ack", (batch.tp, batch.next_offset, state)))

    def revise_state(self, tp: TP, state: str) -> None:
        self.done.append(("state", (tp, state)))

    async def log_start(self, _tp: TP) -> int:
        return self.start

    async def reread(self, tp: TP) -> None:
        await self.rewind(tp, self.start)

    async def rewind(self, tp: TP, offset: int) -> None:
        self.epochs[tp] = self.epoch(tp) + 1
        self.done.append(("rewind", (tp, offset)))


class FakePublisher:
    def __init__(self, done: list[tuple[str, Any]]) -> None:
        self.done = done
        self.sent: list[Outgoing] = []
        self.before_return: Any = None
        self.open = asyncio.Event()  # acknowledgements come while this is set
        self.open.set()
        self.calls: list[int] = []
        self.gates: list[asyncio.Event] = []  # of each call, in place of the one for all
        self.stored: dict[int, Progress] = {}

    async def _store(self, record: Outgoing) -> None:
        progress = Progress.decode(record.value)
        self.stored[record.partition] = progress
        self.done.append(("progress", progress.position))

    async def publish(self, records: Iterable[Outgoing | OutgoingRun]) -> None:
        await (await self.enqueue(records))

    async def enqueue(self, records: Iterable[Outgoing | OutgoingRun]) -> Awaitable[None]:
        batch = [r for record in records for r in (record if isinstance(record, OutgoingRun) else [record])]
        if batch and batch[0].topic == PROGRESS:
            return self._store(batch[0])
        gate = self.gates[len(self.calls)] if self.gates else self.open
        self.calls.append(len(batch))
        self.sent.extend(batch)

        async def acknowledged() -> None:
            await gate.wait()
            self.done.append(("publish", len(batch)))
            if self.before_return:
                self.before_return()

        return acknowledged()


class FakeProgressLog:
    def __init__(self, publisher: FakePublisher) -> None:
        self._publisher = publisher

    def record(self, partition: int, progress: Progress) -> Outgoing:
        return Outgoing(PROGRESS, partition, b"", progress.encode())

    async def read(self, partition: int) -> Progress | None:
        return self._publisher.stored.get(partition)


class FakeTables:
    def __init__(self, done: list[tuple[str, Any]]) -> None:
        self.done = done

    async def keep_results(self, partition: int, said: Iterable[Said]) -> None:
        self.done.append(("keep", len(list(one_by_one(said)))))


@dataclass
class Stage:
    """An agent's surroundings, and what was done in which order."""

    settings: Settings
    done: list[tuple[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.consumer = FakeConsumer(self.done)
        self.publisher = FakePublisher(self.done)
        self.tables = FakeTables(self.done)
        self.delivery = AtLeastOnce(self.publisher, FakeProgressLog(self.publisher))  # type: ignore[arg-type]
        self.metrics = Metrics(CollectorRegistry())
        self.crashed: list[BaseException] = []

        async def crash(error: BaseException) -> None:
            self.crashed.append(error)

        app = SimpleNamespace(consumer=self.consumer, crash=crash, rebalancing=False)
        self.context = Context(self.settings, self.metrics, self.publisher, ResultEncoder(), app)  # type: ignore[arg-type]
        self.inventory = SimpleNamespace(links=LinkTable(), topology=Topology())

    def batch(self, topic: str, values: list[bytes | None], first: int = 0, partition: int = 0, at_ms: int = 0) -> Any:
        """Make a batch as the consumer would have fetched it."""
        records = LegacyBatch([(first + i, at_ms, v) for i, v in enumerate(values)])
        tp = TP(topic, partition)
        return FetchedBatch(tp, [records], self.consumer.epoch(tp), self.consumer)  # type: ignore[arg-type]

    def value(self, sample: str) -> float:
        """Return a metric summed over its labels."""
        return sum(
            s.value for m in self.metrics.registry.collect() for s in m.samples if s.name == f"flowstream_{sample}"
        )

    def verbs(self) -> list[str]:
        """Return what was done, in order."""
        return [verb for verb, _ in self.done]


class FakeStream:
    """A stream that holds the given batches and then ends."""

    def __init__(self, batches: list[FetchedBatch]) -> None:
        self._batches = batches

    def noack(self) -> FakeStream:
        return self

    async def events(self) -> AsyncIterator[Any]:
        for batch in self._batches:
            yield SimpleNamespace(value=batch)


class FakeTable(dict[bytes, bytes]):
    """A Faust table without a changelog, that says its topic's name."""

    name = "newest"
    changelog_topic = SimpleNamespace(get_topic_name=lambda: "app-newest-changelog")


def newest_table(settings: Settings) -> NewestTable:
    """Return a table of what was said last, of an app without Kafka."""
    app = SimpleNamespace(Table=lambda *_, **__: FakeTable(), producer=SimpleNamespace(flush=AsyncMock()))
    return NewestTable(app, settings)


def holding(settings: Settings, table: NewestTable, held: Iterable[int]) -> tuple[Any, Peers]:
    """Return the context of a worker that holds some partitions of a table and knows nobody else, and its peers."""
    assignment = [SimpleNamespace(topic="app-newest-changelog", partition=p) for p in held]
    app = SimpleNamespace(router=SimpleNamespace(table_metadata=lambda _: {}))
    context: Any = SimpleNamespace(app=app, settings=settings, consumer=SimpleNamespace(assignment=lambda: assignment))
    return context, Peers(context, table.table)


async def answer(view: Callable[..., Awaitable[Response]], **query: str) -> tuple[int, Any]:
    """Ask a page, as the web server does; return the status and the JSON."""
    response = await page(view)(None, SimpleNamespace(query=query, path="/"))
    assert isinstance(response.body, bytes)
    return response.status, json.loads(response.body)
