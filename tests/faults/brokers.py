"""What is done to the broker and to the network before it: stopped, killed, frozen, cut off, slowed down."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError, URLError

from agents.kafka_node import HOST, free_port
from tests.faults import client
from tests.faults.proxy import Proxy
from tests.faults.rig import Rig
from tests.faults.scenario import scenario
from tests.faults.verdict import streams
from tests.faults.workers import crew, some_way_on
from tests.integration.lab import Worker
from tests.waiting import wait_for

#: What recovery may take once the broker is back, a restart of the workers included.
BACK_S = 30


def status(worker: Worker) -> tuple[int, str]:
    """Return what /health says: the code of the answer and the status; (0, "") while nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/health", timeout=5) as answer:
            return answer.status, json.loads(answer.read())["status"]
    except HTTPError as error:
        return error.code, json.loads(error.read())["status"]
    except (URLError, OSError, ValueError):
        return 0, ""


def unanswered(rig: Rig) -> float:
    """Return how many requests no broker answered, by the workers' metrics."""
    return sum(worker.metric("requests_unanswered_total") for worker in rig.lab.workers)


def silence_is_told(rig: Rig) -> None:
    """Wait until every worker says that no broker answers: by /health, and by its metrics."""
    for worker in rig.lab.workers:
        wait_for(lambda w=worker: status(w) == (503, "no-broker"), "/health to say that no broker answers", 60)
        assert worker.metric("broker_silence_seconds") > 0


def back(rig: Rig, away_s: float) -> None:
    """Wait until results flow again after a broker was away; no worker may have ended over it."""
    took_s = rig.recovered(away_s + 120) - away_s
    rig.within(took_s, BACK_S, "recovery once the broker is back, s")
    for worker in rig.lab.workers:
        wait_for(lambda w=worker: status(w) == (200, "ok"), "/health to be well again", 60)


def lived_through(rig: Rig, pids: list[int]) -> None:
    """No worker ended: they wait for a broker rather than leaning on their supervisor."""
    now = [worker.process.pid for worker in rig.lab.workers]
    assert now == pids, f"workers ended: {[w.log.read_text()[-1500:] for w in rig.lab.workers]}"


def acknowledged_is_there(rig: Rig) -> None:
    """Everything that workers counted as sent and acknowledged lies in the result topics."""
    told = round(sum(worker.metric("results_sent_total") for worker in rig.lab.workers))
    there = sum(len(client.read(rig.address, rig.lab.topic(stream))) for stream in streams(rig.lab.settings()))
    assert there >= told > 0, f"{told} results were acknowledged, {there} are there"
    rig.row.figures["results acknowledged"], rig.row.figures["results there"] = told, there


@contextmanager
def proxied(rig: Rig) -> Iterator[Proxy]:
    """Put a proxy between workers and broker; the generator, the watcher and the checker go round it."""
    behind = free_port()
    with Proxy(behind) as proxy:
        rig.broker.stop()
        rig.broker.properties = {
            "listeners": f"PLAINTEXT://{HOST}:{rig.broker.port},PROXIED://{HOST}:{behind},"
            f"CONTROLLER://{HOST}:{rig.broker.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{rig.broker.port},PROXIED://{proxy.address}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
        }
        rig.broker.start()
        rig.lab.change(kafka={"bootstrap": proxy.address})
        try:
            yield proxy
        finally:
            rig.broker.properties = {}


@scenario(8, "broker restarted", fault="SIGTERM of the broker, started again after 20 s", own_broker=True)
def broker_restarted(rig: Rig) -> None:
    rig.prepare(raw_partitions=2)
    pids = [worker.process.pid for worker in crew(rig, 2)]
    with rig.supervised(), rig.producing(1000):
        some_way_on(rig, 3_000)
        rig.fault("the broker is stopped in order, started after 20 s")
        began = time.monotonic()
        rig.broker.stop()
        silence_is_told(rig)
        time.sleep(max(0.0, 20 - (time.monotonic() - began)))  # the length is the fault
        rig.start_broker()
        back(rig, time.monotonic() - began)
    lived_through(rig, pids)
    assert unanswered(rig) > 0
    rig.drain()
    rig.verify()
    acknowledged_is_there(rig)


@scenario(
    9, "broker killed during commits", fault="kill -9 of the broker, started at once", quick=True, own_broker=True
)
def broker_killed(rig: Rig) -> None:
    rig.prepare(raw_partitions=2)
    pids = [worker.process.pid for worker in crew(rig, 1 if rig.quick else 2)]
    with rig.supervised(), rig.producing(1000 if rig.quick else 2000):
        for _ in range(1 if rig.quick else 4):
            some_way_on(rig, rig.draw.randrange(1_000, 3_000))
            rig.fault("kill -9 of the broker, started at once")
            began = time.monotonic()
            rig.kill_broker()
            rig.start_broker()
            back(rig, time.monotonic() - began)
    lived_through(rig, pids)
    rig.drain()
    rig.verify()
    acknowledged_is_there(rig)


@scenario(
    10, "broker frozen, network cut", fault="SIGSTOP of the broker for 30 s; a cut of the network for 60 s",
    own_broker=True,
)  # fmt: skip
def broker_frozen(rig: Rig) -> None:
    with proxied(rig) as proxy:
        rig.prepare(raw_partitions=2)
        pids = [worker.process.pid for worker in crew(rig, 2)]
        with rig.supervised(), rig.producing(1000):
            some_way_on(rig, 3_000)
            rig.fault("SIGSTOP of the broker for 30 s")
            began = time.monotonic()
            rig.pause_broker()
            silence_is_told(rig)
            time.sleep(max(0.0, 30 - (time.monotonic() - began)))  # the length is the fault
            rig.resume_broker()
            back(rig, time.monotonic() - began)
            some_way_on(rig, 3_000)
            rig.fault("the network is cut for 60 s")
            began = time.monotonic()
            proxy.cut()
            silence_is_told(rig)
            time.sleep(max(0.0, 60 - (time.monotonic() - began)))  # the length is the fault
            proxy.heal()
            back(rig, time.monotonic() - began)
        assert unanswered(rig) > 0, "timeouts should show in the metrics"
        lived_through(rig, pids)
        rig.drain()
        rig.verify()
        acknowledged_is_there(rig)


@scenario(11, "slow network", fault="100 ms each way and 3 Mbit/s between workers and broker", own_broker=True)
def slow_network(rig: Rig) -> None:
    with proxied(rig) as proxy:
        rig.session_timeout(10)
        rig.prepare(raw_partitions=2)
        workers = crew(rig, 2)
        rebalances = [worker.metric("rebalances_total") for worker in workers]
        pids = [worker.process.pid for worker in workers]
        with rig.supervised(), rig.producing(1000):
            some_way_on(rig, 2_000)
            rig.fault("100 ms each way, 3 Mbit/s")
            proxy.delay_s, proxy.bytes_per_s = 0.1, 3e6 / 8
            rig.recovered(120)
            some_way_on(rig, 10_000)
            rig.fault("50,000 flows at once over the slow network")
            rig.produce(50_000, seconds_of_event_time=300)
            some_way_on(rig, 30_000)
        rig.drain(300)
        rig.verify()
        lived_through(rig, pids)
        assert [worker.metric("rebalances_total") for worker in workers] == rebalances, "a worker was put out"
        assert max(usage.rss_bytes for usage in rig.watch.seen.usage) < 1 << 30
