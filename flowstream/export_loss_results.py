"""What exporters sent and never came: per window, exporter and flow type, told by gaps in sequence numbers."""

from __future__ import annotations

import msgspec
import numpy as np

from flowstream.batch import FlowType, address_text
from flowstream.export_loss import BY_RECORDS, Loss, LossRow
from flowstream.operators import Result
from flowstream.partials import PartialBatch
from flowstream.running_windows import VERSION, RunningWindows, WindowSnapshot
from flowstream.sequence_gaps import LossTracker

STREAM = "export-loss"


class _Snapshot(WindowSnapshot, frozen=True, array_like=True, forbid_unknown_fields=True):
    counters: bytes
    sums: list[LossRow]


class ExportLoss(RunningWindows):
    """Merges cube SEQUENCE, and says ``export-loss`` once per window for every exporter that numbers its datagrams."""

    name = STREAM

    def __init__(self, size_panes: int, pane_ns: int) -> None:
        super().__init__(size_panes, pane_ns)
        self._tracker = LossTracker()
        self._sum = Loss.none()

    @property
    def quiet(self) -> bool:
        """Whether no exporter was heard of in the open window."""
        return not len(self._sum)

    def add(self, rows: PartialBatch) -> None:
        """Add a pane's rows of the cube."""
        self._sum = Loss.merged([self._sum, self._tracker.take(rows)])

    def told(self, start_ns: int, end_ns: int) -> list[Result]:
        """Return a result for every exporter and flow type, in their order."""
        loss, self._sum = self._sum, Loss.none()
        results = []
        for n in np.flatnonzero(loss.received > 0).tolist():
            exporter, kind = address_text(*loss.exporter[n].tolist()), FlowType(int(loss.flow_type[n]))
            value = {
                "exporter": exporter,
                "flow_type": kind.name,
                "window_start_ns": start_ns,
                "window_end_ns": end_ns,
                "counts": "FLOW_RECORDS" if kind in BY_RECORDS else "DATAGRAMS",
                "received": int(loss.received[n]),
                "lost": max(0, int(loss.lost[n])),
                "exact": bool(loss.is_exact[n]),
                "lost_share": float(loss.share[n]),
            }
            results.append(Result(STREAM, f"{start_ns}|{exporter}|{kind.name}", end_ns, value))
        return results

    def snapshot(self) -> bytes:
        """Return where the counters stand, and the sums of the open window."""
        counters, sums = self._tracker.snapshot(), self._sum.to_rows()
        return msgspec.msgpack.encode(_Snapshot(self.name, VERSION, self.size_ns, self.window, counters, sums))

    def restore(self, state: bytes) -> None:
        """Take a snapshot's state; StateError where it is not one, or of windows of another length."""
        taken = self.taken(state, _Snapshot)
        tracker = LossTracker()
        tracker.restore(taken.counters)
        self.window, self._tracker, self._sum = taken.window, tracker, Loss.of_rows(taken.sums)
