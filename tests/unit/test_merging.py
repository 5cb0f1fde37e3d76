"""Two stages: what is merged is what was there, however it was cut, routed, repeated or resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream.analysis import Analysis, Bounds, Progress
from flowstream.batch import FlowBatch
from flowstream.blocks import Block, SourcePartition, decode_block, decode_partials, encode_block
from flowstream.counting import CountOnce
from flowstream.cubes import CubesConfig, CubesOf
from flowstream.errors import StateError
from flowstream.ingest import route
from flowstream.links import LinkTable
from flowstream.operators import Said, one_by_one
from flowstream.partial_blocks import PART_BITS, PartialsOperator, Route, partition_of
from flowstream.partials import Cube, PartialBatch
from tests.builders import T0_NS, flows
from tests.merged_sums import MergedSums

S = 1_000_000_000
ALLOWED_S = 2
RATE = 10
RAW = SourcePartition("raw", 0)
#: Cubes whose keys a test can make out of a row in a line.
PLAIN = {Cube.SOURCE, Cube.DESTINATION, Cube.PROTOCOL}
Merged = dict[str, tuple[list[int], int]]


@dataclass
class Draws:
    """What is drawn anew for every run: batches, groups of blocks, turns, lives."""

    source: st.DataObject

    def cuts(self, end: int) -> list[int]:
        """Draw where ``[0, end)`` is cut, ends included."""
        return sorted({0, end, *self.source.draw(st.lists(st.integers(0, end), max_size=5))})

    def below(self, end: int) -> int:
        """Draw a number from 0 to ``end``."""
        return int(self.source.draw(st.integers(0, end)))


@st.composite
def recordings(draw: st.DrawFn) -> FlowBatch:
    """Rows of few addresses, in order but for what is allowed; every row is a flow of its own."""
    count = draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    base = np.sort(random.integers(0, 20, count)) * S
    return flows(
        count, time_ns=T0_NS + base - random.integers(0, ALLOWED_S * S, count),
        src_addr=[f"10.0.0.{n}" for n in random.integers(1, 9, count)],
        dst_addr=[f"10.0.1.{n}" for n in random.integers(1, 5, count)],
        src_port=np.arange(count), proto=random.choice([6, 17], count), bytes=random.integers(0, 1500, count),
        packets=random.integers(1, 9, count), sampling_rate=RATE,
    )  # fmt: skip


def by_brute_force(rows: FlowBatch) -> dict[tuple[int, tuple[int, ...]], list[int]]:
    """Sum up row by row: bytes, packets and records by start of pane and key."""
    sums: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for at in range(len(rows)):
        start = int(rows.time_ns[at]) // S * S
        source, destination = (tuple(map(int, rows.column(name)[at])) for name in ("src_addr", "dst_addr"))
        for key in ((Cube.SOURCE, *source), (Cube.DESTINATION, *destination), (Cube.PROTOCOL, int(rows.proto[at]), 0)):
            own = sums.setdefault((start, tuple(map(int, key))), [0, 0, 0])
            own[0] += int(rows.bytes[at]) * RATE
            own[1] += int(rows.packets[at]) * RATE
            own[2] += 1
    return sums


def flow_blocks(rows: FlowBatch, partitions: int, draws: Draws) -> list[list[tuple[int, Block]]]:
    """Return the log of every flows partition, as ingest would write it of batches that are drawn."""
    logs: list[list[tuple[int, Block]]] = [[] for _ in range(partitions)]
    cuts = draws.cuts(len(rows))
    for first, end in pairwise(cuts):
        batch = rows.take(slice(first, end))
        watermark_ns = int(rows.time_ns[:end].max()) - ALLOWED_S * S
        for destination, log in enumerate(logs):
            own = batch.take(route(batch.src_addr, partitions) == destination)
            block = Block(RAW, first, end, watermark_ns, False, (("raw", 1),), own)
            log.append((len(log), decode_block(encode_block(block))))
    end_ns = int(rows.time_ns.max()) + 5 * S
    for log in logs:
        log.append((len(log), Block(RAW, len(rows), len(rows), end_ns, True, (("raw", 1),))))
    return logs


@dataclass
class FirstStage:
    """A flows partition; what it says goes on the logs of the partials partitions."""

    partition: int
    log: list[tuple[int, Block]]
    partials: list[list[bytes]]
    rows_max: int
    at: int = 0
    stored: Progress | None = None
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        self.live(None)

    def live(self, progress: Progress | None) -> None:
        """Begin a life where the one before had stored its progress."""
        partitions = len(self.partials)
        said = None if progress is None else progress.closed
        route_ = Route("flows", self.partition, partitions)
        self.operator = PartialsOperator(
            CubesOf(CubesConfig(frozenset(PLAIN)), CountOnce(LinkTable())), S, route_, said, self.rows_max
        )
        self.analysis = Analysis([self.operator], S, progress, self.bounds)
        self.at = 0 if progress is None else progress.position

    def go(self, blocks: int) -> None:
        """Take a group of blocks, say what came of them, store progress."""
        for offset, block in self.log[self.at : self.at + blocks]:
            self.analysis.apply(offset, block)
        self.at = min(len(self.log), self.at + blocks)
        for destination, said in self.operator.take(self.analysis.closed):
            self.partials[destination].append(encode_block(said))

    def store(self) -> None:
        self.stored = Progress.decode(self.analysis.progress().encode())


def partials_of(rows: FlowBatch, partitions: int, draws: Draws, rows_max: int = 4) -> list[list[bytes]]:
    """Run the first stage: groups of blocks, turns, crashes and what is stored before them are drawn."""
    partials: list[list[bytes]] = [[] for _ in range(partitions)]
    logs = flow_blocks(rows, partitions, draws)
    stages = [FirstStage(p, log, partials, rows_max) for p, log in enumerate(logs)]
    for _ in range(draws.below(12)):
        stage = stages[draws.below(partitions - 1)]
        stage.go(draws.below(3) + 1)
        what = draws.below(3)
        if what == 1:
            stage.store()
        elif what == 2:
            stage.live(stage.stored)
    for stage in stages:
        stage.go(len(stage.log))
    return partials


def merged(partials: list[list[bytes]], draws: Draws | None = None) -> Merged:
    """Run the second stage; what is said twice must be the same."""
    said: Merged = {}
    for log in partials:
        for result in one_by_one(_merging(log, draws)):
            value = (result.value["sums"], result.value["panes"])
            assert said.setdefault(result.key, value) == value, (result.key, said[result.key], value)
    return said


def _merging(log: list[bytes], draws: Draws | None) -> Iterator[Said]:
    analysis, at, stored = second_stage(None), 0, None
    for _ in range(0 if draws is None else draws.below(4)):
        end = draws.below(len(log)) if draws is not None else 0
        for offset in range(at, end):
            yield from apply(analysis, offset, log[offset])
        at = max(at, end)
        stored = Progress.decode(analysis.progress().encode())
        for offset in range(at, min(len(log), at + 2)):  # said, and not stored
            yield from apply(analysis, offset, log[offset])
        analysis, at = second_stage(stored), stored.position
    for offset in range(at, len(log)):
        yield from apply(analysis, offset, log[offset])


def second_stage(progress: Progress | None, bounds: Bounds = Bounds()) -> Analysis[PartialBatch]:  # noqa: B008
    return Analysis([MergedSums()], S, progress, bounds, PartialBatch)


def apply(analysis: Analysis[PartialBatch], offset: int, payload: bytes) -> list[Said]:
    outcome = analysis.apply(offset, decode_partials(payload))
    assert outcome.gap == len(outcome.late) == 0
    return outcome.results


def sums(said: Merged) -> dict[tuple[int, tuple[int, ...]], list[int]]:
    """Return what was merged of the plain cubes, by start of pane and key."""
    found = {}
    for key, (own, _) in said.items():
        start, _, words = key.partition("|")
        numbers = tuple(int(word) for word in words.strip("()").split(","))
        if numbers[0] in PLAIN:
            found[int(start), numbers] = own
    return found


@settings(max_examples=60)
@given(recordings(), st.integers(1, 4), st.data())
def test_what_is_merged_is_what_was_there(rows: FlowBatch, partitions: int, source: st.DataObject) -> None:
    draws = Draws(source)
    assert sums(merged(partials_of(rows, partitions, draws), draws)) == by_brute_force(rows)


@settings(max_examples=30)
@given(recordings(), st.integers(1, 4), st.data())
def test_two_runs_of_the_same_rows_say_the_same(rows: FlowBatch, partitions: int, source: st.DataObject) -> None:
    """To the state of an operator: what it has seen depends neither on lives nor on cuts, of either stage."""
    draws = Draws(source)
    assert merged(partials_of(rows, partitions, draws), draws) == merged(partials_of(rows, partitions, draws))


@settings(max_examples=30)
@given(recordings(), st.integers(1, 3), st.data())
def test_blocks_of_bounded_size_cover_every_place_once(rows: FlowBatch, rows_max: int, source: st.DataObject) -> None:
    """One life: the ranges follow each other, hold their own rows, and do not say that half a pane is whole."""
    (stage,) = [FirstStage(0, log, [[]], rows_max) for log in flow_blocks(rows, 1, Draws(source))]
    stage.go(len(stage.log))
    reached = None
    for payload in stage.partials[0]:
        block = decode_partials(payload)
        assert reached is None or block.from_offset == reached
        assert len(block.rows) <= rows_max
        places = block.rows.origin_offset
        assert ((places >= block.from_offset) & (places < block.to_offset)).all()
        assert block.watermark_ns == (block.to_offset >> PART_BITS) * S
        assert (block.rows.time_ns >= (block.from_offset >> PART_BITS) * S).all()
        reached = block.to_offset
    assert reached == (stage.analysis.closed or 0) << PART_BITS


@given(st.integers(1, 1024))
def test_cubes_are_spread_as_evenly_as_they_can_be(partitions: int) -> None:
    held = np.bincount([partition_of(int(cube), partitions) for cube in Cube], minlength=partitions)
    assert held.max() - held.min() <= 1


@settings(max_examples=30)
@given(recordings(), st.integers(0, 24), st.data())
def test_two_apps_that_meet_at_a_cut_say_what_one_says(rows: FlowBatch, cut_s: int, source: st.DataObject) -> None:
    """The one up to the cut in both stages, the other warms up and is silent before it: as of a promotion."""
    draws, cut_ns = Draws(source), T0_NS + (cut_s - ALLOWED_S) * S
    logs = flow_blocks(rows, 2, draws)
    said: dict[str, list[int]] = {}
    for bounds in (Bounds(until_ns=cut_ns), Bounds(silent_before_ns=cut_ns)):
        partials: list[list[bytes]] = [[], []]
        for partition, log in enumerate(logs):
            FirstStage(partition, log, partials, 4, bounds=bounds).go(len(log))
        for log in partials:
            analysis = second_stage(None, bounds)
            for offset, payload in enumerate(log):
                for result in one_by_one(apply(analysis, offset, payload)):
                    assert (result.time_ns <= cut_ns) == (bounds.until_ns is not None)
                    assert said.setdefault(result.key, result.value["sums"]) is result.value["sums"]
    whole = merged(partials_of(rows, 2, draws))
    assert said == {key: own for key, (own, _) in whole.items()}


@pytest.mark.parametrize("read", [decode_partials, decode_block])
def test_a_block_of_the_other_stage_is_refused(read) -> None:
    kind = FlowBatch if read is decode_partials else PartialBatch
    with pytest.raises(StateError, match="not a"):
        read(encode_block(Block(RAW, 0, 1, 0, False, (("raw", 1),), kind.zeros(2))))


@given(st.integers(0, 20), st.integers(0, 2**32))
def test_partials_survive_the_wire_to_the_bit(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    columns = {}
    for name, column in PartialBatch.LAYOUT.items():
        raw = random.integers(0, 256, count * np.dtype(column.dtype).itemsize, np.uint8)
        columns[name] = np.zeros(count, "u4") if name == "origin_id" else raw.view(column.dtype)
    rows = PartialBatch.of(count, columns)
    back = decode_partials(encode_block(Block(RAW, 0, 1, 0, False, (("raw", 1),), rows))).rows
    assert {name: column.tobytes() for name, column in back.columns.items()} == {
        name: column.tobytes() for name, column in rows.columns.items()
    }
