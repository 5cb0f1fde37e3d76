"""FlowBatch: many flow records as columns, one numpy array each.

Rule 1: nothing past ``decode/`` sees a wire message, and nothing here works row by row.
Rule 2: an address is two ``uint64`` (high, low) of its 16 bytes in network order, IPv4 mapped into
        ``::ffff:0:0/96``, so that both families are one code path and compare in address order.
Rule 3: units are in the names: ``_ns`` nanoseconds since the Unix epoch (UTC). ``bytes`` and ``packets``
        are as the exporter counted them, not multiplied by the sampling rate.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import partial
from itertools import pairwise
from operator import is_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream.ordering import time_order

Array = NDArray[Any]  # a column: its type is in COLUMNS

V4_MAPPED = 0xFFFF_0000_0000  # the low word of ::ffff:0:0/96, above the 32 address bits


class FlowType(IntEnum):
    """What kind of export a row came from. 0 to 4 are the numbers of the GoFlow protobuf enum."""

    UNKNOWN = 0
    SFLOW_5 = 1
    NETFLOW_V5 = 2
    NETFLOW_V9 = 3
    IPFIX = 4
    EVENT = 16  # a two-way connection event (Suricata and its like)


class Quality(IntFlag):
    """What is doubtful about a row; set by decoders and ``normalise``, counted by the quality operator."""

    SAMPLING_RATE_UNKNOWN = 1  # the record said 0; a default was used
    FLOW_TIMES_IMPLAUSIBLE = 2  # start or end disagree with the receive time, which was used instead
    IN_IF_PSEUDO = 4  # in_if is not an interface (discard, multiple, internal)
    OUT_IF_PSEUDO = 8
    ZERO_BYTES = 16  # the record counts no bytes
    LATE = 32  # behind its source partition's watermark: published as late, in no window


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type, how many numbers wide a row is, and what it means."""

    dtype: str
    meaning: str
    width: int = 1


COLUMNS: Mapping[str, Column] = {
    "origin_id": Column("u4", "source partition: index of the input << 16 | partition"),
    "origin_offset": Column("i8", "offset of the message in its source partition"),
    "origin_row": Column("u4", "index of the row within its message"),
    "time_ns": Column("i8", "event time"),
    "time_received_ns": Column("i8", "when the collector received it"),
    "time_flow_start_ns": Column("i8", "first packet of the flow"),
    "time_flow_end_ns": Column("i8", "last packet of the flow"),
    "record_id": Column("u8", "the record's own id (eventid, flow_id); 0 where it has none"),
    "exporter": Column("u8", "exporter address (GoFlow: sampler address); zero where unknown", 2),
    "src_addr": Column("u8", "source address", 2),
    "dst_addr": Column("u8", "destination address", 2),
    "src_port": Column("u2", "source port"),
    "dst_port": Column("u2", "destination port"),
    "proto": Column("u1", "IP protocol number"),
    "ip_ttl": Column("u1", "time to live of the sampled packet; 0 where unknown"),
    "tcp_flags": Column("u2", "TCP flags, OR of the flow's packets"),
    "in_if": Column("u4", "ifIndex where it entered the exporter; 0 where unknown"),
    "out_if": Column("u4", "ifIndex where it left the exporter"),
    "bytes": Column("i8", "bytes from source to destination"),
    "packets": Column("i8", "packets from source to destination"),
    "in_bytes": Column("i8", "bytes from destination back to source; 0 in one-way records"),
    "in_packets": Column("i8", "packets from destination back to source; 0 in one-way records"),
    "sampling_rate": Column("u4", "N of 1-in-N"),
    "sequence_num": Column("u4", "export datagram's sequence number"),
    "flow_type": Column("u1", "FlowType"),
    "quality": Column("u1", "Quality flags"),
}


def _shape(name: str, rows: int) -> tuple[int, ...]:
    width = COLUMNS[name].width
    return (rows,) if width == 1 else (rows, width)


def _checked(rows: int, columns: Mapping[str, Array]) -> dict[str, Array]:
    unknown = set(columns) - set(COLUMNS)
    if unknown:
        raise ValueError(f"unknown columns {sorted(unknown)}")
    cast: dict[str, Array] = {}
    for name, column in columns.items():
        array = np.ascontiguousarray(column, dtype=COLUMNS[name].dtype)
        if array.shape != _shape(name, rows):
            raise ValueError(f"column {name} has shape {array.shape}, not {_shape(name, rows)}")
        cast[name] = array
    return cast


class FlowBatch:
    """Rows of flow records, column by column. Columns are attributes; every one has ``len(batch)`` rows.

    A batch may have a ``source`` that makes a column when it is first asked for: an analysis that looks at
    five columns then pays for five, all the way from the block they came in.
    """

    __slots__ = ("_columns", "_rows", "_source", "_unsorted")

    def __init__(
        self,
        columns: dict[str, Array],
        rows: int | None = None,
        source: Callable[[str], Array] | None = None,
        unsorted: FlowBatch | None = None,
    ) -> None:
        self._columns = columns
        self._rows = len(columns["time_ns"]) if rows is None else rows
        self._source = source
        self._unsorted = unsorted

    def __getattr__(self, name: str) -> Array:
        if name not in COLUMNS:
            raise AttributeError(name)
        return self.column(name)

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"FlowBatch({len(self)} rows)"

    def column(self, name: str) -> Array:
        """Return a column by name, and keep it."""
        if name not in self._columns:
            self._columns[name] = self.peek(name)
        return self._columns[name]

    @property
    def is_lazy(self) -> bool:
        """Whether columns may still have to be made."""
        return self._source is not None

    def peek(self, name: str) -> Array:
        """Return a column without keeping it: for batches made from this one, which keep what is theirs."""
        if name in self._columns or self._source is None:
            return self._columns[name]
        return self._source(name)

    @property
    def columns(self) -> Mapping[str, Array]:
        """All columns by name, in the order of ``COLUMNS``."""
        return {name: self.column(name) for name in COLUMNS}

    @classmethod
    def zeros(cls, rows: int) -> FlowBatch:
        """Return a batch of ``rows`` rows with every column zero, to be filled in."""
        return cls({name: np.zeros(_shape(name, rows), c.dtype) for name, c in COLUMNS.items()})

    @classmethod
    def of(cls, rows: int, columns: Mapping[str, Array]) -> FlowBatch:
        """Build a batch from some columns, cast to their types; the others are zero.

        Raises ValueError where a column is unknown or has another shape.
        """
        given = _checked(rows, columns)
        return cls({n: given[n] if n in given else np.zeros(_shape(n, rows), c.dtype) for n, c in COLUMNS.items()})

    @classmethod
    def concat(cls, batches: Iterable[FlowBatch]) -> FlowBatch:
        """Join batches end to end."""
        parts = [b for b in batches if len(b)]
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.zeros(0)
        if any(p.is_lazy for p in parts):
            rows, inner = sum(map(len, parts)), [p.in_any_order for p in parts]
            unsorted = None if all(map(is_, inner, parts)) else cls.concat(inner)
            return cls({}, rows, lambda name: np.concatenate([p.peek(name) for p in parts]), unsorted)
        return cls({name: np.concatenate([p.column(name) for p in parts]) for name in COLUMNS})

    def take(self, index: Array | slice) -> FlowBatch:
        """Select rows by position, by mask, or by slice (a slice copies nothing)."""
        if self._source is None:
            return FlowBatch({name: column[index] for name, column in self._columns.items()})
        rows = len(self.peek("time_ns")[index])
        return FlowBatch({}, rows, lambda name: self.peek(name)[index])

    def split(self, cuts: Sequence[int]) -> list[FlowBatch]:
        """Return the rows between cuts that follow each other; a column is made once for all of them."""
        parts = list(pairwise(cuts))
        if self._source is None:
            return [self.take(slice(a, b)) for a, b in parts]
        return [FlowBatch({}, b - a, partial(self._part, slice(a, b))) for a, b in parts]

    def _part(self, rows: slice, name: str) -> Array:
        return self.column(name)[rows]

    def replace(self, **columns: Array) -> FlowBatch:
        """Return the same rows with some columns replaced."""
        return FlowBatch({**self._columns, **_checked(len(self), columns)}, self._rows, self._source)

    def in_time_order(self) -> FlowBatch:
        """Sort by (event time, source partition, source offset, row in message): one order for one set."""
        return FlowBatch({}, len(self), _InTimeOrder(self), self)

    @property
    def in_any_order(self) -> FlowBatch:
        """The same rows in whatever order costs nothing: for what does not depend on it, such as a sum."""
        return self if self._unsorted is None else self._unsorted


class _InTimeOrder:
    """Makes the columns of a batch in time order; the order is made with the first of them."""

    def __init__(self, batch: FlowBatch) -> None:
        self._batch = batch
        self._order: NDArray[np.int64] | slice | None = None

    def __call__(self, name: str) -> Array:
        if self._order is None:
            self._order = self._ordered()
        ordered: Array = self._batch.peek(name)[self._order]
        return ordered

    def _ordered(self) -> NDArray[np.int64] | slice:
        return time_order(*map(self._batch.peek, ("time_ns", "origin_id", "origin_offset", "origin_row")))


def address_words(text: str) -> tuple[int, int]:
    """Return the (high, low) words of an IPv4 or IPv6 address given as text; ValueError if it is neither."""
    address = ipaddress.ip_address(text)
    number = int(address) | V4_MAPPED if address.version == 4 else int(address)
    return number >> 64, number & 0xFFFF_FFFF_FFFF_FFFF


def address_text(high: int, low: int) -> str:
    """Return the usual text of an address: dotted quad for IPv4-mapped, RFC 5952 for IPv6, "" for none."""
    if high == 0:
        if low == 0:
            return ""
        if low >> 32 == 0xFFFF:
            return f"{low >> 24 & 255}.{low >> 16 & 255}.{low >> 8 & 255}.{low & 255}"
    return str(ipaddress.IPv6Address(high << 64 | low))


def packed_to_words(packed: bytes) -> NDArray[np.uint64]:
    """Return the address columns (n, 2) of ``n`` concatenated 16-byte network-order addresses."""
    return np.frombuffer(packed, ">u8").astype(np.uint64).reshape(-1, 2)


def words_to_packed(words: Array) -> bytes:
    """Return (n, 2) address words as ``n`` concatenated 16-byte network-order addresses."""
    return words.astype(">u8").tobytes()
