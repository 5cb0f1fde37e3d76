"""The table of sources: what it keeps of how many windows, and how it reads them back."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from prometheus_client import CollectorRegistry

from agents.tables import Tables
from flowstream.counting import CountOnce
from flowstream.links import LinkTable
from flowstream.metrics import Metrics
from flowstream.operators import Pane, Result
from flowstream.settings import load
from flowstream.source_blocks import SourceBlock
from flowstream.sources import SourcesConfig, SourcesOperator
from tests.builders import flows

S = 1_000_000_000
MIB = 1 << 20


class FakeTable(dict[bytes, bytes]):
    """A table without a changelog."""


def tables(**sources: Any) -> Tables:
    app = SimpleNamespace(Table=lambda *_, **__: FakeTable(), producer=SimpleNamespace(flush=AsyncMock()))
    return Tables(app, load(topics={"partitions": 2}, sources=sources), Metrics(CollectorRegistry()))


def window(start_s: int, addresses: Sequence[str]) -> Sequence[Result]:
    operator = SourcesOperator(SourcesConfig(1, distances=None), S, CountOnce(LinkTable()))
    rows = flows(len(addresses), src_addr=addresses, bytes=list(range(1, len(addresses) + 1)))
    return operator.process([Pane(start_s, start_s * S, (start_s + 1) * S, rows)])


def hosts(count: int, network: int = 10) -> list[str]:
    return [f"{network}.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(count)]


async def test_the_newest_windows_of_each_partition_are_kept() -> None:
    kept = tables(windows_kept=3)
    for start in (5, 2, 9, 7, 4):
        await kept.keep_results(0, window(start, ["10.0.0.1"]))
        await kept.keep_results(1, window(start, ["10.0.0.2"]))
    assert kept.windows() == [(s * S, p) for s in (9, 7, 5) for p in (1, 0)]
    assert kept.windows(1) == [(9 * S, 1), (7 * S, 1), (5 * S, 1)]
    assert kept.sources(0, 4 * S) is None


@pytest.mark.parametrize("per_block", [7, 50, 1000])
async def test_a_window_in_parts_is_one_window(per_block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowstream.sources.SOURCES_PER_BLOCK", per_block)
    kept = tables(windows_kept=2)
    for start in (1, 2, 3):
        await kept.keep_results(0, window(start, hosts(100)))
    assert kept.windows() == [(3 * S, 0), (2 * S, 0)]
    block = kept.sources(0, 3 * S)
    assert isinstance(block, SourceBlock)
    assert [row["bytes"] for row in block.rows()] == list(range(1, 101))


async def test_windows_of_very_many_sources_are_kept_as_long_as_they_fit() -> None:
    kept = tables(windows_kept=60, kept_bytes_max=MIB)
    for start in range(5):
        await kept.keep_results(0, window(start, hosts(40_000)))
        stored = sum(map(len, kept._sources.values()))
        assert stored <= MIB
    found = kept.windows()
    assert 1 <= len(found) < 5
    assert found == [(s * S, 0) for s in range(4, 4 - len(found), -1)]
    await kept.keep_results(0, window(9, hosts(80_000)))
    assert kept.windows() == [(9 * S, 0)], "the newest is kept however large it is"
    block = kept.sources(0, 9 * S)
    assert block is not None
    assert len(block) == 80_000
