"""Counting once in plain Python, flow by flow, as docs/counting.md words it: what tests hold the kernels against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Sighting(NamedTuple):
    """What one place, (exporter, in_if), told of a flow in a pane."""

    ip_ttl: int  # the highest; 0 where it is unknown
    estimated_bytes: int


def counting_places(sightings: Mapping[Any, Sighting], edges: Mapping[Any, bool]) -> tuple[set[Any], str]:
    """Return the places where a flow counts, and by which rule; ``edges`` has the places that the table knows."""
    entries = {place for place in sightings if edges.get(place)}
    rest = {place: seen for place, seen in sightings.items() if edges.get(place) is None}
    if entries or not rest:
        return entries, "EDGE"
    if len(rest) == 1:
        return set(rest), "ONLY"
    if all(seen.ip_ttl for seen in rest.values()):
        highest = max(seen.ip_ttl for seen in rest.values())
        rest = {place: seen for place, seen in rest.items() if seen.ip_ttl == highest}
        if len(rest) == 1:
            return set(rest), "TTL"
    return {min(rest, key=lambda place: (-rest[place].estimated_bytes, place))}, "LARGEST"
