"""From an event time to offsets: no row that is wanted is skipped, and few records are looked at."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.blocks import Block, SourcePartition
from flowstream.replay import (
    STRAGGLERS,
    Crossings,
    Mark,
    PartitionPlan,
    Probe,
    Probing,
    crossings,
    heads,
    plan_offset,
    plan_time,
    sources_of,
)
from flowstream.replay_warmup import WarmUp, warm_up
from flowstream.settings import load
from tests.unit.test_analysis import OUT_OF_ORDERNESS, SOURCES, S, blocks_of, cut_lists, interleave, orders

RAW = sources_of(SOURCES)
WARM_UP = WarmUp(5 * S, 12 * S)
Log = list[tuple[int, Block]]


class Reader:
    """Answers probes from a log in memory, and counts them; a fetch brings ``fetched`` blocks at once."""

    def __init__(self, log: Log, fetched: int = 1) -> None:
        self.marks = [Mark(offset, b.source, b.from_offset, b.to_offset, b.watermark_ns) for offset, b in log]
        self.fetched = fetched
        self.probes = 0

    def __call__(self, probe: Probe) -> Sequence[Mark]:
        self.probes += 1
        answer = []
        missing = True
        for mark in self.marks[bisect_left(self.marks, probe.offset, key=lambda m: m.offset) :]:
            if not missing and len(answer) >= self.fetched:
                break
            answer.append(mark)
            missing &= mark.source != probe.source
        return answer


def ask(probing: Probing, reader: Reader) -> Crossings:
    try:
        probe = next(probing)
        while True:
            probe = probing.send(reader(probe))
    except StopIteration as done:
        return done.value


# Not empty, so that there is a log.
full_chains = st.tuples(*[st.lists(st.integers(0, 30 * S), min_size=1, max_size=25)] * 3)


def log_of(times: Sequence[list[int]], cuts: Sequence[list[int]], order: list[int], base: int, holes: int = 1) -> Log:
    mixed = interleave([blocks_of(p, t, c) for p, (t, c) in enumerate(zip(times, cuts, strict=True))], order)
    return [(base + holes * at, block) for at, block in enumerate(mixed)]


def wanted_rows(log: Log, time_ns: int) -> set[tuple[SourcePartition, int]]:
    return {
        (block.source, offset)
        for _, block in log
        for offset, t in zip(block.rows.origin_offset.tolist(), block.rows.time_ns.tolist(), strict=True)
        if t >= time_ns
    }


moments = st.integers(-5 * S, 40 * S)


@given(full_chains, cut_lists, orders, moments, st.integers(0, 9), st.integers(1, 3))
def test_no_row_at_or_after_the_time_is_before_the_position(times, cuts, order, time_ns, base, holes) -> None:
    log = log_of(times, cuts, order, base, holes)
    found = ask(crossings(base, log[-1][0] + 1, RAW, time_ns - OUT_OF_ORDERNESS), Reader(log))
    assert wanted_rows([one for one in log if one[0] >= found.first], time_ns) == wanted_rows(log, time_ns)


@given(full_chains, cut_lists, cut_lists, orders, moments, st.data())
def test_where_blocks_were_sent_again_no_row_is_skipped_either(times, cuts, again, order, time_ns, draw) -> None:
    """A new owner sends all again, cut elsewhere, and goes on; who does not know it was replaced sends more meanwhile.

    So watermarks go back, and more than once.
    """
    mixed = [b for _, b in log_of(times, cuts, order, 0)]
    for p in range(3):
        own = [at for at, b in enumerate(mixed) if b.source.partition == p]
        last = draw.draw(st.sampled_from(own))  # of the first owner, before it is replaced
        rest = [mixed[at] for at in own if at > last]
        mixed = [b for at, b in enumerate(mixed) if at <= last or b.source.partition != p]
        for block in blocks_of(p, times[p], again[p]):
            last = draw.draw(st.integers(last + 1, len(mixed)))
            mixed.insert(last, block)
        for straggler in rest[: draw.draw(st.integers(0, 3))]:
            last = draw.draw(st.integers(own[0] + 1, len(mixed)))
            mixed.insert(last, straggler)
    log = list(enumerate(mixed))
    found = ask(crossings(0, len(log), RAW, time_ns - OUT_OF_ORDERNESS), Reader(log))
    assert wanted_rows([one for one in log if one[0] >= found.first], time_ns) == wanted_rows(log, time_ns)


@pytest.mark.parametrize("stragglers", [1, 2, 3])
@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("fetched", [1, 6])
def test_a_crossing_is_not_hidden_by_what_a_replaced_worker_sends_after_it(stragglers, goes_on, fetched) -> None:
    source = min(RAW)

    def block(first: int, after: int) -> Block:
        return Block(source, first, after, after * S, False, SOURCES)

    # Up to 30 by the first owner; anew and up to 60 by the second; what the first sends after that; and on from 60.
    chain = [block(0, 30), block(0, 30), block(30, 60), *[block(30 + 5 * n, 35 + 5 * n) for n in range(stragglers)]]
    chain += [block(60 + n, 61 + n) for n in range(9)] if goes_on else []
    log = list(enumerate(chain))
    # Where nothing goes on, it cannot be known that others than stragglers have reached what a straggler reaches.
    for time_s in range(31 if goes_on else 31 + 5 * stragglers, 61):
        found = ask(crossings(0, len(log), [source], time_s * S), Reader(log, fetched))
        assert found.first <= 2, time_s


@given(st.lists(st.integers(0, 10**4), min_size=3, max_size=3), st.integers(20, 300), st.integers(0, 10**11))
def test_few_probes_find_a_crossing_and_it_is_the_first_block_that_reaches_the_time(shifts, count, time_ns) -> None:
    """Watermarks that only go forward, as in a log without a crash."""
    sources = sorted(RAW)
    log = [
        (at, Block(sources[at % 3], at // 3, at // 3 + 1, at * 10**8 + shifts[at % 3], False, SOURCES))
        for at in range(3 * count)
    ]
    reader = Reader(log, 6)
    found = ask(crossings(0, len(log), RAW, time_ns), reader)
    for source in sources:
        reached = [o for o, b in log if b.source == source and (b.watermark_ns or 0) >= time_ns]
        assert ([found.found[source].offset] if source in found.found else []) == reached[:1]
    past_the_end = len(sources) - len(found.found)  # where the last blocks may be stragglers
    halvings = math.log2(len(log)) * (1 + STRAGGLERS * past_the_end)
    assert reader.probes <= halvings + (2 + STRAGGLERS) * len(sources)


@given(full_chains, cut_lists, orders, st.data())
def test_where_the_log_is_cut_every_row_from_the_whole_time_on_is_still_there(times, cuts, order, draw) -> None:
    log = log_of(times, cuts, order, 0)
    cut = draw.draw(st.integers(1, len(log)))
    rest = log[cut:]
    plan = plan_offset(("flows", 0), ask(heads(cut, len(log), RAW), Reader(rest)), 0, WARM_UP, OUT_OF_ORDERNESS)
    assert plan.whole_from_ns == (plan.silent_before_ns and plan.silent_before_ns - 5 * S)
    if plan.silent_before_ns is None:
        return  # not a block with a watermark is left
    whole_ns = plan.silent_before_ns - 5 * S
    heard = {block.source for _, block in rest}
    wanted = {row for row in wanted_rows(log, whole_ns) if row[0] in heard}
    assert wanted == {row for row in wanted_rows(rest, whole_ns) if row[0] in heard}


@given(full_chains, cut_lists, orders, moments, st.data())
def test_a_time_before_the_log_is_said_and_nothing_is_promised_that_is_gone(times, cuts, order, time_ns, draw) -> None:
    log = log_of(times, cuts, order, 0)
    cut = draw.draw(st.integers(1, len(log)))
    rest = log[cut:]
    target = time_ns - WARM_UP.read_ns - OUT_OF_ORDERNESS
    found = ask(crossings(cut, len(log), RAW, target), Reader(rest))
    plan = plan_time(("flows", 0), found, time_ns, WARM_UP, OUT_OF_ORDERNESS)
    assert plan.silent_before_ns is not None
    heard = set(found.found)
    kept = wanted_rows([x for x in rest if x[0] >= plan.start], plan.silent_before_ns - 5 * S)
    assert {r for r in wanted_rows(log, plan.silent_before_ns - 5 * S) if r[0] in heard} <= kept
    if plan.gone_before_ns is None:
        assert plan.silent_before_ns == time_ns


@given(full_chains, cut_lists, orders, moments, st.data())
def test_from_the_time_that_is_called_whole_on_every_row_is_read_and_nothing_longer_holds_results_back(
    times, cuts, order, time_ns, draw
) -> None:
    log = log_of(times, cuts, order, 0)
    cut = draw.draw(st.integers(0, len(log)))
    rest = log[cut:]

    def planned(warm_up: WarmUp) -> PartitionPlan:
        found = ask(crossings(cut, len(log), RAW, time_ns - warm_up.read_ns - OUT_OF_ORDERNESS), Reader(rest))
        return plan_time(("flows", 0), found, time_ns, warm_up, OUT_OF_ORDERNESS)

    plan, short = planned(WARM_UP), planned(WarmUp(5 * S, 5 * S))
    assert plan.silent_before_ns == short.silent_before_ns
    assert plan.start <= short.start
    heard = {block.source for _, block in rest}
    from_ns = -(2**62) if plan.whole_from_ns is None else plan.whole_from_ns
    assert {r for r in wanted_rows(log, from_ns) if r[0] in heard} == {
        r for r in wanted_rows([x for x in rest if x[0] >= plan.start], from_ns) if r[0] in heard
    }
    if plan.gone_before_ns is None and plan.start > cut:
        assert plan.whole_from_ns == time_ns - WARM_UP.read_ns


def test_a_log_that_was_never_cut_has_everything_from_its_beginning() -> None:
    log = log_of(([10 * S], [11 * S], [12 * S]), ([], [], []), [], 0)
    plan = plan_offset(("flows", 0), ask(heads(0, 3, RAW), Reader(log)), 0, WARM_UP, OUT_OF_ORDERNESS)
    assert (plan.start, plan.silent_before_ns, plan.whole_from_ns, plan.records) == (0, None, None, 3)


def test_a_source_partition_never_heard_of_holds_no_position_back() -> None:
    log = log_of(([10 * S, 20 * S, 30 * S], [11 * S, 21 * S, 31 * S], []), ([1, 2], [1, 2], []), [0, 1] * 3, 0)
    log = [(at, block) for at, (_, block) in enumerate(one for one in log if one[1].source.partition != 2)]
    found = ask(crossings(0, len(log), RAW, 25 * S), Reader(log))
    assert found.first == 4


HOUR, DAY = 3600 * S, 86_400 * S
MARGIN = 2 * 60 * S


def test_windows_up_to_an_hour_are_whole_by_default_and_longer_ones_where_that_is_asked_for() -> None:
    settings = load(analyses=["talkers", "links"], time={"idle_after_s": 60})
    default = warm_up(settings)
    assert (default.needed_ns, default.read_ns) == (60 * S + MARGIN, HOUR + MARGIN)
    of_hours, of_days = (tuple((n, at) for n in ("link-use-percentiles", "talkers")) for at in (HOUR, DAY))
    assert (default.whole, default.cut) == (of_hours, of_days)
    asked = warm_up(settings, DAY)
    assert (asked.needed_ns, asked.read_ns, asked.whole, asked.cut) == (
        default.needed_ns, DAY, of_hours + of_days, (),
    )  # fmt: skip
    of_a_minute = (("talkers", 60 * S),)
    assert warm_up(settings, 15 * S) == WarmUp(15 * S, 15 * S, (), of_a_minute + of_hours + of_days)


@pytest.mark.parametrize(
    ("chosen", "longest_s"),
    [
        ({"analyses": ["elephants"]}, 60),
        ({"analyses": ["paths"], "paths": {"size_s": 90}}, 90),
        ({"analyses": ["counting"], "counting": {"size_s": 300}}, 300),
    ],
)
def test_windows_that_are_said_whole_or_not_at_all_are_warmed_up_for_and_nothing_else(chosen, longest_s) -> None:
    read_ns = round(longest_s * S) + MARGIN
    assert warm_up(load(time={"idle_after_s": 60}, **chosen)) == WarmUp(read_ns, read_ns)
