"""``python -m bench.peers``: flowstream and other stream processors on the same load, side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module, util
from pathlib import Path
from typing import Any

import click
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from rich.console import Console

from agents.broker import LocalBroker
from bench.calibrate import calibrate, machine
from bench.peers import python_peers
from bench.peers.contract import PeerCommand
from bench.peers.jobs import JOBS
from bench.peers.load import Load, Publishing, create_topics, make_load
from bench.peers.measure import PeerRun, Run, Tree, measure, start
from bench.peers.oracle import Expected
from bench.peers.outputs import (
    Decode,
    Output,
    faust_table,
    flowstream_distances,
    flowstream_pairs,
    flowstream_sources,
    plain,
)  # fmt: skip
from bench.peers.report import described, show, write
from bench.report import BenchError
from flowstream.errors import FlowstreamError

OUT = Path(__file__).parents[1] / "out" / "peers.json"
SOURCES = 50_000
#: The load in messages: what makes a run of 10 to 40 seconds, and no more than the whole load.
RECORDS = {
    "a": {"faust": 60_000, "faust take": 60_000, "quix": 100_000, "bytewax": 200_000, "spark": 500_000},
    "b": {"faust": 401, "quix": 2005},
    "c": {},
}
WHOLE = {"a": 1_000_000, "b": 10_025, "c": 10_025}
QUICK = 10  # times less
SWEEP = (10, 1000, 50_000, 200_000)  # sources of job a for the second picture
SWEPT = 3  # peers beside flowstream, the fastest
TIMEOUT_S = 300.0
FLOWSTREAM: dict[str, Decode] = {"a": flowstream_sources, "b": flowstream_pairs, "c": flowstream_distances}
out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True)


@dataclass
class Bench:
    """The broker, the core of the peers, and all that was measured or was not."""

    bootstrap: str
    broker_pid: int
    folder: Path
    core: int | None
    runs: list[PeerRun] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    _loads: dict[tuple[str, int, int], tuple[Load, Expected, Expected]] = field(default_factory=dict)

    def load(self, job: str, records: int, sources: int) -> tuple[Load, Expected, Expected]:
        """Return a load and the right results of its warm-up and of itself."""
        wanted = (job, records, sources)
        if wanted not in self._loads:
            load = make_load(job, records, sources)
            self._loads[wanted] = (load, *load.expected(job))
        return self._loads[wanted]

    def one(self, peer: PeerCommand, job: str, records: int, sources: int = SOURCES) -> PeerRun | None:
        """Measure a run; a failure is noted."""
        name = f"{peer.name}, job {job}"
        began = time.perf_counter()
        try:
            run = self._run(peer, job, records, sources)
        except (BenchError, FlowstreamError, OSError, KafkaException) as error:
            self.failures[name] = str(error)
            err.print(f"{name}: {error}", markup=False, highlight=False)
            return None
        took_s = time.perf_counter() - began
        err.print(
            f"{name}, {run.sources:,} sources: {run.records:,} records in {run.wall_s:.2f} s, {run.cpu_s:.2f} CPU s, "
            f"{run.results:,} results, {run.verdict} ({took_s:.0f} s in all)", highlight=False, markup=False,
        )  # fmt: skip
        return run

    def _run(self, peer: PeerCommand, job: str, records: int, sources: int) -> PeerRun:
        load, warm, expected = self.load(job, records, sources)
        group = f"peer-{job}-{peer.name.replace(' ', '-').lower()}-{time.time_ns() // 1_000_000}"
        source, output = f"{group}-in", f"{group}-out"
        argv = peer.argv(job, self.bootstrap, source, output, group)
        folder = self.folder / group
        folder.mkdir()
        if peer.name == "flowstream":
            python_peers.create_result_topics(self.bootstrap, source, output, job)
            results, decode = f"{output}.{python_peers.RESULTS[job]}.v1", FLOWSTREAM[job]
        else:
            faust = peer.name.startswith("faust") and job == "a"
            results, decode = (f"{group}-sums-changelog", faust_table) if faust else (output, plain)
            create_topics(self.bootstrap, [source, results])
        publishing = Publishing(self.bootstrap, source, group, load)
        reading = Output(self.bootstrap, results, decode)
        log_path = folder / "log"
        process = start(peer, argv, folder, self.core, log_path)
        tree = Tree(process.pid)
        try:
            watching = Run(tree, self.broker_pid, reading, log_path)
            return measure(peer, job, publishing, warm, expected, reading, watching, TIMEOUT_S, _say)
        finally:
            tree.end()
            process.wait()
            publishing.abandon()
            reading.close()
            _delete_topics(self.bootstrap, group)


def _delete_topics(bootstrap: str, prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    names = [name for name in admin.list_topics(timeout=30).topics if prefix in name]
    for future in admin.delete_topics(names).values():
        future.exception(30)


def _say(text: str) -> None:
    err.print(text, highlight=False, markup=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--jobs", default="a,b,c", show_default=True, help="Which jobs, separated by commas.")
@click.option("--peers", "wanted", default="", help="Which peers, by name, separated by commas; default: all.")
@click.option("--quick", is_flag=True, help="A tenth of the load: to see that it works, not to compare.")
@click.option("--rounds", default=2, show_default=True, type=click.IntRange(1, 20), help="Runs of each, in turn.")
@click.option("--records", type=click.IntRange(1000), help="Messages of job a, the same for all peers.")
@click.option("--pictures", type=click.Path(file_okay=False, path_type=Path), help="Draw pictures into this folder.")
@click.option("--output", default=OUT, show_default="bench/out/peers.json", type=click.Path(path_type=Path))
def main(
    jobs: str, wanted: str, quick: bool, rounds: int, records: int | None, pictures: Path | None, output: Path
) -> None:
    """Measure flowstream and other stream processors on this machine, one core each, and check their results."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that broker and peers are ended too
    chosen = _names(jobs)
    if not set(chosen) <= set(JOBS):
        raise click.BadParameter(f"{jobs}: there is {', '.join(JOBS)}", param_hint="--jobs")
    failures: dict[str, str] = {}
    peers = _peers(_names(wanted), failures)
    cores = sorted(os.sched_getaffinity(0))
    core = cores[0] if len(cores) > 1 else None
    found: dict[str, Any] = {"machine": machine(), "load_before": os.getloadavg(), "calibration": calibrate()}
    found |= {"pinned": core is not None, "peers": described(peers), "rounds": rounds, "quick": quick}
    if core is not None:
        os.sched_setaffinity(0, {cores[-1]})  # the broker inherits it
    with tempfile.TemporaryDirectory(prefix="flowstream-peers-") as folder:
        broker = LocalBroker(Path(folder) / "broker", port=0, controller_port=0, heap_mb=768)
        try:
            bootstrap = broker.start()
            bench = Bench(bootstrap, broker.status().pid or 0, Path(folder), core, failures=failures)
            for _ in range(rounds):
                for job in chosen:
                    for peer in peers:
                        if job in peer.jobs and f"{peer.name}, job {job}" not in failures:
                            run = bench.one(peer, job, _records(job, peer.name, records, quick))
                            bench.runs += [run] if run else []
                            write(output, found, bench.runs, failures)  # what there is, should it be cut short
            sweep = _sweep(bench, peers, quick) if pictures else []
        except FlowstreamError as error:
            raise click.ClickException(str(error)) from None
        finally:
            broker.stop()
    found["load_after"] = os.getloadavg()
    found["sweep"] = [{"peer": r.peer, "sources": r.sources, "per_cpu_s": r.per_cpu_s} for r in sweep]
    show(out, found, bench.runs, failures)
    write(output, found, bench.runs, failures)
    out.print(f"written to {output}", highlight=False)
    if pictures:
        command = [str(python_peers.PYTHON), "-m", "bench.peers.pictures", str(output), str(pictures)]
        subprocess.run(command, check=True, cwd=python_peers.ROOT)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _records(job: str, peer: str, records: int | None, quick: bool) -> int:
    own = RECORDS[job].get(peer, WHOLE[job])
    if job == "a" and records:
        own = records
    return max(401, own // QUICK) if quick else own


def _peers(wanted: Sequence[str], failures: dict[str, str]) -> list[PeerCommand]:
    """Return the peers asked for that can be had; the others go to ``failures`` with the reason."""
    peers: list[PeerCommand] = []

    def attempt(name: str, step: Callable[[], Any]) -> None:
        try:
            step()
        except (BenchError, FlowstreamError, OSError, subprocess.SubprocessError) as error:
            failures[name] = str(error)

    for name, make in python_peers.PEERS.items():
        if not wanted or name in wanted:
            attempt(name, lambda make=make: peers.append(make()))
    if not wanted or set(wanted) - set(python_peers.PEERS):
        attempt("peers on the JVM", lambda: peers.extend(_jvm_peers(wanted)))
    return peers


def _jvm_peers(wanted: Sequence[str]) -> list[PeerCommand]:
    if util.find_spec("bench.peers.jvm_peers") is None:
        raise BenchError("not part of this checkout")
    found = import_module("bench.peers.jvm_peers")
    found.build()
    return [peer for peer in found.commands() if not wanted or peer.name in wanted]


def _sweep(bench: Bench, peers: Sequence[PeerCommand], quick: bool) -> list[PeerRun]:
    """Run job a over other numbers of sources, for flowstream and the fastest peers."""
    best: dict[str, float] = {}
    for run in bench.runs:
        if run.job == "a":
            best[run.peer] = max(best.get(run.peer, 0.0), run.per_cpu_s)
    fastest = sorted(best, key=lambda name: -best[name] if name != "flowstream" else -float("inf"))[: SWEPT + 1]
    runs = []
    for sources in SWEEP:
        for peer in peers:
            if peer.name in fastest:
                run = bench.one(peer, "a", _records("a", peer.name, None, quick), sources)
                runs += [run] if run else []
    return runs


if __name__ == "__main__":
    main()
