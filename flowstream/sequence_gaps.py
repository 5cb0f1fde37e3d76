"""Gaps in the sequence numbers of exporters, followed from pane to pane.

An exporter may count in several places (sFlow sub-agents, observation domains, engines), and starts again when it
restarts. The rule: a number at most ``REACH`` ahead of a known one goes on counting there; one further away is of
another counter, or of one that started again, and says nothing of loss before it. Counters whose numbers lie closer to
each other than that pass for one, and hide what both lost.

Between two datagrams as many records are missing as lie between their numbers, less those of the one or the other,
whichever holds more: some exporters give the number of a datagram's first record, some (Open vSwitch) of its last.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray

from flowstream.errors import StateError
from flowstream.export_loss import BY_RECORDS, Loss, saturated_sum
from flowstream.grouping import group_rows
from flowstream.partials import Cube, PartialBatch

REACH = 1 << 12  # datagrams ahead: further on it is another counter, or one that started again
BEHIND = 1 << 6  # datagrams behind, likewise: the network brings them out of order by a few
RECORDS_PER_DATAGRAM = 32  # both distances times this where flow records are counted
COUNTERS_MAX = 16  # of one exporter and flow type; the one longest without a number makes room
FORGOTTEN_NS = 600 * 10**9  # a counter without a number for this long begins anew
VERSION = 1
MASK, HALF = 0xFFFF_FFFF, 1 << 31  # numbers have 32 bits, and go round


class _Counter(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a counter stands: its newest number, how many records its datagram held, and when it came."""

    number: int
    records: int
    time_ns: int


class _Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    swept: int
    counters: list[tuple[int, int, int, list[_Counter]]]  # address words, flow type


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The distinct numbers of a pane in the order of (owner, number), and the pieces they fall into.

    A piece is a run of one owner's numbers without a jump beyond ``REACH``; ``missing`` are those inside of it.
    """

    number: NDArray[np.int64]
    records: NDArray[np.int64]  # 1 each where datagrams are counted
    bounds: list[int]  # of the pieces
    owner: list[int]
    received: list[int]
    missing: list[int]


def _numbers(rows: PartialBatch, owner: NDArray[np.int64]) -> _Numbers:
    numbered = rows.bits != 0  # rows of exporters without numbers are there for their bytes
    rows, owner = rows.take(numbered), owner[numbered]
    groups = group_rows(owner, rows.key_3, rows.key_4)
    if not len(groups):
        nothing = np.zeros(0, np.int64)
        return _Numbers(nothing, nothing, [0], [], [], [])
    bits = np.bitwise_or.reduceat(rows.bits[groups.order], groups.bounds[:-1]).astype("<u8")
    place, low = np.nonzero(np.unpackbits(bits.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little"))
    owner, by_records = owner[groups.firsts][place], np.isin(rows.key_2[groups.firsts], BY_RECORDS)[place]
    number = (rows.key_3[groups.firsts].astype(np.int64)[place] << 6 | low) & MASK
    records = np.where(by_records, groups.sum(rows.records)[place], 1)
    # Numbers go round: they are put in order as seen from the lowest, half a turn to each side.
    lowest = number[np.searchsorted(owner, owner)]
    seen = (number - lowest + HALF) & MASK
    order = np.lexsort((seen, owner))
    number, records, owner, seen = number[order], records[order], owner[order], seen[order]
    step = np.diff(seen)
    reach = np.where(by_records[order], REACH * RECORDS_PER_DATAGRAM, REACH)[1:]
    cuts = (np.diff(owner) != 0) | (step > reach)
    missing = np.where(cuts, 0, np.maximum(0, step - np.maximum(records[1:], records[:-1])))
    begins = np.append(0, np.flatnonzero(cuts) + 1)
    return _Numbers(
        number, records, np.append(begins, len(number)).tolist(), owner[begins].tolist(),
        np.add.reduceat(records, begins).tolist(), np.add.reduceat(np.append(0, missing), begins).tolist(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Told:
    """What the rows of a pane tell, whoever follows them: the numbers of each owner, (exporter, flow type)."""

    words: NDArray[np.uint64]  # of the exporters, (owners, 2)
    types: NDArray[np.uint8]
    keys: list[tuple[int, int, int]]
    bytes: NDArray[np.int64]
    numbers: _Numbers


#: By panes that somebody still holds: every operator of a partition follows the same numbers on its own.
_told: WeakKeyDictionary[PartialBatch, _Told | None] = WeakKeyDictionary()


def _told_by(rows: PartialBatch) -> _Told | None:
    """Return what a pane's rows of cube SEQUENCE tell, None where there are none."""
    if rows not in _told:
        _told[rows] = _read(rows.take(rows.cube == Cube.SEQUENCE))
    return _told[rows]


def _read(rows: PartialBatch) -> _Told | None:
    if not len(rows):
        return None
    exporters = group_rows(rows.key_0, rows.key_1, rows.key_2)
    firsts = exporters.firsts
    owner = np.empty(len(rows), np.int64)
    owner[exporters.order] = np.repeat(np.arange(len(exporters)), exporters.sizes)
    words = np.stack([rows.key_0[firsts], rows.key_1[firsts]], axis=1)
    types = rows.key_2[firsts].astype(np.uint8)
    keys = [(high, low, kind) for (high, low), kind in zip(words.tolist(), types.tolist(), strict=True)]
    return _Told(words, types, keys, saturated_sum(exporters, rows.bytes), _numbers(rows, owner))


class LossTracker:
    """Follows the counters of all exporters from pane to pane."""

    def __init__(self) -> None:
        self._counters: dict[tuple[int, int, int], list[_Counter]] = {}
        self._swept = 0

    def take(self, rows: PartialBatch) -> Loss:
        """Take in the rows of a pane, of which those of cube SEQUENCE matter, and return what they say of it."""
        told = _told_by(rows)
        if told is None:
            return Loss.none()
        now_ns = int(rows.time_ns[0])
        self._sweep(now_ns)
        received, lost = [0] * len(told.keys), [0] * len(told.keys)
        numbers = told.numbers
        for piece, who in enumerate(numbers.owner):
            received[who] += numbers.received[piece]
            lost[who] += self._advance(told.keys[who], numbers, piece, now_ns)
        return Loss(told.words, told.types, np.array(received, np.int64), np.array(lost, np.int64), told.bytes)

    def _advance(self, key: tuple[int, int, int], numbers: _Numbers, piece: int, now_ns: int) -> int:
        """Let a counter go on over a piece; return how many are missing, less those that came late."""
        begin, end = numbers.bounds[piece], numbers.bounds[piece + 1]
        first, last = int(numbers.number[begin]), int(numbers.number[end - 1])
        size = RECORDS_PER_DATAGRAM if key[2] in BY_RECORDS else 1
        alive = [c for c in self._counters.get(key, ()) if now_ns - c.time_ns < FORGOTTEN_NS]
        near = [c for c in alive if _ahead(first, c) <= REACH * size and _ahead(last, c) >= -BEHIND * size]
        newest = _Counter(last, int(numbers.records[end - 1]), now_ns)
        if not near:
            kept = sorted(alive, key=lambda c: c.time_ns)[-(COUNTERS_MAX - 1) :]
            self._counters[key] = [*kept, newest]
            return numbers.missing[piece]
        counter = min(near, key=lambda c: abs(_ahead(first, c)))
        distance = _ahead(first, counter)
        if distance > 0:
            gap = max(0, distance - max(counter.records, int(numbers.records[begin])))
            missing = gap + numbers.missing[piece]
        else:
            missing = _beyond(counter, numbers.number[begin:end], numbers.records[begin:end])
        if _ahead(last, counter) > 0:
            counter.number, counter.records = newest.number, newest.records
        counter.time_ns = now_ns
        return missing

    def _sweep(self, now_ns: int) -> None:
        """Forget, now and then, the counters that go on no more."""
        if now_ns // FORGOTTEN_NS == self._swept:
            return
        self._swept = now_ns // FORGOTTEN_NS
        for key, counters in list(self._counters.items()):
            alive = [c for c in counters if now_ns - c.time_ns < FORGOTTEN_NS]
            if alive:
                self._counters[key] = alive
            else:
                del self._counters[key]

    def snapshot(self) -> bytes:
        """Return where all counters stand."""
        counters = [(*key, counters) for key, counters in sorted(self._counters.items())]
        return msgspec.msgpack.encode(_Snapshot(VERSION, self._swept, counters))

    def restore(self, state: bytes) -> None:
        """Take a snapshot; StateError where it is not one."""
        try:
            taken = msgspec.msgpack.decode(state, type=_Snapshot)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateError(f"not a snapshot of exporters' counters: {error}") from None
        if taken.version != VERSION:
            raise StateError(f"a snapshot of exporters' counters of version {taken.version}, not {VERSION}")
        for counter in (c for *_, counters in taken.counters for c in counters):
            if not (0 <= counter.number <= MASK and 0 <= counter.records < 1 << 63):
                raise StateError("a snapshot of exporters' counters that cannot be")
        self._swept = taken.swept
        self._counters = {(high, low, kind): counters for high, low, kind, counters in taken.counters}


def _ahead(number: int, counter: _Counter) -> int:
    """Return how far a number is ahead of a counter, negative if behind: the shorter way round."""
    return (number - counter.number + HALF & MASK) - HALF


def _beyond(counter: _Counter, number: NDArray[np.int64], records: NDArray[np.int64]) -> int:
    """Return what is missing beyond a counter in a piece that begins behind it, less what was missing and came now."""
    ahead = (number - counter.number + HALF & MASK) - HALF
    new = ahead > 0
    step = np.diff(ahead[new], prepend=0)
    before = np.append(counter.records, records[new])
    gaps = np.maximum(0, step - np.maximum(before[1:], before[:-1]))
    return int(gaps.sum()) - int(records[~new].sum())
