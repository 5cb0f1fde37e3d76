"""Laws of putting hops together, over fabrics of every shape: what is said is true, however little was sampled."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream.cabling import Cabling
from flowstream.links import LinkTable
from flowstream.path_joining import PATHS_MAX, join
from flowstream.path_shapes import OrderedBy
from flowstream.path_sightings import Sighting
from flowstream.topology import Topology


@dataclass
class Fabric:
    """Switches with numbered ports, and cables; ``ways`` are lists of nodes that packets may take, host to host."""

    cables: list[tuple[str, str, str, str]] = field(default_factory=list)
    ports: dict[tuple[str, str], str] = field(default_factory=dict)  # (node, neighbour) -> port
    ways: list[list[str]] = field(default_factory=list)

    def join(self, a: str, b: str) -> None:
        self.ports[a, b], self.ports[b, a] = f"{a}-{b}", f"{b}-{a}"
        host = [n for n in (a, b) if n.startswith("h")]
        self.cables.append((a, f"{a}-{b}", b, "" if host else f"{b}-{a}"))

    @property
    def switches(self) -> list[str]:
        return sorted({n for pair in self.ports for n in pair if not n.startswith("h")})

    def exporter(self, node: str) -> str:
        return f"10.0.0.{self.switches.index(node) + 1}"

    def if_index(self, node: str, port: str) -> int:
        return 1 + sorted(p for (n, _), p in self.ports.items() if n == node).index(port)

    def cabling(self, silent: frozenset[str] = frozenset(), *, edges: bool = False) -> Cabling:
        """Return what the tables say; the links know nothing of ``silent`` switches."""
        rows = [
            {"exporter": self.exporter(n), "if_index": self.if_index(n, p), "name": p, "speed_bps": 10**9, "node": n,
             "edge": peer.startswith("h") if edges else None}
            for (n, peer), p in self.ports.items() if not n.startswith("h") and n not in silent
        ]  # fmt: skip
        names = ("node", "port", "peer", "peer_port")
        cables = Topology.from_rows(dict(zip(names, cable, strict=True)) for cable in self.cables)
        return Cabling(LinkTable.from_rows(rows), cables)

    def hops(self, way: list[str]) -> list[tuple[str, str, str]]:
        """Return the true hops, (node, port in, port out)."""
        return [(b, self.ports[b, a], self.ports[b, c]) for a, b, c in zip(way, way[1:], way[2:], strict=False)]

    def sighting(self, hop: tuple[str, str, str], ttl: int = 0) -> Sighting:
        node, into, out = hop
        return Sighting(self.exporter(node), self.if_index(node, into), self.if_index(node, out), ttl, 1)


def clos(spines: int, leaves: int) -> Fabric:
    fabric = Fabric()
    for leaf in range(leaves):
        fabric.join(f"leaf{leaf}", f"h{leaf}")
        for spine in range(spines):
            fabric.join(f"leaf{leaf}", f"spine{spine}")
    fabric.ways = [["h0", "leaf0", f"spine{s}", "leaf1", "h1"] for s in range(spines)]
    return fabric


def line(switches: int) -> Fabric:
    fabric = Fabric()
    nodes = ["h0", *(f"sw{n}" for n in range(switches)), "h1"]
    for a, b in pairwise(nodes):
        fabric.join(*((b, a) if a == "h0" else (a, b)))
    fabric.ways = [nodes]
    return fabric


def fat_tree(planes: int, pods: int, tops: int) -> Fabric:
    """Each pod has a leaf and one spine per plane; each plane has its own top switches."""
    fabric = Fabric()
    for pod in range(pods):
        fabric.join(f"leaf{pod}", f"h{pod}")
        for plane in range(planes):
            fabric.join(f"leaf{pod}", f"spine{pod}p{plane}")
            for top in range(tops):
                fabric.join(f"spine{pod}p{plane}", f"top{top}p{plane}")
    fabric.ways = [
        ["h0", "leaf0", f"spine0p{p}", f"top{t}p{p}", f"spine1p{p}", "leaf1", "h1"]
        for p in range(planes) for t in range(tops)
    ]  # fmt: skip
    return fabric


fabrics = st.one_of(
    st.builds(clos, st.integers(1, 4), st.integers(2, 5)),
    st.builds(line, st.integers(1, 7)),
    st.builds(fat_tree, st.integers(1, 3), st.integers(2, 3), st.integers(1, 3)),
)


def seen_of(fabric, way, sampled, *, routed):
    hops = fabric.hops(way)
    return [fabric.sighting(hop, 64 - n if routed else 64) for n, hop in enumerate(hops) if n in sampled]


def told(path):
    """Return a path's hops as (node, port in or None, port out or None)."""
    return [(h.node, h.into and h.into.port, h.out and h.out.port) for h in path.hops]


def matches(said, true):
    return all(mine in (None, real) for mine, real in zip(said, true, strict=True))


def assert_true(path, hops, *, routed):
    """Every hop is on the way, in order, and what is said to be missing between two is what is missing."""
    nodes = [node for node, _, _ in hops]
    at = [nodes.index(node) for node, _, _ in told(path)]
    assert at == sorted(set(at))
    assert all(matches(said, hops[n]) for said, n in zip(told(path), at, strict=True))
    for hop, here, there in zip(path.hops, at, at[1:], strict=False):
        assert hop.missing_after in (None, there - here - 1)
        assert routed or hop.missing_after in (None, 0)
    assert not path.first_known or at[0] == 0
    assert not path.last_known or at[-1] == len(hops) - 1
    assert path.complete == (told(path) == hops)


@settings(max_examples=300)
@given(fabrics, st.data())
def test_no_hop_is_wrong_whatever_was_sampled(fabric, data):
    way = data.draw(st.sampled_from(fabric.ways))
    hops = fabric.hops(way)
    sampled = data.draw(st.sets(st.integers(0, len(hops) - 1), min_size=1))
    silent = data.draw(st.sets(st.sampled_from([hops[n][0] for n in range(len(hops)) if n not in sampled] or [""])))
    routed = data.draw(st.booleans())
    cabling = fabric.cabling(frozenset(silent), edges=data.draw(st.booleans()))
    seen = seen_of(fabric, way, sampled, routed=routed)
    if not routed:
        seen = data.draw(st.permutations(seen))
    paths, ambiguous = join(seen, cabling)
    assert sorted(part for path in paths for hop in path.hops for part in hop.parts) == list(range(len(seen)))
    for path in paths:
        assert_true(path, hops, routed=routed)
    assert ambiguous == (len(paths) > 1)
    if routed:
        assert len(paths) == 1, "the time to live puts pieces together"
    if len(sampled) == len(hops):
        assert told(paths[0]) == hops
        assert paths[0].ordered_by is OrderedBy.TOPOLOGY


@given(st.integers(1, 4), st.integers(2, 5), st.booleans(), st.booleans())
def test_a_spine_that_was_not_sampled_is_inferred_from_the_leaves(spines, leaves, routed, silent):
    fabric = clos(spines, leaves)
    for spine, way in enumerate(fabric.ways):
        dark = frozenset({f"spine{spine}"}) if silent else frozenset()
        (path,), ambiguous = join(seen_of(fabric, way, {0, 2}, routed=routed), fabric.cabling(dark))
        assert not ambiguous
        assert told(path) == fabric.hops(way)
        assert path.complete
        assert (path.hops_seen, path.hops_expected) == (2, 3)
        assert (path.entered_from, path.left_to) == ("h0", "h1")


@settings(max_examples=200)
@given(st.integers(2, 4), st.integers(2, 5), st.booleans(), st.data())
def test_two_paths_of_a_flow_are_told_apart(spines, leaves, routed, data):
    fabric = clos(spines, leaves)
    ways = fabric.ways[:2]
    sampled = [data.draw(st.sets(st.integers(0, 2), min_size=1)) for _ in ways]
    seen = [s for way, chosen in zip(ways, sampled, strict=True) for s in seen_of(fabric, way, chosen, routed=routed)]
    seen = sorted(data.draw(st.permutations(seen)), key=lambda s: -s.ip_ttl)
    paths, ambiguous = join(seen, fabric.cabling())
    assert ambiguous
    for path in paths:
        nodes = {hop.node for hop in path.hops}
        (own,) = [w for w in ways if nodes & {w[2]}]
        assert_true(path, fabric.hops(own), routed=routed)
    if all({0, 2} <= chosen for chosen in sampled):
        assert sorted(map(told, paths)) == sorted(map(fabric.hops, ways))


def test_halves_of_a_node_that_was_seen_on_another_way_are_not_put_together():
    fabric = clos(1, 4)
    other = ["h2", "leaf2", "spine0", "leaf3", "h3"]
    seen = [*seen_of(fabric, fabric.ways[0], {0, 2}, routed=False), *seen_of(fabric, other, {1}, routed=False)]
    paths, ambiguous = join(seen, fabric.cabling())
    assert ambiguous
    assert [[(h.node, bool(h.into), bool(h.out)) for h in path.hops] for path in paths] == [
        [("leaf0", True, True), ("spine0", True, False)],
        [("spine0", False, True), ("leaf1", True, True)],
        [("leaf2", False, True), ("spine0", True, True), ("leaf3", True, False)],
    ]


def test_time_to_live_tells_what_lies_between_where_the_cables_leave_one_node():
    fabric = fat_tree(2, 2, 1)
    (path,), _ = join(seen_of(fabric, fabric.ways[1], {0, 4}, routed=True), fabric.cabling())
    assert told(path) == fabric.hops(fabric.ways[1])
    assert path.complete
    assert path.ordered_by is OrderedBy.TTL
    wide = fat_tree(2, 2, 3)
    (path,), _ = join(seen_of(wide, wide.ways[0], {0, 4}, routed=True), wide.cabling())
    assert [hop.missing_after for hop in path.hops] == [0, 1, 0, 0], "one of three tops"
    assert (path.complete, path.hops_expected) == (False, 5)


def test_pieces_of_two_planes_are_not_put_together():
    fabric = fat_tree(2, 2, 1)
    seen = [*seen_of(fabric, fabric.ways[0], {0}, routed=True), *seen_of(fabric, fabric.ways[1], {4}, routed=True)]
    paths, ambiguous = join(seen, fabric.cabling())
    assert [[hop.node for hop in path.hops] for path in paths] == [["leaf0", "spine0p0"], ["spine1p1", "leaf1"]]
    assert ambiguous


def test_a_bundle_is_one_interface_and_its_members_keep_their_names():
    links = LinkTable.from_csv(
        "exporter,if_index,name,speed_bps,edge,node,lag\n"
        "10.0.0.1,1,a1,1000,,a,9\n10.0.0.1,2,a2,1000,,a,9\n10.0.0.1,9,po,2000,,a,\n10.0.0.1,3,ah,1000,true,a,\n"
        "10.0.0.2,1,b1,1000,,b,9\n10.0.0.2,2,b2,1000,,b,9\n10.0.0.2,9,po,2000,,b,\n10.0.0.2,3,bh,1000,true,b,\n"
    )
    cabling = Cabling(links, Topology.from_csv("node,port,peer,peer_port\na,a1,b,b1\na,a2,b,b2\n"))
    for out_if, in_if, names in ((9, 9, ("po", "po")), (1, 9, ("a1", "po")), (2, 2, ("a2", "b2"))):
        seen = [Sighting("10.0.0.1", 3, out_if, 64, 1), Sighting("10.0.0.2", in_if, 3, 64, 1)]
        (path,), ambiguous = join(seen, cabling)
        assert told(path) == [("a", "ah", names[0]), ("b", names[1], "bh")]
        assert path.complete
        assert not ambiguous


def test_an_interface_that_a_record_does_not_name_is_filled_in_by_one_that_does_or_by_the_cable():
    fabric, cabling = clos(2, 2), clos(2, 2).cabling()
    whole = seen_of(fabric, fabric.ways[0], {0, 1, 2}, routed=False)
    blind = [Sighting(s.exporter, s.in_if, 0, s.ip_ttl, 1) for s in whole]
    for seen in ([*whole, *blind], [whole[0], blind[1], whole[2]]):
        (path,), ambiguous = join(seen, cabling)
        assert told(path) == fabric.hops(fabric.ways[0])
        assert not ambiguous
        assert path.hops_seen == 3


def test_packets_that_go_round_in_a_circle_end_somewhere():
    fabric = clos(2, 2)
    circle = ["leaf0", "spine0", "leaf1", "spine1", "leaf0", "spine0"]
    seen = [
        fabric.sighting((b, fabric.ports[b, a], fabric.ports[b, c]), 64)
        for a, b, c in zip(circle, circle[1:], circle[2:], strict=False)
    ]
    (path,), _ = join(seen, fabric.cabling())
    assert len(path.hops) == 4
    assert not path.complete


@pytest.mark.parametrize(
    ("ttls", "rule", "missing", "ambiguous"),
    [
        ((64, 63, 61), OrderedBy.TTL, [0, 1, 0], False),
        ((64, 64, 64), OrderedBy.FIRST_SEEN, [None, None, 0], False),
        ((64, 63, 63), OrderedBy.FIRST_SEEN, [None, None, 0], True),
        ((0, 0, 0), OrderedBy.FIRST_SEEN, [None, None, 0], False),
    ],
)
def test_without_cables_the_rule_is_named(ttls, rule, missing, ambiguous):
    seen = [Sighting(f"10.0.0.{n}", 1, 2, ttl, 1) for n, ttl in enumerate(ttls)]
    (path,), doubted = join(seen, Cabling(LinkTable(), Topology()))
    assert [hop.node for hop in path.hops] == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
    assert path.ordered_by is rule
    assert [hop.missing_after for hop in path.hops] == missing
    assert doubted is ambiguous
    assert not path.complete


def test_two_ways_through_one_exporter_without_cables_are_in_doubt():
    seen = [Sighting("10.0.0.1", 1, 2, 64, 1), Sighting("10.0.0.1", 1, 3, 64, 1)]
    _, doubted = join(seen, Cabling(LinkTable(), Topology()))
    assert doubted


def test_made_up_sightings_give_so_many_paths_and_no_more():
    fabric = clos(12, 2)
    seen = [s for way in fabric.ways for s in seen_of(fabric, way, {0, 1, 2}, routed=True)]
    paths, ambiguous = join(sorted(seen, key=lambda s: -s.ip_ttl), fabric.cabling())
    assert len(paths) == PATHS_MAX
    assert ambiguous
