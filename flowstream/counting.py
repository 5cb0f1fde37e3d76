"""Count once: of several sightings of the same flow, which one stands for it.

A packet that crosses three switches may be sampled at each, and a flow through two routers is exported by both; the
sum over exporters is then two or three times what was sent. Which sighting counts is decided by the first rule that
can, per flow (the five-tuple) and pane:

    edge      the table of links says where traffic enters the network: rows that came in there count, others do not
    ttl       the exporter nearest to the source: the one that saw the highest time to live
    largest   the sighting with the most bytes; then the lowest exporter address, then the lowest in_if
    only      nobody else saw it: there is nothing to decide

Only ``edge`` keeps sampled sums free of bias: it does not depend on what happened to be sampled. Of a flow of few
packets two exporters draw different ones, and the others then count the larger draw, or a flow at a place where it
would not count had the nearer exporter drawn it too. So give edges where sums matter; the result says on which rule
it rests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import bare_njit
from flowstream.batch import FlowBatch
from flowstream.hashing import number_by_first, number_groups
from flowstream.links import EDGE_NO, EDGE_UNKNOWN, EDGE_YES


class Rule(IntEnum):
    """What decided whether a row counts. The kernel below knows them by their numbers."""

    ONLY = 0
    EDGE = 1
    TTL = 2
    LARGEST = 3


@dataclass(frozen=True, slots=True)
class Counted:
    """For each row: whether it counts, and by which ``Rule`` that was decided."""

    counts: NDArray[np.bool_]
    rule: NDArray[np.uint8]


def count_once(rows: FlowBatch, edge: NDArray[np.int8]) -> Counted:
    """Decide which rows of a pane count; ``edge`` is what ``LinkTable.lookup`` says of (exporter, in_if)."""
    counts = edge == EDGE_YES
    rule = np.where(edge == EDGE_UNKNOWN, np.uint8(Rule.ONLY), np.uint8(Rule.EDGE))
    if (edge == EDGE_UNKNOWN).any():
        open_rows = np.flatnonzero(edge != EDGE_NO)
        decided = _by_sighting(rows.take(open_rows), edge[open_rows] == EDGE_YES)
        counts[open_rows], rule[open_rows] = decided.counts, decided.rule
    return Counted(counts, rule)


def flow_words(rows: FlowBatch) -> NDArray[np.uint64]:
    """Return the flow of each row as (rows, 5) words: addresses, then src_port << 32 | dst_port << 8 | proto."""
    words = np.empty((len(rows), 5), np.uint64)
    words[:, 0:2], words[:, 2:4] = rows.src_addr, rows.dst_addr
    ports = rows.src_port.astype(np.uint64) << np.uint64(32) | rows.dst_port.astype(np.uint64) << np.uint64(8)
    words[:, 4] = ports | rows.proto
    return words


def _by_sighting(rows: FlowBatch, at_edge: NDArray[np.bool_]) -> Counted:
    """Decide among sightings, (flow, exporter, in_if), of which those at an edge all count."""
    places = np.empty((len(rows), 3), np.uint64)
    places[:, 0:2], places[:, 2] = rows.exporter, rows.in_if
    place = number_groups(places)[0]  # in the order of exporter and in_if
    flow, flows = number_by_first(flow_words(rows))
    sighting, seen = number_by_first(np.stack([flow, place], axis=1).astype(np.uint64))
    ttl, size = np.zeros(len(seen), np.int64), np.zeros(len(seen))
    _measure(sighting, rows.ip_ttl, rows.bytes, rows.sampling_rate, ttl, size)
    own_flow = flow[seen]
    best, rule = np.full(len(flows), -1), np.empty(len(flows), np.uint8)
    states = np.zeros((len(flows), 3), np.int64)
    _decide(own_flow, place[seen], at_edge[seen], ttl, size, best, rule, states)
    by_edge = rule == Rule.EDGE
    chosen = np.where(by_edge[flow], at_edge, best[flow] == sighting)
    return Counted(chosen, rule[flow])


@bare_njit
def _measure(sighting, row_ttl, sent, rate, ttl, size):  # type: ignore[no-untyped-def]
    """Write the highest TTL and the estimated bytes of each sighting."""
    for row in range(len(sighting)):
        own = sighting[row]
        ttl[own] = max(ttl[own], np.int64(row_ttl[row]))
        size[own] += float(sent[row]) * max(float(rate[row]), 1.0)


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
        if rule[own] == 3 and states[own, 2] == 0 and states[own, 1] == 0:
            rule[own] = 2
