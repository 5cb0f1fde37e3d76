"""Top talkers alone: see ``bench.talkers_alone``."""

from __future__ import annotations

from bench.apart import measured_apart
from bench.ground import Ground
from bench.rows.row import Row
from bench.verdict import Outcome, Target


def talkers(ground: Ground) -> Outcome:
    """12,000 concurrent flows a second, a window of 60 s that slides by 1 s."""
    found = measured_apart(ground, "bench.talkers_alone", 10 if ground.quick else 60)
    kept = f"{found['rows']:,} partials a step, {found['keys_held']:,} keys held"
    limits = f"{kept}, worst step {found['worst_s'] * 1e3:.0f} ms"
    return Outcome([found["step_s"]], limits, found)


ROWS = (
    Row(
        "talkers",
        (Target("top talkers, 12,000 concurrent flows/s, 60 s by 1 s, 8 ways to group: a step", 0.040, "s"),),
        talkers,
    ),
)
