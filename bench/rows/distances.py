"""The distances operator alone: see ``bench.alone``."""

from __future__ import annotations

from bench.alone import SOURCES
from bench.apart import measured_apart
from bench.ground import Ground
from bench.rows.row import Row
from bench.verdict import Outcome, Target


def _measured(ground: Ground) -> dict[str, float]:
    if "distances" not in ground.shared:
        ground.shared["distances"] = measured_apart(ground, "bench.alone", 3 if ground.quick else 7)
    found: dict[str, float] = ground.shared["distances"]
    return found


def one_source(ground: Ground) -> Outcome:
    """One source with 5,000 flows."""
    found = _measured(ground)
    limits = f"{found['one_pairs'] / found['one_s'] / 1e6:,.0f} M pairs per CPU second, several passes"
    return Outcome([found["one_s"], found["one_bytes"] / 1e6], limits, found)


def many_sources(ground: Ground) -> Outcome:
    """50,000 sources of 2 to 50 flows in one pane."""
    found = _measured(ground)
    limits = (
        f"{found['many_rows']:,} flows, {found['many_pairs']:,} pairs; {found['many_s'] / SOURCES * 1e6:.1f} us/source"
    )
    return Outcome([found["many_s"]], limits, {**found, "extra_mb": found["many_bytes"] / 1e6})


ROWS = (
    Row(
        "distances-one",
        (
            Target("distances of one source with 5,000 flows: 12,497,500 pairs, top 100", 0.040, "s"),
            Target("extra memory for it", 64, "MB"),
        ),
        one_source,
    ),
    Row(
        "distances-many", (Target("distances of 50,000 sources of 2 to 50 flows, one pane", 0.150, "s"),), many_sources
    ),
)
