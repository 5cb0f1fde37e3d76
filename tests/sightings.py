"""Counting once in plain Python, flow by flow, as docs/counting.md words it: what tests hold the kernels against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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


class Row(NamedTuple):
    """What counting once reads of a row."""

    flow: tuple[int, int]  # source address and port: in this order the words of flows compare
    place: tuple[int, int]  # exporter, in_if
    is_record: bool  # a flow record, not a packet sample
    ip_ttl: int
    estimated_bytes: int


@dataclass(slots=True)
class Held:
    """Which place holds a flow, since which pane, when it last told of it, and when another place first did."""

    place: tuple[int, int]
    since: int
    last: int
    shared: int | None = None


@dataclass(slots=True)
class PlainHolders:
    """Counting once over panes in plain Python; ``pane`` has to be given them in order."""

    remember: int
    lookback: int
    flows_max: int
    edges: Mapping[tuple[int, int], bool]
    held: dict[tuple[int, int], Held] = field(default_factory=dict)
    newest: int | None = None
    refused: int = 0

    def pane(self, index: int, rows: list[Row]) -> list[tuple[bool, str]]:
        """Return of each row whether it counts, and by which rule."""
        asked = [row.is_record and self.edges.get(row.place) is None for row in rows]
        if any(asked):
            self._forget(index)
        by_flow: dict[tuple[int, int], list[int]] = {}
        for n, row in enumerate(rows):
            by_flow.setdefault(row.flow, []).append(n)
        decided: list[tuple[bool, str]] = [(False, "FIRST")] * len(rows)
        for flow in sorted(by_flow):
            told = {rows[n].place for n in by_flow[flow] if asked[n]}
            holder = self.held.get(flow)
            if holder is not None and index - holder.last > self.remember:
                holder = None
            if holder is not None:
                holder.last = index if holder.place in told else holder.last
                if holder.shared is None and told - {holder.place}:
                    holder.shared = index
            left = [n for n in by_flow[flow] if not asked[n] or holder is None or rows[n].place == holder.place]
            seen = {
                place: Sighting(
                    max(rows[n].ip_ttl for n in left if rows[n].place == place),
                    sum(rows[n].estimated_bytes for n in left if rows[n].place == place),
                )
                for place in {rows[n].place for n in left}
            }
            chosen, rule = counting_places(seen, self.edges)
            for n in left:
                place = rows[n].place
                decided[n] = (place in chosen, "EDGE" if self.edges.get(place) is False else rule)
                if asked[n] and rule == "ONLY" and holder is not None and holder.shared is not None:
                    decided[n] = (True, "FIRST")
            if holder is None and rule != "EDGE" and told & chosen:
                self._hold(flow, min(told & chosen), index, is_shared=len(told) > 1)
        return decided

    def _hold(self, flow: tuple[int, int], place: tuple[int, int], index: int, *, is_shared: bool) -> None:
        if flow not in self.held and len(self.held) >= self.flows_max:
            self.refused += 1
            return
        self.held[flow] = Held(place, index, index, index if is_shared else None)

    def _forget(self, index: int) -> None:
        """Entries take room until their time is over, which is looked after once in ``remember``, or if all is full."""
        if self.newest is not None and (
            index // self.remember != self.newest // self.remember or len(self.held) >= self.flows_max
        ):
            bound = index - self.remember - self.lookback
            self.held = {flow: held for flow, held in self.held.items() if held.last >= bound}
        self.newest = index
