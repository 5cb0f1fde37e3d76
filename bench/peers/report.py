"""The comparison: a table in the terminal, a file of everything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.peers.contract import PeerCommand
from bench.peers.jobs import JOBS
from bench.peers.measure import PeerRun
from bench.report import count

HEADINGS = (
    "records", "results", "records/s", "records/CPU s", "spread", "CPU s/million", "peak MB", "broker CPU",
    "others' CPU", "flowstream is", "results are",
)  # fmt: skip


def rightful(runs: Sequence[PeerRun]) -> Sequence[PeerRun]:
    """Return the runs whose results are right, or all where none is: what gave nothing was not fast."""
    return [run for run in runs if run.verdict.equal] or runs


def best(runs: Sequence[PeerRun]) -> PeerRun:
    """Return the run with the least CPU time per record: the one the neighbours disturbed least."""
    return max(rightful(runs), key=lambda run: run.per_cpu_s)


def spread(runs: Sequence[PeerRun]) -> str:
    """Return how far the worst run is below the best, of how many."""
    counted = rightful(runs)
    worst = min(run.per_cpu_s for run in counted)
    return f"-{1 - worst / best(runs).per_cpu_s:.0%} of {len(counted)}" if len(counted) > 1 else "one run"


def verdict(runs: Sequence[PeerRun]) -> str:
    """Return what the results are, the worst of all runs."""
    wrong = [run for run in runs if not run.verdict.equal]
    said = str(max(wrong, key=lambda run: run.verdict.missing + run.verdict.different).verdict) if wrong else "equal"
    return said if len(wrong) in {0, len(runs)} else f"{said} in {len(wrong)} of {len(runs)} runs"


def show(out: Console, found: Mapping[str, Any], runs: Sequence[PeerRun], failures: Mapping[str, str]) -> None:
    """Print a table for each job, and what could not be measured."""
    facts, speed = found["machine"], found["calibration"]
    out.print(
        f"{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}; "
        f"one thread: {speed['gemm_gflops']:.1f} GFLOP/s, {speed['fill_gb_per_s']:.1f} GB/s; "
        f"load {found['load_before'][0]:.1f} before, {found['load_after'][0]:.1f} after",
        highlight=False,
    )
    for job in JOBS.values():
        of_job = [run for run in runs if run.job == job.name]
        if of_job or any(name.endswith(f", job {job.name}") for name in failures):
            out.print(_table(job.name, job.title, of_job, failures))
    for name, why in failures.items():
        out.print(f"not measured: {name}: {why}", highlight=False, markup=False)
    for name, peer in found["peers"].items():
        stated = {**peer["versions"], **peer["settings"]}
        out.print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in stated.items()), highlight=False, markup=False)


def _table(job: str, title: str, runs: Sequence[PeerRun], failures: Mapping[str, str]) -> Table:
    table = Table("peer", title=f"Job {job}: {title}; one core each")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == HEADINGS[-1] else "right")
    by_peer: dict[str, list[PeerRun]] = {}
    for run in runs:
        by_peer.setdefault(run.peer, []).append(run)
    own = best(by_peer["flowstream"]).per_cpu_s if "flowstream" in by_peer else None
    for name, found in sorted(by_peer.items(), key=lambda entry: -best(entry[1]).per_cpu_s):
        run = best(found)
        table.add_row(
            name, f"{run.records:,}", f"{run.results:,}", count(max(r.per_s for r in rightful(found))),
            count(run.per_cpu_s),
            spread(found), count(1e6 / run.per_cpu_s), f"{max(r.peak_rss_bytes for r in found) / 1e6:.0f}",
            f"{median(r.broker_cpu_s / r.wall_s for r in found):.0%}",
            f"{median(r.others_cpu_s / r.wall_s for r in found):.0%}",
            f"{own / run.per_cpu_s:.1f} x" if own else "", verdict(found),
        )  # fmt: skip
    for name in failures:
        peer, _, of = name.rpartition(", job ")
        if of == job:
            table.add_row(peer, *("-" for _ in HEADINGS[1:]), "not measured")
    return table


def write(path: Path, found: Mapping[str, Any], runs: Sequence[PeerRun], failures: Mapping[str, str]) -> None:
    """Write everything as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        **found,
        "runs": [
            {**asdict(run), "per_s": run.per_s, "per_cpu_s": run.per_cpu_s, "equal": run.verdict.equal} for run in runs
        ],
        "not_measured": dict(failures),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def described(peers: Sequence[PeerCommand]) -> dict[str, Any]:
    """Return versions and settings by peer."""
    return {peer.name: {"versions": peer.versions, "settings": peer.settings, "jobs": peer.jobs} for peer in peers}
