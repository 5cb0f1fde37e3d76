"""Bounds of an analysis: two apps that meet at a cut say together what one says alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.analysis import Analysis, Bounds, Progress
from flowstream.blocks import Block
from flowstream.operators import Result
from tests.unit.test_analysis import (
    S,
    blocks_of,
    chains,
    closing_chains,
    cut_lists,
    interleave,
    operators,
    orders,
    said,
)

cuts_ns = st.integers(-2 * S, 34 * S)


def log_of(times, cuts, order):
    return list(
        enumerate(interleave([blocks_of(p, t, c) for p, (t, c) in enumerate(zip(times, cuts, strict=True))], order))
    )


@given(st.one_of(chains, closing_chains), cut_lists, orders, cuts_ns, st.integers(0, 18))
def test_a_life_until_a_cut_and_a_life_from_there_say_what_one_says(times, cuts, order, cut_ns, stop) -> None:
    log = log_of(times, cuts, order)
    whole: list[Result] = said(Analysis(operators(), S), log)
    first = Analysis(operators(), S, bounds=Bounds(until_ns=cut_ns))
    stop = min(stop, len(log))
    before = [r for offset, block in log[:stop] for r in first.apply(offset, block).results]
    assert all(r.time_ns <= cut_ns for r in before)
    progress = Progress.decode(first.progress().encode())
    assert before + said(Analysis(operators(), S, progress), log[progress.position :]) == whole


@given(closing_chains, cut_lists, orders, cuts_ns, st.integers(0, 18))
def test_a_life_up_to_a_cut_may_itself_be_cut_short(times, cuts, order, cut_ns, stop) -> None:
    log, until = log_of(times, cuts, order), Bounds(until_ns=cut_ns)
    once = Analysis(operators(), S, bounds=until)
    expected = [r for offset, block in log for r in once.apply(offset, block).results]
    first = Analysis(operators(), S, bounds=until)
    stop = min(stop, len(log))
    before = [r for offset, block in log[:stop] for r in first.apply(offset, block).results]
    progress = first.progress()
    second = Analysis(operators(), S, progress, until)
    assert before + [r for o, b in log[progress.position :] for r in second.apply(o, b).results] == expected
    assert second.finished == once.finished
    assert second.progress().closed == once.progress().closed


@given(closing_chains, cut_lists, orders, cuts_ns)
def test_what_is_silenced_is_missing_and_nothing_else_changes(times, cuts, order, silent_ns) -> None:
    log = log_of(times, cuts, order)
    whole = said(Analysis(operators(), S), log)
    heard = said(Analysis(operators(), S, bounds=Bounds(silent_before_ns=silent_ns)), log)
    assert heard == [r for r in whole if r.time_ns > silent_ns]


@given(closing_chains, cut_lists, orders, cuts_ns)
def test_every_row_is_still_applied_or_late_and_rows_behind_the_bound_are_not_held(times, cuts, order, cut_ns) -> None:
    log = log_of(times, cuts, order)
    plain, bounded = Analysis(operators(), S), Analysis(operators(), S, bounds=Bounds(until_ns=cut_ns))
    for offset, block in log:
        a, b = plain.apply(offset, block), bounded.apply(offset, block)
        assert (a.applied, a.duplicate, a.gap, len(a.late)) == (b.applied, b.duplicate, b.gap, len(b.late))
        assert bounded.rows_open <= plain.rows_open
    assert bounded.position <= plain.position


@pytest.mark.parametrize(("cut_s", "finished"), [(10, True), (18, True), (19, False)])
def test_it_is_finished_when_the_watermark_has_passed_the_bound(cut_s: int, finished: bool) -> None:
    analysis = Analysis(operators(), S, bounds=Bounds(until_ns=cut_s * S))
    for p in range(3):
        analysis.apply(p, blocks_of(p, [5 * S, 20 * S], [])[0])
    assert analysis.finished == finished


@given(closing_chains, cut_lists, orders, cuts_ns)
def test_late_rows_before_what_is_wanted_are_not_told(times, cuts, order, silent_ns) -> None:
    log = log_of(times, cuts, order)
    plain, bounded = Analysis(operators(), S), Analysis(operators(), S, bounds=Bounds(silent_before_ns=silent_ns))
    for offset, block in log:
        a, b = plain.apply(offset, block).late, bounded.apply(offset, block).late
        assert b.time_ns.tolist() == [t for t in a.time_ns.tolist() if t >= silent_ns // S * S]


@pytest.mark.parametrize("cut_s", range(8, 32))
def test_panes_that_only_passing_time_closed_are_not_lost_at_the_cut(cut_s: int) -> None:
    """The watermark is far ahead of the cut by a silent partition's idle blocks, which hold no rows."""
    one = (("raw", 1),)
    first = blocks_of(0, [10 * S, 11 * S], [])[0]
    log = [
        (0, Block(first.source, 0, 2, 9 * S, False, one, first.rows)),
        (1, Block(first.source, 2, 2, 20 * S, True, one)),
        (2, Block(first.source, 2, 2, 30 * S, True, one)),
    ]
    plain = Analysis(operators(), S)
    whole = [r for offset, block in log for r in plain.apply(offset, block).results]
    bounded = Analysis(operators(), S, bounds=Bounds(until_ns=cut_s * S))
    before = [r for offset, block in log for r in bounded.apply(offset, block).results]
    progress = bounded.progress()
    later = Analysis(operators(), S, progress)
    more = (3, Block(first.source, 2, 2, 31 * S, True, one))
    after = [r for o, b in [*log, more] if o >= progress.position for r in later.apply(o, b).results]
    assert len(whole) > 3
    assert before + after == whole
