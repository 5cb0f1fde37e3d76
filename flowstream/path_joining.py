"""From a flow's sightings to its path: hops joined by cables, then by falling time to live, else as first seen.

    seen      leaf1[l1h>l1s1]                    leaf3[l3s1>l3h]
    cables    l1s1 ends at spine1, port s1l1     l3s1 ends at spine1, port s1l3
    so        leaf1[l1h>l1s1] > spine1[s1l1>s1l3] > leaf3[l3s1>l3h]     the spine inferred

A hop is inferred only where the cables leave no choice. Sightings that belong to several paths (a change of path,
packets that are sprayed) give several; pieces that nothing puts together stay pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from flowstream.cabling import Cabling, Interface
from flowstream.path_shapes import Hop, OrderedBy, Path, in_order_of_sight, merged, with_ends
from flowstream.path_sightings import Sighting
from flowstream.topology import Port

PATHS_MAX = 8  # of one flow and window


def join(sightings: Iterable[Sighting], cabling: Cabling) -> tuple[tuple[Path, ...], bool]:
    """Return the paths of a flow, and whether it is in doubt which way it went: mostly there is one, and it is not.

    Sightings come by falling time to live, then as first seen. ``Hop.parts`` counts them in that order.
    """
    seen = merged([_hop(number, one, cabling) for number, one in enumerate(sightings)])
    hops = _closed([*seen, *_halves(seen, cabling)])
    alone = [with_ends(Path((hop,), OrderedBy.TOPOLOGY), cabling) for hop in seen]
    if len(hops) == 1 and alone[0].complete:  # in and out at edges of one switch
        return (alone[0],), False
    after = _successors(hops, cabling)
    if len(hops) == len(seen) and not any(after) and not any(path.complete for path in alone):
        path, doubted = in_order_of_sight(seen)
        return (with_ends(path, cabling),), doubted
    # A half whose node nobody exports for may be a host, and does not count as a hop.
    kept = [n for n, hop in enumerate(hops) if hop.parts or (hop.into and hop.out) or cabling.is_switch(hop.node)]
    chains = [
        with_ends(Path(tuple(hops[n] for n in chain), OrderedBy.TOPOLOGY), cabling) for chain in _chains(kept, after)
    ]
    if sum(len(path.hops) for path in chains) == len(kept):  # no hop is in two of them
        chains = _joined_by_ttl(chains, cabling)
    chains.sort(key=lambda path: min(part for hop in path.hops for part in hop.parts))
    return tuple(chains[:PATHS_MAX]), len(chains) > 1


def _hop(number: int, seen: Sighting, cabling: Cabling) -> Hop:
    into, out = cabling.interface(seen.exporter, seen.in_if), cabling.interface(seen.exporter, seen.out_if)
    if into and out and into.node != out.node:
        out = None  # an exporter of several nodes: a packet leaves the one that it came into
    one = into or out
    return Hop(one.node if one else cabling.node_of(seen.exporter), into, out, seen.exporter, seen.ip_ttl, (number,))


def _halves(seen: Sequence[Hop], cabling: Cabling) -> list[Hop]:
    """Return what is sure of nodes that did not report: that packets came in where a cable ends, or left by one."""
    found: dict[Port, Hop] = {}
    for hop in seen:
        for way, is_out in ((hop.out, True), (hop.into, False)):
            far = None if way is None or way.edge else cabling.peer(way)
            if far is None or not far.is_named or cabling.is_host(far):
                continue
            known = (_end(other.into if is_out else other.out, cabling) for other in seen)
            if far not in known:
                one = cabling.named(far)
                found.setdefault(far, Hop(far.node, one, None) if is_out else Hop(far.node, None, one))
    return list(found.values())


def _end(way: Interface | None, cabling: Cabling) -> Port | None:
    return None if way is None else cabling.whole(way.end)


def _closed(hops: list[Hop]) -> list[Hop]:
    """Join the two halves of a node where it has exactly these: in by the one, out by the other."""
    of_node: dict[str, list[Hop]] = {}
    for hop in hops:
        of_node.setdefault(hop.node, []).append(hop)
    closed: list[Hop] = []
    for halves in of_node.values():
        into, out = ([h for h in halves if h.into and not h.out], [h for h in halves if h.out and not h.into])
        if len(halves) == 2 and len(into) == len(out) == 1 and into[0].into != out[0].out:
            closed.append(replace(into[0], out=out[0].out, parts=into[0].parts + out[0].parts))
        else:
            closed += halves
    return closed


def _successors(hops: Sequence[Hop], cabling: Cabling) -> list[list[int]]:
    """Return of each hop those that its cable leads to."""
    entered: dict[Port, list[int]] = {}
    for number, hop in enumerate(hops):
        end = _end(hop.into, cabling)
        if end is not None:
            entered.setdefault(end, []).append(number)
    after: list[list[int]] = []
    for hop in hops:
        far = cabling.peer(hop.out) if hop.out else None
        after.append([] if far is None else entered.get(far, []))
    return after


def _chains(kept: Sequence[int], after: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the ways from each hop that nothing leads to, one more than count at the most."""
    inside = set(kept)
    entered = {n for m in kept for n in after[m]}
    reached: set[int] = set()
    given = 0
    # Where packets went round in a circle nothing is first: then it is the hop that was put first.
    for start in sorted(kept, key=lambda n: n in entered):
        if start in reached:
            continue
        waiting = [[start]]
        while waiting and given <= PATHS_MAX:
            chain = waiting.pop()
            reached.update(chain)
            more = [n for n in after[chain[-1]] if n in inside and n not in chain]
            waiting += [[*chain, n] for n in reversed(more)]
            if not more:
                given += 1
                yield chain


def _joined_by_ttl(pieces: list[Path], cabling: Cabling) -> list[Path]:
    """Join pieces where the time to live says how many hops lie between them, and the cables do not object."""
    ordered = sorted(pieces, key=lambda path: -_seen(path)[0].ttl)
    joined = ordered[:1]
    for piece in ordered[1:]:
        longer = _after(joined[-1], piece, cabling)
        joined[-1:] = [joined[-1], piece] if longer is None else [longer]
    return joined


def _seen(path: Path) -> list[Hop]:
    return [hop for hop in path.hops if hop.parts]


def _after(before: Path, piece: Path, cabling: Cabling) -> Path | None:
    """Return a path with another after it, None where that cannot be."""
    leaves, comes = _seen(before)[-1], _seen(piece)[0]
    if before.last_known or piece.first_known or not leaves.ttl > comes.ttl > 0:
        return None
    inferred = len(before.hops) - before.hops.index(leaves) - 1 + piece.hops.index(comes)
    missing = leaves.ttl - comes.ttl - 1 - inferred
    near, far = before.hops[-1], piece.hops[0]
    if missing < 0 or near.node == far.node:
        return None
    if near.out or far.into or missing > 1:  # they lead to, or come from, where no cable is known
        return before.then(piece, missing)
    links = cabling.cables(near.node, far.node)
    if missing == 0:
        return _linked(before, piece, links, cabling)
    between = [
        node
        for node in cabling.neighbours(near.node)
        if node not in (near.node, far.node) and cabling.cables(node, far.node)
    ]
    if len(between) != 1 or not cabling.is_switch(between[0]):  # one that nobody exports for may be a host
        return before.then(piece, 1) if between else None
    middle = Path((Hop(between[0], None, None),), OrderedBy.TTL)
    first = _linked(before, middle, cabling.cables(near.node, between[0]), cabling)
    return first and _linked(first, piece, cabling.cables(between[0], far.node), cabling)


def _linked(before: Path, piece: Path, links: Sequence[tuple[Port, Port]], cabling: Cabling) -> Path | None:
    """Return two paths joined by the cable between them, its ports named if it is the only one; None without one."""
    if not links:
        return None
    if len(links) == 1:
        near, far = map(cabling.named, links[0])
        before = replace(before, hops=(*before.hops[:-1], replace(before.hops[-1], out=near)))
        piece = replace(piece, hops=(replace(piece.hops[0], into=far), *piece.hops[1:]))
    return before.then(piece, 0)
