"""Windows of the table of sources, made of a few rows."""

from __future__ import annotations

import numpy as np

from flowstream.batch import FlowBatch
from flowstream.counting import CountOnce
from flowstream.links import LinkTable
from flowstream.operators import Pane, Result
from flowstream.source_blocks import SourceBlock
from flowstream.sources import SourcesConfig, SourcesOperator
from tests.builders import flows

SECOND = 10**9


def operator_of(config: SourcesConfig | None = None, links: LinkTable | None = None) -> SourcesOperator:
    return SourcesOperator(config or SourcesConfig(1), SECOND, CountOnce(links or LinkTable()))


def said(rows: FlowBatch, config: SourcesConfig | None = None) -> Result:
    operator = operator_of(config)
    (result,) = operator.process([Pane(7, 7 * SECOND, 8 * SECOND, rows)])
    return result


def block_of(rows: FlowBatch, config: SourcesConfig | None = None) -> SourceBlock:
    return SourceBlock.from_value(said(rows, config).value)


def sample(count: int = 300, sources: int = 9, seed: int = 0) -> FlowBatch:
    rng = np.random.default_rng(seed)
    return flows(
        count,
        src_addr=[f"10.0.{s % 3}.{s}" if s % 2 else f"2001:db8::{s}" for s in rng.integers(1, sources + 1, count)],
        dst_addr=[f"192.0.2.{d}" for d in rng.integers(1, 30, count)],
        bytes=rng.integers(64, 10**6, count),
        packets=rng.integers(1, 50, count),
    )
