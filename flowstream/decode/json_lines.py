"""JSON messages to typed objects, a batch at a time, each message judged as if it were alone.

A message holds JSON objects (RFC 8259) with a line break between one and the next. One kernel walks all
messages and finds where each object begins and ends: outside strings, brackets balanced, nothing but white
space around. What passes that is handed to msgspec in one call, as one run of objects. This cannot glue
messages together: in valid JSON the walk and the parser agree on what is a string and how deep it is, so
once the run parses, the objects are those that the walk found. Where the run does not parse, its
objects are parsed one by one to find the bad ones, which costs about as much again and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from flowstream.batch import FlowBatch
from flowstream.decode.json_kernel import find_objects
from flowstream.decode.payloads import Decoded, Payloads
from flowstream.decode.text import MAX_TEXT
from flowstream.errors import Reason

MAX_PAYLOAD_BYTES = 16 << 20

T = TypeVar("T")

# Numbers as these formats hold them: absent, null and 0 are one, and a number may come as a string.
U8 = Annotated[int, Meta(ge=0, le=0xFF)] | None
U16 = Annotated[int, Meta(ge=0, le=0xFFFF)] | None
U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)] | None
U64 = Annotated[int, Meta(ge=0)] | None  # the parser has no bounds above 63 bits; Rows.record_id looks
U63 = Annotated[int, Meta(ge=0, le=0x7FFF_FFFF_FFFF_FFFF)] | None
Text = Annotated[str, Meta(max_length=MAX_TEXT)] | None  # bounded, because texts are kept as cache keys


@dataclass(frozen=True, slots=True)
class Objects(Generic[T]):
    """The objects of a batch, in order. ``message`` (n,) runs beside ``values``; ``reasons`` is per message.

    A reason of 0 says that nothing is wrong with the message so far.
    """

    values: list[T]
    message: NDArray[np.int64]
    reasons: NDArray[np.uint8]


def parse(
    payloads: Payloads, decoder: msgspec.json.Decoder[T], spare: Callable[[bytes], T | None] | None = None
) -> Objects[T]:
    """Parse every message; objects of a message with a bad one are left out, and the message has its reason.

    ``spare`` may give a stand-in for an object that ``decoder`` refuses, where it need not fit after all.
    """
    reasons = np.zeros(len(payloads), np.uint8)
    reasons[np.diff(payloads.bounds) > MAX_PAYLOAD_BYTES] = Reason.TOO_LARGE
    _reject_bad_utf8(payloads, reasons)
    spans = _spans(payloads, reasons)
    starts, ends = payloads.bounds[:-1], payloads.bounds[1:]
    good = reasons == 0
    text = payloads.buffer[payloads.bounds[0] : payloads.bounds[-1]]
    if not good.all():
        text = b"".join(map(payloads.buffer.__getitem__, map(slice, starts[good].tolist(), ends[good].tolist())))
    reasons[payloads.null] = 0
    try:
        values = decoder.decode_lines(text)
    except (ValueError, RecursionError):
        return _parse_each(payloads, decoder, spare, spans, reasons)
    return Objects(values, spans[:, 0], reasons)


def _reject_bad_utf8(payloads: Payloads, reasons: NDArray[np.uint8]) -> None:
    # The parser checks only the strings that it keeps, and what is rejected must not depend on that.
    if payloads.buffer.isascii():
        return
    for index, payload in enumerate(payloads.values()):
        try:
            payload.decode()
        except UnicodeDecodeError:
            reasons[index] = reasons[index] or Reason.MALFORMED


def _spans(payloads: Payloads, reasons: NDArray[np.uint8]) -> NDArray[np.int64]:
    buffer = np.frombuffer(payloads.buffer, np.uint8)
    spans = np.empty((len(payloads) + 16, 3), np.int64)
    before = reasons.copy()
    found = int(find_objects(buffer, payloads.bounds, reasons, spans))
    if found > len(spans):
        spans = np.empty((found, 3), np.int64)
        reasons[:] = before
        found = int(find_objects(buffer, payloads.bounds, reasons, spans))
    return spans[:found]


def _parse_each(
    payloads: Payloads,
    decoder: msgspec.json.Decoder[T],
    spare: Callable[[bytes], T | None] | None,
    spans: NDArray[np.int64],
    reasons: NDArray[np.uint8],
) -> Objects[T]:
    values: list[T] = []
    message: list[int] = []
    for index, begin, end in spans.tolist():
        if reasons[index]:
            continue
        text = payloads.buffer[begin:end]
        try:
            value = decoder.decode(text)
        except ValueError as error:
            stand_in = spare(text) if spare else None
            if stand_in is None:
                reasons[index] = _reason(error)
                continue
            value = stand_in
        values.append(value)
        message.append(index)
    kept = reasons[message] == 0 if message else np.zeros(0, np.bool_)
    values = [value for value, keep in zip(values, kept.tolist(), strict=True) if keep]
    return Objects(values, np.asarray(message, np.int64)[kept], reasons)


def _reason(error: ValueError) -> Reason:
    # msgspec tells a number outside its bounds from a wrong type by its text alone.
    if isinstance(error, msgspec.ValidationError) and ("`int` <=" in str(error) or "`int` >=" in str(error)):
        return Reason.OUT_OF_RANGE
    return Reason.OUT_OF_RANGE if "out of range" in str(error) else Reason.MALFORMED


def attributes(objects: Sequence[Any], name: str) -> list[Any]:
    """Return one attribute of every object; ``name`` may be dotted."""
    return list(map(attrgetter(name), objects))


def numbers(objects: Sequence[Any], name: str, dtype: str) -> NDArray[Any]:
    """Return one numeric attribute of every object as a column; None counts as 0."""
    try:
        return np.fromiter(map(attrgetter(name), objects), dtype, len(objects))
    except TypeError:
        return np.fromiter((value or 0 for value in attributes(objects, name)), dtype, len(objects))


def conclude(objects: Objects[Any], flows: FlowBatch, row_reasons: NDArray[np.uint8]) -> Decoded:
    """Close a batch: one row per object, of which a bad one rejects its whole message.

    ``row_reasons`` (n,) is 0 for a good row; the first bad row of a message names the reason.
    """
    reasons = objects.reasons.copy()
    bad = np.flatnonzero(row_reasons)[::-1]  # Backwards, so that the first of a message is written last.
    reasons[objects.message[bad]] = row_reasons[bad]
    kept = reasons[objects.message] == 0
    message = objects.message[kept]
    rows = flows if kept.all() else flows.take(kept)
    rows = rows.replace(origin_offset=message, origin_row=np.arange(len(message)) - np.searchsorted(message, message))
    rowless = reasons == 0
    rowless[message] = False
    rejected = np.flatnonzero(reasons)
    return Decoded(rows, rejected, reasons[rejected], np.flatnonzero(rowless))
