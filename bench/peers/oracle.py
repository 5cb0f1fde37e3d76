"""What the right results are, by brute force over the load, and how what was published differs from it.

Shares no code with flowstream: protobuf's own parser reads the messages, numpy does the sums.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.flow_message import body, flow_message
from bench.peers.jobs import JOBS, MS, WINDOW_MS

Keys = NDArray[np.int64]
Figures = NDArray[np.float64]
PAIR_BITS = 16  # of the place of a flow among its source's


@lru_cache(1 << 18)
def address(text: str) -> bytes:
    """Return a source address written as text or as hexadecimal digits, 16 bytes, IPv4 mapped."""
    packed = bytes.fromhex(text) if "." not in text and ":" not in text else ipaddress.ip_address(text).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


@dataclass(frozen=True)
class Expected:
    """The right results of a load. A key is a number made of source, window and, in job b, the two flows."""

    job: str
    source_number: dict[bytes, int]  # by mapped address
    first_window_ms: int
    last_window_ms: int
    keys: Keys  # ascending
    figures: Figures  # (keys, figures of the job)
    flow_place: dict[tuple[int, int], tuple[int, int, int]]  # job b: (partition, message) -> source, window, place

    def key(self, source: bytes, window_ms: int, first: int = 0, second: int = 0) -> int | None:
        """Return a result's key; None where the window is not one of the load's, -1 for an unknown source."""
        if not self.first_window_ms <= window_ms <= self.last_window_ms:
            return None
        number = self.source_number.get(source, -1)
        if number < 0 or window_ms % WINDOW_MS:
            return -1
        return self.key_of(number, window_ms, first, second)

    def key_of(self, number: int, window_ms: int, first: int = 0, second: int = 0) -> int:
        """Return the key of a known source."""
        base = number << 8 | (window_ms - self.first_window_ms) // WINDOW_MS
        return ((base << PAIR_BITS | first) << PAIR_BITS) | second


def expect(job: str, messages: Sequence[bytes], places: Sequence[tuple[int, int]]) -> Expected:
    """Return the right results of a job over messages that stand at ``places`` (partition, offset)."""
    parse = flow_message().FromString
    flows = [parse(body(message)) for message in messages]
    time_ns = np.array([f.time_received_ns for f in flows], np.int64)
    window = time_ns // MS // WINDOW_MS * WINDOW_MS
    addresses = [address(f.src_addr.hex()) for f in flows]
    number = {packed: at for at, packed in enumerate(sorted(set(addresses)))}
    source = np.array([number[packed] for packed in addresses], np.int64)
    whole = Expected(job, number, int(window.min()), int(window.max()), np.zeros(0, np.int64), np.zeros((0, 0)), {})
    # In order of (event time, partition, offset) within source and window.
    partition, offset = np.array(places, np.int64).T
    order = np.lexsort((offset, partition, time_ns, window, source))
    cuts = np.flatnonzero((np.diff(source[order]) != 0) | (np.diff(window[order]) != 0)) + 1
    groups = np.split(order, cuts)
    keys: list[Keys] = []
    figures: list[Any] = []
    flow_place: dict[tuple[int, int], tuple[int, int, int]] = {}
    sums = np.array([[f.bytes, f.packets, 1] for f in flows], np.float64)
    points = np.array([_point(f) for f in flows]) if job != "a" else np.zeros((0, 5))
    for group in groups:
        at = whole.key_of(int(source[group[0]]), int(window[group[0]]))
        if job == "a":
            keys.append(np.array([at]))
            figures.append(sums[group].sum(axis=0, keepdims=True))
            continue
        for place, row in enumerate(group.tolist()):
            flow_place[places[row]] = (int(source[row]), int(window[row]), place)
        first, second = np.triu_indices(len(group), 1)
        difference = points[group][first] - points[group][second]
        distance = np.sqrt((difference * difference).sum(axis=1))
        if job == "b":
            keys.append((at >> 2 * PAIR_BITS << PAIR_BITS | first) << PAIR_BITS | second)
            figures.append(distance[:, None])
        elif len(distance):
            keys.append(np.array([at]))
            summary = (len(group), len(distance), distance.min(), distance.max(), distance.mean())
            figures.append(np.array([summary]))
    joined = np.concatenate(keys)
    ascending = np.argsort(joined, kind="stable")
    return Expected(
        job, number, whole.first_window_ms, whole.last_window_ms, joined[ascending],
        np.concatenate(figures)[ascending], flow_place,
    )  # fmt: skip


def _point(flow: Any) -> tuple[float, ...]:
    lasted_s = max(0, flow.time_flow_end_ns - flow.time_flow_start_ns) / 1e9
    return lasted_s, 0.0, 0.0, float(flow.bytes), float(flow.packets)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How results differ from the right ones: numbers of keys. ``repeated`` are further messages of a key."""

    expected: int
    missing: int
    extra: int
    different: int
    repeated: int

    @property
    def equal(self) -> bool:
        """Whether every right result is there, and no other."""
        return not (self.missing or self.extra or self.different)

    def __str__(self) -> str:
        if self.equal:
            return "equal"
        named = (("missing", self.missing), ("extra", self.extra), ("different", self.different))
        return ", ".join(f"{count:,} {what}" for what, count in named if count) + f" of {self.expected:,}"


def judge(expected: Expected, keys: Keys, figures: Figures) -> Verdict:
    """Compare published results, in the order they were published: the last of a key counts.

    ``keys`` (n,), ``figures`` (n, figures of the job). A key of -1 is extra.
    """
    latest, at = np.unique(keys[::-1], return_index=True)
    figures = figures[::-1][at]
    known = np.isin(latest, expected.keys)
    place = np.searchsorted(expected.keys, latest[known])
    right = expected.figures[place]
    close = np.abs(figures[known] - right) <= JOBS[expected.job].rtol * np.abs(right)
    return Verdict(
        expected=len(expected.keys),
        missing=len(expected.keys) - int(known.sum()),
        extra=int(np.count_nonzero(~known)),
        different=int(np.count_nonzero(~close.all(axis=1))),
        repeated=len(keys) - len(latest),
    )
