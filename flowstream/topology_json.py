"""Topologies that other tools keep as JSON: sFlow-RT's and containerlab's, as rows of ours.

sFlow-RT has ``{"links": {name: {"node1", "port1", "node2", "port2"}}}``; containerlab writes
``{"nodes": ..., "links": [{"endpoints": {"a": {"node", "interface"}, "z": ...}}]}`` to ``topology-data.json``
(older versions have ``a`` and ``z`` without ``endpoints``). Interface numbers, which sFlow-RT may keep beside its links
(``nodes``), are not read: those and the speeds, which neither has, are the table of links'.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from flowstream.csv_rows import read_text
from flowstream.errors import SettingsError
from flowstream.topology import Topology

#: What containerlab names the far end of a link that leaves the lab.
_OUTSIDE = ("host", "mgmt-net", "macvlan", "vxlan", "dummy")


def read_topology(path: Path) -> Topology:
    """Read a topology file, CSV or either form of JSON; SettingsError also where it cannot be read."""
    text = read_text(path)
    is_json = text.lstrip("\ufeff \t\r\n").startswith(("{", "["))
    return from_json(text, str(path)) if is_json else Topology.from_csv(text, str(path))


def from_json(text: str, source: str = "topology") -> Topology:
    """Read either form; SettingsError names ``source``, the link and what is wrong."""
    try:
        document = msgspec.json.decode(text.removeprefix("\ufeff"))
    except (msgspec.DecodeError, RecursionError) as error:
        raise SettingsError(f"{source}: not JSON ({error}); give sFlow-RT's or containerlab's topology") from error
    links = document.get("links") if isinstance(document, dict) else None
    if isinstance(links, dict):
        return Topology.from_places(_sflow_rt(links, source))
    if isinstance(links, list):
        return Topology.from_places(_containerlab(links, source))
    raise SettingsError(
        f'{source}: there is no "links" in it; sFlow-RT keeps an object there, containerlab (topology-data.json) a list'
    )


def _sflow_rt(links: dict[str, Any], source: str) -> Iterator[tuple[str, dict[str, str]]]:
    for name, link in links.items():
        where = f"{source}, link {name!r}"
        yield where, {ours: _text(link, theirs, where) for ours, theirs in (
            ("node", "node1"), ("port", "port1"), ("peer", "node2"), ("peer_port", "port2"),
        )}  # fmt: skip


def _containerlab(links: list[Any], source: str) -> Iterator[tuple[str, dict[str, str]]]:
    for number, link in enumerate(links, 1):
        where = f"{source}, link {number}"
        ends = link.get("endpoints", link) if isinstance(link, dict) else None
        if not isinstance(ends, dict) or "a" not in ends:
            raise SettingsError(f'{where}: it has no ends "a" and "z"')
        if "z" not in ends or any(_text(ends[e], "node", where) in _OUTSIDE for e in ("a", "z")):
            continue  # it leads out of the lab
        yield where, {
            "node": _text(ends["a"], "node", where), "port": _text(ends["a"], "interface", where),
            "peer": _text(ends["z"], "node", where), "peer_port": _text(ends["z"], "interface", where),
        }  # fmt: skip


def _text(fields: Any, name: str, where: str) -> str:
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, str) or not value:
        raise SettingsError(f'{where}: "{name}" is missing or no text')
    return value
