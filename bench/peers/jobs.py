"""What every peer computes, and the same for flowstream; what Python peers share in doing it."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_MS = 3000
OUT_OF_ORDERNESS_MS = 2000
PARTITIONS = 4
MS = 1_000_000  # nanoseconds


@dataclass(frozen=True, slots=True)
class Job:
    """A job: what it is, and the columns of its results beside the key, in order."""

    name: str
    title: str
    figures: tuple[str, ...]
    rtol: float  # how far a figure may be off, relatively: sums and counts must be exact


JOBS = {
    "a": Job("a", "sums per source and window", ("bytes", "packets", "flows"), 0.0),
    "b": Job("b", "every pair of a source's flows, a message each", ("distance",), 1e-9),
    "c": Job("c", "every pair, one summary per source and window", ("flows", "pairs", "min", "max", "mean"), 1e-9),
}


def window_start_ms(time_ns: int) -> int:
    """Return the start of the tumbling window of an event time."""
    return time_ns // MS // WINDOW_MS * WINDOW_MS
