"""One source partition on its way to the flows topic: decode, normalise, judge lateness, route, cut blocks.

Lateness is judged here, row by row, against the source partition's own running watermark: a row is late
iff its event time lies before ``max(event times before it) - out-of-orderness``. That rests on the order of
the log alone, so batch boundaries and other partitions cannot change the verdict. A row on time by this rule
always finds its pane open, because a flows partition's watermark is a minimum over source partitions.

What a row does to the watermark is bounded by the log's own clock, the timestamp of its Kafka record: an exporter
whose clock runs ahead closes nobody's window before its time, and one whose clock runs far behind does not hold
windows open for ever.

The state is one number, the watermark, and it belongs to an offset: callers keep the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import Array, FlowBatch, Quality
from flowstream.blocks import Block, SourcePartition, origin_id
from flowstream.decode import DecodeContext, Payloads, decode
from flowstream.decode.payloads import ROWS_PER_MESSAGE_MAX
from flowstream.errors import Reason
from flowstream.normalise import Normalisation, normalise


@dataclass(frozen=True, slots=True)
class IngestConfig:
    """What is the same for every source partition."""

    sources: tuple[tuple[str, int], ...]  # input topics with their numbers of partitions
    destinations: int  # partitions of the flows topic
    out_of_orderness_ns: int
    behind_max_ns: int | None = None  # rows further behind their record's timestamp are late; None: no such limit
    normalisation: Normalisation = field(default_factory=Normalisation)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that gave no rows: its offset, why, and its bytes."""

    offset: int
    reason: Reason
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ingested:
    """What a batch became. ``messages == accepted + len(rejected) + skipped``."""

    blocks: list[Block]  # one per destination, in order; empty blocks carry the watermark
    rejected: list[Rejected]
    messages: int
    skipped: int
    rows: int
    rows_late: int


def route(addresses: Array, destinations: int) -> NDArray[np.int64]:
    """Return the flows partition of each source address, (n, 2) words.

    The mixing is the 64-bit finaliser of MurmurHash3 (Appleby) over both words: cheap, and even for
    addresses that differ only in their last bits.
    """
    words = addresses[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ addresses[:, 1]
    words = (words ^ (words >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    words = (words ^ (words >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    words ^= words >> np.uint64(33)
    return np.asarray(words % np.uint64(destinations), np.int64)


class Ingest:
    """One source partition's decoder, watermark and chain of offset ranges."""

    def __init__(
        self,
        config: IngestConfig,
        source: SourcePartition,
        wire_format: str,
        watermark_ns: int | None = None,
        next_offset: int | None = None,
    ) -> None:
        self.source = source
        self.watermark_ns = watermark_ns
        self.is_idle = False  # holds nobody's watermark back; until a row comes that is on time
        self._config = config
        self._wire_format = wire_format
        self._origin_id = origin_id(source, config.sources)
        self._next_offset = next_offset

    def receive(
        self,
        payloads: Payloads,
        offsets: NDArray[np.int64],
        timestamps_ns: NDArray[np.int64] | None = None,
        context: DecodeContext | None = None,
        to_offset: int | None = None,
    ) -> Ingested:
        """Take in consecutive messages; ``offsets`` ascend, ``timestamps_ns`` are the log's (None for files).

        ``to_offset`` is where the next ones will begin, for a log in which offsets are missing.
        """
        decoded = decode(self._wire_format, payloads, context)
        message = decoded.flows.origin_offset.astype(np.int64)
        reference = None if timestamps_ns is None else timestamps_ns[message]
        flows, out_of_range = normalise(decoded.flows, self._config.normalisation, reference)
        reasons = dict(zip(decoded.rejected.tolist(), decoded.reasons.tolist(), strict=True))
        crowded = np.flatnonzero(np.bincount(message) > ROWS_PER_MESSAGE_MAX)
        absurd = np.unique(message[out_of_range])
        if len(absurd) or len(crowded):
            reasons |= dict.fromkeys(absurd.tolist(), int(Reason.TIME_OUT_OF_RANGE))
            reasons |= dict.fromkeys(crowded.tolist(), int(Reason.TOO_LARGE))
            kept = ~np.isin(message, np.concatenate([absurd, crowded]))
            flows, message = flows.take(kept), message[kept]
            reference = None if reference is None else reference[kept]
        flows = flows.replace(origin_offset=offsets[message], origin_id=np.full(len(flows), self._origin_id, np.uint32))
        flows, rows_late = self._judge_lateness(flows, reference)
        reach = int(offsets[-1]) + 1 if to_offset is None else to_offset
        first = int(offsets[0] if len(offsets) else reach) if self._next_offset is None else self._next_offset
        self._next_offset = reach
        rejected = [
            Rejected(int(offsets[index]), Reason(code), payloads[index]) for index, code in sorted(reasons.items())
        ]
        blocks = self._cut(flows, first, self._next_offset)
        return Ingested(blocks, rejected, len(payloads), len(decoded.skipped), len(flows), rows_late)

    def idle(self, elapsed_ns: int) -> Ingested:
        """Write down that the partition was silent for ``elapsed_ns`` more: its watermark moves on by that.

        With 0 it was not silent, but nothing that came was on time: its watermark stays where it is.
        """
        self.is_idle = True
        if self.watermark_ns is not None:
            self.watermark_ns += elapsed_ns
        at = self._next_offset or 0
        return Ingested(self._cut(FlowBatch.zeros(0), at, at), [], 0, 0, 0, 0)

    def _judge_lateness(self, flows: FlowBatch, reference: NDArray[np.int64] | None) -> tuple[FlowBatch, int]:
        if not len(flows):
            return flows, 0
        reached = np.maximum.accumulate(self._reached(flows.time_ns, reference))
        if self.watermark_ns is not None:
            np.maximum(reached, self.watermark_ns, out=reached)
        self.watermark_ns = int(reached[-1])
        # reached[i] counts row i itself. By its event time it cannot be late because of itself: same verdict, one
        # step less. By its record's timestamp it can, and is meant to be.
        late = flows.time_ns < reached
        rows_late = int(np.count_nonzero(late))
        self.is_idle = self.is_idle and rows_late == len(flows)
        if rows_late:
            flag = np.where(late, np.uint8(Quality.LATE), np.uint8(0))
            flows = flows.replace(quality=flows.quality | flag)
        return flows, rows_late

    def _reached(self, time_ns: Array, reference: NDArray[np.int64] | None) -> Array:
        """Return the watermark that each row alone would set."""
        allowed = self._config.out_of_orderness_ns
        if reference is None:
            return time_ns - allowed
        reached = np.minimum(time_ns, reference) - allowed
        if self._config.behind_max_ns is not None:
            reached = np.maximum(reached, reference - self._config.behind_max_ns)
        return np.where(reference >= 0, reached, time_ns - allowed)  # without a timestamp there is only its own word

    def _cut(self, flows: FlowBatch, first: int, to: int) -> list[Block]:
        count = self._config.destinations
        destination = route(flows.src_addr, count)
        ordered = flows.take(np.argsort(destination, kind="stable")) if count > 1 else flows
        bounds = np.searchsorted(np.sort(destination), np.arange(count + 1))
        return [
            Block(
                self.source,
                first,
                to,
                self.watermark_ns,
                self.is_idle,
                self._config.sources,
                ordered.take(slice(bounds[d], bounds[d + 1])),
            )
            for d in range(count)
        ]
