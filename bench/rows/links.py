"""Link use alone: see ``bench.links_alone``."""

from __future__ import annotations

from bench.apart import measured_apart
from bench.ground import Ground
from bench.rows.row import Row
from bench.verdict import Outcome, Target


def links(ground: Ground) -> Outcome:
    """10,000 interfaces, 12,000 rows a second, intervals of 10 s."""
    found = measured_apart(ground, "bench.links_alone", 3 if ground.quick else 12)
    merge_ms, state_mb = (
        [found[f"{kind}_{figure}"] * factor for kind in ("samples", "records")]
        for figure, factor in (("merge_s", 1e3), ("state_bytes", 1e-6))
    )
    limits = (
        f"merging and telling {merge_ms[0]:.0f} and {merge_ms[1]:.0f} ms, the rest is spreading; "
        f"state {state_mb[0]:.1f} and {state_mb[1]:.1f} MB"
    )
    totals = [found[f"{kind}_spread_s"] + found[f"{kind}_merge_s"] for kind in ("samples", "records")]
    return Outcome(totals, limits, found)


ROWS = (
    Row(
        "links",
        (
            Target("link use of 10,000 interfaces, 12,000 samples/s: an interval of 10 s", 0.5, "s"),
            Target("the same of flow records that lived up to 60 s", 1.0, "s"),
        ),
        links,
    ),
)
