"""Who holds a flow: of the places that export records of it, each by its own clock, the one whose records count.

Samples of a busy flow meet in a pane. Flow records do not: two routers tell of a flow once in an active timeout each,
and in most panes a record is alone. So it is remembered, per flow (the five-tuple) and over panes, which place,
(exporter, in_if), told of it first. It is asked about flow records at places that are not known to be an edge, or none:

* A record of a flow that nobody holds is decided by its pane. If it counts, its place holds the flow from then on. (It
  does not where an edge or a packet sample counts in its stead: then nobody holds the flow.)
* As long as the holder tells of the flow at least every ``remember`` panes, records of other places do not count; its
  own are decided by their pane without them. Once it has been silent for longer, nobody holds the flow.
* Where ``flows_max`` flows are remembered a further one is not: it is decided by its panes. Of flows that are new in a
  pane those come first whose words are lower.

**Panes are asked about again** after a restart, those of the lookback, and the answer is what it was: an entry knows
since when its place holds the flow, when the former one last told of it, and when another place told of it first. It is
kept until nothing in the lookback can depend on it. A holder is remembered for the lookback at least: so there is never
a record of a former holder in a pane that can still be asked about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from flowstream import narrow
from flowstream.batch import FlowBatch
from flowstream.errors import StateError
from flowstream.flow_keys import FLOW_WORDS, Words, flow_words
from flowstream.grouping import group_rows
from flowstream.hashing import PROBES_PER_ROW, number_by_first, number_groups
from flowstream.holder_kernels import know, look_up, put, share, take_over, tell
from flowstream.spread import by_packets

VERSION: Final = 1
#: The words of the flow, of the exporter, and in_if.
_WORDS: Final = FLOW_WORDS + 3
#: Panes of an entry: since when its place holds the flow, when it last told of it, when the former holder did, and when
#: another place first told of it.
_SINCE, _LAST, _FORMER, _SHARED = range(4)
_NEVER: Final = -(1 << 62)  # of a former holder that there was not
_NOT_YET: Final = 1 << 62  # of another place
#: What is known of a row: nothing; its place holds the flow; it does, and another has told of it; another holds it.
BY_PANE, HOLDS, HOLDS_FIRST, ELSEWHERE = range(4)
_ENTRIES_MIN: Final = 1024
_PANE_MAX: Final = 1 << 60

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Told:
    """The rows of a pane that are asked about: ``at`` are their places in it, ``state`` says what is known of each."""

    at: Integers
    state: NDArray[np.uint8]
    words: Words
    entry: Integers  # -1: none
    pane: int
    is_new: bool  # no pane so late has been asked about before


class Holders:
    """What is remembered of the flows of a partition, over panes of ``pane_ns``.

    ``lookback`` is how many panes before the newest may be asked about again. ``refused`` counts the flows that could
    not be remembered, once in each pane.
    """

    def __init__(self, remember: int, lookback: int, flows_max: int, pane_ns: int) -> None:
        if min(remember, flows_max, pane_ns) < 1:
            raise ValueError(f"{flows_max} flows, for {remember} panes of {pane_ns} ns: nothing can be remembered")
        self._remember = max(remember, lookback)
        self._lookback = lookback
        self._flows_max = flows_max
        self._pane_ns = pane_ns
        self._newest: int | None = None
        self._flows = 0
        self._words: Words = np.empty((0, _WORDS), np.uint64)
        self._panes: Integers = np.empty((0, 4), np.int64)
        self._table = np.empty(0, np.int32)
        self._is_hashed = True  # False where too many flows share a slot, and are looked up in order instead
        self.refused = 0

    def __len__(self) -> int:
        return self._flows

    def ask(self, rows: FlowBatch, edge_unknown: NDArray[np.bool_]) -> Told | None:
        """Say what is known of a pane's flow records at such places, None where there are none.

        Of a pane later than all before it is remembered who told of what.
        """
        asked = by_packets(rows) & edge_unknown
        if not asked.any():
            return None
        at = np.flatnonzero(asked)
        words = _words(rows if len(at) == len(rows) else rows.take(at))
        pane = int(rows.peek("time_ns")[0]) // self._pane_ns
        is_new = self._newest is None or pane > self._newest
        if is_new:
            self._forget(pane)
            self._newest = pane
        entry, state = self._find(words), np.empty(len(at), np.uint8)
        if is_new:
            tell(entry, words, self._words, self._panes, pane, self._remember)
        know(entry, words, self._words, self._panes, pane, self._remember, state)
        return Told(at, state, words, entry, pane, is_new)

    def hold(self, told: Told, counts: NDArray[np.bool_]) -> None:
        """Remember of a new pane who holds the flows that nobody held; ``counts`` says which of the rows do."""
        open_ = np.flatnonzero(told.state == BY_PANE)
        if not told.is_new or not len(open_):
            return
        entry, words, won = told.entry[open_], told.words[open_], counts[open_]
        take_over(entry, words, won, self._words, self._panes, told.pane)
        unheard = np.flatnonzero(entry < 0)
        if len(unheard):
            flow, firsts = number_by_first(words[unheard, :FLOW_WORDS])
            row = np.full(len(firsts), -1)
            row[flow[won[unheard]]] = unheard[won[unheard]]
            number = np.full(len(firsts), -1)
            held = np.flatnonzero(row >= 0)
            held = self._admitted(held, words[row[held], :FLOW_WORDS])
            number[held] = self._add(words[row[held]], told.pane)
            entry[unheard] = number[flow]
        share(entry, words, self._words, self._panes, told.pane)

    def _admitted(self, flows: Integers, words: Words) -> Integers:
        """Return which of the flows there is room for."""
        room = max(0, self._flows_max - self._flows)
        if len(flows) <= room:
            return flows
        self.refused += len(flows) - room
        return flows[group_rows(*words.T).order[:room]]

    def _add(self, words: Words, pane: int) -> Integers:
        """Add entries of places that hold their flows since this pane, and return their numbers."""
        first, end = self._flows, self._flows + len(words)
        if end > len(self._words):
            room = max(_ENTRIES_MIN, 1 << (end - 1).bit_length())
            self._replace(self._words[:first], self._panes[:first], room)
        self._words[first:end] = words
        self._panes[first:end] = pane, pane, _NEVER, _NOT_YET
        self._flows = end
        self._number(first)
        return np.arange(first, end)

    def _forget(self, pane: int) -> None:
        """Let go, now and then and where there is no room, of what no pane that is still asked about depends on."""
        if self._newest is None:
            return
        if pane // self._remember == self._newest // self._remember and self._flows < self._flows_max:
            return
        kept = self._panes[: self._flows, _LAST] >= pane - self._remember - self._lookback
        if not kept.all():
            self._replace(self._words[: self._flows][kept], self._panes[: self._flows][kept], len(self._words))

    def _replace(self, words: Words, panes: Integers, room: int) -> None:
        """Put these in the place of what is remembered, with room for so many."""
        self._flows = len(words)
        self._words, self._panes = np.empty((room, _WORDS), np.uint64), np.empty((room, 4), np.int64)
        self._words[: self._flows], self._panes[: self._flows] = words, panes
        self._table = np.full(2 * room, -1, np.int32)
        self._is_hashed = True
        self._number(0)

    def _number(self, first: int) -> None:
        """Put entries from ``first`` on into the table."""
        probes = PROBES_PER_ROW * (self._flows - first) + 64
        self._is_hashed = self._is_hashed and put(self._words, first, self._flows, self._table, probes)

    def _find(self, words: Words) -> Integers:
        """Return the entry of each row's flow, -1 where there is none."""
        entry = np.full(len(words), -1)
        if self._flows == 0:
            return entry
        if self._is_hashed and look_up(words, self._words, self._table, entry, PROBES_PER_ROW * len(words) + 64):
            return entry
        both = np.concatenate([self._words[: self._flows, :FLOW_WORDS], words[:, :FLOW_WORDS]])
        number = number_by_first(both)[0][self._flows :]  # entries are numbered first, each by its own number
        return np.where(number < self._flows, number, -1)

    def snapshot(self) -> bytes:
        """Return what is remembered, in columns: panes as differences to the newest, as far as they matter."""
        words, panes, newest = self._words[: self._flows], self._panes[: self._flows], self._newest or 0
        place, places = number_groups(words[:, FLOW_WORDS:])
        ago = np.minimum(newest - panes[:, _SINCE], self._lookback + 1)
        former = np.where((ago <= self._lookback) & (panes[:, _FORMER] != _NEVER), newest - panes[:, _FORMER] + 1, 0)
        shared = np.where(
            panes[:, _SHARED] == _NOT_YET, 0, np.minimum(newest - panes[:, _SHARED], self._lookback + 1) + 1
        )
        columns = [
            words[:, 0], words[:, 1], words[:, 2], words[:, 3], words[:, 4] >> np.uint64(32),
            words[:, 4] & np.uint64(0xFFFF_FFFF), place, ago, newest - panes[:, _LAST], former, shared,
        ]  # fmt: skip
        packed = [narrow.pack(column) for column in columns]
        packed_places = [narrow.pack(places[:, n]) for n in range(places.shape[1])]
        return msgspec.msgpack.encode(_Snapshot(VERSION, self._newest, self._flows, packed, len(places), packed_places))

    def restore(self, state: bytes) -> None:
        """Take a snapshot; StateError where it is none."""
        try:
            taken = msgspec.msgpack.decode(state, type=_Snapshot)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateError(f"not a snapshot of who holds flows: {error}") from None
        if taken.version != VERSION or len(taken.columns) != 11 or len(taken.place_columns) != 3:
            raise StateError(f"a snapshot of who holds flows of version {taken.version}, not {VERSION}, or cut")
        columns, places = _unpacked(taken.columns, taken.flows), _unpacked(taken.place_columns, taken.places)
        place, ago, last, former, shared = (column.astype(np.int64) for column in columns[6:])
        newest = taken.newest or 0
        told = np.concatenate([ago, last, former, shared, place])
        if np.any(place >= taken.places) or np.any((told < 0) | (told > _PANE_MAX)) or not 0 <= newest <= _PANE_MAX:
            raise StateError("a snapshot of who holds flows that cannot be")
        words, panes = np.empty((taken.flows, _WORDS), np.uint64), np.empty((taken.flows, 4), np.int64)
        for n in range(FLOW_WORDS - 1):
            words[:, n] = columns[n]
        words[:, FLOW_WORDS - 1] = columns[4] << np.uint64(32) | columns[5]
        for n, column in enumerate(places):
            words[:, FLOW_WORDS + n] = column[place]
        panes[:, _SINCE], panes[:, _LAST] = newest - ago, newest - last
        panes[:, _FORMER] = np.where(former == 0, _NEVER, newest + 1 - former)
        panes[:, _SHARED] = np.where(shared == 0, _NOT_YET, newest + 1 - shared)
        self._newest = taken.newest
        self._replace(words, panes, max(_ENTRIES_MIN, 1 << max(0, taken.flows - 1).bit_length()))


class _Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    newest: int | None
    flows: int
    columns: list[bytes]
    places: int
    place_columns: list[bytes]


def _unpacked(columns: list[bytes], rows: int) -> list[Words]:
    for raw in columns:
        narrow.check(raw, rows, "u8")
    return [narrow.unpack(raw, rows, "u8") for raw in columns]


def _words(rows: FlowBatch) -> Words:
    words = np.empty((len(rows), _WORDS), np.uint64)
    words[:, :FLOW_WORDS], words[:, FLOW_WORDS : FLOW_WORDS + 2] = flow_words(rows), rows.exporter
    words[:, FLOW_WORDS + 2] = rows.in_if
    return words
