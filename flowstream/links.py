"""The link table: how fast each interface is, and whether it is an edge of the fabric.

Flow records do not carry interface speeds, so they come from an inventory: a CSV file, or a compacted topic
of the same rows (schema ``links.v1``), keyed ``exporter|if_index``. A table never changes: ``upserted`` and
``without`` return another one, so that an operator can be given a new table between two panes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowstream import csv_rows
from flowstream.batch import Array, address_text, address_words
from flowstream.errors import SettingsError

REQUIRED = ("exporter", "if_index", "name", "speed_bps")
OPTIONAL = ("edge", "node", "lag")
EDGE_UNKNOWN, EDGE_NO, EDGE_YES = -1, 0, 1

_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)
_MULTIPLIER = np.uint64(0x9E37_79B9_7F4A_7C15)  # 2^64 / golden ratio, odd: Knuth's multiplicative hashing


class _Link(NamedTuple):
    """One row, parsed. The first three fields are its identity and its place in the table."""

    high: int
    low: int
    if_index: int
    name: str
    speed_bps: int
    edge: int
    node: str
    lag: int  # if_index of the bundle it is a member of; 0: none

    @property
    def key(self) -> tuple[int, int, int]:
        return self[:3]


class LinkTable:
    """Interfaces in the order of (exporter address, if_index), with a lookup for whole columns."""

    __slots__ = ("_edge", "_hashes", "_if_index", "_links", "_salt", "_speed_bps", "_words")

    def __init__(self, links: Iterable[_Link] = ()) -> None:
        self._links: Sequence[_Link] = sorted(links)
        n = len(self._links)
        self._words = np.array([link[:2] for link in self._links], np.uint64).reshape(n, 2)
        self._if_index = np.array([link.if_index for link in self._links], np.uint32)
        # Two rows that share a hash would make a lookup ambiguous, so the salt grows until none do.
        salt = 0
        while True:
            hashes = _hash(self._words, self._if_index, salt)
            order = np.argsort(hashes, kind="stable")
            if not np.any(hashes[order][1:] == hashes[order][:-1]):
                break
            salt += 1
        self._salt = salt
        self._hashes = hashes[order]
        self._words, self._if_index = self._words[order], self._if_index[order]
        self._speed_bps = np.array([link.speed_bps for link in self._links], np.int64)[order]
        self._edge = np.array([link.edge for link in self._links], np.int8)[order]

    def __len__(self) -> int:
        return len(self._links)

    def lookup(self, exporter: Array, in_if: Array) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """Find the links of ``exporter`` (n, 2) address words and ``in_if`` (n,) indices.

        Returns ``speed_bps`` (bits per second, 0 where unknown) and ``edge`` (1 edge, 0 not, -1 unknown).
        """
        rows = len(in_if)
        if len(self) == 0 or rows == 0:
            return np.zeros(rows, np.int64), np.full(rows, EDGE_UNKNOWN, np.int8)
        place = np.searchsorted(self._hashes, _hash(exporter, in_if, self._salt))
        place = np.minimum(place, len(self) - 1)
        words = self._words.take(place, axis=0)
        found = (self._if_index[place] == in_if) & (words[:, 0] == exporter[:, 0]) & (words[:, 1] == exporter[:, 1])
        speed_bps = np.where(found, self._speed_bps[place], np.int64(0))
        return speed_bps, np.where(found, self._edge[place], np.int8(EDGE_UNKNOWN))

    @classmethod
    def from_csv(cls, text: str, source: str = "links") -> LinkTable:
        """Read CSV text with a header line; SettingsError names ``source``, line, column, value and fix."""
        links: dict[tuple[int, int, int], _Link] = {}
        lines: dict[tuple[int, int, int], int] = {}
        for line, row in csv_rows.rows(text, source, REQUIRED, OPTIONAL):
            link = _parse(row, f"{source}, line {line}")
            if link.key in lines:
                raise SettingsError(
                    f"{source}, line {line}, column if_index: {link.if_index} of exporter {row['exporter']} "
                    f"is already on line {lines[link.key]}; keep one of the two"
                )
            links[link.key], lines[link.key] = link, line
        return cls(links.values())

    @classmethod
    def from_path(cls, path: Path) -> LinkTable:
        """Read a CSV file in UTF-8; SettingsError also where it cannot be read."""
        return cls.from_csv(csv_rows.read_text(path), str(path))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> LinkTable:
        """Build a table from ``links.v1`` records; SettingsError names the row and what is wrong."""
        links: dict[tuple[int, int, int], _Link] = {}
        for number, row in enumerate(rows, 1):
            link = _parse(row, f"links, row {number}")
            if link.key in links:
                raise SettingsError(
                    f"links, row {number}, column if_index: {link.if_index} of exporter "
                    f"{row['exporter']} is there twice; keep one of the two"
                )
            links[link.key] = link
        return cls(links.values())

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the table as ``links.v1`` records, in the order of (exporter address, if_index)."""
        return [
            {
                "exporter": address_text(link.high, link.low),
                "if_index": link.if_index,
                "name": link.name,
                "speed_bps": link.speed_bps,
                "edge": None if link.edge == EDGE_UNKNOWN else link.edge == EDGE_YES,
                "node": link.node,
                "lag": link.lag or None,
            }
            for link in self._links
        ]

    def upserted(self, *rows: Mapping[str, Any]) -> LinkTable:
        """Return the table with rows added, or put in the place of those with the same key."""
        links = {link.key: link for link in self._links}
        for row in rows:
            link = _parse(row, "links")
            links[link.key] = link
        return LinkTable(links.values())

    def without(self, key: str) -> LinkTable:
        """Return the table without the row of a topic key (a tombstone); the same rows if it has none."""
        return LinkTable(link for link in self._links if _key(link) != key)


def link_key(row: Mapping[str, Any]) -> str:
    """Return the topic key of a record, ``exporter|if_index``; one text for every spelling of an address."""
    return _key(_parse(row, "links"))


def _key(link: _Link) -> str:
    return f"{address_text(link.high, link.low)}|{link.if_index}"


def _hash(words: Array, if_index: Array, salt: int) -> NDArray[np.uint64]:
    mixed: NDArray[np.uint64] = np.full(len(if_index), salt, np.uint64)
    columns: tuple[NDArray[np.uint64], ...] = (*words.T.astype(np.uint64), if_index.astype(np.uint64))
    for word in columns:
        mixed = (mixed ^ word) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _parse(row: Mapping[str, Any], where: str) -> _Link:
    missing = [name for name in REQUIRED if row.get(name) is None]
    if missing:
        raise SettingsError(f"{where}: {', '.join(missing)} is missing; give {', '.join(REQUIRED)}")
    high = low = 0  # the unspecified address, which in flow records stands for "unknown"
    with suppress(ValueError):
        high, low = address_words(str(row["exporter"]))
    if high == low == 0:
        raise SettingsError(
            f"{where}, column exporter: {row['exporter']!r} is no IP address of an exporter; "
            "write the one the collector records, such as 192.0.2.1"
        )
    if_index = _whole(row["if_index"], (1, 2**32 - 1), f"{where}, column if_index", "the ifIndex, 1 to 4294967295")
    speed_bps = _whole(
        row["speed_bps"],
        (1, 2**63 - 1),
        f"{where}, column speed_bps",
        "bits per second in plain digits, 10 Gb/s is 10000000000",
    )
    lag = row.get("lag") or 0
    if lag:
        lag = _whole(lag, (1, 2**32 - 1), f"{where}, column lag", "the ifIndex of the bundle, or leave it empty")
        if lag == if_index:
            raise SettingsError(f"{where}, column lag: {lag} is the interface itself; name the bundle's ifIndex")
    edge, node = _edge(row.get("edge"), where), str(row.get("node") or "")
    return _Link(high, low, if_index, str(row["name"]), speed_bps, edge, node, lag)


def _whole(value: object, bounds: tuple[int, int], where: str, fix: str) -> int:
    number = -1
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and _DIGITS.fullmatch(value):
        number = int(value)
    if not bounds[0] <= number <= bounds[1]:
        raise SettingsError(f"{where}: {value!r} is not a whole number in range; write {fix}")
    return number


def _edge(value: object, where: str) -> int:
    if value is None or value == "":
        return EDGE_UNKNOWN
    if value is True or (isinstance(value, str) and value.lower() == "true"):
        return EDGE_YES
    if value is False or (isinstance(value, str) and value.lower() == "false"):
        return EDGE_NO
    raise SettingsError(f"{where}, column edge: {value!r} is neither true nor false; write one, or leave it empty")
