"""The analysis of a partition: a function of its rows, however they are cut, interleaved, repeated or resumed."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.analysis import Analysis, Progress
from flowstream.batch import FlowBatch, Quality
from flowstream.blocks import Block, SourcePartition
from flowstream.errors import StateError
from flowstream.operators import Operator, Pane, Result
from flowstream.panes import PaneAssembly

S = 1_000_000_000
OUT_OF_ORDERNESS = 2 * S
SOURCES = (("raw", 3),)


class Recorder:
    """Says what each pane and its lookback held, and how many rows there ever were."""

    name = "recorder"

    def __init__(self, lookback: int) -> None:
        self.lookback = lookback
        self.total = 0
        self.waiting = 0  # empty panes it still wants to see

    @property
    def quiet(self) -> bool:
        return self.waiting == 0

    def process(self, panes: Sequence[Pane]) -> list[Result]:
        pane = panes[-1]
        self.total += len(pane.rows)
        self.waiting = self.total % 3 + 1 if len(pane.rows) else max(0, self.waiting - 1)
        seen = [[p.index, p.rows.origin_id.tolist(), p.rows.origin_offset.tolist()] for p in panes if len(p.rows)]
        return [Result("recorder", str(pane.index), pane.end_ns, {"total": self.total, "seen": seen})]

    def snapshot(self) -> bytes:
        return f"{self.total} {self.waiting}".encode()

    def restore(self, state: bytes) -> None:
        self.total, self.waiting = map(int, state.split())


def operators() -> list[Operator]:
    return [Recorder(0), _named(Recorder(2))]


def _named(recorder: Recorder) -> Recorder:
    recorder.name = "wide"
    return recorder


def blocks_of(partition: int, times: list[int], cuts: list[int]) -> list[Block]:
    """Cut one source partition's rows into blocks, as ingest would."""
    source = SourcePartition("raw", partition)
    bounds = sorted({0, len(times), *(c % (len(times) + 1) for c in cuts)})
    made, reached = [], None
    for start, end in pairwise(bounds):
        quality = np.zeros(end - start, np.uint8)
        for i, t in enumerate(times[start:end]):
            reached = t - OUT_OF_ORDERNESS if reached is None else max(reached, t - OUT_OF_ORDERNESS)
            quality[i] = Quality.LATE if t < reached else 0
        rows = FlowBatch.of(
            end - start,
            {
                "time_ns": np.array(times[start:end], np.int64), "origin_offset": np.arange(start, end),
                "origin_id": np.full(end - start, partition), "quality": quality,
            },
        )  # fmt: skip
        made.append(Block(source, start, end, reached, False, SOURCES, rows))
    return made


def interleave(chains: list[list[Block]], order: list[int]) -> list[Block]:
    """Mix chains keeping the order within each; whatever is left follows."""
    rest = [list(c) for c in chains]
    mixed = [rest[i % len(rest)].pop(0) for i in order if rest[i % len(rest)]]
    return mixed + [b for c in rest for b in c]


def said(analysis: Analysis, log: list[tuple[int, Block]]) -> list[Result]:
    results = [r for offset, block in log for r in analysis.apply(offset, block).results]
    return results + analysis.finish()


def busy(results: list[Result]) -> dict[str, list]:
    """What the panes with rows held: which empty panes are visited may differ at the open end of a log."""
    return {r.key: r.value for r in results if any(seen[0] == int(r.key) for seen in r.value["seen"])}


seconds = st.lists(st.integers(0, 30 * S), max_size=25)
chains = st.tuples(seconds, seconds, seconds)
# In order, as a collector's mostly are: watermarks move, and panes close all along the log.
ordered = st.lists(st.integers(0, 30 * S), min_size=6, max_size=25).map(sorted)
closing_chains = st.tuples(ordered, ordered, ordered)
cut_lists = st.tuples(*[st.lists(st.integers(0, 25), max_size=4)] * 3)
orders = st.lists(st.integers(0, 2), max_size=20)


@given(chains, cut_lists, orders, cut_lists, orders)
def test_cuts_and_interleavings_do_not_change_a_result(times, cuts_a, order_a, cuts_b, order_b) -> None:
    results = []
    for cuts, order in ((cuts_a, order_a), (cuts_b, order_b)):
        log = interleave([blocks_of(p, t, c) for p, (t, c) in enumerate(zip(times, cuts, strict=True))], order)
        results.append(busy(said(Analysis([Recorder(2)], S), list(enumerate(log)))))
    assert results[0] == results[1]


@given(chains, cut_lists, orders)
def test_every_row_is_applied_or_late_and_panes_hold_the_applied_ones_in_order(times, cuts, order) -> None:
    log = interleave([blocks_of(p, t, c) for p, (t, c) in enumerate(zip(times, cuts, strict=True))], order)
    analysis = Analysis([Recorder(0)], S)
    outcomes = [analysis.apply(i, b) for i, b in enumerate(log)]
    applied = sum(o.applied for o in outcomes)
    late = sum(len(o.late) for o in outcomes)
    assert applied + late == sum(len(t) for t in times)
    results = [r for o in outcomes for r in o.results] + analysis.finish()
    panes = [seen for r in results for seen in r.value["seen"]]
    held = [(i, o) for _, ids, offsets in panes for i, o in zip(ids, offsets, strict=True)]
    assert len(held) == len(set(held)) == applied
    assert [p[0] for p in panes] == sorted(p[0] for p in panes)
    for index, ids, offsets in panes:
        keys = [(times[i][o], i, o) for i, o in zip(ids, offsets, strict=True)]
        assert keys == sorted(keys)
        assert all(index * S <= t < (index + 1) * S for t, _, _ in keys)


@given(st.one_of(chains, closing_chains), cut_lists, orders, st.integers(0, 18))
def test_going_on_from_progress_equals_never_having_stopped(times, cuts, order, stop) -> None:
    mixed = interleave([blocks_of(p, t, c) for p, (t, c) in enumerate(zip(times, cuts, strict=True))], order)
    log = list(enumerate(mixed))
    whole = said(Analysis(operators(), S), log)
    first = Analysis(operators(), S)
    stop = min(stop, len(log))
    before = [r for offset, block in log[:stop] for r in first.apply(offset, block).results]
    progress = Progress.decode(first.progress().encode())
    second = Analysis(operators(), S, progress)
    after = said(second, log[progress.position :])
    assert before + after == whole


@given(st.one_of(chains, closing_chains), cut_lists, orders, st.lists(st.integers(0, 9), min_size=2, max_size=5))
def test_a_life_that_ends_before_it_has_caught_up_loses_nothing_and_says_nothing_twice(times, cuts, order, lives):
    mixed = interleave([blocks_of(p, t, c) for p, (t, c) in enumerate(zip(times, cuts, strict=True))], order)
    log = list(enumerate(mixed))
    analysis, told, late = Analysis(operators(), S), [], 0
    for blocks in lives:
        outcomes = [analysis.apply(*read) for read in log[analysis.position :][:blocks]]
        told += [r for outcome in outcomes for r in outcome.results]
        late += sum(len(outcome.late) for outcome in outcomes)
        analysis = Analysis(operators(), S, Progress.decode(analysis.progress().encode()))
    outcomes = [analysis.apply(*read) for read in log[analysis.position :]]
    told += [r for outcome in outcomes for r in outcome.results]
    late += sum(len(outcome.late) for outcome in outcomes)
    whole = Analysis(operators(), S)
    once = [whole.apply(*read) for read in log]
    assert told == [r for outcome in once for r in outcome.results]
    assert late == sum(len(outcome.late) for outcome in once)


@given(chains, cut_lists, cut_lists, orders)
def test_blocks_sent_again_with_other_boundaries_change_nothing(times, cuts, again, order) -> None:
    once = interleave([blocks_of(p, t, c) for p, (t, c) in enumerate(zip(times, cuts, strict=True))], order)
    twice = []
    resent = {p: blocks_of(p, times[p], again[p]) for p in range(3)}
    for block in once:
        twice.append(block)
        twice.extend(b for b in resent[block.source.partition] if b.to_offset <= block.to_offset)
    assert busy(said(Analysis([Recorder(1)], S), list(enumerate(twice)))) == busy(
        said(Analysis([Recorder(1)], S), list(enumerate(once)))
    )


def test_a_missing_range_is_counted_as_a_gap() -> None:
    chain = blocks_of(0, [0, S, 2 * S, 3 * S], [1, 3])
    analysis = Analysis([Recorder(0)], S)
    assert analysis.apply(0, chain[0]).gap == 0
    assert analysis.apply(1, chain[2]).gap == 2


def test_time_waits_for_a_source_partition_not_heard_of_until_it_is_idle() -> None:
    analysis = Analysis([Recorder(0)], S)
    for p in (0, 1):
        assert analysis.apply(p, blocks_of(p, [0, 20 * S], [])[0]).panes == 0
    silent = Block(SourcePartition("raw", 2), 0, 0, None, True, SOURCES)
    assert analysis.apply(2, silent).panes >= 1


def test_where_all_are_idle_the_furthest_leads() -> None:
    analysis = Analysis([Recorder(0)], S)
    for p in range(3):
        analysis.apply(p, blocks_of(p, [p * 5 * S + 1], [])[0])
    for p, watermark in enumerate((3 * S, 9 * S, 40 * S)):
        analysis.apply(3 + p, Block(SourcePartition("raw", p), 1, 1, watermark, True, SOURCES))
    assert analysis.watermark_ns == 40 * S


def test_a_row_for_a_closed_pane_is_late_even_if_ingest_did_not_say_so() -> None:
    one = (("raw", 1),)
    analysis = Analysis([Recorder(0)], S)
    first = blocks_of(0, [10 * S], [])[0]
    analysis.apply(0, Block(first.source, 0, 1, first.watermark_ns, False, one, first.rows))
    analysis.apply(1, Block(first.source, 1, 1, 30 * S, True, one))
    rows = FlowBatch.of(1, {"time_ns": np.array([12 * S]), "origin_offset": np.array([1])})
    outcome = analysis.apply(2, Block(first.source, 1, 2, 30 * S, False, one, rows))
    assert (outcome.applied, len(outcome.late)) == (0, 1)


@given(st.binary(max_size=60))
def test_garbage_is_no_progress_record(raw: bytes) -> None:
    with pytest.raises(StateError):
        Progress.decode(raw)


def test_a_progress_record_of_another_version_is_refused() -> None:
    record = msgspec.structs.replace(Analysis([], S).progress(), version=99)
    with pytest.raises(StateError, match="version 99"):
        Progress.decode(record.encode())


def test_a_closed_pane_takes_no_more_rows() -> None:
    panes = PaneAssembly(S, closed=5)
    with pytest.raises(ValueError, match="pane 4"):
        panes.add(FlowBatch.of(1, {"time_ns": np.array([5 * S - 1])}), np.array([5 * S - 1]))
    panes.add(FlowBatch.of(1, {"time_ns": np.array([5 * S])}), np.array([5 * S]))
    assert panes.rows_open == 1


def test_what_is_closed_stays_closed_over_a_restart_when_an_idle_source_returns() -> None:
    two = (("raw", 2),)

    def block(p: int, first: int, to: int, watermark_s: int | None, *seconds: int, idle: bool = False) -> Block:
        rows = FlowBatch.of(
            len(seconds),
            {
                "time_ns": np.array(seconds, np.int64) * S,
                "origin_offset": np.arange(first, to),
                "origin_id": [p] * len(seconds),
            },
        )
        mark = None if watermark_s is None else watermark_s * S
        return Block(SourcePartition("raw", p), first, to, mark, idle, two, rows)

    log = list(
        enumerate(
            [
                block(1, 0, 0, None, idle=True), block(0, 0, 1, 8, 10), block(0, 1, 1, 28, idle=True),
                block(1, 0, 1, 3, 5), block(1, 1, 3, 24, 25, 26), block(0, 1, 2, 29, 31), block(1, 3, 4, 60, 62),
                block(0, 2, 3, 61, 63),
            ]
        )
    )  # fmt: skip

    def run(stops: Sequence[int]) -> tuple[list[Result], int]:
        analysis, results, late, at = Analysis([Recorder(9)], S), [], 0, 0
        for stop in (*stops, len(log)):
            for offset, one in log[at:stop]:
                outcome = analysis.apply(offset, one)
                results += outcome.results
                late += len(outcome.late)
            progress = Progress.decode(analysis.progress().encode())
            if stop < len(log):
                analysis, at = Analysis([Recorder(9)], S, progress), progress.position
        return results + analysis.finish(), late

    whole = run([])
    assert whole[1] == 3, "rows 5, 25 and 26 came after the idle partition had let time pass"
    for stop in range(1, len(log)):
        assert run([stop]) == whole
