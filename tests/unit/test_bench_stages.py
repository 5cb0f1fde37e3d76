"""Every step of the path is timed in one process, over steps that are still there."""

from __future__ import annotations

from bench.generate import Traffic
from bench.stages import EVERY_ANALYSIS, measure


def test_every_step_is_timed_and_both_stages_together_take_what_each_takes() -> None:
    stages = {stage.name.strip(): stage for stage in measure(Traffic(records=1000, sources=100, rate=500), 1)}
    first, merges, both = (
        stages[name] for name in ("all eight analyses: first stage", "merges of its partials", "both")
    )
    assert first.records == merges.records == both.records == 1004  # with those that close the windows
    assert min(first.cpu_s, merges.cpu_s) > 0
    assert both.cpu_s == first.cpu_s + merges.cpu_s
    assert len(EVERY_ANALYSIS) == 8
    assert {"decode", "ingest: decode to blocks (whole)", "panes: add, close, sort", "operator sources"} <= set(stages)
