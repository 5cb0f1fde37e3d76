"""What is done to workers: killed, stopped, frozen, added and taken away, kept from finishing a batch."""

from __future__ import annotations

import sys
import time

from tests.faults import checker, client
from tests.faults.rig import Rig
from tests.faults.scenario import scenario
from tests.integration.kafka import committed
from tests.integration.lab import Worker
from tests.waiting import wait_for

#: What recovery may take beyond the session timeout.
RECOVERY_S = 15


def crew(rig: Rig, count: int) -> list[Worker]:
    """Start workers together and wait until every one has partitions."""
    workers = [rig.lab.worker(wait=False) for _ in range(count)]
    for worker in workers:
        rig.lab.joined(worker)
    return workers


def owners(rig: Rig) -> dict[tuple[str, int], int]:
    """Return how many of the running workers say they hold a partition of the raw or the flows topic."""
    found: dict[tuple[str, int], int] = {}
    for worker in rig.lab.workers:
        for topic, partitions in worker.get("/health").get("assigned", {}).items() if worker.alive else ():
            for partition in partitions:
                if topic in {rig.lab.raw, rig.lab.topic("flows")}:
                    found[topic, partition] = found.get((topic, partition), 0) + 1
    return found


def each_owned_once(rig: Rig) -> bool:
    """Whether every partition has exactly one owner."""
    wanted = rig.partitions + rig.lab.settings().topics.partitions
    counts = owners(rig)
    return len(counts) == wanted and set(counts.values()) == {1}


def processed(rig: Rig) -> int:
    """Return how many raw records are done with and committed."""
    return sum(offset for (topic, _), offset in rig.watch.seen.committed.items() if topic == rig.lab.raw)


def some_way_on(rig: Rig, records: int) -> None:
    """Wait until so many more raw records are done with, and results come."""
    goal = processed(rig) + records
    wait_for(lambda: processed(rig) >= goal and rig.watch.seen.newest, f"{records} more records to be processed", 90)


@scenario(1, "baseline", fault="none", quick=True)
def baseline(rig: Rig) -> None:
    rig.prepare(raw_partitions=2)
    crew(rig, 1 if rig.quick else 2)
    rig.produce(10_000 if rig.quick else 100_000, seconds_of_event_time=120)
    took_s = rig.drain()
    rig.verify(ledger=True)
    assert not rig.row.late
    assert not rig.row.dead_letters
    rig.within(took_s, 10, "all out after the last record, s")


@scenario(2, "crash of one worker", fault="kill -9 at a random moment, restarted by the supervisor", quick=True)
def crash_of_one_worker(rig: Rig) -> None:
    session_s = rig.session_timeout(6 if rig.quick else 10)
    rig.prepare(raw_partitions=2)
    crew(rig, 2)
    with rig.supervised(), rig.producing(1000 if rig.quick else 3000):
        for _ in range(1 if rig.quick else 3):
            some_way_on(rig, rig.draw.randrange(2_000, 6_000))
            rig.fault("kill -9 of a worker")
            rig.draw.choice(rig.lab.workers).kill()
            took_s = rig.recovered()
            rig.within(took_s, session_s + RECOVERY_S, "recovery after kill -9, s")
    rig.drain()
    rig.verify()


@scenario(3, "crash loop and burst", fault="kill -9 every 3 s, 20 times, then of all workers at once")
def crash_loop(rig: Rig) -> None:
    session_s = rig.session_timeout(10)
    rig.prepare(raw_partitions=2)
    crew(rig, 3)
    with rig.supervised(), rig.producing(1000):
        some_way_on(rig, 2_000)
        before = processed(rig)
        for _ in range(5 if rig.quick else 20):
            alive = [worker for worker in rig.lab.workers if worker.alive]
            rig.fault("kill -9 of a worker")
            rig.draw.choice(alive).kill()
            time.sleep(3)  # the pace is part of the fault
        rig.row.figures["records processed during the loop"] = processed(rig) - before
        rig.fault("kill -9 of all workers at once")
        for worker in list(rig.lab.workers):
            worker.kill()
        took_s = rig.recovered(180)
        # What the clock says depends on who else wants the processors; this does not.
        rig.row.figures["CPU of the workers from the burst to then, s"] = round(
            sum(w.cpu_s() for w in rig.lab.workers), 1
        )
    assert rig.row.figures["records processed during the loop"], "nothing was processed between the kills"
    rig.drain()
    rig.verify()
    rig.within(took_s, session_s + RECOVERY_S, "recovery after the burst, s")  # the truth first: this is but slow


@scenario(4, "graceful stop", fault="SIGTERM in mid-stream", quick=True)
def graceful_stop(rig: Rig) -> None:
    rig.prepare(raw_partitions=2)
    with rig.producing(1000 if rig.quick else 3000):
        for _ in range(1 if rig.quick else 3):
            worker = rig.lab.worker()
            some_way_on(rig, rig.draw.randrange(2_000, 6_000))
            rig.fault("SIGTERM of a worker")
            began = time.monotonic()
            assert worker.stop() == 0
            rig.within(time.monotonic() - began, 30, "from SIGTERM to the end, s")
            reached, _, _ = checker.chains(client.read(rig.address, rig.lab.topic("flows")))
            for (topic, partition), (offset, _) in committed(rig.address, rig.lab.app).items():
                ends = {end for (_, t, p), end in reached.items() if (t, p) == (topic, partition)}
                assert not ends or ends == {offset}, f"{topic}-{partition}: {offset} is committed, blocks go to {ends}"
    rig.lab.worker()
    rig.drain()
    rig.verify()
    assert not rig.row.sent_again, f"{rig.row.sent_again} raw records were processed again"
    assert not rig.row.said_again, f"{rig.row.said_again} results were said again"


@scenario(5, "paused worker", fault="SIGSTOP for 1.5 session timeouts, SIGCONT: a zombie")
def paused_worker(rig: Rig) -> None:
    session_s = rig.session_timeout(6)
    rig.prepare(raw_partitions=2)
    crew(rig, 2)
    with rig.producing(2000):
        for _ in range(1 if rig.quick else 4):
            some_way_on(rig, rig.draw.randrange(2_000, 6_000))
            zombie = rig.draw.choice(rig.lab.workers)
            rig.fault("SIGSTOP of a worker for 1.5 session timeouts, SIGCONT")
            zombie.pause()
            time.sleep(1.5 * session_s)  # the length is the fault
            zombie.resume()
            rig.recovered()
            wait_for(lambda: each_owned_once(rig), "every partition to have one owner", 90)
            wait_for(zombie.ready, "the zombie to join again", 90)
    rig.drain()
    rig.verify()


@scenario(6, "rebalance storm", fault="a worker joins and leaves again, over and over")
def rebalance_storm(rig: Rig) -> None:
    rig.prepare(raw_partitions=3)
    crew(rig, 2)
    with rig.producing(1000):
        some_way_on(rig, 2_000)
        for _ in range(3 if rig.quick else 10):
            guest = rig.lab.worker()
            rig.fault("a worker joins, and leaves by SIGTERM at once")
            assert guest.stop() == 0
            rig.lab.workers.remove(guest)
        rig.recovered()
        wait_for(lambda: each_owned_once(rig), "every partition to have one owner", 90)
    rig.drain()
    rig.verify()


@scenario(7, "scale out and in", fault="1 worker, 3, 1 again")
def scale_out_and_in(rig: Rig) -> None:
    rig.prepare(raw_partitions=3)
    first = rig.lab.worker()
    rig.produce(20_000)
    rig.drain()
    before = tables_of(rig, first)
    assert len(before) > 5, "there should be windows to compare"
    rig.fault("two workers join")
    others = crew(rig, 2)
    wait_for(lambda: each_owned_once(rig) and all(w.assigned() for w in rig.lab.workers), "partitions to be shared", 90)
    for worker in rig.lab.workers:
        wait_for(lambda worker=worker: tables_of(rig, worker) == before, "the state of the worker before", 60)
    with rig.producing(2000):
        some_way_on(rig, 8_000)
    rig.drain()
    between = tables_of(rig, others[0])
    for leaving in others:
        rig.fault("a worker leaves")
        assert leaving.stop() == 0
    wait_for(lambda: each_owned_once(rig), "the first worker to hold everything", 90)
    wait_for(lambda: tables_of(rig, first) == between, "the state of the workers before", 60)
    rig.produce(5_000)
    rig.drain()
    rig.verify()


def tables_of(rig: Rig, worker: Worker) -> dict[int, object]:
    """Return every window of the table of sources, as a worker answers for all."""
    starts = {start for start, _ in rig.truth.closed()}
    told = {start: worker.get(f"/sources?top=1000&window={start}").get("sources") for start in sorted(starts)}
    return {start: sources for start, sources in told.items() if sources}


@scenario(24, "commit never runs ahead", fault="one batch held, later ones done, kill -9", quick=True)
def commit_ahead(rig: Rig) -> None:
    rig.prepare(raw_partitions=2, kafka={"fetch_bytes_max": 20_000})
    for _ in range(20):
        rig.produce(300, seconds_of_event_time=3)  # one batch at least: a client that waits for a broker makes few
    journal, flows = rig.folder / "held", rig.lab.topic("flows")
    holding = rig.lab.worker(
        command=[sys.executable, "-m", "tests.faults.held_worker", "worker", "--log-level", "info"],
        HELD_TOPICS=f"{rig.lab.raw},{flows}", HELD_FILE=str(journal),
    )  # fmt: skip

    def held() -> dict[str, int]:
        lines = journal.read_text().splitlines() if journal.exists() else []
        return {topic: int(offset) for topic, offset in (line.split() for line in lines)}

    def all_but_the_held_are_done() -> bool:
        blocks = checker.chains(client.read(rig.address, flows))[0]
        ends = client.ends(rig.address, [rig.lab.raw])
        reached = all(blocks.get((d, t, p), 0) == end for (t, p), end in ends.items() for d in range(4))
        return reached and rig.watch.seen.committed.get((rig.lab.raw, 1), 0) == ends[rig.lab.raw, 1]

    wait_for(lambda: rig.lab.raw in held(), "a batch to be held", 60)
    wait_for(all_but_the_held_are_done, "everything else to be processed", 60)
    rig.fault("one batch held while later ones are done, kill -9")
    holding.kill()
    for topic, offset in held().items():
        now = committed(rig.address, rig.lab.app).get((topic, 0), (0, ""))[0]
        assert now <= offset, f"{topic}-0: {now} is committed, the batch at {offset} is not done"
    rig.lab.workers.clear()
    rig.lab.worker()
    rig.drain()
    rig.verify()
    assert rig.row.sent_again, "the held batch should have been read again"
