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
        records = [row for row in rows if row.is_record and self.edges.get(row.place) is None]
        if records:
            self._forget(index)
        holder = {flow: held for flow, held in self.held.items() if index - held.last <= self.remember}
        for row in records:
            if row.flow in holder:
                held = holder[row.flow]
                if row.place == held.place:
                    held.last = index
                elif held.shared is None:
                    held.shared = index
        elsewhere = [row in records and row.flow in holder and row.place != holder[row.flow].place for row in rows]
        decided: list[tuple[bool, str]] = [(False, "FIRST")] * len(rows)
        for flow in {row.flow for row in rows}:
            mine = [n for n, row in enumerate(rows) if row.flow == flow and not elsewhere[n]]
            seen = {
                place: Sighting(
                    max(rows[n].ip_ttl for n in mine if rows[n].place == place),
                    sum(rows[n].estimated_bytes for n in mine if rows[n].place == place),
                )
                for place in {rows[n].place for n in mine}
            }
            chosen, rule = counting_places(seen, self.edges)
            for n in mine:
                row = rows[n]
                of_edge = self.edges.get(row.place) is False
                decided[n] = (row.place in chosen, "EDGE" if of_edge else rule)
                shared = holder[flow].shared if flow in holder else None
                if row in records and rule == "ONLY" and shared is not None:
                    decided[n] = (True, "FIRST")
        self._hold(index, records, {
            row.flow: row.place for row, (counts, rule) in zip(rows, decided, strict=True)
            if row in records and counts and rule != "EDGE" and row.flow not in holder
        })  # fmt: skip
        return decided

    def _hold(self, index: int, records: list[Row], won: Mapping[tuple[int, int], tuple[int, int]]) -> None:
        new = sorted(flow for flow in won if flow not in self.held)
        room = max(0, self.flows_max - len(self.held))
        self.refused += len(new[room:])
        for flow, place in won.items():
            if flow not in new[room:]:
                others = any(row.flow == flow and row.place != place for row in records)
                self.held[flow] = Held(place, index, index, index if others else None)

    def _forget(self, index: int) -> None:
        """Entries take room until their time is over, which is looked after once in ``remember``, or if all is full."""
        if self.newest is not None and (
            index // self.remember != self.newest // self.remember or len(self.held) >= self.flows_max
        ):
            bound = index - self.remember - self.lookback
            self.held = {flow: held for flow, held in self.held.items() if held.last >= bound}
        self.newest = index
