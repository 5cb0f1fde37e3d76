"""The rows of the table: each a function that measures, and the targets it is held to.

A new row is a ``Row`` in one of these modules' ``ROWS``, or a new module in ``MODULES``.
"""

from __future__ import annotations

from bench.rows import distances, latency, links, panes, paths, scaling, sustained, table, talkers, throughput
from bench.rows.row import Row

MODULES = (throughput, scaling, distances, latency, panes, links, paths, table, talkers, sustained)
ROWS: dict[str, Row] = {row.name: row for module in MODULES for row in module.ROWS}
