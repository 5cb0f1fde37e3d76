"""What the elephants operator remembers: sightings of flows, in arrays sorted by key.

A *sighting* is a flow (the five-tuple) at one (exporter, in_if), as samples or as records. Its key is eight
words, compared in this order, so that the sightings of a flow lie side by side:

    0-4 the flow (flow_keys.py)   5-6 exporter   7 kind << 32 | in_if     (kind 0: samples, 1: records)

Nothing here runs per row in Python, and nothing depends on how rows were cut into batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from flowstream.batch import Array, FlowBatch, FlowType, Quality
from flowstream.columns import picked
from flowstream.errors import StateError
from flowstream.flow_keys import FLOW_WORDS, Words, flow_words
from flowstream.grouping import group_rows

SAMPLES, RECORDS = 0, 1
KEY_WORDS = 8
SECOND_NS = 10**9
RECORD_FLOOR_NS = SECOND_NS  # a record counts as at least this long: shorter bursts make no elephant
VERSION = 1

Floats = NDArray[np.float64]

#: A sighting, apart from its ring. Sums of weights are in bytes x sampling rate.
SIGHTING = np.dtype(
    [
        ("key", "<u8", (KEY_WORDS,)),
        ("s", "<f8"),  # the CUSUM statistic
        ("s_base", "<f8"),  # records: the statistic before the current hull
        ("count", "<f8"),  # samples since the sighting is remembered,
        ("weight", "<f8"),  # and their weight: the mean weight is weight / count
        ("weight_max", "<f8"),  # largest sampled weight; 0 where everything is counted
        ("hull", "<f8", (3,)),  # records: samples, weight and variance of the current hull
        ("hull_start_ns", "<i8"),
        ("hull_end_ns", "<i8"),
        ("due_ns", "<i8"),  # the sighting is given up when nothing has come by then
        ("since_tick", "<i8"),  # first tick of the current run: where s left zero
        ("first_ns", "<i8"),  # first sample of the run
        ("last_ns", "<i8"),  # last sample
        ("told_tick", "<i8"),  # when it was last published
        ("below_ns", "<i8"),  # how long its upper bound has been under the offset level
        ("out_if", "<u4"),
        ("ttl", "u1"),  # highest seen
        ("active", "u1"),  # 1: it is the published sighting of an elephant
        ("fresh", "u1"),  # records: something came since it was last published
    ]
)


@dataclass(slots=True)
class Sightings:
    """Sightings in key order, and for each the samples, weight and variance of its recent ticks.

    ``ring`` is (rows, ticks, 3); tick ``t`` is in column ``t % ticks``. Records have no ring but a hull.
    """

    rows: NDArray[np.void]
    ring: Floats

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def none(cls, window_ticks: int) -> Sightings:
        """Return no sightings, with rings of ``window_ticks``."""
        return cls(np.zeros(0, SIGHTING), np.zeros((0, window_ticks, 3)))

    def take(self, index: Array | slice) -> Sightings:
        """Select sightings by mask, position or slice."""
        return Sightings(self.rows[index], self.ring[index])

    def with_keys(self, keys: Words) -> tuple[Sightings, NDArray[np.int64]]:
        """Return the sightings with those of ``keys`` (n, 8) added, and for each key its place among them."""
        known = len(self)
        groups = group_rows(*np.concatenate([self.rows["key"], keys]).T)
        place = np.empty(known + len(keys), np.int64)
        place[groups.order] = np.repeat(np.arange(len(groups)), groups.sizes)
        joined = Sightings(np.zeros(len(groups), SIGHTING), np.zeros((len(groups), *self.ring.shape[1:])))
        joined.rows["since_tick"] = joined.rows["told_tick"] = -1
        joined.rows["key"][place[known:]] = keys
        joined.rows[place[:known]], joined.ring[place[:known]] = self.rows, self.ring
        return joined, place[known:]

    @property
    def in_if(self) -> NDArray[np.uint32]:
        """Interface index of each sighting."""
        return self.rows["key"][:, 7].astype(np.uint32)

    def flow_bounds(self) -> NDArray[np.int64]:
        """Return where each flow begins, and the number of sightings at the end."""
        words = self.rows["key"][:, :FLOW_WORDS]
        begins = np.ones(len(words), np.bool_)
        begins[1:] = (words[1:] != words[:-1]).any(axis=1)
        return np.append(np.flatnonzero(begins), len(words)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Rows:
    """The usable rows of a pane as the test sees them, in the pane's order."""

    keys: Words  # (n, 8)
    time_ns: NDArray[np.int64]
    first_ns: NDArray[np.int64]  # of a sample its time, of a record its start
    last_ns: NDArray[np.int64]
    count: Floats  # samples
    weight: Floats  # bytes x sampling rate
    variance: Floats  # of the weight
    weight_max: Floats
    out_if: Array
    ttl: Array

    def __len__(self) -> int:
        return len(self.time_ns)

    def take(self, index: Array) -> Rows:
        """Select rows by mask."""
        return Rows(*(picked(getattr(self, name), index) for name in self.__slots__))

    @property
    def sampled(self) -> NDArray[np.bool_]:
        """Mark samples, as against records."""
        return np.asarray(self.keys[:, 7] >> np.uint64(32) == SAMPLES)

    @property
    def in_if(self) -> NDArray[np.uint32]:
        """Interface index of each row."""
        return self.keys[:, 7].astype(np.uint32)

    @property
    def paid_s(self) -> Floats:
        """Seconds that a record counts as."""
        return np.asarray(np.maximum(self.last_ns - self.first_ns, RECORD_FLOOR_NS) / SECOND_NS, np.float64)


def usable_rows(batch: FlowBatch) -> tuple[Rows, int]:
    """Return the rows that say something about a rate, and how many records were left out for want of times.

    A record whose start and end are unknown has no rate: to guess one is to see its total at once.
    The variance of a row of c samples of weight w in all is w^2 / c x (1 - 1 / N): zero when nothing was
    sampled (N = 1), the sum of squares otherwise.
    """
    times = batch.time_ns.astype(np.int64, copy=False)
    kind = ((batch.flow_type != FlowType.SFLOW_5) & (batch.flow_type != FlowType.UNKNOWN)).astype(np.uint64)
    start, end = batch.time_flow_start_ns.astype(np.int64), batch.time_flow_end_ns.astype(np.int64)
    doubted = (batch.quality.astype(np.uint8) & np.uint8(Quality.FLOW_TIMES_IMPLAUSIBLE)) != 0
    untimed = ((start <= 0) | (end < start) | doubted) & (kind == RECORDS)
    counted = batch.bytes.astype(np.float64)
    usable = (counted > 0) & ~untimed
    skipped = int(np.count_nonzero(untimed))
    if not usable.all():
        batch, kind, counted = batch.take(usable), kind[usable], counted[usable]
        start, end, times = start[usable], end[usable], times[usable]
    rate = np.maximum(batch.sampling_rate, 1).astype(np.float64)
    weight = counted * rate
    count = np.where(kind == RECORDS, np.maximum(batch.packets, 1), 1).astype(np.float64)
    keys = np.empty((len(batch), KEY_WORDS), np.uint64)
    keys[:, :FLOW_WORDS], keys[:, 5:7] = flow_words(batch), batch.exporter
    keys[:, 7] = kind << np.uint64(32) | batch.in_if.astype(np.uint64)
    records = kind == RECORDS
    first_ns, last_ns = np.where(records, start, times), np.where(records, end, times)
    return Rows(
        keys, times, first_ns, last_ns, count, weight,
        weight * weight / count * (1.0 - 1.0 / rate), np.where(rate > 1.0, weight / count, 0.0),
        batch.out_if, batch.ip_ttl,
    ), skipped  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cells:
    """Rows joined per sighting and tick, ordered by (tick, sighting)."""

    place: NDArray[np.int64]
    tick: NDArray[np.int64]
    sums: Floats  # (n, 3): samples, weight, variance
    weight_max: Floats
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]
    out_if: Array  # of the last row
    ttl: Array  # highest

    def at(self, tick: int) -> Cells:
        """Return the cells of one tick."""
        begin, end = np.searchsorted(self.tick, [tick, tick + 1])
        return self.take(slice(begin, end))

    def take(self, index: Array | slice) -> Cells:
        """Select cells."""
        return Cells(*(picked(getattr(self, name), index) for name in self.__slots__))


def cells_of(rows: Rows, place: NDArray[np.int64], tick: NDArray[np.int64]) -> Cells:
    """Join the rows that share a sighting and a tick. Records become the hull of their lives."""
    groups = group_rows(tick, place)
    begins, order, firsts = groups.bounds[:-1], groups.order, groups.firsts
    sums = np.zeros((len(groups), 3))
    if len(groups) == 0:
        nothing = np.zeros(0, np.int64)
        return Cells(nothing, nothing, sums, sums[:, 0], nothing, nothing, nothing, nothing)
    for column, values in enumerate((rows.count, rows.weight, rows.variance)):
        sums[:, column] = groups.sum(values)
    return Cells(
        place[firsts], tick[firsts], sums,
        np.maximum.reduceat(rows.weight_max[order], begins),
        np.minimum.reduceat(rows.first_ns[order], begins),
        np.maximum.reduceat(rows.last_ns[order], begins), rows.out_if[order[groups.bounds[1:] - 1]],
        np.maximum.reduceat(rows.ttl[order], begins),
    )  # fmt: skip


def suspects(rows: Rows, tick: NDArray[np.int64], load: Floats, known: Words) -> NDArray[np.bool_]:
    """Mark the rows of flows that can matter: those in ``known`` keys, and those that may leave zero.

    A statistic leaves zero only in a tick whose samples, or by a record whose bytes, outweigh the drift.
    ``load`` is each row's part of that drift, so a sighting can matter only if its loads add up to 1. They
    are added up in hashed buckets: two sightings in one bucket make a false suspect, never a missed one,
    and false suspects change no result. It spares the exact grouping of the many mice.
    """
    size = 1 << max(10, (2 * len(rows)).bit_length())
    mask = np.uint64(size - 1)
    flow = _mixed(rows.keys[:, :FLOW_WORDS], np.zeros(len(rows), np.uint64))
    ticks = np.where(rows.keys[:, 7] >> np.uint64(32) == SAMPLES, tick, 0).astype(np.uint64)
    bucket = (_mixed(rows.keys[:, FLOW_WORDS:], flow ^ ticks) & mask).astype(np.int64)
    loads = np.bincount(bucket, load, size)
    hot = np.zeros(size, np.bool_)
    flow_bucket = (flow & mask).astype(np.int64)
    hot[flow_bucket[loads[bucket] >= 1.0 - 1e-9]] = True
    hot[(_mixed(known[:, :FLOW_WORDS], np.zeros(len(known), np.uint64)) & mask).astype(np.int64)] = True
    return hot[flow_bucket]


def _mixed(words: Words, seed: Words) -> Words:
    mixed = seed
    for column in range(words.shape[1]):
        mixed = (mixed ^ words[:, column]) * np.uint64(0x9E37_79B9_7F4A_7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed


class _Snapshot(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """State in bytes: little-endian arrays. Of the rings only the ticks with samples are kept."""

    version: int
    tick_ns: int
    window_ticks: int
    rows: bytes
    ring_place: bytes  # uint32, row x window_ticks + column
    ring: bytes  # float64 x 3


def to_bytes(state: Sightings, tick_ns: int) -> bytes:
    """Return the state in bytes; the same state gives the same bytes."""
    flat = state.ring.reshape(-1, 3)
    place = np.flatnonzero(flat[:, 0])
    return msgspec.msgpack.encode(
        _Snapshot(
            VERSION, tick_ns, state.ring.shape[1], state.rows.tobytes(),
            place.astype("<u4").tobytes(), flat[place].astype("<f8").tobytes(),
        )
    )  # fmt: skip


def from_bytes(raw: bytes, tick_ns: int, window_ticks: int) -> Sightings:
    """Return the state that ``to_bytes`` wrote; StateError where it did not, or with other ticks."""
    try:
        told = msgspec.msgpack.decode(raw, type=_Snapshot)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StateError(f"elephants: the snapshot is not one of ours: {error}") from error
    if (told.version, told.tick_ns, told.window_ticks) != (VERSION, tick_ns, window_ticks):
        raise StateError(
            f"elephants: the snapshot is of version {told.version} with {told.window_ticks} ticks of "
            f"{told.tick_ns} ns, not of version {VERSION} with {window_ticks} ticks of {tick_ns} ns"
        )
    whole = not (len(told.rows) % SIGHTING.itemsize or len(told.ring_place) % 4)
    if not whole or len(told.ring) != len(told.ring_place) * 6:
        raise StateError("elephants: the snapshot's arrays are cut")
    rows = np.frombuffer(told.rows, SIGHTING).copy()
    place = np.frombuffer(told.ring_place, "<u4").astype(np.int64)
    ring = np.zeros((len(rows), window_ticks, 3))
    if len(place) and place.max() >= len(rows) * window_ticks:
        raise StateError("elephants: the snapshot's ring lies outside its rows")
    ring.reshape(-1, 3)[place] = np.frombuffer(told.ring, "<f8").reshape(-1, 3)
    return Sightings(rows, ring)
