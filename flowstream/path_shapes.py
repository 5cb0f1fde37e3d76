"""What a path is: hops in order, by which rule they were put in order, and whether any is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise

from flowstream.cabling import Cabling, Interface
from flowstream.topology import Port


class OrderedBy(Enum):
    """The rule by which the hops of a path were put in order: the weakest that it took."""

    TOPOLOGY = "topology"
    TTL = "ttl"
    FIRST_SEEN = "first_seen"  # names of an Avro enumeration have no hyphen


@dataclass(frozen=True, slots=True)
class Hop:
    """A node that a flow went through, the interfaces being None where they are not known.

    ``parts`` are the sightings it rests on; a hop without any is inferred from the cables of its neighbours.
    ``missing_after`` counts the hops that must lie between it and the next; None: nobody knows.
    """

    node: str
    into: Interface | None
    out: Interface | None
    exporter: str = ""  # of one that was seen
    ttl: int = 0
    parts: tuple[int, ...] = ()
    missing_after: int | None = 0

    @property
    def key(self) -> tuple[str, Port | None, Port | None]:
        """What tells hops apart."""
        return self.node, self.into and self.into.end, self.out and self.out.end

    def covers(self, other: Hop) -> bool:
        """Whether this hop says all that another does."""
        return self.node == other.node and all(
            their is None or mine == their for mine, their in zip(self.key[1:], other.key[1:], strict=True)
        )


@dataclass(frozen=True, slots=True)
class Path:
    """Hops in the order in which packets went through them."""

    hops: tuple[Hop, ...]
    ordered_by: OrderedBy
    entered_from: str | None = None  # the host at the first interface
    left_to: str | None = None
    first_known: bool = False  # traffic enters at the first interface: nothing comes before it
    last_known: bool = False

    @property
    def key(self) -> tuple[tuple[str, Port | None, Port | None], ...]:
        """What tells paths apart."""
        return tuple(hop.key for hop in self.hops)

    @property
    def hops_seen(self) -> int:
        """How many of the hops somebody reported."""
        return sum(bool(hop.parts) for hop in self.hops)

    @property
    def hops_expected(self) -> int | None:
        """How many hops there are from the first to the last, as far as anybody can tell."""
        missing = [hop.missing_after for hop in self.hops]
        return None if None in missing else len(self.hops) + sum(m or 0 for m in missing)

    @property
    def complete(self) -> bool:
        """Whether every hop is known with both its interfaces, from one edge to the other."""
        whole = all(hop.into and hop.out and hop.missing_after == 0 for hop in self.hops)
        return whole and self.first_known and self.last_known

    def then(self, other: Path, missing: int | None) -> Path:
        """Return this path going on with another, after so many missing hops."""
        last = replace(self.hops[-1], missing_after=missing)
        hops = (*self.hops[:-1], last, *other.hops)
        return replace(self, hops=hops, ordered_by=OrderedBy.TTL, left_to=other.left_to, last_known=other.last_known)


def with_ends(path: Path, cabling: Cabling) -> Path:
    """Return a path with what is known of where it begins and ends."""
    first, last = path.hops[0].into, path.hops[-1].out
    return replace(
        path,
        entered_from=first and cabling.host_at(first),
        left_to=last and cabling.host_at(last),
        first_known=cabling.is_edge(first),
        last_known=cabling.is_edge(last),
    )


def merged(hops: Sequence[Hop]) -> list[Hop]:
    """Join hops that are the same, and put one that lacks an interface to the first that says what it does."""
    joined: list[Hop] = []
    for hop in sorted(hops, key=lambda hop: (hop.into is None) + (hop.out is None)):
        at = next((n for n, other in enumerate(joined) if other.covers(hop)), None)
        if at is None:
            joined.append(hop)
        else:
            joined[at] = replace(joined[at], parts=joined[at].parts + hop.parts, ttl=max(joined[at].ttl, hop.ttl))
    return sorted(joined, key=lambda hop: hop.parts)


def in_order_of_sight(hops: Sequence[Hop]) -> tuple[Path, bool]:
    """Return hops that come by falling time to live, then as first seen, as one path; and whether it is in doubt.

    It is where a node is there twice, or where two have the same time to live though others differ: routers side by
    side, or some that switch and some that route.
    """
    ttls = [hop.ttl for hop in hops]
    falling = min(ttls) > 0 and len(set(ttls)) == len(ttls)
    gaps: list[int | None] = [a - b - 1 if falling else None for a, b in pairwise(ttls)]
    path = Path(
        tuple(replace(hop, missing_after=gap) for hop, gap in zip(hops, [*gaps, 0], strict=True)),
        OrderedBy.TTL if falling else OrderedBy.FIRST_SEEN,
    )
    twice = len({hop.node for hop in hops}) < len(hops)
    return path, twice or (min(ttls) > 0 and not falling and len(set(ttls)) > 1)
