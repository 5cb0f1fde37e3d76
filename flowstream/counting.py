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

from flowstream.batch import FlowBatch
from flowstream.grouping import group_rows
from flowstream.links import EDGE_NO, EDGE_UNKNOWN, EDGE_YES


class Rule(IntEnum):
    """What decided whether a row counts."""

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


def _by_sighting(rows: FlowBatch, at_edge: NDArray[np.bool_]) -> Counted:
    """Decide among sightings, (flow, exporter, in_if), of which those at an edge all count."""
    flow = (rows.src_addr, rows.dst_addr, rows.proto, rows.src_port, rows.dst_port)
    seen = group_rows(*flow, rows.exporter, rows.in_if)
    sighting = np.empty(len(rows), np.int64)  # of each row, in the order of flow, exporter and in_if
    sighting[seen.order] = np.repeat(np.arange(len(seen)), seen.sizes)
    flows = group_rows(*(column[seen.firsts] for column in flow))
    own_flow = np.repeat(np.arange(len(flows)), flows.sizes)  # flows order sightings as they are: by flow first

    is_edge = at_edge[seen.firsts]
    ttl = np.maximum.reduceat(rows.ip_ttl[seen.order], seen.bounds[:-1]).astype(np.int64)
    knows_ttl = np.minimum.reduceat(ttl, flows.bounds[:-1]) > 0
    ttl = np.where(knows_ttl[own_flow], ttl, 0)
    weight = rows.bytes.astype(np.float64) * np.maximum(rows.sampling_rate, 1)
    size = np.bincount(sighting, weight, minlength=len(seen))
    # lexsort is stable: what is equal in all of these stays in the order of exporter and in_if.
    best_first = np.lexsort((-size, -ttl, ~is_edge, own_flow))
    best, second = best_first[flows.bounds[:-1]], best_first[np.minimum(flows.bounds[:-1] + 1, len(seen) - 1)]

    by_ttl = ttl[best] > ttl[second]
    rule = np.where(by_ttl, np.uint8(Rule.TTL), np.uint8(Rule.LARGEST))
    rule[flows.sizes == 1] = Rule.ONLY
    rule[is_edge[best]] = Rule.EDGE
    chosen = np.zeros(len(seen), np.bool_)
    chosen[best] = True
    chosen = np.where(is_edge[best][own_flow], is_edge, chosen)
    return Counted(chosen[sighting], rule[own_flow][sighting])
