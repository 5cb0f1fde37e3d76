"""The topology: which port is joined to which, by the names of nodes and ports.

Flow records name exporters and interface numbers; people, and the tools that build fabrics, name switches and
ports. The table of links knows both names of an interface (``exporter, if_index`` and ``node, name``), so the
topology need not know numbers: it is a list of cables, ``node, port, peer, peer_port``, from a CSV file or
a compacted topic of the same rows (schema ``topology.v1``), keyed ``node|port``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flowstream import csv_rows
from flowstream.errors import SettingsError

COLUMNS = ("node", "port", "peer", "peer_port")


class Port(NamedTuple):
    """A port of a node; a host's may have no name."""

    node: str
    name: str

    @property
    def is_named(self) -> bool:
        """Whether it is one port, and not "some port of this host"."""
        return bool(self.name)


class Topology:
    """The cables of a fabric. Never changes; made anew where one does."""

    __slots__ = ("_cables", "_peers")

    def __init__(self, cables: Iterable[tuple[Port, Port]] = ()) -> None:
        # A cable has no direction: the end that sorts first is its first.
        self._cables = tuple((min(ends), max(ends)) for ends in cables)
        self._peers = {end: other for a, b in self._cables for end, other in ((a, b), (b, a)) if end.is_named}

    def __len__(self) -> int:
        return len(self._cables)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node's name, in order."""
        return tuple(sorted({end.node for ends in self._cables for end in ends}))

    def peer(self, node: str, port: str) -> Port | None:
        """Return what a port is joined to; None where nothing is known of it."""
        return self._peers.get(Port(node, port))

    @classmethod
    def from_csv(cls, text: str, source: str = "topology") -> Topology:
        """Read CSV text with a header line; SettingsError names ``source``, line, value and fix."""
        return cls.from_places((f"{source}, line {line}", row) for line, row in csv_rows.rows(text, source, COLUMNS))

    @classmethod
    def from_path(cls, path: Path) -> Topology:
        """Read a CSV file in UTF-8; SettingsError also where it cannot be read."""
        return cls.from_csv(csv_rows.read_text(path), str(path))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Topology:
        """Build it from ``topology.v1`` records; SettingsError names the row and what is wrong."""
        return cls.from_places((f"topology, row {number}", row) for number, row in enumerate(rows, 1))

    @classmethod
    def from_places(cls, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Topology:
        """Build it from rows, each with the place that a SettingsError names: file and line, or link."""
        return cls(_checked(rows))

    def to_rows(self) -> list[dict[str, str]]:
        """Return it as ``topology.v1`` records, in order, each cable once."""
        # A host's end goes last: the key of a cable is that of a port with a name.
        ends = sorted((a, b) if a.is_named else (b, a) for a, b in self._cables)
        return [{"node": a.node, "port": a.name, "peer": b.node, "peer_port": b.name} for a, b in ends]


def cable_key(row: Mapping[str, Any]) -> str:
    """Return the topic key of a record, ``node|port``; the same whichever end is written first."""
    row = Topology.from_rows([row]).to_rows()[0]
    return f"{row['node']}|{row['port']}"


def _checked(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[Port, Port]]:
    used: dict[Port, str] = {}
    for where, row in rows:
        ends = _parse(row, where)
        for end in ends:
            if end.is_named and end in used:
                raise SettingsError(
                    f"{where}: port {end.name} of {end.node} has a cable already ({used[end]}); a port has one, "
                    "keep one of the two"
                )
            used[end] = where
        yield ends


def _parse(row: Mapping[str, Any], where: str) -> tuple[Port, Port]:
    for name in COLUMNS:
        if not isinstance(row.get(name), str):
            raise SettingsError(f"{where}: {name} is missing; give {', '.join(COLUMNS)}")
        if "|" in row[name]:
            raise SettingsError(f"{where}, column {name}: {row[name]!r} has a |, which keys are put together with")
    near, far = Port(row["node"], row["port"]), Port(row["peer"], row["peer_port"])
    for name, end in (("node", near), ("peer", far)):
        if not end.node:
            raise SettingsError(f"{where}, column {name}: it is empty; write the name of the switch, router or host")
    if not near.is_named and not far.is_named:
        raise SettingsError(f"{where}: neither end names its port; name the switch's, only a host's may be left out")
    if near == far:
        raise SettingsError(f"{where}: port {near.name} of {near.node} is joined to itself; name the other end")
    return near, far
