"""Blocks: what goes in comes out, and nothing but a block is taken for one."""

import contextlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream import schemas
from flowstream.batch import COLUMNS, FlowBatch
from flowstream.blocks import Block, SourcePartition, decode_block, encode_block, origin_id, origin_names
from flowstream.errors import StateError
from flowstream.narrow import ROWS_MAX

SOURCES = (("flow-messages", 2), ("eve", 3))
SOURCE = SourcePartition("eve", 1)


@st.composite
def batches(draw: st.DrawFn) -> FlowBatch:
    rows = draw(st.integers(0, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    columns = {}
    for name, column in COLUMNS.items():
        if name == "origin_id":
            columns[name] = np.full(rows, origin_id(SOURCE, SOURCES))
            continue
        info = np.iinfo(column.dtype)
        shape = rows if column.width == 1 else (rows, column.width)
        spread = draw(st.sampled_from(["constant", "any"]))
        values = random.integers(info.min, info.max, size=shape, dtype=column.dtype, endpoint=True)
        columns[name] = values if spread == "any" or not rows else np.broadcast_to(values[:1], values.shape)
    return FlowBatch.of(rows, columns)


@given(batches(), st.integers(0, 2**40), st.none() | st.integers(-(2**62), 2**62), st.booleans())
def test_a_block_survives_the_wire(rows: FlowBatch, first: int, watermark_ns: int | None, idle: bool) -> None:
    block = Block(SOURCE, first, first + 10, watermark_ns, idle, SOURCES, rows)
    back = decode_block(encode_block(block))
    assert (back.source, back.from_offset, back.to_offset) == (SOURCE, first, first + 10)
    assert (back.watermark_ns, back.idle, back.sources) == (watermark_ns, idle, SOURCES)
    for name in COLUMNS:
        np.testing.assert_array_equal(back.rows.columns[name], rows.columns[name], err_msg=name)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_any_other_bytes_are_refused_with_a_state_error(noise: bytes, at: int, byte: int) -> None:
    good = bytearray(encode_block(Block(SOURCE, 0, 2, 5, False, SOURCES, FlowBatch.zeros(2))))
    for hostile in (noise, bytes(good[: at % len(good)]), good + b"\0"):
        with pytest.raises(StateError):
            decode_block(bytes(hostile))
    good[at % len(good)] = byte
    with contextlib.suppress(StateError):  # a changed byte may still make a valid block
        decode_block(bytes(good))


@pytest.mark.parametrize(
    "changed",
    [
        {"from_offset": 5, "to_offset": 4},
        {"from_offset": -1},
        {"sources": (("flow-messages", 2),)},
        {"sources": (("eve", 1),)},
    ],
)
def test_a_block_that_contradicts_itself_is_refused(changed: dict) -> None:
    values = {"source": SOURCE, "from_offset": 0, "to_offset": 1, "watermark_ns": None, "idle": False}
    block = Block(**(values | {"sources": SOURCES} | changed))
    with pytest.raises(StateError):
        decode_block(encode_block(block))


@pytest.mark.parametrize("rows", [-1, ROWS_MAX + 1, 2**31 - 1])
def test_a_lying_number_of_rows_is_refused_before_anything_is_allocated_for_it(rows: int) -> None:
    name, record = schemas.single_object_decode(
        encode_block(Block(SOURCE, 0, 1, 0, False, SOURCES, FlowBatch.zeros(1)))
    )
    tracemalloc.start()
    try:
        with pytest.raises(StateError, match="rows"):
            decode_block(schemas.single_object_encode(name, record | {"rows": rows}))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_equal_values_of_a_column_cost_one_value() -> None:
    one = len(encode_block(Block(SOURCE, 0, 1, 0, False, SOURCES, FlowBatch.zeros(1))))
    many = len(encode_block(Block(SOURCE, 0, 1, 0, False, SOURCES, FlowBatch.zeros(10_000))))
    assert many - one < 100


def test_origin_ids_are_distinct_and_named_for_their_partition() -> None:
    names = origin_names(SOURCES)
    assert sorted(names.values()) == ["eve-0", "eve-1", "eve-2", "flow-messages-0", "flow-messages-1"]
    assert names[origin_id(SOURCE, SOURCES)] == "eve-1"


@given(st.lists(st.lists(st.tuples(batches(), st.booleans()), max_size=3), max_size=3))
def test_columns_of_blocks_put_together_are_those_of_the_rows(panes: list[list[tuple[FlowBatch, bool]]]) -> None:
    """Twice put together, as a window is of panes, and those are of blocks, which may be cut between two of them."""
    together = []
    for pane in panes:
        parts = []
        for rows, is_cut in pane:
            read = decode_block(encode_block(Block(SOURCE, 0, 9, None, False, SOURCES, rows))).rows
            parts += read.split([0, len(rows) // 2, len(rows)]) if is_cut else [read]
        together.append(FlowBatch.concat(parts))
    whole, plain = FlowBatch.concat(together), FlowBatch.concat(rows for pane in panes for rows, _ in pane)
    assert len(whole) == len(plain)
    for name in COLUMNS:
        np.testing.assert_array_equal(whole.peek(name), plain.column(name), err_msg=name, strict=True)
