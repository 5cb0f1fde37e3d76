"""Laws of what is said of paths: which flows, when one has changed, and that nothing depends on how rows came."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream.analysis import Analysis, Progress
from flowstream.batch import FlowBatch
from flowstream.blocks import Block, SourcePartition
from flowstream.counting import CountOnce
from flowstream.elephants import ElephantsConfig, ElephantsOperator
from flowstream.errors import SettingsError, StateError
from flowstream.links import LinkTable
from flowstream.operators import one_by_one
from flowstream.paths import PathsConfig, PathsOperator
from flowstream.topology import Topology
from tests.builders import T0_NS
from tests.path_rows import LINKS, SECOND, TOPOLOGY, names, operator, panes, route, run, sampled

ONE, TWO = names(1), names(2)


def test_a_change_is_told_once_with_both_paths_in_the_window_after_it():
    said = run(operator(), sampled(1, *ONE), sampled(11, *ONE), sampled(21, *TWO), sampled(31, *TWO))
    (event,) = said["path-events"]
    assert (route(event.value["before"]), route(event.value["after"])) == (ONE, TWO)
    assert event.value["before_window_start_ns"] == T0_NS + 10 * SECOND
    assert event.key == f"{T0_NS + 20 * SECOND}|10.0.1.10|10.0.3.10|6|40000|5201"


@pytest.mark.parametrize(
    "between",
    [
        [sampled(11, ONE[0])],
        [sampled(11, TWO[1])],
        [sampled(11, *ONE), sampled(15, *TWO)],
        [],
    ],
    ids=["pieces of the same", "pieces of another", "both at once", "nothing"],
)
def test_what_is_not_one_whole_path_is_no_evidence_of_a_change(between):
    said = run(operator(), sampled(1, *ONE), *between, sampled(21, *ONE))
    assert said["path-events"] == []
    said = run(operator(), sampled(1, *ONE), *between, sampled(21, *TWO))
    (event,) = said["path-events"]
    assert event.value["window_start_ns"] == T0_NS + 20 * SECOND
    assert event.value["before_window_start_ns"] == T0_NS


def test_a_spine_that_is_inferred_is_the_same_as_one_that_was_seen():
    said = run(operator(), sampled(1, *ONE), sampled(11, ONE[0], ONE[2]), sampled(21, *ONE))
    assert said["path-events"] == []
    assert [v.value["paths"][0]["complete"] for v in said["paths"]] == [True] * 3


def test_two_paths_in_one_window_are_both_told():
    (result,) = run(operator(), sampled(1, *ONE, times=3), sampled(5, *TWO, times=2))["paths"]
    assert result.value["ambiguous"]
    assert sorted(map(route, result.value["paths"])) == [ONE, TWO]
    assert [[h["samples"] for h in p["hops"]] for p in sorted(result.value["paths"], key=route)] == [[3] * 3, [2] * 3]


def test_the_flows_with_most_bytes_are_told_and_the_rest_is_counted():
    sizes = {40000 + n: 1 + n % 4 for n in range(12)}
    rows = [sampled(1 + n / 100, *ONE, src_port=port, times=size) for n, (port, size) in enumerate(sizes.items())]
    said = run(operator(flows_max=5, samples_min=1.0), *rows)
    # Of three flows with four samples and three with three, the first in order fill the five places.
    assert [r.value["flow"]["src_port"] for r in said["paths"]] == [40002, 40003, 40006, 40007, 40011]
    assert [r.value["bytes"] for r in said["paths"]] == [1500 * 1000 * s for s in (3, 4, 3, 4, 4)]
    assert [r.value["samples"] for r in said["paths"]] == [3, 4, 3, 4, 4]
    (window,) = said["path-windows"]
    assert (window.value["flows"], window.value["flows_told"]) == (12, 5)
    assert window.value["bytes"] == 1500 * 1000 * sum(sizes.values())
    assert window.value["bytes_told"] == 1500 * 1000 * 18
    assert (window.value["complete"], window.value["ambiguous"]) == (5, 0)


def test_absurd_totals_stop_at_the_largest():
    names = ("bytes", "bytes_low", "bytes_high")
    exact = run(operator(), sampled(1, ONE[0], times=4, bytes=2**62, sampling_rate=1))
    (path,), (window,) = exact["paths"], exact["path-windows"]
    assert [path.value[name] for name in names] == [2**63 - 1] * 3
    assert [window.value[name] for name in (*names, "bytes_told")] == [2**63 - 1] * 4
    sampled_rows = run(operator(), sampled(1, ONE[0], bytes=2**62, sampling_rate=2**32 - 1))
    for result in sampled_rows["paths"] + sampled_rows["path-windows"]:
        assert 0 <= result.value["bytes_low"] < result.value["bytes_high"] == 2**63 - 1


def test_the_last_paths_of_so_many_flows_are_remembered():
    one = operator(flows_max=3)
    rows = [sampled(1, *ONE, src_port=p, times=2) for p in (1, 2, 3)]
    rows += [sampled(11, *ONE, src_port=p, times=5) for p in (4, 5)]
    run(one, *rows, seconds=20)
    # Those seen last are kept, then the first of those that are equal in everything else.
    again = [sampled(21, *TWO, src_port=p) for p in (1, 2, 3)]
    told = operator(flows_max=3)
    told.restore(one.snapshot())
    events = run(told, *again)["path-events"]
    assert [e.value["flow"]["src_port"] for e in events] == [1]


def test_of_flows_seen_as_long_ago_those_with_most_bytes_that_count_are_remembered():
    rows = [sampled(1, *ONE, src_port=1, times=2), sampled(1, ONE[1], src_port=1, times=9)]
    rows += [sampled(1, *ONE, src_port=2, times=3), sampled(11, *ONE, src_port=3)]
    rows += [sampled(21, *TWO, src_port=p) for p in (1, 2)]
    events = run(operator(flows_max=2), *rows)["path-events"]
    assert [e.value["flow"]["src_port"] for e in events] == [2]


def test_pseudo_interfaces_and_records_without_exporter_are_no_hops():
    rows = [
        sampled(1, ONE[0]).replace(out_if=np.array([0x3FFFFFFF], np.uint32)),
        sampled(2, ONE[1]).replace(exporter=np.zeros((1, 2), np.uint64)),
    ]
    (result,) = run(operator(), *rows)["paths"]
    (path,) = result.value["paths"]
    assert route(path) == [("leaf1", "l1h", None)]
    assert not path["last_known"]


def test_another_table_counts_from_the_next_pane_on():
    one = operator()
    one.topology = Topology()
    (result,) = run(one, sampled(1, ONE[0], ONE[2]))["paths"]
    assert route(result.value["paths"][0]) == [ONE[0], ONE[2]]
    one.topology = TOPOLOGY
    (result,) = run(one, sampled(1, ONE[0], ONE[2]))["paths"]
    assert route(result.value["paths"][0]) == ONE
    one.links = LinkTable()
    (result,) = run(one, sampled(1, ONE[0], ONE[2]))["paths"]
    assert [hop["node"] for hop in result.value["paths"][0]["hops"]] == ["10.255.0.11", "10.255.0.13"]


class _Marked:
    """Elephants as a test wants them."""

    def __init__(self, rows, begun_in):
        self._words = np.column_stack([rows.src_addr, rows.dst_addr, np.full(len(rows), 6 << 32 | 40001 << 16 | 5201)])[
            :1
        ]
        self._begun_in, self.pane = begun_in, -1

    @property
    def begun(self):
        return self._words[: self.pane == self._begun_in].astype(np.uint64)

    @property
    def active(self):
        return self._words[: self.pane >= self._begun_in].astype(np.uint64)


@pytest.mark.parametrize("pane", [3, 9, 14])
def test_an_elephant_is_told_when_its_pane_closes_by_the_window_up_to_there(pane):
    small = [sampled(s, ONE[0], src_port=40001) for s in range(25)]
    large = [sampled(s, *TWO, src_port=7, times=9) for s in range(25)]
    marked = _Marked(small[0], pane)
    one, said, before = operator(marked, flows_max=1), [], []
    for marked.pane, current in enumerate(panes(*small, *large, seconds=30)):
        before = [*before, current][-10:]
        said += [(marked.pane, r) for r in one.process(before) if r.stream == "paths" and r.value["elephant"]]
    assert [at for at, _ in said] == sorted({pane, *range(9 + pane // 10 * 10, 30, 10)})
    first = said[0][1].value
    assert (first["window_start_ns"], first["window_end_ns"]) == tuple(
        T0_NS + (pane + 1 + n) * SECOND for n in (-10, 0)
    )
    assert first["paths"][0]["hops"][0]["samples"] == min(pane + 1, 10)
    assert len({r.key for _, r in said}) == len(said)


def log(rows, cuts):
    """Cut rows into the blocks of one source partition."""
    rows = rows.in_time_order().replace(origin_id=np.zeros(len(rows)), origin_offset=np.arange(len(rows)))
    bounds = sorted({0, len(rows), *(c % len(rows) for c in cuts)})
    source = SourcePartition("raw", 0)
    return [
        Block(source, a, b, int(rows.time_ns[b - 1]) - 1, False, (("raw", 1),), rows.take(slice(a, b)))
        for a, b in pairwise(bounds)
    ]


def both():
    elephants = ElephantsOperator(ElephantsConfig(), SECOND, LINKS)
    return [elephants, PathsOperator(PathsConfig(5, 2), SECOND, CountOnce(LINKS), TOPOLOGY, elephants)]


def traffic():
    rows = [sampled(s / 4, *(ONE if s < 40 else TWO), src_port=40001, times=6, sampling_rate=64) for s in range(80)]
    rows += [sampled(s + p / 10, TWO[p % 3], src_port=p) for s in range(20) for p in range(1, 5)]
    return FlowBatch.concat(rows)


@settings(max_examples=8)
@given(st.lists(st.integers(0, 3000), max_size=12), st.sets(st.integers(0, 12)))
def test_cuts_and_restarts_do_not_change_a_result(cuts, stops):
    def result_of(blocks, stops):
        analysis, said, offset = Analysis(both(), SECOND), [], 0
        while offset < len(blocks):
            said += analysis.apply(offset, blocks[offset]).results
            offset += 1
            if offset in stops:
                stops = stops - {offset}
                progress = Progress.decode(analysis.progress().encode())
                analysis, offset = Analysis(both(), SECOND, progress), progress.position
        return list(one_by_one([*said, *analysis.finish()]))

    rows = traffic()
    straight = result_of(log(rows, [100]), set())
    assert sum(r.stream == "path-events" for r in straight) == 1
    assert {r.value["elephant"] for r in straight if r.stream == "paths"} == {True, False}
    assert result_of(log(rows, cuts), stops) == straight


def test_a_snapshot_of_something_else_is_refused():
    for state in (b"", b"\xc1", b"\x80", operator().snapshot()[:-3]):
        with pytest.raises(StateError):
            operator().restore(state)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(SettingsError, match=r"paths\.flows_max"):
        PathsConfig(flows_max=0)
    with pytest.raises(SettingsError, match=r"time\.pane_s"):
        PathsOperator(PathsConfig(), 0, CountOnce(LINKS), TOPOLOGY)
    with pytest.raises(ValueError, match="window"):
        PathsOperator(dataclasses.replace(PathsConfig(), size_panes=0), SECOND, CountOnce(LINKS), TOPOLOGY)
