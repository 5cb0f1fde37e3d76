"""The whole path with all analyses and default settings, over the mixture of exporters that ``generate`` makes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bench.generate import Traffic
from bench.ground import Ground
from bench.pipeline import ALL_ANALYSES, Bed, measure, publish
from bench.report import Run, Stage
from bench.stages import run_stages

EXTRAS = ("whole", "parts", "stages")


def traffic_of(ground: Ground) -> Traffic:
    """Return what is sent."""
    return Traffic(200_000 if ground.quick else 1_000_000)


def measure_runs(ground: Ground, wanted: set[str], say: Callable[[str, Callable[[], Run]], Run]) -> list[Run]:
    """Run one worker through everything ("whole"), and through each part by itself ("parts")."""
    bed = Bed(ground.bootstrap, ground.broker_pid, ground.folder, ground.core, traffic_of(ground), ground.env)
    chosen: list[tuple[str, str, str, tuple[str, ...]]] = []
    if "whole" in wanted:
        chosen.append(("ingest + all analyses", "bench-b", "ingest,analyses", ALL_ANALYSES))
    if "parts" in wanted:
        chosen.append(("ingest", "bench-a", "ingest", ALL_ANALYSES))
        chosen.append(("all analyses", "bench-a", "analyses", ALL_ANALYSES))
        chosen += [(f"analysis: {name}", "bench-a", "analyses", (name,)) for name in ALL_ANALYSES]
    if chosen:
        publish(bed, ("bench-a", "bench-b"))
    return [say(name, partial(measure, bed, name, *how)) for name, *how in chosen]


def measure_stages(ground: Ground) -> list[Stage]:
    """Time each step in one process."""
    return run_stages(traffic_of(ground), 2 if ground.quick else 3, ground.core)
