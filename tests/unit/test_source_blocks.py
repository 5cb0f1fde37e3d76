"""Blocks of sources: what is read from them, how they are joined, and what is none."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from flowstream.batch import FlowBatch, address_words
from flowstream.errors import StateError
from flowstream.operators import Pane
from flowstream.source_blocks import FIGURES, SourceBlock
from flowstream.sources import SourcesConfig
from tests.builders import flows
from tests.source_rows import SECOND, block_of, operator_of, said, sample


def test_lookup_finds_every_source_and_no_other():
    block = block_of(sample())
    for row in block.rows():
        assert block.lookup(address_words(row["src_addr"])) == row
    for absent in ("10.0.0.99", "0.0.0.1", "2001:db8::ffff", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"):
        assert block.lookup(address_words(absent)) is None


@pytest.mark.parametrize("by", FIGURES)
@pytest.mark.parametrize("count", [0, 1, 4, 100])
def test_top_is_the_head_of_all_rows_sorted_ties_by_address_and_what_is_not_known_last(by, count):
    alone = flows(2, src_addr=["10.9.9.9", "2001:db8:9::"], dst_addr="192.0.2.1", bytes=10**9, packets=10**6)
    block = block_of(FlowBatch.concat([sample(), alone]))
    expected = sorted(block.rows(), key=lambda r: -math.inf if r[by] is None else r[by], reverse=True)
    assert by in ("distance_p999", "estimated_bytes", "estimated_packets") or None not in {r[by] for r in expected}
    assert block.top(count, by) == expected[:count]


def test_top_by_no_column_is_a_key_error():
    with pytest.raises(KeyError):
        block_of(sample()).top(3, "flavour")
    with pytest.raises(KeyError):
        block_of(sample()).top(3, "variance")


def test_blocks_of_partitions_merge_to_the_block_of_all():
    rows = sample()
    odd = (rows.src_addr[:, 1] % np.uint64(2)).astype(bool)
    whole, parts = block_of(rows), [block_of(rows.take(odd)), block_of(rows.take(~odd))]
    merged = SourceBlock.merged(parts)
    assert list(merged.rows()) == list(whole.rows())
    assert merged.top(3, "bytes") == whole.top(3, "bytes")


def test_blocks_that_cannot_be_merged_are_refused():
    block = block_of(sample())
    later = operator_of().process([Pane(9, 9 * SECOND, 10 * SECOND, sample())])
    with pytest.raises(ValueError, match="one window"):
        SourceBlock.merged([block, SourceBlock.from_value(later[0].value)])
    with pytest.raises(ValueError, match="one window"):
        SourceBlock.merged([])
    with pytest.raises(ValueError, match="one window"):
        SourceBlock.merged([block, block_of(sample(), SourcesConfig(1, samples_min=5.0))])
    with pytest.raises(ValueError, match="in two"):
        SourceBlock.merged([block, block])


SPREAD = ("variance", "weight_max")


def of_bits(number: float) -> bytes:
    """A packed column of nine of a number: of width 0, so the number alone."""
    return b"\0" + struct.pack("<d", number)


@pytest.mark.parametrize(
    "change",
    [
        {"count": 3}, {"flows": b""}, {"flows": b"\0" * 71}, {"src_addr": b"\0" * 7},
        {"src_addr": b"\0" * 144}, {"src_addr": bytes(18)}, {"count": 1 << 40}, {"count": -1},
        {"distance_p999": "x" * 72}, {"bytes": None}, {"window_start_ns": "soon"}, {"samples_min": -1.0},
        {"samples_min": math.nan}, {"variance": b"\0" * 8},
        *({name: of_bits(bad)} for name in SPREAD for bad in (math.nan, math.inf, -1.0, 2.0**127)),
    ],
)  # fmt: skip
def test_a_value_that_is_no_block_is_refused(change):
    with pytest.raises(StateError):
        SourceBlock.from_value(said(sample()).value | change)


def test_a_missing_column_is_refused():
    value = said(sample()).value
    del value["packets"]
    with pytest.raises(StateError):
        SourceBlock.from_value(value)
