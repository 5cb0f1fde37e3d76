"""The kernel that finds the JSON objects of messages, so that a parser can take all of them in one go."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream.decode.payloads import ROWS_PER_MESSAGE_MAX
from flowstream.errors import Reason

MAX_DEPTH = 64  # of brackets; far below the parser's own limit, which depends on the caller's stack

_Bytes = NDArray[np.uint8]
_Spans = NDArray[np.int64]

_EMPTY, _TRUNCATED, _MALFORMED = int(Reason.EMPTY), int(Reason.TRUNCATED), int(Reason.MALFORMED)
_TOO_LARGE = int(Reason.TOO_LARGE)

_PLAIN, _QUOTE, _ESCAPE, _OPEN, _CLOSE = range(5)

_CLASSES = np.full(256, _PLAIN, np.uint8)
_CLASSES[[0x22]] = _QUOTE
_CLASSES[[0x5C]] = _ESCAPE
_CLASSES[[0x5B, 0x7B]] = _OPEN
_CLASSES[[0x5D, 0x7D]] = _CLOSE


@njit(nogil=True, cache=True, error_model="numpy")
def _end_of_object(buffer: _Bytes, p: int, end: int) -> int:
    """Return where the object that begins at ``p`` ends; minus a Reason where it does not."""
    depth, quoted = 0, False
    while p < end:
        kind = _CLASSES[buffer[p]]
        p += 1
        if kind == _PLAIN:
            continue
        if kind == _QUOTE:
            quoted = not quoted
        elif quoted:
            p += 1 if kind == _ESCAPE else 0
        elif kind == _OPEN:
            depth += 1
            if depth > MAX_DEPTH:
                return -_MALFORMED
        elif kind == _CLOSE:
            depth -= 1
            if depth == 0:
                return p
    return -_TRUNCATED


@njit(nogil=True, cache=True, error_model="numpy")
def _next_object(buffer: _Bytes, p: int, end: int, line_ended: bool) -> int:  # noqa: FBT001 - no keywords here
    """Return where the next object begins, ``end`` where none is left; minus MALFORMED at anything else."""
    while p < end:
        byte = buffer[p]
        if byte == 0x7B:
            return p if line_ended else -_MALFORMED
        if byte == 0x0A:
            line_ended = True
        elif byte not in (0x20, 0x09, 0x0D):
            return -_MALFORMED
        p += 1
    return end


@njit(nogil=True, cache=True, error_model="numpy")
def find_objects(buffer: _Bytes, bounds: NDArray[np.int64], reasons: _Bytes, spans: _Spans) -> int:
    """Find the objects of each message whose reason is 0, and set it where a message is not objects in lines.

    ``spans`` is (capacity, 3): message, begin, end. Returns how many objects there are; where that is more
    than the capacity, only the first are stored and the caller comes again with room.

    A message of more objects than a message may have rows is TOO_LARGE: an object of two bytes takes 250 times as many
    once it is parsed.
    """
    found = 0
    for m in range(len(reasons)):
        if reasons[m] != 0:
            continue
        first, end = found, bounds[m + 1]
        p = _next_object(buffer, bounds[m], end, True)  # noqa: FBT003
        while 0 <= p < end:
            begin = p
            p = _end_of_object(buffer, begin, end)
            if p >= 0:
                if found < len(spans):
                    spans[found, 0], spans[found, 1], spans[found, 2] = m, begin, p
                found += 1
                p = _next_object(buffer, p, end, False) if found - first <= ROWS_PER_MESSAGE_MAX else -_TOO_LARGE  # noqa: FBT003
        if p < 0 or found == first:
            reasons[m] = -p if p < 0 else _EMPTY if bounds[m] == end else _MALFORMED
            found = first
    return found
