"""Pairs of flows as results in columns: keys and Avro bodies written by one compiled pass.

A pair alone is a ``distance_pairs`` record. All pairs of a source in blocks are ``distance_pair_blocks``: its flows
are named first, then come the distances in condensed order. Bytes are those of fastavro for the same records.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream.byte_column import ByteColumn, bytes_array
from flowstream.operators import Results
from flowstream.text_kernels import DIGITS_MAX, VARINT_MAX, long_size, put_bytes, put_digits, put_long, put_word
from flowstream.windows import Window

PAIRS_STREAM = "distance-pairs"
BLOCKS_STREAM = "distance-pair-blocks"
BLOCK_BYTES_MAX = 512_000  # half of Kafka's default limit of a message
MS = 1_000_000
_FLOWS = bytes_array(b"|flows|")
_PAIRS = bytes_array(b"|pairs|")


class Flows(NamedTuple):
    """The flows of a run of sources, in group order.

    Source ``g`` has the address ``addresses[address_bounds[g]:address_bounds[g + 1]]`` and flows ``bounds[g]`` to
    ``bounds[g + 1]``. Flow ``f`` has the name ``names[name_bounds[f]:name_bounds[f + 1]]``, an Avro string with its
    length, and its event time in milliseconds.
    """

    addresses: NDArray[np.uint8]
    address_bounds: NDArray[np.int64]
    bounds: NDArray[np.int64]
    names: NDArray[np.uint8]
    name_bounds: NDArray[np.int64]
    times_ms: NDArray[np.int64]


class Pairs(NamedTuple):
    """Pairs of flows: the source of each, the places of both flows among its own, and their distance."""

    source: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distance: NDArray[np.float64]

    def take(self, start: int, stop: int) -> Pairs:
        """Return pairs ``start`` to ``stop``."""
        own = slice(start, stop)
        return Pairs(self.source[own], self.first[own], self.second[own], self.distance[own])


def records(window: Window, flows: Flows, pairs: Pairs) -> Results:
    """Return the record of each pair."""
    name_max, address_max = _longest(flows.name_bounds), _longest(flows.address_bounds)
    head = _head(window)
    count = len(pairs.source)
    keys = np.empty(count * (len(head) + address_max + 2 + 2 * name_max), np.uint8)
    bodies = np.empty(count * (2 * name_max + 3 * VARINT_MAX + 8), np.uint8)
    key_bounds, body_bounds = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    words = pairs.distance.view(np.uint64)
    columns = (pairs.source, pairs.first, pairs.second, words)
    _put_records(head, window.end_ns // MS, *flows, *columns, keys, key_bounds, bodies, body_bounds)
    return Results(PAIRS_STREAM, window.end_ns, ByteColumn(keys, key_bounds), ByteColumn(bodies, body_bounds))


def blocks(window: Window, flows: Flows, distances: NDArray[np.float64]) -> Results:
    """Return the blocks of every source with a pair; ``distances`` are those of all sources, in condensed order."""
    sizes = np.diff(flows.bounds)
    pairs = sizes * (sizes - 1) // 2
    named = np.diff(flows.name_bounds[flows.bounds]) + VARINT_MAX * sizes
    # Two blocks of names in a row are together longer than one may be.
    most = int((2 * (named // BLOCK_BYTES_MAX) + pairs * 8 // BLOCK_BYTES_MAX + 3).sum())
    head, address_max = _head(window), _longest(flows.address_bounds)
    keys = np.empty(most * (len(head) + address_max + len(_FLOWS) + DIGITS_MAX), np.uint8)
    bodies = np.empty(int(named.sum()) + 8 * len(distances) + most * (address_max + 14 * VARINT_MAX), np.uint8)
    key_bounds, body_bounds = np.zeros(most + 1, np.int64), np.zeros(most + 1, np.int64)
    packed = distances.astype("<f8", copy=False).view(np.uint8)
    count = _put_blocks(
        head, window.start_ns, window.end_ns, *flows, packed, BLOCK_BYTES_MAX, keys, key_bounds, bodies, body_bounds
    )
    key_column, body_column = ByteColumn(keys, key_bounds[: count + 1]), ByteColumn(bodies, body_bounds[: count + 1])
    return Results(BLOCKS_STREAM, window.end_ns, key_column, body_column)


def _head(window: Window) -> NDArray[np.uint8]:
    return bytes_array(b"%d|" % window.start_ns)


def _longest(bounds: NDArray[np.int64]) -> int:
    return int(np.diff(bounds).max(initial=0))


@njit(nogil=True, cache=True, error_model="numpy")
def _text_of(names, at):  # type: ignore[no-untyped-def]
    """Return where the text of an Avro string begins."""
    while names[at] >= 0x80:
        at += 1
    return at + 1


@njit(nogil=True, cache=True, error_model="numpy")
def _put_records(  # type: ignore[no-untyped-def]
    head, end_ms, addresses, address_bounds, bounds, names, name_bounds, times_ms, source, first, second, words,
    keys, key_bounds, bodies, body_bounds,
):  # fmt: skip
    key, body = 0, 0
    for p in range(len(source)):
        g = source[p]
        i, j = bounds[g] + first[p], bounds[g] + second[p]
        a, a_end, b, b_end = name_bounds[i], name_bounds[i + 1], name_bounds[j], name_bounds[j + 1]
        key = put_bytes(keys, key, head, 0, len(head))
        key = put_bytes(keys, key, addresses, address_bounds[g], address_bounds[g + 1])
        keys[key] = 124  # "|"
        key = put_bytes(keys, key + 1, names, _text_of(names, a), a_end)
        keys[key] = 124
        key = put_bytes(keys, key + 1, names, _text_of(names, b), b_end)
        key_bounds[p + 1] = key
        body = put_long(bodies, put_bytes(bodies, body, names, a, a_end), times_ms[i])
        body = put_long(bodies, put_bytes(bodies, body, names, b, b_end), times_ms[j])
        body = put_long(bodies, put_word(bodies, body, words[p]), end_ms)
        body_bounds[p + 1] = body


@njit(nogil=True, cache=True, error_model="numpy")
def _put_key(keys, at, head, address, kind, number):  # type: ignore[no-untyped-def]
    at = put_bytes(keys, at, head, 0, len(head))
    at = put_bytes(keys, at, address, 0, len(address))
    at = put_bytes(keys, at, kind, 0, len(kind))
    return put_digits(keys, at, np.uint64(number))


@njit(nogil=True, cache=True, error_model="numpy")
def _put_start(bodies, at, address, start_ns, end_ns, count, first):  # type: ignore[no-untyped-def]
    at = put_bytes(bodies, put_long(bodies, at, len(address)), address, 0, len(address))
    at = put_long(bodies, put_long(bodies, at, start_ns), end_ns)
    return put_long(bodies, put_long(bodies, put_long(bodies, at, count), count * (count - 1) // 2), first)


@njit(nogil=True, cache=True, error_model="numpy")
def _put_names(bodies, at, names, name_bounds, times_ms, first, last):  # type: ignore[no-untyped-def]
    """Write the arrays of names and times of flows ``first`` to ``last``, one at the least."""
    at = put_long(bodies, at, last - first)
    at = put_bytes(bodies, at, names, name_bounds[first], name_bounds[last])
    at = put_long(bodies, put_long(bodies, at, 0), last - first)
    for f in range(first, last):
        at = put_long(bodies, at, times_ms[f])
    return put_long(bodies, at, 0)


@njit(nogil=True, cache=True, error_model="numpy")
def _put_blocks(  # type: ignore[no-untyped-def]
    head, start_ns, end_ns, addresses, address_bounds, bounds, names, name_bounds, times_ms, packed, bytes_max,
    keys, key_bounds, bodies, body_bounds,
):  # fmt: skip
    key, body, made, done = 0, 0, 0, 0
    for g in range(len(bounds) - 1):
        a, count = bounds[g], bounds[g + 1] - bounds[g]
        if count < 2:
            continue
        address = addresses[address_bounds[g] : address_bounds[g + 1]]
        first = a
        while first < a + count:
            last, size = first, 0
            while last < a + count:
                size += name_bounds[last + 1] - name_bounds[last] + long_size(times_ms[last])
                if size > bytes_max and last > first:
                    break
                last += 1
            key = _put_key(keys, key, head, address, _FLOWS, first - a)
            body = _put_start(bodies, body, address, start_ns, end_ns, count, first - a)
            body = _put_names(bodies, body, names, name_bounds, times_ms, first, last)
            body = put_long(bodies, put_long(bodies, body, 0), 0)
            made += 1
            key_bounds[made], body_bounds[made] = key, body
            first = last
        length, step = 8 * (count * (count - 1) // 2), bytes_max // 8 * 8
        for at in range(0, length, step):
            size = min(step, length - at)
            key = _put_key(keys, key, head, address, _PAIRS, at // 8)
            body = _put_start(bodies, body, address, start_ns, end_ns, count, 0)
            body = put_long(bodies, put_long(bodies, put_long(bodies, body, 0), 0), at // 8)
            body = put_bytes(bodies, put_long(bodies, body, size), packed, done + at, done + at + size)
            made += 1
            key_bounds[made], body_bounds[made] = key, body
        done += length
    return made
