"""Transactions on a real broker: a plain reader of committed records sees each record once, whoever dies or sleeps."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.producer import sender
from aiokafka.protocol.transaction import EndTxnRequest

from agents.delivery import Displaced, Outlet
from agents.progress import ProgressLog
from agents.publisher import Outgoing
from agents.transactions import EndOnce, Transactional
from flowstream.analysis import Analysis, Progress
from flowstream.settings import Settings, load
from tests.integration.kafka import create_topic, read_all
from tests.integration.lab import Lab
from tests.integration.test_pipeline import LINKS, from_file, recorded
from tests.waiting import wait_for

STREAMS = ("distances", "elephants", "sources", "input-quality", "late")


async def always() -> bool:
    return True


async def never() -> bool:
    return False


class Place:
    """Topics of one test, and the ways out into them."""

    def __init__(self, broker: str, prefix: str) -> None:
        self.broker = broker
        self.results = f"{prefix}results"
        self.settings: Settings = load(app=f"{prefix}app", kafka={"bootstrap": broker}, delivery="transactional")
        self.stored = ProgressLog(self.settings)
        self.delivery = Transactional(self.settings, self.stored, always)
        create_topic(broker, self.results, 1)
        create_topic(broker, self.stored.topic, 1)

    def records(self, *values: str) -> list[Outgoing]:
        return [Outgoing(self.results, 0, value.encode(), value.encode()) for value in values]

    async def committed(self) -> list[str]:
        return await asyncio.to_thread(self._read, "read_committed")

    async def written(self) -> list[str]:
        return await asyncio.to_thread(self._read, "read_uncommitted")

    async def settled(self) -> tuple[list[str], int | None]:
        """What is committed and the progress, when no transaction is open: the next owner finds it so.

        A commit is decided when it is answered; records are seen when its markers are written, a little later.
        """
        outlet, progress = await self.delivery.open(0)
        await outlet.close()
        return await self.committed(), None if progress is None else progress.position

    def _read(self, isolation: str) -> list[str]:
        return [r.value.decode() for r in read_all(self.broker, self.results, isolation)]

    async def position(self) -> int | None:
        progress = await self.stored.read(0)
        return None if progress is None else progress.position


@pytest.fixture
def place(broker: str, topic_prefix: str) -> Place:
    return Place(broker, topic_prefix)


def progress_at(position: int) -> Progress:
    analysis = Analysis([], 1)
    analysis.pass_over(position - 1)
    return analysis.progress()


class Gate:
    """Holds a transaction when its records are with the broker."""

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> bool:
        self.reached.set()
        await self.opened.wait()
        return True


def client_of(outlet: Outlet) -> Any:
    return outlet._publisher._producer.client  # type: ignore[attr-defined]


async def test_results_and_progress_come_together_or_not_at_all(place: Place) -> None:
    outlet, progress = await place.delivery.open(0)
    assert progress is None
    gate = Gate()
    saying = asyncio.create_task(outlet.say(place.records("a", "b"), progress_at(3), gate))
    await gate.reached.wait()
    assert (await place.written(), await place.committed(), await place.position()) == (["a", "b"], [], None)
    gate.opened.set()
    assert await saying
    assert not await outlet.say(place.records("void"), progress_at(4), never)
    await outlet.close()
    assert await place.settled() == (["a", "b"], 3)
    assert await place.written() == ["a", "b", "void"]


async def test_who_opens_a_partition_ends_what_the_owner_before_left_open_and_shuts_it_out(place: Place) -> None:
    sleeper, _ = await place.delivery.open(0)
    assert await sleeper.say(place.records("a"), progress_at(1), always)
    gate = Gate()
    saying = asyncio.create_task(sleeper.say(place.records("b", "c"), progress_at(3), gate))
    await gate.reached.wait()
    successor, progress = await place.delivery.open(0)
    assert progress is not None
    assert progress.position == 1
    gate.opened.set()
    with pytest.raises(Displaced):
        await saying
    with pytest.raises(Displaced):
        await sleeper.say(place.records("d"), progress_at(9), always)
    assert await successor.say(place.records("b", "c"), progress_at(3), always)
    await sleeper.close()
    await successor.close()
    assert await place.settled() == (["a", "b", "c"], 3)
    assert await place.written() == ["a", "b", "c", "b", "c"]


async def test_a_sleeper_that_wakes_between_two_transactions_is_shut_out_too(place: Place) -> None:
    sleeper, _ = await place.delivery.open(0)
    assert await sleeper.say(place.records("a"), progress_at(1), always)
    successor, _ = await place.delivery.open(0)
    with pytest.raises(Displaced):
        await sleeper.say(place.records("b"), progress_at(2), always)
    assert await successor.say(place.records("b"), progress_at(2), always)
    await sleeper.close()
    await successor.close()
    assert await place.settled() == (["a", "b"], 2)


def breaking(send: Any, *, delivered: bool) -> Callable[..., Awaitable[Any]]:
    """A client's ``send`` whose connection breaks at the first end of a transaction, before or after it got there."""
    broken = []

    async def sending(node_id: int, request: Any, **options: Any) -> Any:
        if not isinstance(request, EndTxnRequest) or broken:
            return await send(node_id, request, **options)
        broken.append(request)
        if delivered:
            await send(node_id, request, **options)
        raise KafkaConnectionError("the connection broke")

    return sending


@pytest.mark.parametrize("delivered", [True, False])
async def test_a_commit_whose_answer_is_lost_is_settled_by_opening_anew(place: Place, delivered: bool) -> None:
    outlet, _ = await place.delivery.open(0)
    client = client_of(outlet)
    client.send = breaking(client.send, delivered=delivered)
    with pytest.raises(Displaced):
        await outlet.say(place.records("a"), progress_at(1), always)
    again, progress = await place.delivery.open(0)
    assert (progress is not None and progress.position == 1) == delivered
    if not delivered:
        assert await again.say(place.records("a"), progress_at(1), always)
    await outlet.close()
    await again.close()
    assert await place.settled() == (["a"], 1)


@pytest.mark.parametrize("asks_once", [True, False])
async def test_a_commit_asked_for_twice_could_come_late_and_tear_the_next_transaction(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, asks_once: bool
) -> None:
    # aiokafka speaks the protocol before KIP-890, in which a producer's transactions share one epoch: what a request
    # that was held up on its way says is done to whatever transaction is open when it arrives.
    handler = EndOnce if asks_once else EndOnce.__mro__[1]
    first, _ = await place.delivery.open(0)
    outlet = first
    monkeypatch.setattr(sender, "EndTxnHandler", handler)
    client = client_of(outlet)
    send, held = client.send, []

    async def holding(node_id: int, request: Any, **options: Any) -> Any:
        if not isinstance(request, EndTxnRequest) or held:
            return await send(node_id, request, **options)
        held.append((node_id, request, options))
        raise KafkaConnectionError("the connection broke, the request is still on its way")

    client.send = holding
    try:
        await outlet.say(place.records("a"), progress_at(1), always)
    except Displaced:
        assert asks_once
        outlet, progress = await place.delivery.open(0)
        assert progress is None
        assert await outlet.say(place.records("a"), progress_at(1), always)
    gate = Gate()
    saying = asyncio.create_task(outlet.say(place.records("half"), progress_at(2), gate))
    await gate.reached.wait()
    node_id, request, options = held[0]
    await send(node_id, request, **options)  # it arrives
    saying.cancel()
    await asyncio.gather(saying, return_exceptions=True)
    for opened in {first, outlet}:
        await opened.close()
    assert await place.settled() == ((["a"], 1) if asks_once else (["a", "half"], 2))


@pytest.mark.parametrize("kept", [True, False])
async def test_progress_is_the_last_that_was_kept_however_many_were_given_up_since(place: Place, kept: bool) -> None:
    for position in (1, 2, 3):
        outlet, _ = await place.delivery.open(0)
        assert await outlet.say([], progress_at(position), always)
        await outlet.close()
    for _ in range(12):
        outlet, progress = await place.delivery.open(0)
        assert progress is not None
        await outlet.say(place.records("x"), progress_at(progress.position + 1), always if kept else never)
        await outlet.close()
    assert (await place.settled())[1] == (15 if kept else 3)


@pytest.fixture
def lab(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    with Lab(broker, topic_prefix, tmp_path) as made:
        made.environment["FLOWSTREAM_DELIVERY"] = "transactional"
        yield made


def seen(lab: Lab, isolation: str = "read_committed") -> Counter[tuple[str, int, bytes]]:
    """How often a plain client sees each key of the topics that one transaction writes to."""
    return Counter(
        (stream, r.partition, r.key) for stream in STREAMS for r in read_all(lab.broker, lab.topic(stream), isolation)
    )


def content(lab: Lab) -> dict[str, dict[bytes, bytes]]:
    """What a plain client makes of it, values of a key's partitions joined."""
    said: dict[str, dict[bytes, bytes]] = {}
    for stream in ("distances", "elephants", "sources"):
        said[stream] = {}
        for record in read_all(lab.broker, lab.topic(stream), "read_committed"):
            said[stream][record.key] = said[stream].get(record.key, b"") + record.value
    return said


def test_who_reads_committed_records_sees_each_key_once_though_workers_are_killed_put_to_sleep_and_join(
    lab: Lab,
) -> None:
    values = recorded()
    expected = from_file(lab, values)
    lab.prepare(LINKS, raw_partitions=1)
    lab.send(values[:9_000])
    worker = lab.worker()
    wait_for(lambda: worker.metric("results_sent_total") > 20, "results of the first worker")
    worker.kill()
    lab.send(values[9_000:13_000])
    sleeper = lab.worker()
    wait_for(lambda: sleeper.metric("rows_applied_total") > 500, "the second worker to get on")
    sleeper.process.send_signal(signal.SIGSTOP)
    lab.send(values[13_000:17_000])
    successor = lab.worker()  # ready when the group has given the sleeper up
    wait_for(lambda: successor.metric("rows_applied_total") > 500, "the third worker to get on")
    sleeper.process.send_signal(signal.SIGCONT)
    wait_for(lambda: sleeper.assigned() > 0 and successor.assigned() < 8, "the sleeper to join again")
    lab.send(values[17_000:])
    wait_for(lambda: content(lab) == expected or None, "the results of the file pipeline", 60)
    counts = seen(lab)
    assert {key: count for key, count in counts.items() if count > 1} == {}
    assert len(counts) > 500


def test_an_app_can_go_from_one_delivery_to_the_other_and_back(lab: Lab) -> None:
    values = recorded()
    expected = from_file(lab, values)
    lab.prepare(LINKS, raw_partitions=1)
    for delivery, first, last in (
        ("transactional", 0, 7_000), ("at-least-once", 7_000, 14_000), ("transactional", 14_000, None)
    ):  # fmt: skip
        lab.send(values[first:last])
        worker = lab.worker(FLOWSTREAM_DELIVERY=delivery)
        wait_for(lambda now=worker: now.metric("results_sent_total") > 20, f"results, {delivery}")  # type: ignore[misc]
        if last is not None:
            assert worker.stop() == 0
    wait_for(lambda: content(lab) == expected or None, "the results of the file pipeline", 60)
