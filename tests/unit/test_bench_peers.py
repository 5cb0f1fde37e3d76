"""The comparison's own promises: its oracle is right, its verdicts hide nothing, its table shows them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.spatial.distance import pdist

from bench.generate import Traffic
from bench.peers.contract import PeerCommand
from bench.peers.flow_message import body, flow_message
from bench.peers.jobs import PARTITIONS, window_start_ms
from bench.peers.load import APART_NS, CLOSERS, FLOWS, make_load
from bench.peers.measure import PeerRun
from bench.peers.oracle import Verdict, address, expect, judge
from bench.peers.outputs import faust_table, flowstream_pairs, plain
from bench.peers.pairing import Windows
from bench.peers.report import best, show, spread, verdict, write
from flowstream.batch import FlowBatch
from flowstream.decode import Payloads, decode
from flowstream.features import DEFAULT_FEATURES, feature_matrix
from flowstream.grouping import group_rows

SMALL = Traffic(records=3000, sources=40, rate=600)


def messages(traffic: Traffic) -> list[bytes]:
    return [message for chunk in traffic.chunks() for message in chunk]


def places(count: int) -> list[tuple[int, int]]:
    return [(at % PARTITIONS, at // PARTITIONS) for at in range(count)]


def rows(values: list[bytes]) -> FlowBatch:
    return decode("goflow", Payloads.from_values(values)).flows


@pytest.fixture(scope="module")
def small() -> list[bytes]:
    return messages(SMALL)


def test_the_sums_expected_are_those_of_the_records_added_one_by_one(small: list[bytes]) -> None:
    found = expect("a", small, places(len(small)))
    sums: dict[int, list[int]] = {}
    for message in small:
        flow = flow_message().FromString(body(message))
        key = found.key(address(flow.src_addr.hex()), window_start_ms(flow.time_received_ns))
        assert key is not None
        own = sums.setdefault(key, [0, 0, 0])
        for at, figure in enumerate((flow.bytes, flow.packets, 1)):
            own[at] += figure
    assert dict(zip(found.keys.tolist(), found.figures.tolist(), strict=True)) == sums
    assert len({key >> 40 for key in sums}) == SMALL.sources


def test_the_pairs_expected_are_those_flowstream_computes_from_the_same_flows(small: list[bytes]) -> None:
    found = expect("b", small, places(len(small)))
    flows = rows(small)
    start = flows.time_ns // (3 * 10**9)
    total = 0
    for window in np.unique(start):
        of = flows.take(np.flatnonzero(start == window))
        of = of.take(np.argsort(of.time_ns, kind="stable"))
        groups = group_rows(of.src_addr)
        matrix = feature_matrix(of, groups, DEFAULT_FEATURES, "none")
        for a, b in zip(groups.bounds[:-1], groups.bounds[1:], strict=True):
            distances = pdist(matrix[:, a:b].T)
            packed = of.src_addr[groups.order[a]].astype(">u8").tobytes()
            first = found.key(packed, int(window) * 3000)
            assert first is not None
            at = np.flatnonzero(found.keys >> 32 == first >> 32)
            np.testing.assert_allclose(found.figures[at, 0], distances, rtol=1e-12)
            total += len(distances)
    assert total == len(found.keys)


def test_a_summary_expected_is_that_of_the_pairs_expected(small: list[bytes]) -> None:
    pairs, summaries = (expect(job, small, places(len(small))) for job in "bc")
    for key, (flows, count, least, most, mean) in zip(summaries.keys, summaries.figures, strict=True):
        own = pairs.figures[pairs.keys >> 32 == key >> 32, 0]
        assert (count, least, most) == (len(own), own.min(), own.max())
        assert flows * (flows - 1) / 2 == count
        assert mean == pytest.approx(own.mean())


def test_windows_of_an_engine_without_any_give_what_is_expected(small: list[bytes]) -> None:
    expected = expect("b", small, places(len(small)))
    windows, results = Windows("b"), []
    closers = SMALL.closers(1)
    for message, place in zip([*small, *closers], places(len(small) + 1), strict=True):
        results += windows.add(flow_message().FromString(body(message)), *place)
    found = [pair for result in results for pair in plain(expected, b"", json.dumps(result).encode())]
    keys, figures = zip(*found, strict=True)
    assert judge(expected, np.array(keys), np.array(figures)) == Verdict(len(expected.keys), 0, 0, 0, 0)


def test_a_verdict_counts_what_is_missing_extra_different_and_repeated(small: list[bytes]) -> None:
    expected = expect("a", small, places(len(small)))
    keys, figures = expected.keys.copy(), expected.figures.copy()
    assert judge(expected, keys, figures).equal
    assert judge(expected, np.append(keys, keys[:2]), np.vstack([figures, figures[:2]])).repeated == 2
    assert judge(expected, np.append(keys[3:], -1), np.vstack([figures[3:], figures[:1]])) == Verdict(
        len(keys), 3, 1, 0, 0
    )
    figures[5, 2] += 1
    found = judge(expected, keys, figures)
    assert not found.equal
    assert found.different == 1
    assert str(found) == f"1 different of {len(keys)}"


def test_of_several_messages_of_a_key_the_last_counts(small: list[bytes]) -> None:
    expected = expect("a", small, places(len(small)))
    updates = np.concatenate([expected.keys, expected.keys])
    partial = expected.figures - 1
    assert judge(expected, updates, np.vstack([partial, expected.figures])).equal
    assert judge(expected, updates, np.vstack([expected.figures, partial])).different == len(expected.keys)


@pytest.mark.parametrize(("relative", "equal"), [(1e-10, True), (1e-8, False)])
def test_a_distance_may_be_off_by_a_billionth_and_a_sum_by_nothing(
    small: list[bytes], relative: float, *, equal: bool
) -> None:
    pairs = expect("b", small, places(len(small)))
    assert judge(pairs, pairs.keys, pairs.figures * (1 + relative)).equal == equal
    sums = expect("a", small, places(len(small)))
    assert not judge(sums, sums.keys, sums.figures * (1 + relative)).equal
    assert not judge(pairs, pairs.keys, pairs.figures * math.nan).equal


def test_results_are_read_in_each_form_they_are_published_in(small: list[bytes]) -> None:
    sums = expect("a", small, places(len(small)))
    source, number = next(iter(sums.source_number.items()))
    value = {"src_addr": "10.0.0.1", "window_start_ms": sums.first_window_ms, "bytes": 5, "packets": 2, "flows": 1}
    (found,) = plain(sums, b"", json.dumps(value).encode())
    assert found == (sums.key(address("0a000001"), sums.first_window_ms), (5, 2, 1))
    assert list(plain(sums, b"", json.dumps(value | {"window_start_ms": 0}).encode())) == []
    assert next(plain(sums, b"", json.dumps(value | {"src_addr": "1.2.3.4"}).encode()))[0] == -1
    key = json.dumps([source.hex(), [sums.first_window_ms / 1000, sums.first_window_ms / 1000 + 2.9]]).encode()
    assert list(faust_table(sums, key, b"[5,2,1]")) == [(sums.key_of(number, sums.first_window_ms), (5, 2, 1))]
    pairs = expect("b", small, places(len(small)))
    named = {where: name for name, where in pairs.flow_place.items()}
    where = [named[number, pairs.first_window_ms, at] for at in (0, 1)]
    said = {f"eventid_{at}": "raw-in-{}-{}".format(*place) for at, place in enumerate(where, 1)} | {"distance": 4.0}
    for order, right in (("12", True), ("21", False)):
        turned = said | {f"eventid_{a}": said[f"eventid_{b}"] for a, b in zip("12", order, strict=True)}
        address_text = "10.0.0.1" if source == address("0a000001") else source.hex()
        key = f"{pairs.first_window_ms * 10**6}|{address_text}|x|y".encode()
        ((found_key, figures),) = flowstream_pairs(pairs, key, json.dumps(turned).encode())
        assert (found_key, figures) == (pairs.key_of(number, pairs.first_window_ms, 0, 1) if right else -1, (4.0,))


def test_a_load_begins_after_every_window_of_its_warm_up_is_closed() -> None:
    for job, records in (("a", 20_000), ("b", 2 * FLOWS), ("c", 25 * FLOWS)):
        load = make_load(job, records, 1000)
        warm, main = rows(load.warm_messages), rows(load.messages)
        closer_ns = rows(load.warm.closers(CLOSERS)).time_ns
        assert main.time_ns.min() >= load.warm.start_ns + APART_NS
        assert warm.time_ns.max() + 5 * 10**9 < closer_ns.min() <= closer_ns.max() < main.time_ns.min()
        assert load.main.start_ns % (3 * 10**9) == 0
        if job != "a":
            _, flows = np.unique(main.src_addr, axis=0, return_counts=True)
            assert set(flows.tolist()) == {FLOWS}
            assert len(np.unique(main.time_ns // (3 * 10**9))) == 1


def run(**changes: Any) -> PeerRun:
    usual: dict[str, Any] = {
        "peer": "other", "job": "a", "records": 1000, "sources": 10, "results": 10, "wall_s": 4.0, "cpu_s": 2.0,
        "broker_cpu_s": 1.0, "others_cpu_s": 1.0, "peak_rss_bytes": 1, "startup_cpu_s": 1.0,
        "verdict": Verdict(10, 0, 0, 0, 0),
    }  # fmt: skip
    return PeerRun(**(usual | changes))


def test_one_wrong_run_is_told_among_right_ones() -> None:
    wrong = run(verdict=Verdict(10, 3, 0, 1, 0))
    assert verdict([run(), run()]) == "equal"
    assert verdict([run(), wrong]) == "3 missing, 1 different of 10 in 1 of 2 runs"
    assert verdict([wrong]) == "3 missing, 1 different of 10"


def test_a_run_that_gave_nothing_was_not_the_fastest() -> None:
    wrong = run(verdict=Verdict(10, 10, 0, 0, 0), cpu_s=0.01)
    right = [run(cpu_s=3.0), run(cpu_s=2.0)]
    assert best([*right, wrong]) is right[1]
    assert spread([*right, wrong]) == "-33% of 2"
    assert best([wrong]) is wrong


def test_the_table_and_the_file_show_rates_verdicts_and_what_could_not_be_measured(tmp_path: Path) -> None:
    peer = PeerCommand("other", {"engine": "1.2"}, {"state": "memory"}, ("a",), lambda *_: [], {})
    found = {
        "machine": {"cpu": "cpu", "cores": 2, "python": "3.11"}, "load_before": (0.1, 0, 0), "load_after": (0.2, 0, 0),
        "calibration": {"gemm_gflops": 40.0, "fill_gb_per_s": 19.0},
        "peers": {peer.name: {"versions": peer.versions, "settings": peer.settings}},
    }  # fmt: skip
    runs = [run(), run(cpu_s=4.0), replace(run(peer="flowstream"), cpu_s=0.1, verdict=Verdict(10, 3, 0, 0, 0))]
    failures = {"third, job a": "it cannot be installed"}
    console = Console(record=True, width=240, file=StringIO())
    show(console, found, runs, failures)
    text = console.export_text()
    for expected in ("20.0 x", "-50% of 2", "3 missing of 10", "it cannot be installed", "engine 1.2, state memory"):
        assert expected in text
    write(tmp_path / "out" / "peers.json", found, runs, failures)
    kept = json.loads((tmp_path / "out" / "peers.json").read_text())
    assert [r["equal"] for r in kept["runs"]] == [True, True, False]
    assert kept["runs"][0]["per_cpu_s"] == 500.0
    assert kept["not_measured"] == failures
