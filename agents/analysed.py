"""What came of a batch of blocks, until the brokers have it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

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
    refused: int = 0  # messages that are no blocks
    left_out: int = 0  # what operators had no room for

    def add(self, outcome: Outcome[Any]) -> None:
        """Take in what came of a block."""
        self.results.extend(outcome.results)
        self.panes += outcome.panes
        self.applied += outcome.applied
        self.late += len(outcome.late)
        self.duplicate += outcome.duplicate
        self.gap += outcome.gap

    def count(self, context: Context, batch: FetchedBatch, stage: str) -> None:
        """Count it in the metrics: called when it is done with."""
        metrics, tp = context.metrics, batch.tp
        if stage == "analyses":
            rows = metrics.rows_applied, metrics.rows_late, metrics.rows_duplicate, metrics.panes_closed
            left_out, waiting, lag_seconds = metrics.flows_refused, metrics.rows_open, metrics.watermark_lag_seconds
        else:
            rows = (
                metrics.partials_applied,
                metrics.partials_late,
                metrics.partials_duplicate,
                metrics.partials_panes_closed,
            )
            left_out = metrics.partials_refused
            waiting, lag_seconds = metrics.partials_open, metrics.partials_watermark_lag_seconds
        for counter, count in zip(rows, (self.applied, self.late, self.duplicate, self.panes), strict=True):
            counter.inc(count)
        metrics.block_gaps.inc(self.gap)
        metrics.blocks_rejected.inc(self.refused)
        left_out.inc(self.left_out)
        sent: Counter[str] = Counter()
        for said in self.results:
            sent[said.stream] += 1 if isinstance(said, Result) else len(said)
        for stream, count in sent.items():
            metrics.results_sent.labels(name(context.settings, stream)).inc(count)
        waiting.labels(tp.partition).set(self.rows_open)
        if self.watermark_ns is not None:
            lag_seconds.labels(tp.partition).set(time.time() - self.watermark_ns / 1e9)
        lag = context.consumer.lag(tp, batch.next_offset)
        if lag is not None:
            metrics.offset_lag.labels(tp.topic, tp.partition).set(lag)
