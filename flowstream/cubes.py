"""Cubes: what the flows of a pane add to totals that are keyed by anything but their source.

    rows of a pane -> which of them count (flowstream/counting.py) -> sums by each cube -> PartialBatch

What counts is decided once for all cubes. Sums are of rows in time order, or of the sums of a finer cube in the
order of its keys, so that the same pane gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from flowstream.batch import Array, FlowBatch, FlowType
from flowstream.columns import picked
from flowstream.counting import Counted, CountOnce
from flowstream.cube_sums import COUNTS, SPREAD, Integers, Sums, united, weights
from flowstream.export_loss import BY_RECORDS
from flowstream.grouping import group_rows
from flowstream.hashing import number_groups
from flowstream.operators import Pane
from flowstream.partials import KEYS, PARTIAL_COLUMNS, Cube, PartialBatch

#: Makes the columns of a cube's partials from a pane, in key order: for cubes that are not sums of what counts.
Maker = Callable[[Pane], Mapping[str, Array]]

NO_NUMBER: Final = 64  # in the place of the low bits of a sequence number
OF_EVERY_ROW: Final = frozenset({Cube.COUNTING, Cube.SEQUENCE})  # other cubes are of the rows that count
WITH_PORTS: Final = (6, 17, 33, 132, 136)  # TCP, UDP, DCCP, SCTP, UDP-Lite


@dataclass(frozen=True, slots=True)
class CubesConfig:
    """Which cubes are summed up here; those that are made elsewhere are in ``others``, by their cube."""

    cubes: frozenset[Cube] = frozenset(set(Cube) - {Cube.INTERFACE, Cube.ELEPHANT_HOP})
    others: Mapping[Cube, Maker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [cube.name for cube in self.cubes if cube not in _MAKERS]
        if unknown or self.cubes & set(self.others):
            raise ValueError(f"cubes that are not summed up here, or twice: {unknown or sorted(self.others)}")


class _Counting:
    """A pane on its way to sums: what counts, and the numbers that its keys are told by, made when asked for."""

    def __init__(self, rows: FlowBatch, counted: Counted) -> None:
        self.every, self.counted = rows, counted
        self.sums_of_every = weights(rows)
        whole = bool(counted.counts.all())
        self.rows = rows if whole else rows.take(counted.counts)
        self.sums = self.sums_of_every if whole else self.sums_of_every.take(counted.counts)

    @cached_property
    def pairs(self) -> tuple[Integers, Array, Array]:
        """Each row's pair, the pairs as numbers of (source, destination), and the addresses, all in key order."""
        rows = len(self.rows)
        number, addresses = number_groups(np.concatenate([self.rows.src_addr, self.rows.dst_addr]))
        pair, keys = number_groups(np.stack([number[:rows], number[rows:]], axis=1).astype(np.uint64))
        return pair, keys, addresses

    @cached_property
    def sums_of_pairs(self) -> Sums:
        pair, keys, _ = self.pairs
        return self.sums.by(pair, len(keys))

    @cached_property
    def rules(self) -> Array:
        """By which rules rows count, as the bits of one number: of the pane, whatever key a row adds to."""
        return np.asarray(
            np.bitwise_or.reduce(np.uint64(1) << self.counted.rule[self.counted.counts].astype(np.uint64))
        )

    @cached_property
    def exporters(self) -> tuple[Integers, Array]:
        """Each row's exporter, of all rows, and the exporters in address order."""
        return number_groups(self.every.exporter)


def _addresses(pane: _Counting, side: int) -> dict[str, Array]:
    """Sum up by source (side 0) or destination (1), from the sums of pairs."""
    _, pairs, addresses = pane.pairs
    own = pairs[:, side].astype(np.int64)
    there = np.zeros(len(addresses), np.bool_)
    there[own] = True
    group = np.cumsum(there)[own] - 1
    keys = picked(addresses, there)
    return {"key_0": keys[:, 0], "key_1": keys[:, 1], **pane.sums_of_pairs.by(group, len(keys)).columns()}


def _source(pane: _Counting) -> dict[str, Array]:
    return _addresses(pane, 0)


def _destination(pane: _Counting) -> dict[str, Array]:
    return _addresses(pane, 1)


def _words_of(pairs: Array, addresses: Array) -> dict[str, Array]:
    sides = [picked(addresses, pairs[:, side].astype(np.int64)) for side in (0, 1)]
    return dict(zip(KEYS, (words[:, n] for words in sides for n in (0, 1)), strict=False))


def _pair(pane: _Counting) -> dict[str, Array]:
    _, keys, addresses = pane.pairs
    return {**_words_of(keys, addresses), **pane.sums_of_pairs.columns()}


def _conversation(pane: _Counting) -> dict[str, Array]:
    rows, (pair, keys, addresses) = pane.rows, pane.pairs
    ports = rows.src_port.astype(np.uint64) << np.uint64(32) | rows.dst_port.astype(np.uint64) << np.uint64(8)
    port, words = number_groups(_padded(ports | rows.proto))
    groups = group_rows(pair, port)
    group = np.empty(len(rows), np.int64)
    group[groups.order] = np.repeat(np.arange(len(groups)), groups.sizes)
    firsts = groups.firsts
    return {
        **_words_of(picked(keys, pair[firsts]), addresses),
        "key_4": words[port[firsts], 0],
        **pane.sums.by(group, len(groups)).columns(),
    }


def _port(pane: _Counting) -> dict[str, Array]:
    rows = pane.rows
    has_ports = np.zeros(256, np.bool_)
    has_ports[list(WITH_PORTS)] = True
    word = rows.proto.astype(np.uint64) << np.uint64(16) | service_port(rows.src_port, rows.dst_port)
    return _by_word(np.where(has_ports[rows.proto], word, word & ~np.uint64(0xFFFF)), pane.sums)


def service_port(src_port: Array, dst_port: Array) -> Array:
    """Return the port that names the service: the lower of the two, but not 0 where the other is known.

    Services have the lower ports by convention (IANA's ranges, RFC 6335); records say nothing of who began.
    """
    lower, higher = np.minimum(src_port, dst_port), np.maximum(src_port, dst_port)
    return np.where(lower == 0, higher, lower)


def _protocol(pane: _Counting) -> dict[str, Array]:
    return _by_word(pane.rows.proto.astype(np.uint64), pane.sums)


def _autonomous_systems(pane: _Counting) -> dict[str, Array]:
    rows = pane.rows
    return _by_word(rows.src_as.astype(np.uint64) << np.uint64(32) | rows.dst_as.astype(np.uint64), pane.sums)


def _by_word(word: Array, sums: Sums) -> dict[str, Array]:
    group, keys = number_groups(_padded(word))
    return {"key_0": keys[:, 0], **sums.by(group, len(keys)).columns()}


def _padded(word: Array) -> Array:
    words = np.zeros((len(word), 2), np.uint64)
    words[:, 0] = word
    return words


def _exporter_interface(pane: _Counting) -> dict[str, Array]:
    number, exporters = pane.exporters
    own = number[pane.counted.counts]
    group, keys = number_groups(np.stack([own.astype(np.uint64), pane.rows.in_if.astype(np.uint64)], axis=1))
    words = picked(exporters, keys[:, 0].astype(np.int64))
    return {
        "key_0": words[:, 0], "key_1": words[:, 1], "key_2": keys[:, 1], **pane.sums.by(group, len(keys)).columns(),
    }  # fmt: skip


def _counting(pane: _Counting) -> dict[str, Array]:
    """Sum up all rows by what became of them."""
    return _by_word(pane.counted.rule.astype(np.uint64) << np.uint64(1) | pane.counted.counts, pane.sums_of_every)


def _sequence(pane: _Counting) -> dict[str, Array]:
    """Say which numbers came, and how many records; bytes are those that count, to weigh exporters by.

    Where the event time is not that of arrival, a pane holds records of datagrams of any time, and where there is no
    exporter there are no numbers: such rows stand under no number, for their bytes.
    """
    rows, (number, exporters) = pane.every, pane.exporters
    kinds = rows.flow_type
    numbered = (kinds >= FlowType.SFLOW_5) & (kinds <= FlowType.IPFIX) & (rows.time_ns == rows.time_received_ns)
    sequence = np.where(numbered, rows.sequence_num, np.uint32(0)).astype(np.uint64)
    low = sequence & np.uint64(63)
    bits = np.where(numbered, np.uint64(1) << low, np.uint64(0))
    by_records = np.isin(kinds, BY_RECORDS) & numbered
    # Where datagrams are counted, 64 numbers share a row; where records are, the records of each must be told.
    high, low = (sequence >> np.uint64(6)) << np.uint64(7), np.where(by_records, low, np.uint64(0))
    place = high | np.where(numbered, low, np.uint64(NO_NUMBER))
    owner = number.astype(np.uint64) << np.uint64(8) | kinds
    group, keys = number_groups(np.stack([owner, place], axis=1))
    counts = np.where(pane.counted.counts[:, None], pane.sums_of_every.counts, 0)
    counts[:, COUNTS.index("records")] = 1
    sums = Sums(counts, np.zeros((len(rows), len(SPREAD)))).by(group, len(keys))
    words = picked(exporters, (keys[:, 0] >> np.uint64(8)).astype(np.int64))
    return {
        "key_0": words[:, 0],
        "key_1": words[:, 1],
        "key_2": keys[:, 0] & np.uint64(0xFF),
        "key_3": keys[:, 1] >> np.uint64(7),
        "key_4": keys[:, 1] & np.uint64(127),
        **sums.columns(),
        "bits": united(group, bits, len(keys)),
    }


_MAKERS: Final[Mapping[Cube, Callable[[_Counting], dict[str, Array]]]] = {
    Cube.SOURCE: _source,
    Cube.DESTINATION: _destination,
    Cube.PAIR: _pair,
    Cube.CONVERSATION: _conversation,
    Cube.PORT: _port,
    Cube.PROTOCOL: _protocol,
    Cube.AS: _autonomous_systems,
    Cube.EXPORTER_INTERFACE: _exporter_interface,
    Cube.COUNTING: _counting,
    Cube.SEQUENCE: _sequence,
}


class CubesOf:
    """Sums up panes of flows."""

    def __init__(self, config: CubesConfig, counting: CountOnce) -> None:
        self.config = config
        self._counting = counting

    def of(self, pane: Pane, partition: int) -> PartialBatch:
        """Return the sums of a pane of a flows partition, in the order of (cube, keys); ``origin_row`` counts up."""
        if not len(pane.rows):
            return PartialBatch.zeros(0)
        counting = _Counting(pane.rows, self._counting.in_time_order(pane.rows))
        made: dict[Cube, Mapping[str, Array]] = {cube: _MAKERS[cube](counting) for cube in self.config.cubes}
        for cube in self.config.cubes - OF_EVERY_ROW:
            made[cube] = {**made[cube], "bits": counting.rules}
        made |= {cube: make(pane) for cube, make in self.config.others.items()}
        return _joined(made, pane, partition)


def _joined(made: Mapping[Cube, Mapping[str, Array]], pane: Pane, partition: int) -> PartialBatch:
    sizes = {cube: len(made[cube]["bytes"]) for cube in sorted(made)}
    total = sum(sizes.values())
    joined = {name: column.zeros(total) for name, column in PARTIAL_COLUMNS.items()}
    joined["origin_id"][:], joined["origin_offset"][:] = partition, pane.index
    joined["origin_row"][:], joined["time_ns"][:] = np.arange(total), pane.start_ns
    begin = 0
    for cube, size in sizes.items():
        joined["cube"][begin : begin + size] = cube
        for name, column in made[cube].items():
            joined[name][begin : begin + size] = column
        begin += size
    return PartialBatch(joined, total)
