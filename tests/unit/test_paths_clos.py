"""The paths of the recorded CLOS fabric against an oracle that knows no graphs, only this fabric."""

import json
from collections import Counter
from functools import cache

import numpy as np
import pytest

from flowstream.batch import address_text
from flowstream.counting import CountOnce
from flowstream.elephants import ElephantsConfig, ElephantsOperator
from flowstream.operators import Pane
from flowstream.paths import PathsConfig, PathsOperator
from flowstream.topology import Topology
from tests.unit.test_elephants_clos import LINKS, RECORDED, SECOND, UNMARKED, recording

TOPOLOGY = Topology.from_path(RECORDED / "clos_topology.csv")
WINDOW = 10
#: Source port of the three elephants -> the spine by which each goes.
SPINES = {40001: "spine1", 40012: "spine2", 40053: "spine2"}
ESTIMATE = ("bytes", "bytes_low", "bytes_high", "samples")
HOSTS = {"leaf1": "hA", "leaf2": "hB", "leaf3": "hC", "leaf4": "hD"}
LEAF_OF = {"10.0.1": "leaf1", "10.0.2": "leaf2", "10.0.3": "leaf3", "10.0.4": "leaf4"}
LEAF_OF |= {f"fd00:0:0:{n}:": f"leaf{n}" for n in (1, 2, 3, 4)} | {f"fd00::{n}:": f"leaf{n}" for n in (1, 2, 3, 4)}


def said(links=LINKS, topology=TOPOLOGY, flows_max=10**6, seconds=None):
    """Return what both operators say of the recording, pane by pane as the worker runs them."""
    rows = recording()
    elephants = ElephantsOperator(ElephantsConfig(), SECOND, LINKS)
    operator = PathsOperator(PathsConfig(WINDOW, flows_max), SECOND, CountOnce(links), topology, elephants)
    first, last = int(rows.time_ns[0]) // SECOND, int(rows.time_ns[-1]) // SECOND
    results, panes = [], []
    for index in range(first, last + 12 if seconds is None else first + seconds):
        begin, end = np.searchsorted(rows.time_ns, [index * SECOND, (index + 1) * SECOND])
        panes.append(Pane(index, index * SECOND, (index + 1) * SECOND, rows.take(slice(begin, end))))
        events = [r.value for r in elephants.process(panes[-1:])]
        results.append((events, operator.process(panes[-1 - operator.lookback :])))
    return results


@cache
def paths():
    return [r.value for _, results in said() for r in results if r.stream == "paths"]


def names(rows):
    """Return each row's place as (switch, in port, out port), by the links file alone."""
    known = {(r["exporter"], r["if_index"]): (r["node"], r["name"]) for r in LINKS.to_rows()}
    for exporter, in_if, out_if in zip(rows.exporter.tolist(), rows.in_if.tolist(), rows.out_if.tolist(), strict=True):
        at = address_text(*exporter)
        yield known[at, in_if][0], known[at, in_if][1], known[at, out_if][1]


@cache
def walks():
    """Walk each flow of each window through the fabric: in at its leaf, by the spine, out at the other leaf.

    Which spine is told by any sighting; None where none was sampled that tells. Ports are named after their ends:
    l1s2 is leaf 1's to spine 2, s2l3 is spine 2's to leaf 3.
    """
    rows, walked = recording(), {}
    flows = zip(rows.src_addr.tolist(), rows.dst_addr.tolist(), rows.src_port.tolist(), rows.dst_port.tolist(),
                rows.proto.tolist(), (rows.time_ns // WINDOW // SECOND).tolist(), names(rows), strict=True)  # fmt: skip
    for src, dst, src_port, dst_port, proto, window, (switch, into, out) in flows:
        flow = (address_text(*src), address_text(*dst), proto, src_port, dst_port)
        ports = {into, out}
        spines = {int(switch[-1])} if switch.startswith("spine") else {int(p[3]) for p in ports if p[2] == "s"}
        near = next((int(p[1]) for p in ports if p.endswith("h")), None)
        seen, found = walked.setdefault((window, flow), ([], set()))
        seen.append((switch, into, out))
        found |= spines
        assert near is None or switch == f"leaf{near}"
    return walked


def truth(flow, spine):
    """Return the hops between two hosts by a spine."""
    a, b = (next(LEAF_OF[net] for net in LEAF_OF if address.startswith(net))[-1] for address in flow[:2])
    return [(f"leaf{a}", f"l{a}h", f"l{a}s{spine}"), (f"spine{spine}", f"s{spine}l{a}", f"s{spine}l{b}"),
            (f"leaf{b}", f"l{b}s{spine}", f"l{b}h")]  # fmt: skip


def aligned():
    for value in paths():
        if value["window_start_ns"] % (WINDOW * SECOND) == 0:
            yield (value["window_start_ns"] // (WINDOW * SECOND), tuple(value["flow"].values())), value


def hops(path):
    return [(h["node"], h["in_port"], h["out_port"]) for h in path["hops"]]


def test_every_flow_of_every_window_is_told_once_with_its_samples():
    told = dict(aligned())
    assert len(told) == len(list(aligned()))
    assert set(told) == set(walks())
    for key, value in told.items():
        seen = Counter(walks()[key][0])
        assert {h: n for p in value["paths"] for h, n in zip(hops(p), (x["samples"] for x in p["hops"]), strict=True)
                if n} == seen  # fmt: skip


def test_flows_seen_at_every_hop_and_flows_seen_at_two_have_exactly_the_true_path():
    counted = Counter()
    for key, value in aligned():
        seen, spines = walks()[key]
        (spine,) = spines  # a flow keeps its spine
        true = truth(key[1], spine)
        nodes = {switch for switch, _, _ in seen}
        (path,) = value["paths"]
        assert not value["ambiguous"]
        ends = {true[0][0], true[2][0]} <= nodes
        if ends:
            assert hops(path) == true
            assert path["complete"]
            assert (path["entered_from"], path["left_to"]) == (HOSTS[true[0][0]], HOSTS[true[2][0]])
            assert [h["inferred"] for h in path["hops"]] == [False, true[1][0] not in nodes, False]
            assert (path["hops_seen"], path["hops_expected"]) == (len(nodes), 3)
        assert path["complete"] == ends
        assert path["ordered_by"] == "topology"
        counted[len(nodes), ends] += 1
    assert counted[3, True] > 90
    assert counted[2, True] > 50, "the spine was inferred"
    assert counted[1, False] > 400
    assert counted[2, False] > 50


def test_no_hop_is_wrong_however_little_was_sampled():
    for key, value in aligned():
        (spine,) = walks()[key][1]
        true = truth(key[1], spine)
        (path,) = value["paths"]
        at = [n for n, hop in enumerate(true) if hop[0] in {h["node"] for h in path["hops"]}]
        assert at == list(range(at[0], at[0] + len(path["hops"])))
        for said_hop, true_hop in zip(hops(path), true[at[0] :], strict=False):
            assert all(mine in (None, real) for mine, real in zip(said_hop, true_hop, strict=True))


def test_each_elephant_is_told_by_its_spine_from_the_pane_of_its_onset_on_and_in_every_window():
    active, told = set(), []
    for events, results in said():
        begun = {tuple(e["flow"].values()) for e in events if e["event"] == "onset"}
        active = (active | begun) - {tuple(e["flow"].values()) for e in events if e["event"] == "offset"}
        of_elephants = [r for r in results if r.stream == "paths" and r.value["elephant"]]
        windows = [r for r in results if r.stream == "path-windows"]
        assert {tuple(r.value["flow"].values()) for r in of_elephants} == (active if windows else begun)
        told += of_elephants
    assert len({r.key for r in told}) == len(told) > 15
    for result in told:
        spine = SPINES[result.value["flow"]["src_port"]]
        assert [h["node"] for h in result.value["paths"][0]["hops"]][1] == spine
        assert result.value["paths"][0]["complete"]
    assert {r.value["flow"]["src_port"] for r in told} == set(SPINES)


def test_the_oracle_of_the_recording_names_the_same_switches():
    known = json.loads((RECORDED / "clos_60s_oracle.json").read_text())["flows"]
    of_flow = {(f["src"], f["dst"], f["proto"], f["sport"], f["dport"]): f["path"] for f in known}
    checked = 0
    for (_, flow), value in aligned():
        if flow in of_flow and value["paths"][0]["complete"]:
            recorded = [(h["switch"], h["in"], h["out"]) for h in of_flow[flow]]
            assert [h for h in hops(value["paths"][0]) if h in recorded] == recorded
            checked += 1
    assert checked > 60


def test_elephants_are_told_when_nothing_else_fits():
    told = [r for _, results in said(flows_max=1) for r in results if r.stream in ("paths", "path-windows")]
    windows = [r.value for r in told if r.stream == "path-windows"]
    for window in windows:
        of_window = [
            r.value for r in told if r.stream == "paths" and r.value["window_start_ns"] == window["window_start_ns"]
        ]
        assert len(of_window) == window["flows_told"] < window["flows"]
        assert sum(v["bytes"] for v in of_window) == window["bytes_told"] < window["bytes"]
        assert sum(not v["elephant"] for v in of_window) <= 1
    assert max(w["flows_told"] for w in windows) == 3


@pytest.mark.parametrize("links", [LINKS, UNMARKED], ids=["edges marked", "edges by their hosts"])
def test_the_topology_tells_the_edge_where_the_links_do_not(links):
    # What counts where is the links' to say: without them bytes are another estimate.
    told, marked = (
        [
            r.value | dict.fromkeys(ESTIMATE)
            for _, results in said(table, seconds=24)
            for r in results
            if r.stream == "paths"
        ]
        for table in (links, LINKS)
    )
    assert told == marked


def test_without_a_topology_hops_come_by_falling_time_to_live():
    for _, results in said(topology=Topology()):
        for value in (r.value for r in results if r.stream == "paths"):
            (path,) = value["paths"]
            assert path["ordered_by"] == "ttl"
            if path["hops_seen"] == 3:
                nodes = [h["node"] for h in path["hops"]]
                assert [n[:4] for n in nodes] == ["leaf", "spin", "leaf"]
                assert path["complete"]
                assert path["hops"][0]["in_port"].endswith("h")
                assert path["hops"][2]["out_port"].endswith("h")
            if path["hops_seen"] == 2 and path["first_known"] and path["last_known"]:
                assert path["hops_expected"] == 3
                assert [h["missing_after"] for h in path["hops"]] == [1, 0]


def test_without_any_table_hops_are_exporters_and_interface_numbers():
    value = next(
        r.value for _, rs in said(links=type(LINKS)(), topology=Topology()) for r in rs if r.value.get("elephant")
    )
    assert [h["node"] for h in value["paths"][0]["hops"]] == ["10.255.0.11", "10.255.0.21", "10.255.0.13"]
    assert [(h["in_if"], h["in_port"]) for h in value["paths"][0]["hops"]] == [(15, None), (10, None), (27, None)]


def test_on_a_fabric_that_keeps_its_paths_no_change_is_told():
    assert [r for _, results in said() for r in results if r.stream == "path-events"] == []
