"""What came of a batch of blocks, until the brokers have it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from agents.batches import FetchedBatch
from agents.context import Context
from agents.publisher import Outgoing
from flowstream.analysis import Outcome, Progress
from flowstream.operators import Result, Said
from flowstream.record_kernel import Headers
from flowstream.topics import name


@dataclass(slots=True)
class Analysed:
    """Results and counts of a batch of blocks; what is to be stored and acked once the brokers have the results."""

    outgoing: list[Outgoing] = field(default_factory=list)
    results: list[Said] = field(default_factory=list)
    headers: Headers = ()
    progress: Progress | None = None
    processed: list[FetchedBatch] = field(default_factory=list)
    rows_open: int = 0
    watermark_ns: int | None = None
    panes: int = 0
    applied: int = 0
    late: int = 0
    duplicate: int = 0
    gap: int = 0
    refused: int = 0

    def add(self, outcome: Outcome) -> None:
        """Take in what came of a block."""
        self.results.extend(outcome.results)
        self.panes += outcome.panes
        self.applied += outcome.applied
        self.late += len(outcome.late)
        self.duplicate += outcome.duplicate
        self.gap += outcome.gap

    def count(self, context: Context, batch: FetchedBatch) -> None:
        """Count it in the metrics: called when it is done with."""
        metrics, tp = context.metrics, batch.tp
        metrics.rows_applied.inc(self.applied)
        metrics.rows_late.inc(self.late)
        metrics.rows_duplicate.inc(self.duplicate)
        metrics.block_gaps.inc(self.gap)
        metrics.blocks_rejected.inc(self.refused)
        metrics.panes_closed.inc(self.panes)
        sent: Counter[str] = Counter()
        for said in self.results:
            sent[said.stream] += 1 if isinstance(said, Result) else len(said)
        for stream, count in sent.items():
            metrics.results_sent.labels(name(context.settings, stream)).inc(count)
        metrics.rows_open.labels(tp.partition).set(self.rows_open)
        if self.watermark_ns is not None:
            metrics.watermark_lag_seconds.labels(tp.partition).set(time.time() - self.watermark_ns / 1e9)
        lag = context.consumer.lag(tp, batch.next_offset)
        if lag is not None:
            metrics.offset_lag.labels(tp.topic, tp.partition).set(lag)
