"""Laws of counting once: every flow is counted at one place, chosen by rule, whatever order its rows come in."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import FlowBatch
from flowstream.counting import CountOnce, Rule, count_once
from flowstream.links import LinkTable
from tests.sightings import Sighting, counting_places

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
    """Decide flow by flow, as the rules are written; what is known to lie inside never counts."""
    decided = [(False, Rule.EDGE)] * len(rows)
    for flow in {row[:2] for row in rows}:
        mine = [n for n, row in enumerate(rows) if row[:2] == flow]
        seen = {
            place: Sighting(
                max(rows[n][4] for n in mine if rows[n][2:4] == place),
                sum(rows[n][5] * max(rows[n][6], 1) for n in mine if rows[n][2:4] == place),
            )
            for place in {rows[n][2:4] for n in mine}
        }
        chosen, rule = counting_places(seen, edges)
        for n in mine:
            place = rows[n][2:4]
            decided[n] = (place in chosen, Rule.EDGE if edges.get(place) == 0 else Rule[rule])
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


class Asked(LinkTable):
    """A table that knows how often it was asked."""

    times = 0

    def lookup(self, exporter, in_if):
        self.times += 1
        return super().lookup(exporter, in_if)


@given(SIGHTINGS, st.permutations(range(25)))
def test_a_pane_is_decided_once_for_all_who_ask_in_any_order_and_in_that_of_time(rows, times):
    table = Asked.from_csv("exporter,if_index,name,speed_bps,edge\n::1,1,a,1,true\n::2,1,b,1,false\n")
    given_rows = batch(rows)
    given_rows.time_ns[:] = times[: len(rows)]
    pane, once = given_rows.in_time_order(), CountOnce(table)
    any_order, in_time_order = once.of(pane), once.in_time_order(pane)
    assert table.times == 1
    expected = count_once(given_rows, table.lookup(given_rows.exporter, given_rows.in_if)[1])
    order = np.argsort(given_rows.time_ns)
    for name in ("counts", "rule"):
        assert getattr(any_order, name).tolist() == getattr(expected, name).tolist()
        assert getattr(in_time_order, name).tolist() == getattr(expected, name)[order].tolist()


def test_the_next_pane_is_decided_by_the_table_that_is_there_then():
    once = CountOnce(LinkTable())
    first, second = batch([(1, 1, 1, 1, 0, 1, 1)]).in_time_order(), batch([(1, 1, 1, 1, 0, 1, 1)]).in_time_order()
    assert once.of(first).rule.tolist() == [Rule.ONLY]
    once.links = LinkTable.from_csv("exporter,if_index,name,speed_bps,edge\n::1,1,a,1,true\n")
    assert once.of(first).rule.tolist() == [Rule.ONLY], "a pane is decided once"
    assert once.of(second).rule.tolist() == [Rule.EDGE]
