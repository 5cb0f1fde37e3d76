"""What exporters sent and never came, interval by interval, as far back as an interval waits to be told."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from flowstream.batch import Array
from flowstream.errors import StateError
from flowstream.estimate import Floats
from flowstream.export_loss import Loss, LossRow, correction, lost_share, widening
from flowstream.partials import PartialBatch
from flowstream.sequence_gaps import LossTracker


class Missing(NamedTuple):
    """What is missing of each of some exporters: by what to multiply estimates, and upper bounds (``export_loss``)."""

    correction: Floats
    widening: Floats

    @property
    def lost_share(self) -> Floats:
        """The share of what was sent that never came, at the most."""
        return lost_share(self.widening)


class _Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    counters: bytes
    losses: list[tuple[int, list[LossRow]]]  # by number of the interval


class RecentLosses:
    """Follows the counters of exporters, and keeps the losses of the last intervals, by their numbers."""

    def __init__(self) -> None:
        self._tracker = LossTracker()
        self._losses: dict[int, Loss] = {}

    def take(self, rows: PartialBatch, number: int) -> None:
        """Take in the rows of a pane of the interval ``number``, of which those of cube SEQUENCE matter."""
        loss = self._tracker.take(rows)
        if len(loss):
            self._losses[number] = Loss.merged([self._losses.get(number, Loss.none()), loss])

    def since(self, number: int, exporters: Array) -> Missing:
        """Return what is missing of ``exporters``, (n, 2) address words, since the interval ``number`` began."""
        loss = Loss.merged(loss for own, loss in sorted(self._losses.items()) if own >= number)
        return Missing(correction(loss, exporters), widening(loss, exporters))

    def forget(self, before: int) -> None:
        """Drop the losses of intervals below ``before``; counters stay."""
        self._losses = {number: loss for number, loss in self._losses.items() if number >= before}

    def snapshot(self) -> bytes:
        """Return all of it."""
        losses = [(number, loss.to_rows()) for number, loss in sorted(self._losses.items())]
        return msgspec.msgpack.encode(_Snapshot(self._tracker.snapshot(), losses))

    def restore(self, state: bytes) -> None:
        """Take a snapshot; StateError where it is not one."""
        try:
            taken = msgspec.msgpack.decode(state, type=_Snapshot)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateError(f"not a snapshot of losses: {error}") from None
        losses = {number: Loss.of_rows(rows) for number, rows in taken.losses}
        self._tracker.restore(taken.counters)
        self._losses = losses
