"""What the table of links says of ports: capacity, name, node, and the bundle that a port is a member of.

A port is one direction of an interface. The capacity of a bundle (LAG) is the sum of its members', whatever its own
row says: the row of a bundle gives it a name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import address_words
from flowstream.links import LinkTable

Interface = tuple[int, int, int]  # the two words of the exporter's address, ifIndex


@dataclass(frozen=True, slots=True)
class _Known:
    name: str
    node: str
    speed_bps: int
    lag: int


class Ports:
    """A table of links, to be asked about ports; ``links`` is the table."""

    __slots__ = ("_known", "links")

    def __init__(self, links: LinkTable) -> None:
        self.links = links
        self._known: dict[Interface, _Known] = {}
        bundles: dict[Interface, int] = {}
        for row in links.to_rows():
            words, lag = address_words(row["exporter"]), int(row["lag"] or 0)
            self._known[(*words, row["if_index"])] = _Known(row["name"], row["node"], row["speed_bps"], lag)
            if lag:
                bundles[(*words, lag)] = bundles.get((*words, lag), 0) + row["speed_bps"]
        for bundle, speed_bps in bundles.items():
            own = self._known.get(bundle, _Known("", "", 0, 0))
            self._known[bundle] = _Known(own.name, own.node, speed_bps, own.lag)

    def bundles(self, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the third word of each port's bundle, 0 where it is in none; ``keys`` are those of ``PORT``."""
        lags = (self._at(key).lag << 1 | key[2] & 1 if self._at(key).lag else 0 for key in keys.tolist())
        return np.fromiter(lags, np.uint64, len(keys))

    def link_bps(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the capacity of each port's interface in bits per second, 0 where it is not known."""
        return np.fromiter((min(self._at(key).speed_bps, 2**63 - 1) for key in keys.tolist()), np.int64, len(keys))

    def names(self, keys: NDArray[np.uint64]) -> list[str]:
        """Return the name of each port's interface, "" where it has none."""
        return [self._at(key).name for key in keys.tolist()]

    def node(self, exporter: tuple[int, int], keys: NDArray[np.uint64]) -> str:
        """Return the node that an exporter's ports are said to be on, "" where the table does not say."""
        nodes = (self._at([*exporter, key]).node for key in keys[:, 2].tolist())
        return next(filter(None, nodes), "")

    def _at(self, key: list[int]) -> _Known:
        return self._known.get((key[0], key[1], key[2] >> 1), _UNKNOWN)


_UNKNOWN = _Known("", "", 0, 0)
