"""What link use remembers: ports and exporters in key order, the intervals not yet told, the largest values of periods.

A port is one direction of an interface. The 95th percentile of n values by nearest rank, the ceil(0.95 n)-th smallest,
is the (n // 20 + 1)-th largest: so a twentieth of a period's values, and one more, are all that need be kept; and as
many of their lower and of their upper bounds, for the bounds of that rank (``flowstream/link_periods.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from flowstream import narrow
from flowstream.cube_sums import COUNTS, SPREAD, Sums
from flowstream.errors import StateError
from flowstream.hashing import number_groups
from flowstream.recent_losses import RecentLosses

VERSION = 2
NAME = "links"
NEVER = 1 << 62  # later than any interval
_HALF = (1 << 32) - 1
LOAD, LOW, HIGH = range(3)  # what is kept of a value

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

PORT = np.dtype(
    [
        ("key", "<u8", (3,)),  # exporter, ifIndex << 1 | is out
        ("first", "<i8"),  # number of the first interval that it had traffic in; NEVER until then
        ("weight_max", "<f8"),  # largest weight of a sample in the last told interval with traffic
        ("silent_weight", "<f8"),  # what one sample could have weighed where there was none, as of the last told
        ("span_bytes", "<i8"),  # of the running span of 5 minutes
        ("span_variance", "<f8"),
        ("span_weight_max", "<f8"),
        ("span_widening", "<f8"),  # by what the upper bound of its intervals was multiplied at the most
        ("hour_busy", "<i4"),  # intervals of the running hour with traffic
        ("day_busy", "<i4"),  # spans of the running day with traffic
        ("onset", "<i8"),  # when its load crossed the threshold, ns; 0: it is not over
        ("run", "<i4"),  # intervals in a row that would change that
        ("busy", "u1"),  # it had traffic in the last told interval
    ]
)
EXPORTER = np.dtype(
    [
        ("key", "<u8", (2,)),
        ("told", "<i8"),  # intervals below this number are told
        ("late_bytes", "<i8"),  # came for one of those since
        ("span", "<i8"),  # number of the running span, hour and day; -1: none yet
        ("hour", "<i8"),
        ("day", "<i8"),
        ("records", "u1"),  # it sent flow records, so its intervals wait
    ]
)


@dataclass(slots=True)
class LinkState:
    """All of it; ``hours`` and ``days`` hold the largest values of each port's period, 0 where there were fewer.

    They are (ports, 3, values): ``LOAD``, ``LOW`` and ``HIGH``, the largest of each on its own, bits per second.
    """

    hours: Integers
    days: Integers
    ports: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, PORT))
    exporters: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, EXPORTER))
    slots: dict[int, Sums] = field(default_factory=dict)  # by number of the interval, a row for each port
    losses: RecentLosses = field(default_factory=RecentLosses)
    exporter_of: Integers = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def none(cls, per_hour: int, per_day: int) -> LinkState:
        """Return no ports; so many of the largest values are kept of each period."""
        return cls(np.zeros((0, 3, per_hour), np.int64), np.zeros((0, 3, per_day), np.int64))

    def admit(self, keys: Words, ports_max: int) -> Integers:
        """Add ports for ``keys`` (n, 3) and return the place of each, -1 where ``ports_max`` are known already.

        Of those that are new together the first in key order are taken.
        """
        known = len(self.ports)
        every = np.concatenate([self.ports["key"], keys])
        number, _ = number_groups(np.ascontiguousarray(every[:, :2]))
        words = np.stack([number.astype(np.uint64) << np.uint64(33) | every[:, 2], np.zeros(len(every), np.uint64)], 1)
        group, found = number_groups(words)
        if len(found) == known:
            return group[known:]
        is_known = np.zeros(len(found), np.bool_)
        is_known[group[:known]] = True
        kept = is_known | (np.cumsum(~is_known) <= ports_max - known)
        place = np.where(kept, np.cumsum(kept) - 1, -1)[group]
        ports = np.zeros(int(kept.sum()), PORT)
        ports["first"] = NEVER
        ports["key"][place[place >= 0]] = every[place >= 0]
        self._rebuild(ports, place[:known])
        return place[known:]

    def forget(self, gone: NDArray[np.bool_]) -> None:
        """Drop ports, none of which may have traffic in an interval not yet told."""
        kept = np.flatnonzero(~gone)
        place = np.where(gone, -1, np.cumsum(~gone) - 1)
        self._rebuild(self.ports[kept].copy(), place)

    def _rebuild(self, ports: NDArray[np.void], place: Integers) -> None:
        """Put ``ports`` in the place of those there are, each of which moves to ``place`` (-1: it goes)."""
        stays = place >= 0
        to = place[stays]

        def moved(largest: Integers) -> Integers:
            fresh = np.zeros((len(ports), *largest.shape[1:]), np.int64)
            fresh[to] = largest[stays]
            return fresh

        ports[to] = self.ports[stays]
        self.hours, self.days = moved(self.hours), moved(self.days)
        for number, slot in self.slots.items():
            sums = Sums.zeros(len(ports))
            sums.counts[to], sums.spread[to] = slot.counts[stays], slot.spread[stays]
            self.slots[number] = sums
        self.ports = ports
        self.place_exporters()

    def place_exporters(self) -> None:
        """Make the exporters those of the ports, and note whose each port is."""
        before = self.exporters
        known = len(before)
        number, keys = number_groups(np.concatenate([before["key"], self.ports["key"][:, :2]]))
        exporters = np.zeros(len(keys), EXPORTER)
        exporters["key"] = keys
        for name in ("span", "hour", "day"):
            exporters[name] = -1
        exporters[number[:known]] = before
        used = np.zeros(len(keys), np.bool_)
        used[number[known:]] = True
        self.exporters = exporters[used]
        self.exporter_of = (np.cumsum(used) - 1)[number[known:]]

    def slot(self, number: int) -> Sums:
        """Return an interval's sums, new ones where there are none."""
        if number not in self.slots:
            self.slots[number] = Sums.zeros(len(self.ports))
        return self.slots[number]

    def to_bytes(self, shape: tuple[int, int]) -> bytes:
        """Return the state in bytes, equal ones for equal states; ``shape`` is what a reader must agree on."""
        slots = []
        for number, slot in sorted(self.slots.items()):
            place = np.flatnonzero(slot.counts[:, 2])
            columns = (place, *slot.counts[place].T, *slot.spread[place].view(np.int64).T)
            slots.append((number, len(place), [narrow.pack(np.ascontiguousarray(column)) for column in columns]))
        tables = [_packed_table(table) for table in (self.hours, self.days)]
        kept = (self.hours.shape[2], self.days.shape[2])
        exporters, losses = self.exporters.tobytes(), self.losses.snapshot()
        return msgspec.msgpack.encode(
            _Snapshot(NAME, VERSION, shape, kept, self.ports.tobytes(), exporters, slots, tables, losses)
        )

    @classmethod
    def from_bytes(cls, raw: bytes, shape: tuple[int, int], kept: tuple[int, int]) -> LinkState:
        """Return the state that ``to_bytes`` wrote; StateError where it did not, or with other settings."""
        try:
            told = msgspec.msgpack.decode(raw, type=_Snapshot)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StateError(f"{NAME}: the snapshot is not one of ours: {error}") from error
        if (told.operator, told.version, told.shape, told.kept) != (NAME, VERSION, shape, kept):
            raise StateError(
                f"{NAME}: a snapshot of {told.operator}, version {told.version}, intervals and reach {told.shape} ns, "
                f"not of {NAME}, version {VERSION}, {shape} ns; set link_use back, or recompute under another app name"
            )
        try:
            return cls._restored(told)
        except (ValueError, IndexError, StateError) as error:
            raise StateError(f"{NAME}: the snapshot's arrays do not fit: {error}") from error

    @classmethod
    def _restored(cls, told: _Snapshot) -> LinkState:
        state = cls.none(*told.kept)
        state.ports = np.frombuffer(told.ports, PORT).copy()
        exporters = np.frombuffer(told.exporters, EXPORTER).copy()
        state.exporters = exporters
        count = len(state.ports)
        state.place_exporters()
        if not np.array_equal(state.exporters, exporters):
            raise ValueError("exporters that are not those of the ports")
        tables = zip(told.kept, told.tables, strict=True)
        state.hours, state.days = (_unpacked_table(packed, count, width) for width, packed in tables)
        for number, rows, packed in told.slots:
            place, *sums = (_unpacked(raw, rows) for raw in packed)
            if len(sums) != len(COUNTS) + len(SPREAD) or not np.array_equal(place, np.unique(place)):
                raise ValueError("an interval that is cut")
            slot = state.slot(number)
            slot.counts[place] = np.stack(sums[: len(COUNTS)], axis=1)
            slot.spread[place] = np.stack(sums[len(COUNTS) :], axis=1).view(np.float64)
        state.losses.restore(told.losses)
        return state


class _Snapshot(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """State in bytes: records as they are, columns packed; of intervals only ports with traffic."""

    operator: str
    version: int
    shape: tuple[int, int]
    kept: tuple[int, int]
    ports: bytes
    exporters: bytes
    slots: list[tuple[int, int, list[bytes]]]  # number, ports, their places and sums
    tables: list[list[bytes]]
    losses: bytes


def _unpacked(raw: bytes, rows: int) -> Integers:
    narrow.check(raw, rows, "i8")
    return narrow.unpack(raw, rows, "i8")


def _packed_table(largest: Integers) -> list[bytes]:
    """Return a table as columns: loads, how far the lows are below and the highs above those of the same rank.

    A load of a fast link needs five bytes, so its upper and its lower half are packed on their own.
    """
    load, low, high = (-np.sort(-largest, axis=2)).transpose(1, 0, 2).reshape(3, -1)
    columns = (half for column in (load, load - low, high - load) for half in (column >> 32, column & _HALF))
    return [narrow.pack(column) for column in columns]


def _unpacked_table(packed: list[bytes], ports: int, width: int) -> Integers:
    """Return what ``_packed_table`` was given; ValueError where it cannot have been."""
    upper, lower = (np.stack([_unpacked(raw, ports * width) for raw in packed[half::2]]) for half in (0, 1))
    load, below, above = (upper << 32) + lower
    return np.stack([load, load - below, load + above]).reshape(3, ports, width).transpose(1, 0, 2).copy()
