"""``python -m bench``: measure the whole path and its parts, and print and keep the figures."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from agents.broker import LocalBroker
from agents.kafka_node import free_port
from bench.calibrate import calibrate, machine
from bench.generate import Traffic
from bench.peer_faust import run_peer
from bench.pipeline import ALL_ANALYSES, Bed, measure, publish
from bench.report import BenchError, Run, Stage, show, write
from bench.stages import run_stages
from flowstream.errors import FlowstreamError

OUT = Path(__file__).parent / "out" / "latest.json"
STAGE_RECORDS_MAX = 1_000_000
PARTS = ("stages", "whole", "parts", "peer")
out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--records", default=1_000_000, show_default=True, type=click.IntRange(20_000), help="Messages published."
)
@click.option("--quick", is_flag=True, help="200,000 messages, and fewer for the peer.")
@click.option("--sources", default=50_000, show_default=True, type=click.IntRange(32), help="Source addresses.")
@click.option(
    "--skew",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 3),
    help="Zipf exponent of the sources; 0: even.",
)
@click.option(
    "--rate",
    default=100_000,
    show_default=True,
    type=click.IntRange(1),
    help="Records per second of event time.",
)
@click.option(
    "--peer-records",
    default=20_000,
    show_default=True,
    type=click.IntRange(1000),
    help="Records for the peer.",
)
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1, 20), help="Repeats of each stage.")
@click.option("--only", default=",".join(PARTS), show_default=True, help="What to measure, separated by commas.")
@click.option("--set", "chosen", multiple=True, help="A setting of the worker, e.g. KAFKA__FETCH_BYTES_MAX=4194304.")
@click.option("--output", default=OUT, show_default="bench/out/latest.json", type=click.Path(path_type=Path))
def main(
    records: int, quick: bool, sources: int, skew: float, rate: int, peer_records: int, repeats: int, only: str,
    chosen: tuple[str, ...], output: Path,
) -> None:  # fmt: skip
    """Measure the throughput of flowstream on this machine, and of a plain Faust agent beside it.

    Takes about three minutes and most of two cores. Nothing outside a temporary folder is used or changed.
    """
    parts = {part.strip() for part in only.split(",")}
    if not parts <= set(PARTS):
        raise click.BadParameter(f"{only}: there is {', '.join(PARTS)}", param_hint="--only")
    records, peer_records = (min(records, 200_000), min(peer_records, 5000)) if quick else (records, peer_records)
    traffic = Traffic(records, sources, rate, skew=skew)
    env = {f"FLOWSTREAM_{name}": value for name, _, value in (c.partition("=") for c in chosen)}
    worker_core, own_core = _cores()
    found: dict[str, Any] = {
        "machine": machine(),
        "load_before": os.getloadavg(),
        "calibration": _say("calibrating", calibrate),
        "traffic": {
            name: getattr(traffic, name) for name in ("records", "sources", "rate", "exporters", "skew", "seed")
        },
        "worker_settings": env,
        "pinned": worker_core is not None,
    }
    stages: list[Stage] = []
    runs: list[Run] = []
    peer: Run | None = None
    try:
        if "stages" in parts:
            stages = _say("timing the stages", lambda: run_stages(traffic, repeats, worker_core))
        if own_core is not None:
            os.sched_setaffinity(0, {own_core})  # the broker inherits it
        if parts - {"stages"}:
            with tempfile.TemporaryDirectory(prefix="flowstream-bench-") as folder:
                runs, peer, found["published_s"] = _over_kafka(
                    Path(folder), traffic, env, worker_core, parts, peer_records
                )
    except (BenchError, FlowstreamError) as error:
        err.print(f"bench: {error}", markup=False, highlight=False)
        sys.exit(2)
    found["load_after"] = os.getloadavg()
    show(out, found, runs, peer, stages)
    write(output, found, runs, peer, stages)
    out.print(f"written to {output}", highlight=False)


def _over_kafka(
    folder: Path, traffic: Traffic, env: dict[str, str], core: int | None, parts: set[str], peer_records: int
) -> tuple[list[Run], Run | None, float]:
    runs: list[Run] = []
    peer = None
    broker = LocalBroker(folder / "broker", port=0, controller_port=0, heap_mb=768)
    try:
        bootstrap = _say("starting a broker", broker.start)
        pid = broker.status().pid
        if pid is None:
            raise BenchError("the broker ended at once")
        bed = Bed(bootstrap, pid, folder, core, traffic, env)
        published_s = _say(f"publishing {traffic.records:,} messages", lambda: publish(bed, ("bench-a", "bench-b")))

        def one(name: str, prefix: str, *how: Any) -> None:
            runs.append(_say(f"worker: {name}", lambda: measure(bed, name, prefix, *how)))

        if "whole" in parts:
            one("ingest + all analyses", "bench-b")
        if "parts" in parts:
            one("ingest", "bench-a", "ingest")
            one("all analyses", "bench-a", "analyses")
            for analysis in ALL_ANALYSES:
                one(f"analysis: {analysis}", "bench-a", "analyses", (analysis,))
        if "peer" in parts:
            runs.append(
                _say(
                    "peer: Faust, parsing only",
                    lambda: run_peer(bed, "Faust agent, parsing only", peer_records, 0.0, free_port()),
                )
            )
            peer = _say(
                "peer: Faust",
                lambda: run_peer(bed, "Faust agent, windowed table", peer_records, 3.0, free_port()),
            )
    finally:
        broker.stop()
    return runs, peer, published_s


def _cores() -> tuple[int | None, int | None]:
    """Return a core for the worker and one for all else, or None where they cannot be told apart."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else (None, None)


def _say(what: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    outcome = work()
    err.print(f"{what}: {time.perf_counter() - started:.1f} s", highlight=False)
    return outcome


if __name__ == "__main__":
    main()
