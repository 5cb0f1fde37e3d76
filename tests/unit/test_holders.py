"""Laws of who holds a flow: its records count at one place over panes, and a restart changes no answer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream import holders as module
from flowstream.analysis import Progress
from flowstream.batch import FlowBatch, FlowType
from flowstream.blocks import Block, SourcePartition
from flowstream.counting import CountOnce, Rule
from flowstream.errors import StateError
from flowstream.holder_kernels import look_up, put
from flowstream.holders import Holders
from flowstream.links import LinkTable
from flowstream.operators import one_by_one
from flowstream.pipeline import PartitionAnalysis
from flowstream.settings import Settings
from tests.sightings import PlainHolders, Row

SECOND = 10**9
FIRST = 1_700_000_000
EDGES = {(3, 1): True, (3, 2): False}  # the others are not in the table
LINKS = LinkTable.from_csv("exporter,if_index,name,speed_bps,edge\n::3,1,a,1,true\n::3,2,b,1,false\n")

ROWS = st.builds(
    Row,
    flow=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    place=st.sampled_from([(1, 1), (1, 2), (2, 1), (1, 1), (2, 1), (3, 1), (3, 2)]),
    is_record=st.sampled_from([True, True, True, False]),
    ip_ttl=st.sampled_from([0, 61, 62]),
    estimated_bytes=st.integers(0, 3),
)
#: How many panes after the one before, and the rows.
PANES = st.lists(st.tuples(st.integers(1, 4), st.lists(ROWS, min_size=1, max_size=6)), min_size=1, max_size=14)
LIMITS = st.tuples(st.integers(1, 4), st.integers(0, 5), st.integers(1, 5))  # remember, lookback, flows_max


def batch(rows: list[Row], pane: int = 0) -> FlowBatch:
    made = FlowBatch.zeros(len(rows))
    for n, row in enumerate(rows):
        made.src_addr[n, 1], made.src_port[n] = row.flow
        made.exporter[n, 1], made.in_if[n] = row.place
        made.flow_type[n] = FlowType.NETFLOW_V9 if row.is_record else FlowType.SFLOW_5
        made.ip_ttl[n], made.bytes[n], made.sampling_rate[n] = row.ip_ttl, row.estimated_bytes, 1
    made.time_ns[:] = pane * SECOND
    made.origin_offset[:] = range(len(rows))
    return made.in_time_order()


def remembering(limits: tuple[int, int, int], links: LinkTable = LINKS) -> CountOnce:
    return CountOnce(links, Holders(*limits, SECOND))


def answer(once: CountOnce, rows: FlowBatch) -> list[tuple[bool, str]]:
    counted = once.in_time_order(rows)
    return [(bool(c), Rule(r).name) for c, r in zip(counted.counts, counted.rule, strict=True)]


def placed(panes: list[tuple[int, list[Row]]]) -> list[tuple[int, list[Row]]]:
    """Return the panes by their index."""
    ends = np.cumsum([gap for gap, _ in panes]).tolist()
    return [(FIRST + end, rows) for end, (_, rows) in zip(ends, panes, strict=True)]


@settings(max_examples=200)
@given(PANES, LIMITS, st.randoms(use_true_random=False))
def test_what_counts_is_what_is_remembered_and_the_rules_say_in_any_order_of_rows(panes, limits, random):
    once, plain = remembering(limits), PlainHolders(max(limits[:2]), *limits[1:], EDGES)
    for index, rows in placed(panes):
        random.shuffle(rows)
        assert answer(once, batch(rows, index)) == plain.pane(index, rows)
    assert once.refused == plain.refused
    assert len(once.holders) == len(plain.held)


@settings(max_examples=250)
@given(PANES, LIMITS, st.sets(st.integers(0, 13)))
def test_a_restart_anywhere_changes_no_answer_about_any_pane_of_the_lookback(panes, limits, restarts):
    """After each pane a life that begins with the snapshot is asked about the lookback again, and goes on, or not."""
    made = [(index, batch(rows, index)) for index, rows in placed(panes)]
    through, once = remembering(limits), remembering(limits)
    said = []
    for n, (index, rows) in enumerate(made):
        said.append(answer(through, rows))
        if n in restarts:
            again = remembering(limits)
            again.restore(once.snapshot())
            assert again.snapshot() == once.snapshot()
            once = again
        assert answer(once, rows) == said[n]
        for earlier, (before, looked_back) in enumerate(made[: n + 1]):
            if before >= index - limits[1]:
                assert answer(once, looked_back) == said[earlier], (n, earlier)
        assert once.snapshot() == through.snapshot()


def told_by(part: PartitionAnalysis, log: list[tuple[int, Block]]) -> list[Any]:
    """Return what a partition says of blocks: results, and rows of partials with where they go."""
    said: list[Any] = []
    for offset, block in log:
        said += [(r.stream, r.key, r.value) for r in one_by_one(part.apply(offset, block).results)]
        said += [
            (destination, {name: column.tolist() for name, column in partials.rows.columns.items()})
            for destination, partials in part.take_partials() if len(partials.rows)
        ]  # fmt: skip
    return said


@settings(max_examples=40)
@given(PANES, st.integers(1, 4), st.lists(st.integers(1, 5), max_size=4))
def test_a_partition_that_starts_again_from_its_progress_says_what_one_that_never_stopped_says(panes, remember, lives):
    chosen = Settings(
        analyses=("sources", "counting"), topics={"partitions": 1}, sources={"size_s": 4.0, "distances": False},
        counting={"remember_s": remember, "flows_max": 3},
    )  # fmt: skip
    log, offset = [], 0
    for n, (index, rows) in enumerate([*placed(panes), (FIRST + 99, [])]):
        made = batch(rows, index).replace(origin_offset=np.arange(offset, offset + len(rows)))
        source, sources = SourcePartition("raw", 0), (("raw", 1),)
        log.append((n, Block(source, offset, offset + len(rows), index * SECOND, False, sources, made)))
        offset += len(rows)
    whole = told_by(PartitionAnalysis(chosen, LINKS), log)
    part, said = PartitionAnalysis(chosen, LINKS), []
    for blocks in lives:
        said += told_by(part, log[part.analysis.position :][:blocks])
        part = PartitionAnalysis(chosen, LINKS, Progress.decode(part.analysis.progress().encode()))
    assert said + told_by(part, log[part.analysis.position :]) == whole
    assert any(stream == "sources" for stream, *_ in whole)


@given(PANES, LIMITS)
def test_flows_that_share_their_slots_are_looked_up_in_order_with_the_same_outcome(panes, limits):
    once, plain = remembering(limits), PlainHolders(max(limits[:2]), *limits[1:], EDGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "put", lambda *_: False)
        for index, rows in placed(panes):
            assert answer(once, batch(rows, index)) == plain.pane(index, rows)


def test_thousands_of_flows_that_come_and_go_are_remembered_as_a_few_are():
    rng, limits = np.random.default_rng(3), (6, 3, 3000)
    once, plain, grown = remembering(limits), PlainHolders(*limits, EDGES), []
    for index in range(FIRST, FIRST + 24):
        flows_ = rng.integers(0, 500, 400) + 60 * (index - FIRST)
        rows = [
            Row((int(f), 1), (int(rng.integers(1, 4)), 1), True, 0, int(rng.integers(0, 9))) for f in flows_
        ]  # fmt: skip
        assert answer(once, batch(rows, index)) == plain.pane(index, rows)
        grown.append(len(once.holders))
        again = remembering(limits)
        again.restore(once.snapshot())
        once = again
    assert max(grown) > 1024
    assert any(after < before for before, after in pairwise(grown))


def test_probes_of_flows_that_share_a_slot_are_bounded():
    words, table = np.ones((2, 8), np.uint64), np.full(1, -1, np.int32)  # of one slot
    words[1] = 2
    assert put(words, 0, 1, table, 5)
    assert not put(words, 1, 2, table, 5)
    entry = np.full(2, -1)
    assert not look_up(words, words, table, entry, 5)
    assert entry.tolist() == [-1, -1]


@given(st.lists(st.tuples(st.integers(0, 59), st.integers(20, 120)), min_size=2, max_size=4), st.integers(1, 3))
def test_records_of_several_routers_add_up_to_what_one_of_them_told(routers, flows_):
    """Each router tells by its own clock: from its own phase on, as often as its own active timeout."""
    told: dict[int, list[Row]] = {}
    for exporter, (phase, timeout) in enumerate(routers):
        for index in range(phase, 600, timeout):
            told.setdefault(index, []).extend(
                Row((1, n), (exporter, 1), True, 0, 1 + 10**exporter) for n in range(flows_)
            )
    once, counted = remembering((120, 9, 1000), LinkTable()), {}
    for index in sorted(told):
        for row, (counts, _) in zip(told[index], answer(once, batch(told[index], FIRST + index)), strict=True):
            if counts:
                counted.setdefault(row.flow, []).append((index, row.place, row.estimated_bytes))
    first = min(phase for phase, _ in routers)
    for rows in counted.values():
        (place,) = {place for _, place, _ in rows}
        phase, timeout = routers[place[0]]
        assert phase == first
        assert rows == [(index, place, 1 + 10 ** place[0]) for index in range(phase, 600, timeout)]
    assert len(counted) == flows_


def test_the_rule_says_who_was_told_of_by_others_and_what_was_removed():
    once = remembering((10, 0, 100), LinkTable())
    at_a, at_b, other = (Row((1, 1), (e, 1), True, 0, 5) for e in (1, 2, 1))
    other = other._replace(flow=(1, 2))
    said = [answer(once, batch(rows, FIRST + k)) for k, rows in enumerate([[at_a, other], [at_b], [at_a, other]])]
    assert said == [[(True, "ONLY")] * 2, [(False, "FIRST")], [(True, "FIRST"), (True, "ONLY")]]


@pytest.mark.parametrize(("silent", "counts"), [(10, False), (11, True)])
def test_who_was_silent_for_longer_than_is_remembered_is_followed_by_the_next_that_tells(silent, counts):
    once = remembering((10, 0, 100), LinkTable())
    at_a, at_b = (Row((1, 1), (e, 1), True, 0, 5) for e in (1, 2))
    answer(once, batch([at_a], FIRST))
    assert answer(once, batch([at_b], FIRST + silent))[0][0] is counts
    assert answer(once, batch([at_a], FIRST + silent + 1))[0][0] is not counts


def test_packet_samples_alone_are_not_remembered_and_change_nothing():
    once = remembering((10, 0, 100), LinkTable())
    before = once.snapshot()
    for k in range(4):
        assert answer(once, batch([Row((1, 1), (1 + k % 2, 1), False, 0, 5)], FIRST + k)) == [(True, "ONLY")]
    assert once.snapshot() == before


@given(garbage=st.binary(max_size=60))
def test_garbage_is_no_state(garbage):
    once = remembering((10, 0, 100), LinkTable())
    answer(once, batch([Row((1, 1), (1, 1), True, 0, 5)], FIRST))
    before = once.snapshot()
    for state in (garbage, before[:-1], before + garbage + b"}", b"{}", b"[]", b"null"):
        with pytest.raises(StateError):
            once.restore(state)
        assert once.snapshot() == before
