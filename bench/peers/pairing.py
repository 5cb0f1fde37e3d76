"""Pairs of a window's flows as the Python peers compute them: with numpy, once the window is closed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bench.peers.jobs import MS, OUT_OF_ORDERNESS_MS, WINDOW_MS, window_start_ms

#: (event time in nanoseconds, partition, offset) and the five features.
Row = Sequence[float]


def row(flow: Any, partition: int, offset: int) -> Row:
    """Return a flow's order and features: duration in seconds, bytes and packets in, bytes and packets out."""
    lasted_s = max(0, flow.time_flow_end_ns - flow.time_flow_start_ns) / 1e9
    return flow.time_received_ns, partition, offset, lasted_s, 0.0, 0.0, float(flow.bytes), float(flow.packets)


def distances(rows: Sequence[Row]) -> tuple[Any, Any, Any]:
    """Return the places of both flows of each pair, in order of event time, and their distances."""
    points = np.array([row[3:] for row in sorted(rows, key=lambda row: row[:3])], np.float64)
    first, second = np.triu_indices(len(points), 1)
    between = points[first] - points[second]
    return first, second, np.sqrt(np.einsum("ij,ij->i", between, between))


def pairs(src_addr: str, start_ms: int, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield the result of each pair."""
    for first, second, distance in zip(*(column.tolist() for column in distances(rows)), strict=True):
        yield {
            "src_addr": src_addr,
            "window_start_ms": start_ms,
            "first": first,
            "second": second,
            "distance": distance,
        }


def summary(src_addr: str, start_ms: int, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield the summary of all pairs, if there are any."""
    _first, _second, distance = distances(rows)
    if len(distance):
        yield {
            "src_addr": src_addr,
            "window_start_ms": start_ms,
            "flows": len(rows),
            "pairs": len(distance),
            "min": float(distance.min()),
            "max": float(distance.max()),
            "mean": float(distance.mean()),
        }


RESULTS = {"b": pairs, "c": summary}


class Windows:
    """Tumbling windows that close by event time, for an engine that has none: all sources, one watermark."""

    def __init__(self, job: str) -> None:
        self._results = RESULTS[job]
        self._open: dict[int, dict[str, list[Row]]] = {}
        self._newest_ns = 0

    def add(self, flow: Any, partition: int, offset: int) -> Iterator[dict[str, Any]]:
        """Take a flow; yield the results of the windows that this closes."""
        time_ns = flow.time_received_ns
        start_ms = window_start_ms(time_ns)
        if start_ms not in self._open:
            self._open[start_ms] = defaultdict(list)
        self._open[start_ms][flow.src_addr.hex()].append(row(flow, partition, offset))
        if time_ns > self._newest_ns:
            self._newest_ns = time_ns
            closed_ms = time_ns // MS - OUT_OF_ORDERNESS_MS - WINDOW_MS
            for start_ms in [start for start in self._open if start <= closed_ms]:
                for src_addr, rows in self._open.pop(start_ms).items():
                    yield from self._results(src_addr, start_ms, rows)
