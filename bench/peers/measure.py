"""One run of one peer: its process tree on one core, from the moment the load is readable to the last result.

When the peer's results of the warm-up are there, the load is published behind a transaction that stays open;
then the clock starts and the transaction is committed. When the tree wants no more of its core than while it
waited for that, the load is done, and the messages that close its windows are sent; the clock stands still in
between. A peer that polls without rest gets those at once. The clock stops with the last message on the topic
of results, whose length is looked at all along.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.calibrate import ONE_THREAD
from bench.peers.contract import PeerCommand
from bench.peers.load import Publishing
from bench.peers.oracle import Expected, Verdict
from bench.peers.outputs import Output
from bench.pipeline import busy_s
from bench.report import BenchError

ROOT = Path(__file__).parents[2]
LOOK_S = 0.05
QUIET_S = 0.75  # without work so long: the load is done
QUIET_SHARE = 0.15  # of a core, above what the peer takes while it waits
SETTLED_S = 2.0  # no results so long: look whether they are all there
STALL_S = 40.0  # no results so long although some are missing: give up waiting
START_MAX_S = 40.0
POLLING_SHARE = 0.3  # of a core, wanted while there is nothing to do: from here on work is hard to tell from polling
RESTLESS_SHARE = 0.9  # a peer that wants so much while it waits is never quiet: its windows are closed at once
WARM_S = 120.0
STARTED_S, STARTED_SHARE = 5.0, 0.4  # less of a core for so long after the start: the warm-up was read


@dataclass(frozen=True, slots=True)
class PeerRun:
    """The figures of a run. Times in seconds; ``cpu_s`` is the whole tree's, ``broker_cpu_s`` apart."""

    peer: str
    job: str
    records: int
    sources: int
    results: int  # messages on the topic of results
    wall_s: float
    cpu_s: float
    broker_cpu_s: float
    others_cpu_s: float
    peak_rss_bytes: int
    startup_cpu_s: float
    verdict: Verdict

    @property
    def per_s(self) -> float:
        """Records per second of wall-clock time."""
        return self.records / self.wall_s

    @property
    def per_cpu_s(self) -> float:
        """Records per CPU second."""
        return self.records / self.cpu_s


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at a moment."""

    at_s: float
    cpu_s: float
    wanted_s: float  # running or waiting for the core
    broker_cpu_s: float
    busy_s: float
    results: int


class Tree:
    """A process and all below it."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self.peak_rss_bytes = 0

    def times_s(self) -> tuple[float, float]:
        """Return the CPU time of all that live or were waited for, and how long threads that live ran or had to wait.

        The second says whether a peer has work even where its neighbours leave it no core to do it.
        """
        cpu_s, wanted_s, rss = 0.0, 0.0, 0
        for process in (self._root, *self._root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, OSError):
                cpu_s += sum(process.cpu_times()[:4])
                rss += process.memory_info().rss
                for task in Path(f"/proc/{process.pid}/task").iterdir():
                    ran_ns, waited_ns, _slices = (task / "schedstat").read_text().split()
                    wanted_s += (int(ran_ns) + int(waited_ns)) / 1e9
        self.peak_rss_bytes = max(self.peak_rss_bytes, rss)
        return cpu_s, wanted_s

    @property
    def alive(self) -> bool:
        """Whether the root has not ended."""
        return self._root.is_running() and self._root.status() != psutil.STATUS_ZOMBIE

    def end(self) -> None:
        """Ask all to end, then make them."""
        processes = [self._root, *self._root.children(recursive=True)]
        with suppress(psutil.NoSuchProcess):
            self._root.send_signal(signal.SIGTERM)
        _gone, left = psutil.wait_procs(processes, 15)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, 5)


def start(
    peer: PeerCommand, argv: list[str], folder: Path, core: int | None, log_path: Path
) -> subprocess.Popen[bytes]:
    """Start a peer on a core; whatever it starts stays there."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FLOWSTREAM_")}
    env |= ONE_THREAD | {"PYTHONPATH": str(ROOT)} | peer.env
    own = os.sched_getaffinity(0) if core is not None else set()
    if core is not None:
        os.sched_setaffinity(0, {core})  # of this thread, which the child inherits
    try:
        with log_path.open("wb") as log:
            return subprocess.Popen(argv, env=env, cwd=folder, stdout=log, stderr=log)
    finally:
        if core is not None:
            os.sched_setaffinity(0, own)


class Run:
    """A peer at work on a load."""

    def __init__(self, tree: Tree, broker_pid: int, output: Output, log_path: Path) -> None:
        self.tree, self._broker = tree, psutil.Process(broker_pid)
        self._output, self.log_path = output, log_path

    def look(self) -> Look:
        """Look at everything; BenchError where the peer has ended."""
        if not self.tree.alive:
            raise BenchError(f"ended by itself: {tail(self.log_path)}")
        broker_s = sum(self._broker.cpu_times()[:2])
        return Look(time.perf_counter(), *self.tree.times_s(), broker_s, busy_s(), self._output.size())

    def until_complete(self, expected: Expected, begin: Look, stall_s: float) -> tuple[Look, Verdict]:
        """Wait for all results, or until there are no more; return when the last one came, and the verdict."""
        last, verdict, checked_at = begin, None, -1
        checking: Future[Verdict] | None = None
        with ThreadPoolExecutor(1) as reader:
            while True:
                now = self.look()
                if now.results != last.results:
                    last = now
                still_s = now.at_s - last.at_s
                if checking is not None:
                    # Reading takes seconds, so it is done aside: what comes meanwhile must be seen when it comes.
                    if checking.done():
                        verdict, checking = checking.result(), None
                        if not (verdict.missing or verdict.different) and checked_at == now.results:
                            return last, verdict
                elif still_s > SETTLED_S and checked_at != now.results:
                    checking, checked_at = reader.submit(self._output.verdict, expected), now.results
                elif verdict and still_s > (stall_s if last is begin else min(stall_s, STALL_S)):
                    return last, verdict
                time.sleep(LOOK_S)

    def until_quiet(self, share_max: float, quiet_s: float, limit_s: float) -> Look:
        """Wait until the peer has nothing to do for ``quiet_s``, or ``limit_s``; return when that began."""
        limit_s += time.perf_counter()
        looks = [self.look()]
        while True:
            time.sleep(LOOK_S)
            looks.append(self.look())
            while len(looks) > 2 and looks[-1].at_s - looks[1].at_s >= quiet_s:
                looks.pop(0)
            first, now = looks[0], looks[-1]
            share = (now.wanted_s - first.wanted_s) / (now.at_s - first.at_s)
            if now.at_s - first.at_s >= quiet_s and share < share_max and first.results == now.results:
                return first
            if now.at_s > limit_s:
                return now

    def idle_share(self) -> float:
        """Return the share of a core that a peer wants while there is nothing to do."""
        first = self.look()
        time.sleep(2 * QUIET_S)
        now = self.look()
        return (now.wanted_s - first.wanted_s) / (now.at_s - first.at_s)


def quiet_share(idle_share: float) -> float:
    """Return the share of a core below which a peer has nothing to do; for one that polls a lot, half-way to all."""
    return idle_share + QUIET_SHARE if idle_share < POLLING_SHARE else (1 + idle_share) / 2


def measure(
    peer: PeerCommand, job: str, publishing: Publishing, warm: Expected, expected: Expected, output: Output,
    run: Run, timeout_s: float, say: Callable[[str], None],
) -> PeerRun:  # fmt: skip
    """Take a started peer through warm-up and load; BenchError where it does not get through."""
    publishing.warm_up()
    started = run.until_quiet(STARTED_SHARE, STARTED_S, START_MAX_S)
    publishing.close_warm_up()
    warmed, verdict = run.until_complete(warm, started, WARM_S)
    if not warmed.results:
        raise BenchError(f"no result of the warm-up within {WARM_S:.0f} s: {tail(run.log_path)}")
    if not verdict.equal:
        say(f"{peer.name}, job {job}: warm-up: {verdict}")
    output.forget()
    publishing.prepare()
    idle_share = run.idle_share()
    begin = run.look()
    say(f"{peer.name}, job {job}: warm; wants {idle_share:.0%} of a core while it waits")
    publishing.release()
    if idle_share < RESTLESS_SHARE:
        time.sleep(QUIET_S)  # a fetch that waits for news may take half a second to come back
        quiet = run.until_quiet(quiet_share(idle_share), QUIET_S, timeout_s)
        closing = run.look()
    else:
        quiet = closing = begin
    publishing.close_windows()
    last, verdict = run.until_complete(expected, closing, STALL_S)
    if last is closing and quiet is not begin:  # closing changed nothing: all was said before
        closing = last = quiet

    def spent(name: str) -> float:
        return float(getattr(quiet, name) - getattr(begin, name) + getattr(last, name) - getattr(closing, name))

    cpu_s, broker_s = spent("cpu_s"), spent("broker_cpu_s")
    return PeerRun(
        peer.name, job, publishing.load.records, publishing.load.main.sources, last.results - begin.results,
        spent("at_s"), cpu_s, broker_s, max(0.0, spent("busy_s") - cpu_s - broker_s), run.tree.peak_rss_bytes,
        begin.cpu_s, verdict,
    )  # fmt: skip


def tail(path: Path, size: int = 500) -> str:
    """Return the end of a log."""
    return path.read_bytes()[-size:].decode(errors="replace").strip() or "its log is empty"
