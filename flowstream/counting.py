"""Count once: of several sightings of the same flow, which one stands for it.

A packet that crosses three switches may be sampled at each, and a flow through two routers is exported by both; the
sum over exporters is then two or three times what was sent. Which sighting counts is decided by the first rule that
can, per flow (the five-tuple) and pane:

    edge      the table of links says where traffic enters the network: rows that came in there count, others do not
    ttl       the exporter nearest to the source: the one that saw the highest time to live
    largest   the sighting with the most bytes; then the lowest exporter address, then the lowest in_if
    only      nobody else saw it in the pane: there is nothing to decide

Before the last three, at places of which the table says nothing, flow records go by what is remembered over panes
(``flowstream/holders.py``):

    first     the place that told of the flow first, for as long as it goes on telling; others do not count

Only ``edge`` keeps sampled sums free of bias: it does not depend on what happened to be sampled. Of a flow of few
packets two exporters draw different ones, and the others then count the larger draw, or a flow at a place where it
would not count had the nearer exporter drawn it too. And only ``edge`` follows a flow at once that goes another way. So
give edges where sums matter; the result says on which rule it rests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import bare_njit
from flowstream.batch import Array, FlowBatch
from flowstream.columns import picked
from flowstream.flow_keys import flow_words
from flowstream.hashing import number_by_first, number_groups
from flowstream.holders import ELSEWHERE, HOLDS_FIRST, Holders
from flowstream.links import EDGE_NO, EDGE_UNKNOWN, EDGE_YES, LinkTable
from flowstream.operators import Pane, Said
from flowstream.saturation import plus, scaled

Integers = NDArray[np.int64]


class Rule(IntEnum):
    """What decided whether a row counts. The kernel below knows them by their numbers."""

    ONLY = 0
    EDGE = 1
    TTL = 2
    LARGEST = 3
    FIRST = 4


@dataclass(frozen=True, slots=True)
class Counted:
    """For each row: whether it counts, and by which ``Rule`` that was decided."""

    counts: NDArray[np.bool_]
    rule: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sources:
    """The source of each row, numbered in the order of their first rows, and what is known of each."""

    number: Integers  # (rows,)
    firsts: Integers  # (sources,) their first rows
    addresses: Array  # (sources, 2)

    @classmethod
    def of(cls, rows: FlowBatch) -> Sources:
        """Return the sources of rows."""
        addresses = rows.peek("src_addr")
        number, firsts = number_by_first(addresses)
        return cls(number, firsts, picked(addresses, firsts))


class CountOnce:
    """What counts of each pane, decided once for all operators that ask; ``links`` may be replaced between two.

    Told is the same of the same rows, whoever asks next, and as ``rows.in_any_order`` has them.

    With ``holders`` it is an operator, too, that has to be given every pane before the others: one that says nothing,
    but remembers.
    """

    name = "count-once"
    lookback = 0
    quiet = True

    def __init__(self, links: LinkTable, holders: Holders | None = None) -> None:
        self.links = links
        self.holders = holders
        self._decided: tuple[FlowBatch, Counted] | None = None
        self._numbered: tuple[FlowBatch, Sources] | None = None

    def of(self, rows: FlowBatch) -> Counted:
        """Decide about a pane's rows."""
        if self._decided is None or self._decided[0] is not rows:
            given = rows.in_any_order
            edge = self.links.lookup(given.peek("exporter"), given.peek("in_if"))[1]
            self._decided = rows, self._decide(given, edge, lambda: self.sources(rows))
        return self._decided[1]

    def _decide(self, rows: FlowBatch, edge: NDArray[np.int8], sources: Callable[[], Sources]) -> Counted:
        told = None if self.holders is None else self.holders.ask(rows, edge == EDGE_UNKNOWN)
        if self.holders is None or told is None:
            return count_once(rows, edge, sources)
        elsewhere = told.at[told.state == ELSEWHERE]
        edge[elsewhere] = EDGE_NO  # as little a candidate as a row inside the network
        counted = count_once(rows, edge, sources)
        rule = counted.rule[told.at]
        self.holders.hold(told, counted.counts[told.at] & (rule != Rule.EDGE))
        counted.rule[told.at[(told.state == HOLDS_FIRST) & (rule == Rule.ONLY)]] = Rule.FIRST
        counted.rule[elsewhere] = Rule.FIRST
        return counted

    def sources(self, rows: FlowBatch) -> Sources:
        """Return the sources of a pane's rows."""
        if self._numbered is None or self._numbered[0] is not rows:
            self._numbered = rows, Sources.of(rows.in_any_order)
        return self._numbered[1]

    def in_time_order(self, rows: FlowBatch) -> Counted:
        """Decide about a pane's rows, in their order."""
        counted = self.of(rows)
        return Counted(rows.arranged(counted.counts), rows.arranged(counted.rule))

    @property
    def refused(self) -> int:
        """How many flows could not be remembered for want of room, once in each pane."""
        return 0 if self.holders is None else self.holders.refused

    def process(self, panes: Sequence[Pane]) -> list[Said]:
        """Decide about a pane that was closed, before anybody else asks."""
        if len(panes[-1].rows):
            self.of(panes[-1].rows)
        return []

    def snapshot(self) -> bytes:
        """Return what is remembered of flows."""
        return b"" if self.holders is None else self.holders.snapshot()

    def restore(self, state: bytes) -> None:
        """Take a snapshot; StateError where it is none."""
        if self.holders is not None:
            self.holders.restore(state)


def count_once(rows: FlowBatch, edge: NDArray[np.int8], sources: Callable[[], Sources] | None = None) -> Counted:
    """Decide which rows of a pane count; ``edge`` is what ``LinkTable.lookup`` says of (exporter, in_if).

    ``sources`` gives those of the rows, and is asked where they are needed.
    """
    unknown = edge == EDGE_UNKNOWN
    counts, rule = unknown | (edge == EDGE_YES), np.where(unknown, np.uint8(Rule.ONLY), np.uint8(Rule.EDGE))
    if unknown.any():
        at, flow, flows = _seen_at_several(rows, np.flatnonzero(edge != EDGE_NO), sources or partial(Sources.of, rows))
        if len(at):
            counts[at], rule[at] = _by_sighting(rows.take(at), flow, flows, edge[at] == EDGE_YES)
    return Counted(counts, rule)


def _seen_at_several(rows: FlowBatch, at: Integers, sources: Callable[[], Sources]) -> tuple[Integers, Integers, int]:
    """Return which of the rows ``at`` are of flows with more than one sighting, their flows' numbers, and a bound.

    Most sources are seen at one place, and then so are their flows, which need not be told apart: that is what costs.
    """
    places = rows.peek("exporter"), rows.peek("in_if")
    if len(at) == len(rows):
        whole = sources()
        at, *_ = _at_several(at, whole.number, whole.firsts, places)
    else:
        at, *_ = _at_several(at, *number_by_first(picked(rows.peek("src_addr"), at)), places)
    return _at_several(at, *number_by_first(flow_words(rows.take(at))), places)


def _at_several(
    at: Integers, group: Integers, firsts: Integers, places: tuple[Array, Array]
) -> tuple[Integers, Integers, int]:
    """Return which of the rows ``at`` are of such groups, the numbers of these, and how many there are at the most."""
    several = np.zeros(len(firsts), np.bool_)
    _mark_several(group, firsts, at, *places, several)
    if not several.any():
        return at[:0], group[:0], 0
    kept = several[group]
    return at[kept], group[kept], len(firsts)


def _by_sighting(
    rows: FlowBatch, flow: Integers, flows: int, at_edge: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Decide among sightings, (flow, exporter, in_if), of which those at an edge all count."""
    places = np.empty((len(rows), 3), np.uint64)
    places[:, 0:2], places[:, 2] = rows.exporter, rows.in_if
    place = number_groups(places)[0]  # in the order of exporter and in_if
    sighting, seen = number_by_first(np.stack([flow, place], axis=1).astype(np.uint64))
    ttl, size = np.zeros(len(seen), np.int64), np.zeros(len(seen), np.int64)
    _measure(sighting, rows.ip_ttl, rows.bytes, rows.sampling_rate, ttl, size)
    best, rule = np.full(flows, -1), np.empty(flows, np.uint8)
    states = np.zeros((flows, 3), np.int64)
    _decide(flow[seen], place[seen], at_edge[seen], ttl, size, best, rule, states)
    return np.where(rule[flow] == Rule.EDGE, at_edge, best[flow] == sighting), rule[flow]


@bare_njit
def _mark_several(group, firsts, at, exporter, in_if, several):  # type: ignore[no-untyped-def]
    """Mark the groups whose rows are not all of the exporter and interface of their first."""
    for n in range(len(group)):
        own = group[n]
        row, first = at[n], at[firsts[own]]
        several[own] |= (
            in_if[row] != in_if[first]
            or exporter[row, 1] != exporter[first, 1]
            or exporter[row, 0] != exporter[first, 0]
        )


@bare_njit
def _measure(sighting, row_ttl, sent, rate, ttl, size):  # type: ignore[no-untyped-def]
    """Write the highest TTL and the estimated bytes of each sighting, which no order of the rows changes."""
    for row in range(len(sighting)):
        own = sighting[row]
        ttl[own] = max(ttl[own], np.int64(row_ttl[row]))
        size[own] = plus(size[own], scaled(sent[row], max(np.int64(rate[row]), np.int64(1))))


@bare_njit
def _decide(flow, place, at_edge, ttl, size, best, rule, states):  # type: ignore[no-untyped-def]
    """Write the best sighting of each flow, and the rule; ``states`` are zeros: sightings, edges, TTLs unknown."""
    for seen in range(len(flow)):
        own = flow[seen]
        states[own, 0] += 1
        states[own, 1] += at_edge[seen]
        states[own, 2] += ttl[seen] == 0
        rule[own] = 1 if states[own, 1] else 0 if states[own, 0] == 1 else 3
    for seen in range(len(flow)):
        own = flow[seen]
        if best[own] < 0:
            best[own] = seen
            continue
        other = best[own]
        nearer = ttl[seen] - ttl[other] if states[own, 2] == 0 else 0
        if nearer > 0 or (
            nearer == 0 and (size[seen] > size[other] or (size[seen] == size[other] and place[seen] < place[other]))
        ):
            best[own] = seen
    # Whether the TTL alone decided is told by nobody else having the best one's.
    for seen in range(len(flow)):
        own = flow[seen]
        if rule[own] == 3 and states[own, 2] == 0 and seen != best[own]:
            states[own, 1] += ttl[seen] == ttl[best[own]]
    for own in range(len(rule)):
        if states[own, 0] and rule[own] == 3 and states[own, 2] == 0 and states[own, 1] == 0:
            rule[own] = 2
