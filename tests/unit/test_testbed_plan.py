"""The test bed on paper: its inventory, its paths and its traffic fit each other."""

from __future__ import annotations

from itertools import pairwise

import pytest
from rich.console import Console

from deploy.testbed import demo, fabric, pipeline, plan
from deploy.testbed.plan import Run
from deploy.testbed.schedule import client_command, schedule
from flowstream.links import LinkTable
from flowstream.topology import Port, Topology

TOPOLOGY = Topology.from_csv(plan.topology_csv())
SEEDS = range(40)


def links() -> LinkTable:
    numbers = {port.name: 7 + 3 * number for number, port in enumerate(plan.ports())}
    return LinkTable.from_csv(plan.links_csv(numbers, 100_000_000))


def test_flowstream_reads_its_inventory_and_both_files_name_the_same_ports():
    cabled = {(row[a], row[b]) for row in TOPOLOGY.to_rows() for a, b in (("node", "port"), ("peer", "peer_port"))}
    listed = {(row["node"], row["name"]) for row in links().to_rows()}
    assert listed == {port for port in cabled if port[0].startswith(("leaf", "spine"))}
    assert len(listed) == 20


def test_edges_are_the_ports_of_hosts():
    edges = {row["name"] for row in links().to_rows() if row["edge"]}
    assert edges == {"l1h", "l2h", "l3h", "l4h"}


@pytest.mark.parametrize("spine", plan.SPINES)
def test_a_path_follows_the_cables_from_host_to_host(spine: int):
    for src in plan.LEAVES:
        for dst in set(plan.LEAVES) - {src}:
            hops = plan.path(src, dst, spine)
            assert TOPOLOGY.peer(hops[0][0], hops[0][1]) == Port(plan.host(src), "")
            for (node, _, out_port), (peer, in_port, _) in pairwise(hops):
                assert TOPOLOGY.peer(node, out_port) == Port(peer, in_port)
            assert TOPOLOGY.peer(hops[-1][0], hops[-1][2]) == Port(plan.host(dst), "")


def test_every_address_is_behind_one_leaf():
    every = [address for leaf in plan.LEAVES for address in plan.addresses(leaf)]
    assert len(set(every)) == 24
    assert [plan.leaf_of(address) for address in every] == [leaf for leaf in plan.LEAVES for _ in range(6)]
    for stranger in ("10.0.1.9", "10.0.5.10", "fd00:0:0:1::11"):
        with pytest.raises(ValueError, match="no host's"):
            plan.leaf_of(stranger)


def test_no_two_nodes_share_an_ethernet_address():
    nodes = [*plan.agents(), *map(plan.host, plan.LEAVES)]
    assert len({plan.mac(node) for node in nodes}) == len(nodes) == 10


def test_a_switch_sends_out_by_its_own_ports_only():
    for node in plan.agents():
        own = {port.name for port in plan.ports() if port.node == node}
        groups, flows = plan.forwarding(node, 1)
        used = [part.split("output:")[1].split(",")[0] for text in (*groups, *flows) for part in text.split("bucket=")
                if "output:" in part]  # fmt: skip
        assert set(used) == own


@pytest.mark.parametrize(("name", "value"), [("link_mbps", 9), ("sampling", 0), ("seed", -1), ("duration_s", 5)])
def test_a_run_out_of_bounds_is_refused_by_name(name: str, value: int):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Run(**{name: value})


def test_the_seed_alone_decides_the_traffic():
    assert schedule(Run(seed=5)) == schedule(Run(seed=5))
    assert len({schedule(Run(seed=seed)) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hundred_flows_run_between_two_servers_of_which_two_are_elephants(seed: int):
    run = Run(seed=seed)
    transfers = {transfer.name: transfer for transfer in schedule(run).transfers}
    behind = {name: (plan.leaf_of(t.src), plan.leaf_of(t.dst)) for name, t in transfers.items()}
    between = [name for name in transfers if behind[name] == behind["E1"]]
    assert sum(transfers[name].streams for name in between) == 100
    shares = {name: t.rate_bps / run.link_bps for name, t in transfers.items()}
    assert {name for name, share in shares.items() if share > 0.15} == {"E1", "E2", "E3"}
    # Headers of the smallest packets that iperf3 sends here add less than 6 %.
    assert all(share * 1.06 < 0.05 for name, share in shares.items() if name not in {"E1", "E2", "E3"})


@pytest.mark.parametrize("seed", SEEDS)
def test_no_host_is_sent_more_than_its_link_carries(seed: int):
    run = Run(seed=seed)
    wanted = schedule(run)
    for leaf in plan.LEAVES:
        for end in "src", "dst":
            steady = sum(t.rate_bps * t.streams for t in wanted.transfers if plan.leaf_of(getattr(t, end)) == leaf)
            short = sum(m.size_bytes for m in wanted.mice if plan.leaf_of(getattr(m, end)) == leaf) * 8 / run.duration_s
            assert (steady + short) * 1.06 < run.link_bps


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_is_sent_within_the_run_and_to_another_host(seed: int):
    run = Run(seed=seed)
    wanted = schedule(run)
    assert all(t.begin_s + t.duration_s <= run.duration_s for t in wanted.transfers)
    assert all(0 < mouse.at_s < run.duration_s for mouse in wanted.mice)
    assert wanted.scan.at_s + wanted.scan.ports / 400 < run.duration_s
    for sent in (*wanted.transfers, *wanted.mice, wanted.scan):
        assert plan.leaf_of(sent.src) != plan.leaf_of(sent.dst)
        assert (":" in sent.src) == (":" in sent.dst)


def test_iperf3_is_told_the_rate_the_time_and_the_ends():
    for transfer in schedule(Run(seed=1)).transfers:
        command = client_command(transfer)
        options = dict(pairwise(command))
        assert (options["-c"], options["-B"]) == (transfer.dst, transfer.src)
        assert (options["-b"], options["-t"]) == (str(transfer.rate_bps), str(transfer.duration_s))
        assert ("-u" in command) == (transfer.proto == "udp")


def test_what_registries_have_is_fetched_before_the_fabric_is_entered_which_reaches_none(monkeypatch, tmp_path):
    done: list[str] = []

    def entered(_: Run) -> None:
        done.append("entered")
        raise InterruptedError

    monkeypatch.setattr(pipeline, "resolve_jars", lambda: done.append("jars"))
    monkeypatch.setattr(pipeline, "find_goflow2", lambda build: done.append(f"goflow2, build {build}"))
    monkeypatch.setattr(fabric, "up", entered)
    monkeypatch.setattr(fabric, "claim", lambda: None)
    monkeypatch.setattr(fabric, "down", lambda: done.append("removed"))
    with pytest.raises(InterruptedError):
        demo.up(Console(), Run(), tmp_path)
    assert done == ["jars", "goflow2, build True", "entered", "removed"]
