"""The rig of one scenario: topics, workers, generator, watcher, checker, and the line of the report."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

from agents.broker import LocalBroker
from flowstream.setting_tables import Analysis
from tests.faults import checker, client
from tests.faults.checker import Truth
from tests.faults.report import Row
from tests.faults.scenario import NotRunError, Scenario
from tests.faults.sender import Sender
from tests.faults.supervisor import Supervisor
from tests.faults.verdict import Ends, Told, Verdict, rules, streams
from tests.faults.watch import Watch
from tests.integration.lab import Lab
from tests.waiting import wait_for


class Rig:
    """One run of a scenario: ``prepare`` comes first, then workers, flows, faults, ``drain`` and ``verify``."""

    def __init__(
        self, scenario: Scenario, address: str, folder: Path, *, prefix: str, seed: int = 1, quick: bool = False,
        minutes: float = 30, broker: LocalBroker | None = None, delivery: str = "at-least-once",
        every_analysis: bool = False,
    ) -> None:  # fmt: skip
        self.scenario = scenario
        self.address = address
        self.folder = folder
        self.seed = seed
        self.quick = quick  # the short form, where a scenario has two
        self.minutes = minutes  # of the scenario that takes as long as one likes
        self.draw = random.Random(seed)
        self.row = Row(scenario.number, scenario.name, seed)
        folder.mkdir(parents=True, exist_ok=True)
        self.lab = Lab(address, prefix, folder)
        self.lab.change(delivery=delivery)
        if every_analysis:
            self.lab.agents = "ingest,analyses,merges"
            self.lab.change(analyses=list(get_args(Analysis)))
        # A silent partition is idle by the clock, which no truth can know. Scenarios that are about it set it.
        self.lab.change(time={"idle_after_s": 3600}, elephants={"rate_bps_min": 5e7})
        self.partitions = 0
        self.sender: Sender
        self.watch: Watch
        self.truth = Truth()
        self.resets: list[Ends] = []
        self._broker = broker
        self._faults: list[tuple[float, dict[tuple[str, int], int], dict[int, int]]] = []

    @property
    def broker(self) -> LocalBroker:
        """The broker, of those scenarios that have one of their own."""
        assert self._broker is not None, "say own_broker=True: this broker is shared"
        return self._broker

    @property
    def sent(self) -> list[tuple[int, int, int]]:
        """(number of the flow, partition, offset) of all that the broker has acknowledged."""
        return self.sender.acknowledged

    def prepare(self, raw_partitions: int = 2, **settings: Any) -> None:
        """Make the topics, with settings given as for ``flowstream.settings.load``, and begin to watch."""
        self.lab.change(**settings)
        self.lab.prepare(raw_partitions=raw_partitions)
        self.partitions = raw_partitions
        self.sender = Sender(self.address, self.lab.raw, raw_partitions, self.seed)
        inputs = [self.lab.raw, self.lab.topic("flows")]
        results = [self.lab.topic(stream) for stream in streams(self.lab.settings())]
        self.watch = Watch(
            self.address, self.lab.app, inputs, results, self.lab.topic("sources"), lambda: self.lab.workers
        )
        self.watch.start()

    def produce(self, records: int, *, seconds_of_event_time: float = 60, sources: int = 48, hot: float = 0.0) -> None:
        """Send flows as fast as the broker takes them, and wait for its acknowledgements."""
        step_ns = int(seconds_of_event_time * 1e9 / records)
        self.sender.send(records, step_ns, sources, hot)
        self.sender.flush()

    @contextmanager
    def producing(
        self, rate: float = 1000, *, speed: float = 10, sources: int = 48, hot: float = 0.0
    ) -> Iterator[None]:
        """Send ``rate`` flows a second meanwhile; event time goes ``speed`` times as fast as the clock."""
        with self.sender.running(rate, int(speed * 1e9 / rate), sources, hot):
            yield

    @contextmanager
    def supervised(self) -> Iterator[Supervisor]:
        """Start workers that have ended again meanwhile, as a service manager would; ``stop`` is respected."""
        with Supervisor(self.lab) as supervisor:
            yield supervisor
        self.row.restarts += supervisor.restarts

    def kill_broker(self) -> None:
        """End the broker as a power cut would."""
        self.broker.kill()

    def pause_broker(self) -> None:
        """Freeze the broker."""
        self.broker.pause()

    def resume_broker(self) -> None:
        """Let a frozen broker go on."""
        self.broker.resume()

    def start_broker(self) -> None:
        """Start the broker again, with what it had on its disk."""
        self.broker.start()

    def fault(self, what: str) -> None:
        """Note a fault that is injected now."""
        self.row.faults.append(what)
        seen = self.watch.seen
        self._faults.append((time.monotonic(), dict(seen.ends), dict(seen.newest)))

    def reset(self, what: str) -> Ends:
        """Note a reset in place that is injected now, while no worker runs; returns where results end before it."""
        self.fault(what)
        said = *streams(self.lab.settings()), "late", "dead-letters"
        self.resets.append(client.ends(self.address, map(self.lab.topic, said)))
        return self.resets[-1]

    def recovered(self, deadline_s: float = 90) -> float:
        """Wait until results flow again, and return the seconds since the last fault.

        That is: of every raw partition all that was there when the fault came is done with and committed, and
        every partition of the results has a window newer than before. Flows have to come in meanwhile.
        """
        at_s, ends, newest = self._faults[-1]
        raw = {at: end for at, end in ends.items() if at[0] == self.lab.raw}

        def flowing() -> bool:
            seen = self.watch.seen
            done = all(seen.committed.get(at, 0) >= end for at, end in raw.items())
            return done and all(seen.newest.get(p, 0) > start for p, start in newest.items()) and bool(seen.newest)

        wait_for(flowing, "results to flow again", deadline_s)
        took_s = time.monotonic() - at_s
        self.row.recovery_s = max(took_s, self.row.recovery_s or 0.0)
        return took_s

    def session_timeout(self, seconds: float) -> float:
        """Choose ``kafka.session_timeout_s`` for the workers, with the heartbeats that go with it."""
        self.lab.change(kafka={"session_timeout_s": seconds, "heartbeat_s": seconds / 6})
        return seconds

    def within(self, took_s: float, limit_s: float, what: str) -> None:
        """Put a duration into the report; in the full form it may not exceed the limit.

        The quick scenarios run among the tests, where nothing is decided by how fast a machine is.
        """
        self.row.figures[what] = round(max(took_s, float(self.row.figures.get(what, 0))), 2)
        assert self.quick or took_s <= limit_s, f"{what}: {took_s:.1f}, the limit is {limit_s:g}"

    def lag(self) -> int:
        """Return how many raw records are not done with and committed, as seen last."""
        seen = self.watch.seen
        return sum(end - max(0, seen.committed.get(at, 0)) for at, end in seen.ends.items() if at[0] == self.lab.raw)

    def drain(self, deadline_s: float = 90) -> float:
        """Push the watermark past every window and wait until all is out; returns the seconds it took."""
        began = time.monotonic()
        self.sender.close_windows()
        ends = client.ends(self.address, [self.lab.raw])
        chosen = rules(self.lab.settings(), self.sender.silent)
        self.truth = checker.truth(client.read(self.address, self.lab.raw), self.partitions, chosen)
        closed, told = self.truth.closed(), Told()

        def complete() -> bool:
            seen = self.watch.seen
            if any(seen.committed.get(at, 0) < end for at, end in ends.items()):
                return False
            return told.holds(closed, dict(seen.sources))

        try:
            wait_for(complete, "everything to be committed and every window to be out", deadline_s)
        except AssertionError as error:
            error.add_note(f"raw records not committed: {self.lag()}")
            Verdict(self).compare()
            raise
        return time.monotonic() - began

    def verify(self, *, ledger: bool = False, pipeline: bool = True) -> None:
        """Hold everything against the truth; AssertionError says what differs.

        ``ledger``: the counters of the workers must add up too, which they can where no partition moved.
        ``pipeline``: all analyses must have said what flowstream's pure pipeline says of the same log.
        """
        Verdict(self).verify(ledger=ledger, pipeline=pipeline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.partitions:
            self.watch.stop()
            self.sender.close()
            usage = self.watch.seen.usage
            self.row.rss_bytes_max = max((u.rss_bytes for u in usage), default=0)
            self.row.descriptors_max = max((u.descriptors for u in usage), default=0)
        self.lab.__exit__(kind, error, trace)


def run(scenario: Scenario, address: str, folder: Path, *, prefix: str, **options: Any) -> Row:
    """Run a scenario and return its line, whatever becomes of it."""
    began = time.monotonic()
    rig = Rig(scenario, address, folder, prefix=prefix, **options)
    try:
        with rig:
            scenario.run(rig)
        rig.row.verdict = "pass"
    except AssertionError as error:
        verdict = "not run" if isinstance(error, NotRunError) else "FAIL"
        rig.row.verdict, rig.row.detail = verdict, "\n".join([str(error), *getattr(error, "__notes__", [])])
    except Exception:  # noqa: BLE001 - one scenario's trouble is a line of the report, and no end of the others
        rig.row.verdict, rig.row.detail = "ERROR", traceback.format_exc()
    rig.row.seconds = time.monotonic() - began
    return rig.row
