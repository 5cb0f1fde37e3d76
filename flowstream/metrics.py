"""All metrics, on a given registry. Labels are bounded: topics, partitions, formats, reasons; never an address."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The worker's collectors; documented in ``docs/metrics.md``, which a test compares with this class."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"flowstream_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"flowstream_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"flowstream_{name}", text, buckets=_SECONDS, registry=registry)

        self.records_consumed = counter("records_consumed", "Messages read from a raw topic", "topic", "format")
        self.records_rejected = counter("records_rejected", "Messages sent to the dead letters", "topic", "reason")
        self.records_skipped = counter("records_skipped", "Messages that carry no flow", "topic")
        self.rows_decoded = counter("rows_decoded", "Flow records decoded", "format")
        self.rows_applied = counter("rows_applied", "Flow records put into a pane")
        self.rows_late = counter("rows_late", "Flow records behind the watermark")
        self.rows_duplicate = counter("rows_duplicate", "Flow records already applied, dropped")
        self.block_gaps = counter(
            "block_gaps", "Offsets missing between blocks, or panes between partials: lost records"
        )
        self.blocks_rejected = counter(
            "blocks_rejected", "Messages of the flows and partials topics that are not blocks"
        )
        self.results_sent = counter("results_sent", "Results sent and acknowledged", "topic")
        self.panes_closed = counter("panes_closed", "Panes closed")
        self.rebalances = counter("rebalances", "Times partitions were assigned anew")
        self.requests_unanswered = counter("requests_unanswered", "Requests that no broker answered", "client")
        self.broker_silence_seconds = gauge("broker_silence_seconds", "Time since a broker answered any request")
        self.offset_lag = gauge("offset_lag", "Messages not yet processed", "topic", "partition")
        self.watermark_lag_seconds = gauge(
            "watermark_lag_seconds", "Wall clock minus watermark of a flows partition", "partition"
        )
        self.rows_open = gauge("rows_open", "Flow records waiting in open panes", "partition")
        self.partials_applied = counter("partials_applied", "Sums of a pane and key put into their pane to be merged")
        self.partials_late = counter("partials_late", "Sums that came after their pane was merged: lost")
        self.partials_duplicate = counter("partials_duplicate", "Sums already applied, dropped")
        self.flows_refused = counter("flows_refused", "Flows beyond counting.flows_max, by pane: not remembered")
        self.partials_refused = counter("partials_refused", "Sums of ports beyond link_use.ports_max: left out")
        self.partials_panes_closed = counter("partials_panes_closed", "Panes merged")
        self.partials_open = gauge("partials_open", "Sums waiting in open panes", "partition")
        self.partials_watermark_lag_seconds = gauge(
            "partials_watermark_lag_seconds", "Wall clock minus watermark of a partials partition", "partition"
        )
        self.table_entries = gauge("table_entries", "Entries of a table on this worker", "table")
        self.worker_up = gauge("worker_up", "1 while the worker runs; labels tell what runs", "version", "settings")
        self.decode_seconds = histogram("decode_seconds", "Time to decode and route a batch")
        self.pane_seconds = histogram("pane_seconds", "Time to take in a batch of blocks, operators included")
