"""What a flows partition says to the partials topic: per closed pane, the sums of its flows by cube.

    closed pane -> rows of partials -> one block for every partials partition

All rows of a cube meet in one partition, wherever they come from, so that what is said of a cube there is complete.
Those of the cubes of ``partials.EVERYWHERE`` go to all.
Every partition is told of every pane, with or without rows: time has to go on there, too.

A row's place in what its flows partition says to one partials partition is ``pane << 16 | part``: rows of a pane are
numbered, and ``ROWS_PER_PART`` of them are a part. Blocks cover ranges of places and are cut between parts. A part
depends on the pane's rows alone, not on where blocks were cut, so that a block sent again with other boundaries is
recognised by its places; and a pane of any number of rows fits into blocks of a bounded size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from flowstream.blocks import Block, SourcePartition
from flowstream.operators import Pane, Said
from flowstream.partials import EVERYWHERE, PartialBatch

PART_BITS: Final = 16
#: A row takes 140 bytes at the most: a block of so many stays below half of what a message may have.
ROWS_PER_PART: Final = 32768


class Cubes(Protocol):
    """Sums up the rows of a pane."""

    def of(self, pane: Pane, partition: int) -> PartialBatch:
        """Return the sums of a pane of a flows partition, in the order of cubes and keys; ``origin_row`` counts up."""
        ...


def partition_of(cube: Any, partitions: int) -> Any:
    """Return the partials partition of a cube (or of each in an array): cubes are few, and spread evenly so."""
    return cube % partitions


@dataclass(frozen=True, slots=True)
class Route:
    """Where partials come from and go to."""

    topic: str  # of flows
    partition: int  # of the flows topic
    partitions: int  # of the flows topic, and as many of the partials topic


class PartialsOperator:
    """Sums up every pane of a flows partition; says no results, but blocks, when it is asked for them."""

    name = "partials"
    lookback = 0
    quiet = True

    def __init__(
        self, cubes: Cubes, pane_ns: int, route: Route, said: int | None = None, rows_max: int = ROWS_PER_PART
    ) -> None:
        """``said`` is the pane below which an earlier life has said everything."""
        self.cubes = cubes
        self._pane_ns = pane_ns
        self._route = route
        self._said = said
        self._rows_max = rows_max
        self._waiting: list[PartialBatch] = []  # of one pane each

    def process(self, panes: Sequence[Pane]) -> list[Said]:
        """Sum up the pane that was closed."""
        rows = self.cubes.of(panes[-1], self._route.partition)
        if len(rows):
            self._waiting.append(rows)
        return []

    def snapshot(self) -> bytes:
        """Return nothing: what is summed up is said before progress is stored."""
        return b""

    def restore(self, state: bytes) -> None:
        """Take nothing."""

    def take(self, closed: int | None) -> list[tuple[int, Block[PartialBatch]]]:
        """Return what was not said yet of the panes below ``closed``: blocks, with the partition each goes to."""
        if closed is None or (self._said is not None and closed <= self._said):
            return []
        waiting, self._waiting = self._waiting, []
        first = self._said or 0  # a first life has nothing before its first pane, wherever that is
        self._said = closed
        return [
            (destination, block)
            for destination in range(self._route.partitions)
            for block in self._blocks(self._parts(waiting, destination), first << PART_BITS, closed << PART_BITS)
        ]

    def _parts(self, waiting: list[PartialBatch], destination: int) -> Iterator[tuple[int, PartialBatch]]:
        """Yield the parts of every pane for a destination, each with its place."""
        for pane in waiting:
            here = partition_of(pane.cube, self._route.partitions) == destination
            rows = pane.take(here | np.isin(pane.cube, tuple(EVERYWHERE)))
            for part, first in enumerate(range(0, len(rows), self._rows_max)):
                place = int(pane.origin_offset[0]) << PART_BITS | part
                cut = rows.take(slice(first, first + self._rows_max))
                yield place, cut.replace(origin_offset=np.full(len(cut), place))

    def _blocks(self, parts: Iterator[tuple[int, PartialBatch]], first: int, end: int) -> Iterator[Block[PartialBatch]]:
        held: list[PartialBatch] = []
        for place, rows in parts:
            if held and sum(map(len, held)) + len(rows) > self._rows_max:
                yield self._block(first, place, held)
                first, held = place, []
            held.append(rows)
        yield self._block(first, end, held)

    def _block(self, first: int, end: int, held: list[PartialBatch]) -> Block[PartialBatch]:
        source = SourcePartition(self._route.topic, self._route.partition)
        # A block that ends within a pane does not complete it.
        watermark_ns = (end >> PART_BITS) * self._pane_ns
        sources = ((self._route.topic, self._route.partitions),)
        return Block(source, first, end, watermark_ns, idle=False, sources=sources, rows=PartialBatch.concat(held))
