"""What a worker makes of brokers that do not answer: it waits for them, and says so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, KafkaTimeoutError, NodeNotReadyError, RequestTimedOutError
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP

from agents import ending, recovery
from agents.app import create_app
from agents.client_thread import BatchConsumerThread
from agents.heard import Heard
from agents.ingest import UNANSWERED_S, IngestAgent
from agents.recovery import PatientRecovery
from flowstream.settings import load
from tests.agents.fakes import Stage
from tests.builders import goflow2_v2


class FakeClient:
    """Answers, or raises what it is given."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def send(self, _node: int, request: str, *, group: str = "") -> str:
        if self.error is not None:
            raise self.error
        return f"{request} {group}"


async def test_what_no_broker_answers_is_counted_and_raised_all_the_same() -> None:
    heard, client = Heard(), FakeClient()
    counted: list[str] = []
    heard.on_unanswered = counted.append
    heard.listen(client, "consumer")
    assert await client.send(1, "fetch", group="g") == "fetch g"
    client.error = RequestTimedOutError()
    with pytest.raises(RequestTimedOutError):
        await client.send(1, "fetch")
    assert counted == ["consumer"]


async def test_silence_is_counted_from_the_last_answer() -> None:
    heard, client = Heard(), FakeClient()
    heard.listen(client, "consumer")
    heard._last_s -= 100
    client.error = NodeNotReadyError()
    with pytest.raises(NodeNotReadyError):
        await client.send(1, "fetch")
    assert heard.silence_s() >= 100, "a request without an answer is no sign of life"
    client.error = None
    await client.send(1, "fetch")
    assert heard.silence_s() < 100


def recovering(*, stopped: bool = False) -> Any:
    made = PatientRecovery(create_app(load()), None)  # type: ignore[arg-type]
    if stopped:
        made._stopped.set()
    return made


@pytest.mark.parametrize("error", [ServiceStopped(), KafkaTimeoutError(), RequestTimedOutError(), TimeoutError()])
async def test_a_step_of_recovery_without_an_answer_begins_recovery_again(error: Exception, monkeypatch) -> None:
    async def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Recovery, "_wait", fails)
    monkeypatch.setattr(recovery, "RETRY_S", 0)
    one = recovering()
    with pytest.raises(RebalanceAgain):
        await one._wait(None)
    assert one.signal_recovery_start.is_set()


@pytest.mark.parametrize("error", [GroupAuthorizationFailedError("g"), ZeroDivisionError()])
async def test_an_error_that_waiting_does_not_mend_ends_recovery(error: Exception, monkeypatch) -> None:
    async def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Recovery, "_wait", fails)
    with pytest.raises(type(error)):
        await recovering()._wait(None)


async def test_recovery_ends_with_its_worker(monkeypatch) -> None:
    async def fails(*_: Any) -> None:
        raise ServiceStopped

    monkeypatch.setattr(Recovery, "_wait", fails)
    with pytest.raises(ServiceStopped):
        await recovering(stopped=True)._wait(None)


@pytest.mark.parametrize(
    ("restoring", "silent", "ends"), [(True, False, True), (True, True, False), (False, False, False)]
)
async def test_restoring_that_stands_still_ends_the_worker_unless_no_broker_answers(
    restoring: bool, silent: bool, ends: bool, monkeypatch
) -> None:
    one = recovering()
    one.in_recovery = restoring
    crashed: list[Exception] = []
    rounds = iter(range(20))

    async def crash(error: Exception) -> None:
        crashed.append(error)

    async def a_round(_seconds: float) -> None:
        if next(rounds, None) is None:
            one._stopped.set()

    monkeypatch.setattr(one.app, "crash", crash)
    monkeypatch.setattr(one, "sleep", a_round)
    monkeypatch.setattr(one.app.heard, "silence_s", lambda: 60.0 if silent else 0.0)
    monkeypatch.setattr(recovery, "STALLED_S", -1)
    await PatientRecovery._watch_progress.fun(one)
    assert [str(error) for error in crashed] == (["tables are not restored"] if ends else [])


async def test_faust_takes_the_end_of_a_timeout_for_being_stopped() -> None:
    # Why PatientRecovery exists; when this fails, it may go.
    one = Recovery(create_app(load()), None)  # type: ignore[arg-type]
    with pytest.raises(ServiceStopped):
        await one._wait(asyncio.sleep(60), timeout=0.01)
    assert not one.should_stop


def test_the_app_uses_what_waits() -> None:
    app = create_app(load())
    assert isinstance(app.tables.recovery, PatientRecovery)
    assert app.producer._settings_extra() == {"acks": "all", "enable_idempotence": True}


async def silent_partition(stage: Stage) -> tuple[IngestAgent, TP]:
    agent, tp = IngestAgent(stage.context), TP("flow-messages", 0)
    stage.consumer.assigned, stage.consumer.ends = {tp}, {tp: 1}
    await agent.take(stage.batch(tp.topic, [goflow2_v2()]))
    await agent.settle()
    stage.publisher.sent.clear()
    return agent, tp


async def test_silence_ends_with_the_last_answer() -> None:
    stage = Stage(load(time={"idle_after_s": 10}))
    agent, tp = await silent_partition(stage)
    await agent.advance_idle()
    stage.consumer.answering = False
    source = agent._sources[tp]
    source.active_at -= 12
    source.answered_at -= 4
    await agent.advance_idle()
    assert not stage.publisher.sent, "8 s of silence were heard"
    source.active_at -= 3
    await agent.advance_idle()
    assert stage.publisher.sent, "11 s were heard"


async def test_silence_of_the_broker_is_not_silence_of_a_source() -> None:
    stage = Stage(load(time={"idle_after_s": 10}))
    agent, tp = await silent_partition(stage)
    await agent.advance_idle()
    stage.consumer.answering = False
    source = agent._sources[tp]
    source.active_at -= 60
    source.answered_at -= 58
    await agent.advance_idle()
    assert not stage.publisher.sent, "2 s of silence were heard, 58 s of nothing"
    assert UNANSWERED_S < 58
    stage.consumer.answering = True
    await agent.advance_idle()
    assert not stage.publisher.sent, "the silence begins anew with the first answer"
    source.active_at -= 11
    await agent.advance_idle()
    assert stage.publisher.sent, "11 s of silence that a broker confirms"


class Thread(BatchConsumerThread):
    """The client thread, run here, with clients whose tasks ended."""

    def __init__(self, fetching: Any, coordinator: Any) -> None:
        self.rounds = 0
        self._consumer = type("C", (), {"_fetcher": fetching, "_coordinator": coordinator})()
        self.log = ending.log  # type: ignore[assignment]

    @property
    def should_stop(self) -> bool:
        return self.rounds > 3

    async def sleep(self, _n: Any) -> None:
        self.rounds += 1


def ended(error: Exception | None) -> Any:
    done: asyncio.Future[None] = asyncio.get_event_loop().create_future()
    if error is not None:
        done.set_exception(error)
    return type("Fetcher", (), {"error_future": done})()


def coordinator(error: Exception | None) -> Any:
    def check(_self: Any) -> None:
        if error is not None:
            raise error

    return type("Coordinator", (), {"check_errors": check})()


async def watch(thread: Thread) -> None:
    await BatchConsumerThread._watch_client.fun(thread)


async def test_a_client_whose_fetching_or_coordination_ended_ends_the_worker() -> None:
    with pytest.raises(ZeroDivisionError):
        await watch(Thread(ended(ZeroDivisionError()), coordinator(None)))
    with pytest.raises(GroupAuthorizationFailedError):
        await watch(Thread(ended(None), coordinator(GroupAuthorizationFailedError("g"))))
    await watch(Thread(ended(None), coordinator(None)))
    await watch(Thread(ended(None), coordinator(RequestTimedOutError())))


async def test_what_a_cancelled_fetch_takes_comes_with_the_next_one(monkeypatch) -> None:
    arrived = asyncio.Event()
    taken: list[int] = []

    working: list[asyncio.Task[None]] = []

    async def fetch(*_: Any) -> int:
        promise: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def in_the_thread() -> None:  # which goes on when the promise is cancelled
            await arrived.wait()
            taken.append(len(taken))
            if not promise.done():
                promise.set_result(taken[-1])

        working.append(asyncio.create_task(in_the_thread()))
        return await promise

    monkeypatch.setattr(AIOKafkaConsumerThread, "getmany", fetch)
    thread = Thread(ended(None), coordinator(None))
    cancelled = asyncio.ensure_future(thread.getmany(None, 1.0))
    for _ in range(3):
        await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    arrived.set()
    assert [await thread.getmany(None, 1.0) for _ in range(3)] == [0, 1, 2]
    assert taken == [0, 1, 2]


async def test_a_fetch_that_was_given_up_in_its_thread_is_made_again(monkeypatch) -> None:
    given_up = [True, True]

    async def fetch(*_: Any) -> str:
        if given_up:
            raise asyncio.CancelledError(given_up.pop())
        return "records"

    monkeypatch.setattr(AIOKafkaConsumerThread, "getmany", fetch)
    thread = Thread(ended(None), coordinator(None))
    assert await thread.getmany(None, 1.0) == "records"


async def test_a_fetch_that_fails_does_not_fail_again(monkeypatch) -> None:
    errors = [RequestTimedOutError()]

    async def fetch(*_: Any) -> str:
        if errors:
            raise errors.pop()
        return "records"

    monkeypatch.setattr(AIOKafkaConsumerThread, "getmany", fetch)
    thread = Thread(ended(None), coordinator(None))
    with pytest.raises(RequestTimedOutError):
        await thread.getmany(None, 1.0)
    assert await thread.getmany(None, 1.0) == "records"
