"""What the table of links says of ports: capacity, name, node, and the bundle that a port is a member of.

A port is one direction of an interface. The capacity of a bundle (LAG) is the sum of its members', whatever its own
row says: the row of a bundle gives it a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import address_words
from flowstream.links import LinkTable

Interface = tuple[int, int, int]  # the two words of the exporter's address, ifIndex


@dataclass(frozen=True, slots=True)
class _Known:
    name: str
    speed_bps: int
    lag: int


_UNKNOWN = _Known("", 0, 0)


class Ports:
    """A table of links, to be asked about ports; ``links`` is the table. Keys are those of ``PORT``, (n, 3) words."""

    __slots__ = ("_known", "_nodes", "links")

    def __init__(self, links: LinkTable) -> None:
        self.links = links
        self._known: dict[Interface, _Known] = {}
        self._nodes: dict[tuple[int, int], str] = {}
        bundles: dict[Interface, int] = {}
        for row in links.to_rows():
            words, lag = address_words(row["exporter"]), int(row["lag"] or 0)
            self._known[(*words, row["if_index"])] = _Known(row["name"], row["speed_bps"], lag)
            self._nodes[words] = self._nodes.get(words) or row["node"]
            if lag:
                bundles[(*words, lag)] = bundles.get((*words, lag), 0) + row["speed_bps"]
        for bundle, speed_bps in bundles.items():
            own = self._known.get(bundle, _UNKNOWN)
            self._known[bundle] = _Known(own.name, min(speed_bps, 2**63 - 1), own.lag)

    def bundles(self, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the third word of each port's bundle, 0 where it is in none."""
        lags = [self._at(key).lag << 1 | key[2] & 1 if self._at(key).lag else 0 for key in keys.tolist()]
        return np.array(lags, np.uint64)

    def link_bps(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the capacity of each port's interface in bits per second, 0 where it is not known."""
        return np.array([self._at(key).speed_bps for key in keys.tolist()], np.int64)

    def labels(self, keys: NDArray[np.uint64]) -> list[dict[str, Any]]:
        """Return the fields of a result that say which port it is; the name is "" where the table has none."""
        return [
            {"if_index": key[2] >> 1, "direction": "out" if key[2] & 1 else "in", "name": self._at(key).name}
            for key in keys.tolist()
        ]

    def node(self, high: int, low: int) -> str:
        """Return the node that an exporter is said to be, "" where the table does not say."""
        return self._nodes.get((high, low), "")

    def _at(self, key: list[int]) -> _Known:
        return self._known.get((key[0], key[1], key[2] >> 1), _UNKNOWN)
