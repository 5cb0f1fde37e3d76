"""Laws of elephants that share a link: what partitions add is what all rows give, and idle links are of equal cost."""

import numpy as np
import pytest

from flowstream.batch import FlowBatch
from flowstream.cabling import Cabling
from flowstream.columns import Array
from flowstream.elephant_hops import elephant_hops
from flowstream.elephants import ElephantsConfig, ElephantsOperator
from flowstream.errors import StateError
from flowstream.estimate import rate_interval
from flowstream.flow_keys import FLOW_WORDS, flow_words
from flowstream.links import LinkTable
from flowstream.operators import Pane
from flowstream.partials import Cube, PartialBatch
from flowstream.shared_links import SharedLinks, idle_links
from flowstream.topology import Port, Topology
from tests.builders import flows
from tests.path_rows import FIRST, LINKS, SECOND, TOPOLOGY, names, panes, sampled
from tests.unit.test_elephants_clos import recording

WINDOW = 5


class Marked:
    """Elephants are the flows of some source ports."""

    begun = np.zeros((0, FLOW_WORDS), np.uint64)

    def __init__(self, rows: FlowBatch, *ports: int) -> None:
        words = flow_words(rows.take(np.isin(rows.src_port, ports)))
        self.active = np.unique(words, axis=0)


def partial(pane: Pane, columns: dict[str, Array], partition: int) -> PartialBatch:
    rows = len(columns["bytes"])
    own = {"cube": np.full(rows, Cube.ELEPHANT_HOP), "origin_id": np.full(rows, partition), "time_ns": pane.start_ns}
    own |= {
        "origin_offset": np.full(rows, pane.index),
        "origin_row": np.arange(rows),
        "time_ns": np.full(rows, pane.start_ns),
    }
    return PartialBatch.of(rows, {**columns, **own})


def merged(
    rows: FlowBatch, elephants, partitions=3, topology=TOPOLOGY, seconds=20, restart=False, links=LINKS,
    samples_min=0.0, numbers=None,
):  # fmt: skip
    """Return what is said of the partials of so many flows partitions, a flow being in that of its source port.

    ``numbers`` gives for each pane the partials that tell what exporters have numbered.
    """
    make, operator, said = elephant_hops(elephants), SharedLinks(WINDOW, links, topology, samples_min), []
    for pane in panes(rows, seconds=seconds):
        parts = [
            Pane(pane.index, pane.start_ns, pane.end_ns, pane.rows.take(pane.rows.src_port % partitions == p))
            for p in range(partitions)
        ]
        batch = PartialBatch.concat(partial(part, make(part), p) for p, part in enumerate(parts))
        other = PartialBatch.of(1, {"cube": [Cube.PORT], "time_ns": [pane.start_ns], "bytes": [10**9]})
        whole = PartialBatch.concat([batch, other, *(numbers(pane) if numbers else [])]).in_time_order()
        if restart:
            again = SharedLinks(WINDOW, links, topology, samples_min)
            again.restore(operator.snapshot())
            assert again.snapshot() == operator.snapshot()
            operator = again
        said += operator.process([Pane(pane.index, pane.start_ns, pane.end_ns, whole)])
    return [result.value for result in said]


def traffic():
    """Return three elephants: 1 and 2 share leaf1's link to spine 1, 3 goes by spine 2; 4 is none."""
    rows = [sampled(s / 4, *names(1), src_port=p, times=p) for s in range(40) for p in (1, 2)]
    rows += [sampled(s / 4, *names(2), src_port=p, times=2) for s in range(20) for p in (3, 4)]
    return FlowBatch.concat(rows)


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("restart", [False, True])
def test_each_shared_link_is_told_with_its_elephants_whatever_the_partitions(partitions, restart):
    rows = traffic()
    said = merged(rows, Marked(rows, 1, 2, 3), partitions, restart=restart)
    for start in (0, 1):
        of_window = [v for v in said if v["window_start_ns"] == (FIRST + WINDOW * start) * SECOND]
        # All three share leaf3's port to hC in the first window, two of them in the second.
        assert [(v["node"], v["port"], [e["flow"]["src_port"] for e in v["elephants"]]) for v in of_window] == [
            ("leaf1", "l1s1", [2, 1]),
            ("leaf3", "l3h", [2, 3, 1] if start == 0 else [2, 1]),
            ("spine1", "s1l3", [2, 1]),
        ]
        for value in of_window:
            assert value["rate_bps"] == pytest.approx(sum(e["rate_bps"] for e in value["elephants"]), rel=1e-12)
            assert value["samples"] == sum(e["samples"] for e in value["elephants"])
            together_at_most = sum(e["high_bps"] for e in value["elephants"])
            assert value["low_bps"] < value["rate_bps"] < value["high_bps"] < together_at_most
            assert (value["correction"], value["lost_share"]) == (1.0, 0.0)
            assert value["share"] == value["rate_bps"] / 1e8
            assert all(e["low_bps"] < e["rate_bps"] < e["high_bps"] for e in value["elephants"])
    assert len(said) == 6


def test_rates_and_intervals_are_those_of_all_rows():
    rows = traffic()
    (value, *_) = merged(rows, Marked(rows, 1, 2))
    inside = rows.take((rows.time_ns < (FIRST + WINDOW) * SECOND) & (rows.src_port == 2) & (rows.out_if == 9))
    weight = inside.bytes.astype(float) * 1000
    elephant = value["elephants"][0]
    low, high = rate_interval(weight.sum(), (weight**2 * (1 - 1e-3)).sum(), 1518 * 1000.0)
    assert elephant["samples"] == len(inside)
    assert elephant["rate_bps"] == pytest.approx(weight.sum() * 8 / WINDOW)
    assert (elephant["low_bps"], elephant["high_bps"]) == pytest.approx((low * 8 / WINDOW, high * 8 / WINDOW))


def test_a_link_beside_it_is_idle_until_an_elephant_is_on_it():
    rows = traffic()
    for ports, idle in (((1, 2), ["l1s2"]), ((1, 2, 3), [])):
        first = merged(rows, Marked(rows, *ports))[0]
        assert first["port"] == "l1s1"
        assert [one["port"] for one in first["idle_links"]] == idle
    assert merged(rows, Marked(rows, 1, 2))[0]["idle_links"] == [
        {"port": "l1s2", "if_index": 12, "peer": "spine2", "link_bps": 100_000_000}
    ]
    assert [v["port"] for v in merged(rows, Marked(rows, 3, 4)) if v["idle_links"]] == ["l1s2"]


def test_a_link_is_of_equal_cost_if_it_leads_to_where_the_flows_go():
    # spine3 is joined to leaf 2 alone, leaf5 to none of them.
    cables = TOPOLOGY.to_rows()
    more = "leaf1 x3 spine3 a,spine3 b leaf2 x3,leaf1 x5 leaf5 a,leaf1 x1 spine1 y,leaf1 h2 hX "
    cables += [dict(zip(cables[0], cable.split(" "), strict=True)) for cable in more.split(",")]
    cabling = Cabling(LINKS, Topology.from_rows(cables))
    way = cabling.interface("10.255.0.11", 9)
    assert way is not None
    for leads_to, found in (({"leaf3"}, ["l1s2", "x1"]), ({"leaf2"}, ["l1s2", "x1", "x3"]), (set(), ["l1s2", "x1"])):
        assert [one["port"] for one in idle_links(way, leads_to, set(), cabling)] == found
    to_host = cabling.interface("10.255.0.11", 15)
    assert to_host is not None
    assert idle_links(to_host, set(), set(), cabling) == []


#: Two pods of two leaves and a switch of each plane, two spines above each plane; a host at every leaf.
TIERS = [
    *[(f"leaf{pod}{n}", f"pod{pod}{plane}") for pod in (1, 2) for n in (1, 2) for plane in (1, 2)],
    *[(f"pod{pod}{plane}", f"spine{plane}{n}") for pod in (1, 2) for plane in (1, 2) for n in (1, 2)],
    *[(f"leaf{pod}{n}", f"h{pod}{n}") for pod in (1, 2) for n in (1, 2)],
]  # fmt: skip
SWITCHES = sorted({name for cable in TIERS for name in cable if not name.startswith("h")})


def three_tiers(edges: bool) -> tuple[LinkTable, Topology]:
    """Return the tables: a port is called by the node at its other end, and all hosts are known, or none."""
    cables = [cable for cable in TIERS if edges or not cable[1].startswith("h")]
    ends = [end for a, b in cables for end in ((a, b), (b, a))]
    links = [
        {"exporter": f"10.255.1.{SWITCHES.index(node)}", "if_index": n, "name": far, "speed_bps": 10**8, "edge": None,
         "node": node, "lag": None}
        for n, (node, far) in enumerate(ends, 1) if node in SWITCHES
    ]  # fmt: skip
    cabled = [{"node": a, "port": b, "peer": b, "peer_port": a} for a, b in cables]
    return LinkTable.from_rows(links), Topology.from_rows(cabled)


@pytest.mark.parametrize(
    ("node", "port", "leads_to", "beside"),
    [
        ("leaf11", "pod11", {"leaf21"}, ["pod12"]),  # the other plane, whose spines are others
        ("leaf11", "pod11", {"h22"}, ["pod12"]),
        ("leaf11", "pod11", {"leaf12"}, ["pod12"]),
        ("leaf11", "pod11", {"spine11"}, []),  # what comes after that is not known: the other plane may not lead there
        ("leaf11", "pod11", set(), ["pod12"]),
        ("pod11", "spine11", {"leaf21"}, ["spine12"]),
        ("pod11", "spine11", set(), ["spine12"]),
        ("pod11", "leaf12", {"h12"}, []),
        ("spine11", "pod21", {"leaf21"}, []),  # there is one way down
        ("spine11", "pod21", set(), []),
        ("pod21", "leaf21", set(), []),
    ],
)
def test_in_three_tiers_a_link_of_equal_cost_leads_as_near_to_where_the_flows_go(node, port, leads_to, beside):
    cabling = Cabling(*three_tiers(edges=True))
    way = cabling.named(Port(node, port))
    assert [one["port"] for one in idle_links(way, leads_to, set(), cabling)] == beside
    busy = {Port(node, name) for name in beside}
    assert idle_links(way, leads_to, busy, cabling) == []


@pytest.mark.parametrize("node_and_ports", [(("leaf11", "pod11"), ["pod12"]), (("pod11", "spine11"), ["spine12"])])
def test_elephants_of_three_tiers_are_followed_to_where_they_leave(node_and_ports):
    """Also where no cable to a host is known, and some switches on the way have sampled nothing."""
    (node, port), beside = node_and_ports
    links, topology = three_tiers(edges=False)
    number = {(row["node"], row["name"]): (row["exporter"], row["if_index"]) for row in links.to_rows()}
    hops = [("leaf11", "pod11"), ("pod11", "spine11"), ("spine11", "pod21"), ("pod21", "leaf21")]
    rows = [
        flows(20, time_ns=FIRST * SECOND + np.arange(20) * SECOND // 8, src_port=flow, exporter=number[hop][0],
              out_if=number[hop][1])
        for flow in (1, 2) for hop in hops
    ]  # fmt: skip
    every = FlowBatch.concat(rows)
    said = {(v["node"], v["port"]): v for v in merged(every, Marked(every, 1, 2), links=links, topology=topology)}
    assert set(said) == set(hops)
    assert [one["port"] for one in said[node, port]["idle_links"]] == beside
    assert said["spine11", "pod21"]["idle_links"] == said["pod21", "leaf21"]["idle_links"] == []


def test_without_tables_links_are_exporters_and_numbers():
    rows = traffic()
    first = merged(rows, Marked(rows, 1, 2), topology=Topology(), links=LinkTable())[0]
    assert (first["exporter"], first["out_if"]) == ("10.255.0.11", 9)
    assert [first[name] for name in ("node", "port", "link_bps", "share")] == [None] * 4
    assert first["idle_links"] == []


def test_the_hops_of_the_recorded_elephants_add_up_to_their_samples():
    rows, elephants = recording(), ElephantsOperator(ElephantsConfig(), SECOND, LINKS)
    first, seen = int(rows.time_ns[0]) // SECOND, 0
    for index in range(first, first + 30):
        begin, end = np.searchsorted(rows.time_ns, [index * SECOND, (index + 1) * SECOND])
        pane = Pane(index, index * SECOND, (index + 1) * SECOND, rows.take(slice(begin, end)))
        elephants.process([pane])
        made = elephant_hops(elephants)(pane)
        active = set(map(tuple, elephants.active.tolist()))
        mine = [tuple(words) in active for words in flow_words(pane.rows).tolist()]
        assert made["records"].sum() == sum(mine)
        assert made["bytes"].sum() == (pane.rows.bytes * pane.rows.sampling_rate)[mine].sum()
        keys = np.column_stack([made[f"key_{n}"] for n in range(8)])
        assert np.array_equal(keys, np.unique(keys, axis=0))
        seen += len(keys)
    assert seen > 100


def test_rows_that_leave_by_no_interface_are_on_no_link():
    rows = FlowBatch.concat([flows(1, out_if=0), flows(1, out_if=0x3FFFFFFF), flows(1, exporter="::"), flows(1)])
    made = elephant_hops(Marked(rows, 40000))(Pane(FIRST, FIRST * SECOND, (FIRST + 1) * SECOND, rows))
    assert made["records"].tolist() == [1]


def test_a_snapshot_of_something_else_is_refused():
    for state in (b"", b"\x80", SharedLinks(1, LINKS, TOPOLOGY, 0.0).snapshot()[:-1]):
        with pytest.raises(StateError):
            SharedLinks(1, LINKS, TOPOLOGY, 0.0).restore(state)
