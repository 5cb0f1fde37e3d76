"""What goes into a decoder and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import FlowBatch
from flowstream.errors import Reason

#: A message's rows cannot be cut over several blocks, which cover whole messages: at up to 162 bytes a row, 10 MB.
ROWS_PER_MESSAGE_MAX = 1 << 16

NO_INDEX: NDArray[np.int64] = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Payloads:
    """Message values joined into one buffer, so that a kernel can walk them without Python objects.

    Message ``i`` is ``buffer[bounds[i]:bounds[i + 1]]``. ``null[i]`` says that it had no value at all.
    """

    buffer: bytes
    bounds: NDArray[np.int64]
    null: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.null)

    def __getitem__(self, index: int) -> bytes:
        return self.buffer[self.bounds[index] : self.bounds[index + 1]]

    @classmethod
    def from_values(cls, values: Sequence[bytes | None]) -> Payloads:
        """Join message values as a Kafka client gives them."""
        null = np.fromiter((v is None for v in values), np.bool_, len(values))
        present: Sequence[bytes] = [v or b"" for v in values] if null.any() else values  # type: ignore[assignment]
        bounds = np.zeros(len(values) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, present), np.int64, len(present)), out=bounds[1:])
        return cls(b"".join(present), bounds, null)

    def slice(self, start: int, stop: int) -> Payloads:
        """Return messages ``start`` to ``stop``; the buffer is shared."""
        stop = min(stop, len(self))
        return Payloads(self.buffer, self.bounds[start : stop + 1], self.null[start:stop])

    def cuts(self, messages_max: int, bytes_max: int) -> list[tuple[int, int]]:
        """Return runs of messages, each of so many and so many bytes at the most, or of one message."""
        runs: list[tuple[int, int]] = []
        start = 0
        while start < len(self):
            fits = int(np.searchsorted(self.bounds, self.bounds[start] + bytes_max, "right")) - 1
            stop = min(max(fits, start + 1), start + messages_max, len(self))
            runs.append((start, stop))
            start = stop
        return runs

    def values(self) -> list[bytes]:
        """Return the messages as bytes objects; a null one as ``b""``."""
        cuts = self.bounds.tolist()
        return [self.buffer[a:b] for a, b in pairwise(cuts)]


@dataclass(frozen=True, slots=True)
class Decoded:
    """The outcome of a batch of messages.

    In ``flows``, ``origin_offset`` holds the index of the message in the batch (the caller turns it into
    the offset) and ``origin_row`` the index of the row in its message. ``rejected`` and ``skipped`` hold
    message indices, ascending; ``reasons`` runs beside ``rejected``.
    """

    flows: FlowBatch
    rejected: NDArray[np.int64] = field(default_factory=lambda: NO_INDEX)
    reasons: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    skipped: NDArray[np.int64] = field(default_factory=lambda: NO_INDEX)

    def reason(self, index: int) -> Reason:
        """Return why ``rejected[index]`` was rejected."""
        return Reason(int(self.reasons[index]))


@dataclass(frozen=True, slots=True)
class DecodeContext:
    """What a decoder may need to know beside the bytes.

    ``writer_schemas`` maps Confluent schema ids to parsed Avro schemas, ``bare_schema`` is the writer schema
    of Avro messages that carry no framing.
    """

    writer_schemas: Mapping[int, Any] = field(default_factory=dict)
    bare_schema: Any | None = None
