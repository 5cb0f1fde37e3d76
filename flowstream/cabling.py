"""What links and topology say together: which interface an exporter's number is, and where its cable ends.

Flow records name (exporter, ifIndex), the table of links gives both names of it, (node, port), and the topology joins
ports. A bundle (LAG) is one interface here: cables of its members are cables of the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from flowstream.links import LinkTable
from flowstream.topology import Port, Topology


class Interface(NamedTuple):
    """An interface of a node. Where the links do not name it, ``port`` is empty and the node is the exporter."""

    node: str
    port: str
    exporter: str  # empty where the links do not tell
    if_index: int  # 0 where the links do not tell
    edge: bool | None  # None: the links do not tell
    speed_bps: int  # 0 where unknown

    @property
    def end(self) -> Port:
        """What tells interfaces of a node apart."""
        return Port(self.node, self.port or f"[{self.if_index}]")


class Cabling:
    """The fabric as interfaces and cables. Never changes; made anew when one of the tables does."""

    def __init__(self, links: LinkTable, topology: Topology) -> None:
        rows = links.to_rows()
        self._interfaces: dict[tuple[str, int], Interface] = {}
        self._ports: dict[Port, Interface] = {}
        nodes: dict[str, set[str]] = {}
        for row in rows:
            node = row["node"] or row["exporter"]
            one = Interface(node, row["name"], row["exporter"], row["if_index"], row["edge"], row["speed_bps"])
            self._interfaces[one.exporter, one.if_index] = one
            self._ports.setdefault(one.end, one)
            nodes.setdefault(one.exporter, set()).add(node)
        self._node_of = {exporter: next(iter(named)) for exporter, named in nodes.items() if len(named) == 1}
        self._switches = {one.node for one in self._interfaces.values()}
        self._bundles = {
            self._interfaces[row["exporter"], row["if_index"]].end: self._interfaces[row["exporter"], row["lag"]].end
            for row in rows
            if row["lag"] and (row["exporter"], row["lag"]) in self._interfaces
        }
        self._distances: dict[str, dict[str, int]] = {}  # of nodes, by goal: as far as they were asked for
        self._peers: dict[Port, Port] = {}
        self._cables: dict[str, dict[str, set[tuple[Port, Port]]]] = {}
        for row in topology.to_rows():
            a, b = (self.whole(Port(*end)) for end in ((row["node"], row["port"]), (row["peer"], row["peer_port"])))
            for near, far in ((a, b), (b, a)):
                if near.is_named:
                    self._peers[near] = far
                self._cables.setdefault(near.node, {}).setdefault(far.node, set()).add((near, far))

    def whole(self, end: Port) -> Port:
        """Return the bundle that a port is a member of, else the port."""
        return self._bundles.get(end, end)

    def node_of(self, exporter: str) -> str:
        """Return the node that an exporter is; its address where the links name none, or several."""
        return self._node_of.get(exporter, exporter)

    def interface(self, exporter: str, if_index: int) -> Interface | None:
        """Return an exporter's interface by its number, None where that is 0."""
        if if_index == 0:
            return None
        unknown = Interface(self.node_of(exporter), "", exporter, if_index, None, 0)
        return self._interfaces.get((exporter, if_index), unknown)

    def named(self, end: Port) -> Interface:
        """Return an interface by its names."""
        return self._ports.get(end) or Interface(end.node, end.name, "", 0, None, 0)

    def peer(self, one: Interface) -> Port | None:
        """Return what an interface is joined to, None where nothing is known of it."""
        return self._peers.get(self.whole(one.end))

    def is_switch(self, node: str) -> bool:
        """Whether a node exports: the links know interfaces of it."""
        return node in self._switches

    def is_host(self, end: Port) -> bool:
        """Whether what is at the far end of a cable forwards nothing: one cable, and nobody exports there."""
        return not self.is_switch(end.node) and (not end.is_named or len(self.cables(end.node)) == 1)

    def host_at(self, one: Interface) -> str | None:
        """Return the host that an interface is joined to, if it is one."""
        far = self.peer(one)
        return far.node if far is not None and self.is_host(far) else None

    def is_edge(self, one: Interface | None) -> bool:
        """Whether an interface is one where traffic enters and leaves: the links say so, or a host is there."""
        if one is None:
            return False
        return self.host_at(one) is not None if one.edge is None else one.edge

    def cables(self, node: str, other: str | None = None) -> list[tuple[Port, Port]]:
        """Return the cables (near end, far end) of a node, those to one ``other`` node, in order; bundles are one."""
        of_node = self._cables.get(node, {})
        chosen = of_node.values() if other is None else [of_node.get(other, set())]
        return sorted(cable for cables in chosen for cable in cables)

    def distance(self, node: str, goal: str) -> int | None:
        """Return the number of cables on a shortest way between two nodes, None where there is none."""
        if goal not in self._distances:
            found, reached = {goal: 0}, [goal]
            for one in reached:
                for other in self._cables.get(one, {}):
                    if other not in found:
                        found[other] = found[one] + 1
                        reached.append(other)
            self._distances[goal] = found
        return self._distances[goal].get(node)

    @cached_property
    def edge_switches(self) -> tuple[str, ...]:
        """Switches where traffic enters and leaves, in order, as far as links or cables tell."""
        return tuple(sorted({one.node for one in self._interfaces.values() if self.is_edge(one)}))

    def neighbours(self, node: str) -> Iterator[str]:
        """Yield the nodes that a node is joined to, in order."""
        yield from sorted(self._cables.get(node, {}))


class LatestCabling:
    """The cabling of two tables, made anew when one of them is another table than before."""

    def __init__(self) -> None:
        self._tables: tuple[LinkTable, Topology] | None = None
        self._made: Cabling | None = None

    def of(self, links: LinkTable, topology: Topology) -> Cabling:
        """Return it."""
        if self._made is None or self._tables is None or (links, topology) != self._tables:  # compared by identity
            self._tables, self._made = (links, topology), Cabling(links, topology)
        return self._made
