"""Laws of counting once: every flow is counted at one place, chosen by rule, whatever order its rows come in."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import FlowBatch
from flowstream.counting import Rule, count_once

SIGHTINGS = st.lists(
    st.tuples(
        st.integers(1, 2), st.integers(1, 2),  # source address, source port: the flow
        st.integers(1, 3), st.integers(1, 2),  # exporter, in_if
        st.sampled_from([0, 61, 62, 63]), st.integers(0, 3), st.sampled_from([0, 1, 64]),  # ttl, bytes, sampling rate
    ),
    min_size=1, max_size=25,
)  # fmt: skip
EDGES = st.dictionaries(st.tuples(st.integers(1, 3), st.integers(1, 2)), st.sampled_from([0, 1]), max_size=6)


def batch(rows):
    made = FlowBatch.zeros(len(rows))
    src, port, exporter, in_if, ttl, size, rate = (np.array(column) for column in zip(*rows, strict=True))
    made.src_addr[:, 1], made.src_port[:] = src, port
    made.exporter[:, 1], made.in_if[:] = exporter, in_if
    made.ip_ttl[:], made.bytes[:], made.sampling_rate[:] = ttl, size, rate
    return made


def brute_force(rows, edges):
    """Decide flow by flow, as the rules are written."""
    decided = [(False, Rule.EDGE)] * len(rows)
    for flow in {row[:2] for row in rows}:
        mine = [n for n, row in enumerate(rows) if row[:2] == flow]
        places = {rows[n][2:4] for n in mine}
        inside = {place for place in places if edges.get(place) == 0}
        entries = {place for place in places if edges.get(place) == 1}
        rest = places - inside
        if entries:
            chosen, rule = entries, Rule.EDGE
        elif rest:
            ttl = {p: max(rows[n][4] for n in mine if rows[n][2:4] == p) for p in rest}
            size = {p: sum(rows[n][5] * max(rows[n][6], 1) for n in mine if rows[n][2:4] == p) for p in rest}
            if 0 in ttl.values():
                ttl = dict.fromkeys(rest, 0)
            nearest = [p for p in rest if ttl[p] == max(ttl.values())]
            chosen = {min(nearest, key=lambda p: (-size[p], p))}
            rule = Rule.ONLY if len(rest) == 1 else Rule.TTL if len(nearest) == 1 else Rule.LARGEST
        else:
            continue
        for n in mine:
            place = rows[n][2:4]
            decided[n] = (place in chosen, Rule.EDGE if place in inside else rule)
    return decided


@given(SIGHTINGS, EDGES, st.randoms(use_true_random=False))
def test_what_counts_is_what_the_rules_say_in_any_order_of_rows(rows, edges, random):
    random.shuffle(rows)
    edge = np.array([edges.get(row[2:4], -1) for row in rows], np.int8)
    counted = count_once(batch(rows), edge)
    assert list(zip(counted.counts.tolist(), counted.rule.tolist(), strict=True)) == brute_force(rows, edges)


@given(SIGHTINGS)
def test_without_a_table_every_flow_counts_at_exactly_one_place(rows):
    counted = count_once(batch(rows), np.full(len(rows), -1, np.int8)).counts
    places = {}
    for row, counts in zip(rows, counted, strict=True):
        if counts:
            places.setdefault(row[:2], set()).add(row[2:4])
    assert {flow: len(place) for flow, place in places.items()} == {row[:2]: 1 for row in rows}


def test_no_rows_are_counted_as_none():
    counted = count_once(FlowBatch.zeros(0), np.zeros(0, np.int8))
    assert (len(counted.counts), len(counted.rule)) == (0, 0)
