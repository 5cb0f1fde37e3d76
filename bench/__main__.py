"""``python -m bench``: measure every row of the table, print it with its targets, keep it in ``bench/out``."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from aiokafka.errors import KafkaError
from rich.console import Console

from agents.broker import LocalBroker
from bench.calibrate import calibrate, machine
from bench.ground import Ground
from bench.growth import growth_markdown, measure_growth, show_growth
from bench.report import BenchError, LostError, Run, Stage, runs_markdown, show_runs
from bench.rows import ROWS
from bench.rows.row import Row
from bench.verdict import Line, Outcome, lines, markdown, show
from bench.whole import EXTRAS, measure_runs, measure_stages
from flowstream.errors import FlowstreamError

OUT = Path(__file__).parent / "out"
out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 220)
err = Console(stderr=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Smaller loads and fewer repeats: under two and a half minutes.")
@click.option("--only", default="", help=f"What to measure: {', '.join((*ROWS, *EXTRAS))}.")
@click.option("--growth", is_flag=True, help="How the cost of a record grows, instead of the rows.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown; it is always kept beside the JSON.")
@click.option("--set", "chosen", multiple=True, help="A setting of the workers, e.g. KAFKA__FETCH_BYTES_MAX=4194304.")
@click.option("--output", default=OUT, show_default="bench/out", type=click.Path(path_type=Path), help="A folder.")
def main(quick: bool, only: str, growth: bool, as_markdown: bool, chosen: tuple[str, ...], output: Path) -> None:
    """Measure flowstream on this machine, side by side in one run, against its targets.

    Takes about eight minutes and both of two cores. Nothing outside a temporary folder is used or changed.
    """
    everything = [*ROWS, *(() if quick else EXTRAS)]
    wanted = [name.strip() for name in only.split(",") if name.strip()] or everything
    if unknown := [name for name in wanted if name not in (*ROWS, *EXTRAS)]:
        there_is = ", ".join((*ROWS, *EXTRAS))
        raise click.BadParameter(f"{', '.join(unknown)}: there is {there_is}", param_hint="--only")
    env = {f"FLOWSTREAM_{name}": value for name, _, value in (c.partition("=") for c in chosen)}
    found: dict[str, Any] = {
        "machine": machine(),
        "load_before": os.getloadavg(),
        "calibration": _say("calibrating", calibrate),
        "quick": quick,
        "worker_settings": env,
    }
    told: list[Line] = []
    runs: list[Run] = []
    stages: list[Stage] = []
    try:
        with _ground(quick, env) as ground:
            if growth:
                found["growth"] = measure_growth(ground, lambda text: err.print(text, highlight=False))
            else:
                told, found["rows"] = _rows(ground, [name for name in wanted if name in ROWS])
                runs = measure_runs(ground, set(wanted), lambda name, work: _say(f"worker: {name}", work))
                stages = measure_stages(ground) if "stages" in wanted else []
    except (BenchError, FlowstreamError) as error:
        err.print(f"bench: {error}", markup=False, highlight=False)
        sys.exit(2)
    found["load_after"] = os.getloadavg()
    found |= {"runs": [run.to_json() for run in runs], "stages": [stage.to_json() for stage in stages]}
    text = growth_markdown(found["growth"]) if growth else markdown(found, told) + runs_markdown(runs, stages)
    if as_markdown:
        print(text)
    elif growth:
        show_growth(out, found["growth"])
    else:
        show(out, found, told)
        show_runs(out, runs, stages)
    name = "growth" if growth else "latest"
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (output / f"{name}.md").write_text(text)
    err.print(f"written to {output / name}.json and .md", highlight=False)


def _rows(ground: Ground, wanted: Sequence[str]) -> tuple[list[Line], dict[str, Any]]:
    """Measure rows; a run that does not count fails its row and no other."""
    told: list[Line] = []
    kept: dict[str, Any] = {}
    for name in wanted:
        row, began, others_s = ROWS[name], time.perf_counter(), ground.others_cpu_s()
        try:
            outcome = _attempt(row, ground)
        except KeyboardInterrupt:
            err.print(f"{name}: interrupted; what was measured before is kept")
            break
        if outcome.failed and not outcome.details.get("lost"):
            first = outcome.failed
            outcome = _attempt(row, ground)
            outcome.details["first_attempt"] = first
            outcome.limits += f"; the second attempt, for in the first {first}"
        seconds = time.perf_counter() - began
        others = (ground.others_cpu_s() - others_s) / seconds
        if "others" not in outcome.limits and seconds > 1:  # a row may have been measured with another
            outcome.limits += f"{'; ' if outcome.limits else ''}others took {others:.0%} of a core meanwhile"
        own = lines(name, row.targets, outcome)
        told += own
        for line in own:
            said = f"{name}: {line.measured} ({line.target}) {line.verdict}. {line.failed or line.limits}"
            err.print(said, markup=False, highlight=False, soft_wrap=True)
        kept[name] = {
            **asdict(outcome), "lines": [line.to_json() for line in own], "seconds": seconds,
            "others_busy": others, "load_average": os.getloadavg(),
        }  # fmt: skip
    return told, kept


def _attempt(row: Row, ground: Ground) -> Outcome:
    try:
        return row.measure(ground)
    except (BenchError, FlowstreamError, KafkaError) as error:
        why = " ".join(str(error).split())[:600]
        return Outcome((), failed=why, details={"lost": isinstance(error, LostError)})


@contextmanager
def _ground(quick: bool, env: dict[str, str]) -> Iterator[Ground]:
    """Start a broker in a temporary folder, everything but the workers on a core of its own."""
    worker_core, own_core = _cores()
    if own_core is not None:
        os.sched_setaffinity(0, {own_core})  # the broker inherits it
    with tempfile.TemporaryDirectory(prefix="flowstream-bench-") as folder:
        broker = LocalBroker(Path(folder) / "broker", port=0, controller_port=0, heap_mb=768)
        try:
            bootstrap = _say("starting a broker", broker.start)
            pid = broker.status().pid
            if pid is None:
                raise BenchError("the broker ended at once")
            yield Ground(bootstrap, pid, Path(folder), worker_core, own_core, quick, env)
        finally:
            broker.stop()


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
