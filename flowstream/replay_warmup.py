"""How far before the time wanted a replay begins to read: which windows that makes whole, and which it does not.

Windows of the first stage must be whole before anything is said. The second stage has windows of hours and days as
well, which are said of whatever was read and say of what that is: as far back as is affordable they are made whole too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flowstream.settings import Settings

#: Evidence for an elephant, and its estimates, look back seconds; a minute is enough for all but the oldest.
NEEDED_S_MIN = 60.0
#: Longer windows than that are made whole only by who asks for it: a day is read in minutes, or in hours.
AFFORDABLE_S = 3600.0
HOUR_S, DAY_S = 3600.0, 86_400.0


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What is read before the time wanted, in ns: ``needed`` by what must be whole, ``read`` for longer windows.

    ``whole`` are the longer windows that are whole then, ``cut`` those that are not, as (name, length).
    """

    needed_ns: int
    read_ns: int
    whole: tuple[tuple[str, int], ...] = ()
    cut: tuple[tuple[str, int], ...] = ()


def warm_up(settings: Settings, asked_ns: int | None = None) -> WarmUp:
    """Return the warm-up of a replay with these settings, or as far as it follows from what was asked for.

    By default so long that every window up to an hour which ends after the time wanted is whole, and that every
    source partition has been heard of, silent ones included.
    """
    margin_ns = round(2 * settings.time.idle_after_s * 1e9)
    needed_s = max(
        NEEDED_S_MIN, settings.distances.size_s, settings.sources.size_s, settings.quality.size_s,
        settings.counting.size_s, settings.paths.size_s,
    )  # fmt: skip
    needed_ns = round(needed_s * 1e9) + margin_ns
    if asked_ns is not None:
        needed_ns = min(asked_ns, needed_ns)
    longer = sorted((length_ns, named) for named, length_ns in _of_merges(settings) if length_ns > needed_ns)
    affordable = [length_ns for length_ns, _ in longer if length_ns <= round(AFFORDABLE_S * 1e9)]
    by_default_ns = max([needed_ns, *(length_ns + margin_ns for length_ns in affordable)])
    read_ns = by_default_ns if asked_ns is None else asked_ns
    whole = tuple((named, length_ns) for length_ns, named in longer if length_ns <= read_ns)
    return WarmUp(needed_ns, read_ns, whole, tuple((named, length_ns) for length_ns, named in longer[len(whole) :]))


def _of_merges(settings: Settings) -> Iterator[tuple[str, int]]:
    """Yield the windows that merges say, as (name, length in ns)."""
    if "talkers" in settings.analyses:
        for window in settings.talkers.windows:
            yield "talkers", round(window.size_s * 1e9)
    if "links" in settings.analyses:
        for length_s in (HOUR_S, DAY_S):
            yield "link-use-percentiles", round(length_s * 1e9)
