"""The Avro bodies of ``distances`` records, written straight from the columns of their summaries.

A window says one record per source, so they are written by one compiled pass. The bytes are those of
fastavro's ``schemaless_writer`` for the same record: fields in the order of ``distances.v1.avsc``, an array
as one block, of a union first the index of its branch (Avro 1.11, "Binary Encoding").
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import fastavro
import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream.batch import FlowBatch
from flowstream.byte_column import ByteColumn, bytes_array
from flowstream.operators import Results
from flowstream.summaries import Summaries
from flowstream.text_kernels import DIGITS_MAX, VARINT_MAX, digits_of, put_bytes, put_digits, put_long, put_word
from flowstream.windows import Window

NO_LIMIT = np.iinfo(np.int64).max
BUFFER_BYTES = 1 << 20  # of bodies per call: they are sent on while they are still in the processor's cache
_NAME_ROOM = VARINT_MAX + 2 * DIGITS_MAX + 2  # beside the name of its source partition


class Sources(NamedTuple):
    """The sources of a window, one per group: texts of their addresses end to end, and their flows.

    Flows of source ``g``: ``bounds[g]:bounds[g + 1]`` of the group order; ``seen[g]`` of them before sampling.
    """

    addresses: NDArray[np.uint8]
    address_bounds: NDArray[np.int64]
    bounds: NDArray[np.int64]
    seen: NDArray[np.int64]


class _Pieces(NamedTuple):
    window: NDArray[np.uint8]  # window_start_ns, window_end_ns
    settings: NDArray[np.uint8]  # features, scaling
    figures: NDArray[np.int64]  # columns of the statistics, in the order of their fields
    top_k: int
    tail_max: int


class SummaryEncoder:
    """Writes the records of one configuration.

    ``figures`` are the columns of ``Outputs.statistics`` in the order of their fields (min, max, mean, p50, p90,
    p99, p999, tail_threshold). A record says ``pairs_truncated`` where its tail has more than ``tail_max`` pairs.
    """

    def __init__(
        self, features: Sequence[str], scaling: str, figures: Sequence[int], top_k: int, tail_max: int = NO_LIMIT
    ) -> None:
        settings = _encoded(({"type": "array", "items": "string"}, list(features)), ("string", scaling))
        self._settings = bytes_array(settings)
        self._figures = np.array(figures, np.int64)
        self._top_k = top_k
        self._tail_max = tail_max

    def results(
        self,
        window: Window,
        sources: Sources,
        part: Summaries,
        names: NDArray[np.uint8],
        name_bounds: NDArray[np.int64],
    ) -> Iterator[Results]:
        """Yield the results of the groups of a run of summaries of a window, about ``BUFFER_BYTES`` at a time.

        ``names`` are ``packed_names`` of the run's flows in group order.
        """
        times = bytes_array(_encoded(("long", window.start_ns), ("long", window.end_ns)))
        pieces = _Pieces(times, self._settings, self._figures, self._top_k, self._tail_max)
        groups, out = len(part.pairs), part.columns
        run = slice(part.first_group, part.first_group + groups + 1)
        own = sources._replace(
            address_bounds=sources.address_bounds[run], bounds=sources.bounds[run], seen=sources.seen[run]
        )
        keys = _keys(bytes_array(b"%d|" % window.start_ns), own.addresses, own.address_bounds)
        bits = (out.statistics.view(np.uint64), out.far_distance.view(np.uint64))
        name_max = int(np.diff(name_bounds).max())
        columns = (pieces, own, part.pairs, part.bin_bounds, out, *bits, names, name_bounds, name_max)
        size, first = BUFFER_BYTES, 0
        while first < groups:
            buffer, ends = np.empty(size, np.uint8), np.empty(groups + 1, np.int64)
            last = _write(*columns, first, buffer, ends)
            size = BUFFER_BYTES if last > first else 2 * size
            if last > first:
                mine = ByteColumn(keys.buffer, keys.bounds[first : last + 1])
                yield Results("distances", window.end_ns, mine, ByteColumn(buffer, ends[first : last + 1]))
            first = last


@njit(nogil=True, cache=True, error_model="numpy")
def _put_keys(head, addresses, address_bounds, buffer, bounds):  # type: ignore[no-untyped-def]
    at = 0
    for g in range(len(address_bounds) - 1):
        at = put_bytes(buffer, at, head, 0, len(head))
        at = put_bytes(buffer, at, addresses, address_bounds[g], address_bounds[g + 1])
        bounds[g + 1] = at


def _keys(head: NDArray[np.uint8], addresses: NDArray[np.uint8], address_bounds: NDArray[np.int64]) -> ByteColumn:
    groups, size = len(address_bounds) - 1, int(address_bounds[-1] - address_bounds[0])
    column = ByteColumn(np.empty(size + groups * len(head), np.uint8), np.zeros(groups + 1, np.int64))
    _put_keys(head, addresses, address_bounds, column.buffer, column.bounds)
    return column


def _encoded(*parts: tuple[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    for schema, value in parts:
        fastavro.schemaless_writer(buffer, schema, value)
    return buffer.getvalue()


def packed_names(
    rows: FlowBatch, index: NDArray[np.int64], origin_names: Mapping[int, str]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the names of rows as Avro strings end to end, and their bounds.

    A row is named by its own record id if it has one, else ``topic-partition-offset``, with ``-row`` if that is not 0.
    """
    record_ids, origins, offsets, lines = (
        np.ascontiguousarray(column[index])
        for column in (rows.record_id, rows.origin_id, rows.origin_offset, rows.origin_row)
    )
    ids = np.unique(origins)
    texts = [(origin_names.get(origin) or str(origin)).encode() for origin in ids.tolist()]
    text_bounds = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    name_max = max(map(len, texts), default=0) + _NAME_ROOM
    buffer, bounds = np.empty(name_max * len(index), np.uint8), np.zeros(len(index) + 1, np.int64)
    _put_names(record_ids, origins, offsets, lines, ids, bytes_array(b"".join(texts)), text_bounds, buffer, bounds)
    return buffer[: bounds[-1]], bounds


@njit(nogil=True, cache=True, error_model="numpy")
def _put_names(record_ids, origins, offsets, lines, ids, texts, text_bounds, buffer, bounds):  # type: ignore[no-untyped-def]
    at = 0
    for f in range(len(record_ids)):
        record, offset, line = record_ids[f], offsets[f], np.uint64(lines[f])
        if record:
            at = put_digits(buffer, put_long(buffer, at, np.int64(digits_of(record))), record)
        else:
            t = np.searchsorted(ids, origins[f])
            first, last = text_bounds[t], text_bounds[t + 1]
            size = np.uint64(-offset) if offset < 0 else np.uint64(offset)
            length = last - first + 1 + (offset < 0) + digits_of(size)
            at = put_long(buffer, at, length + (1 + digits_of(line) if line else 0))
            at = put_bytes(buffer, at, texts, first, last)
            buffer[at] = 45  # "-"
            at += 1
            if offset < 0:
                buffer[at] = 45
                at += 1
            at = put_digits(buffer, at, size)
            if line:
                buffer[at] = 45
                at = put_digits(buffer, at + 1, line)
        bounds[f + 1] = at


@njit(nogil=True, cache=True, error_model="numpy")
def _put_figures(buffer, at, pairs, figures, bits, own):  # type: ignore[no-untyped-def]
    at = put_long(buffer, at, pairs)
    for column in figures:
        if pairs == 0:
            buffer[at] = 0  # the union's first branch, null
            at += 1
        else:
            buffer[at] = 2  # its second, a double
            at = put_word(buffer, at + 1, bits[own, column])
    return at


@njit(nogil=True, cache=True, error_model="numpy")
def _put_histogram(buffer, at, bins, counts, a, b):  # type: ignore[no-untyped-def]
    at = put_long(buffer, at, 2 * (b - a))
    for t in range(a, b):
        number = bins[t]
        buffer[np.uint64(at)] = number & 0xFF
        buffer[np.uint64(at + 1)] = number >> 8
        at += 2
    at = put_long(buffer, at, 8 * (b - a))
    for t in range(a, b):
        at = put_word(buffer, at, np.uint64(counts[t]))
    return at


@njit(nogil=True, cache=True, error_model="numpy")
def _put_top(buffer, at, a, b, first_flows, second_flows, distance_bits, names, name_bounds, first):  # type: ignore[no-untyped-def]
    if a < b:
        at = put_long(buffer, at, b - a)
    for t in range(a, b):
        flow = first + first_flows[t]
        at = put_bytes(buffer, at, names, name_bounds[flow], name_bounds[flow + 1])
        flow = first + second_flows[t]
        at = put_bytes(buffer, at, names, name_bounds[flow], name_bounds[flow + 1])
        at = put_word(buffer, at, distance_bits[t])
    return put_long(buffer, at, 0)


@njit(nogil=True, cache=True, error_model="numpy")
def _put_tails(buffer, at, a, b, flows, pairs, names, name_bounds, first):  # type: ignore[no-untyped-def]
    if a < b:
        at = put_long(buffer, at, b - a)
    for t in range(a, b):
        flow = first + flows[t]
        at = put_bytes(buffer, at, names, name_bounds[flow], name_bounds[flow + 1])
        at = put_long(buffer, at, pairs[t])
    return put_long(buffer, at, 0)


@njit(nogil=True, cache=True, error_model="numpy")
def _write(  # type: ignore[no-untyped-def]
    pieces, sources, pairs, bin_bounds, out, figure_bits, distance_bits, names, name_bounds, name_max, start,
    buffer, ends,
):  # fmt: skip
    """Write the bodies of groups from ``start`` on while there surely is room; return the first one not written.

    Body ``g`` is ``buffer[ends[g]:ends[g + 1]]``.
    """
    # Fields of the tuples are taken out here: each time one is, the array's references are counted.
    window, settings, figures, top_k, tail_max = pieces
    addresses, address_bounds, bounds, seen = sources
    above, bins, counts = out.above, out.bins, out.counts
    far_bounds, far_first, far_second = out.far_bounds, out.far_first, out.far_second
    busy_bounds, busy_used, busy_flow, busy_pairs = out.busy_bounds, out.busy_used, out.busy_flow, out.busy_pairs
    at = 0
    ends[start] = 0
    for g in range(start, len(pairs)):
        first, flows = bounds[g] - bounds[0], bounds[g + 1] - bounds[g]
        a, b = bin_bounds[g], bin_bounds[g + 1]
        far, busy = far_bounds[g], busy_bounds[g]
        top = min(top_k, far_bounds[g + 1] - far)
        text, text_end = address_bounds[g], address_bounds[g + 1]
        room = text_end - text + len(window) + len(settings) + 9 * len(figures) + 10 * (b - a)
        room += top * (2 * name_max + 8) + busy_used[g] * (name_max + VARINT_MAX)
        room += 12 * VARINT_MAX  # more than there are lengths, numbers and booleans beside these
        if at + room > len(buffer):
            return g
        at = put_bytes(buffer, put_long(buffer, at, text_end - text), addresses, text, text_end)
        at = put_bytes(buffer, at, window, 0, len(window))
        at = put_long(buffer, put_long(buffer, at, flows), seen[g])
        buffer[at] = seen[g] > flows
        at = put_bytes(buffer, at + 1, settings, 0, len(settings))
        at = _put_figures(buffer, at, pairs[g], figures, figure_bits, g)
        at = put_long(buffer, at, above[g])
        buffer[at] = above[g] > tail_max
        at = _put_histogram(buffer, at + 1, bins, counts, a, b)
        at = _put_top(buffer, at, far, far + top, far_first, far_second, distance_bits, names, name_bounds, first)
        at = _put_tails(buffer, at, busy, busy + busy_used[g], busy_flow, busy_pairs, names, name_bounds, first)
        ends[g + 1] = at
    return len(pairs)
