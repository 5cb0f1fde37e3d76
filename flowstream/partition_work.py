"""One partition of either stage of the analysis: what flows partitions and partials partitions have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Generic, Protocol, runtime_checkable

from flowstream.analysis import Analysis, Outcome
from flowstream.blocks import Block
from flowstream.links import LinkTable
from flowstream.operators import Operator, Rows
from flowstream.partials import PartialBatch
from flowstream.topology import Topology


@runtime_checkable
class UsesLinks(Protocol):
    """An operator that goes by the table of links, which may be replaced between two blocks."""

    links: LinkTable


@runtime_checkable
class UsesTopology(Protocol):
    """An operator that goes by the topology, which may be replaced between two blocks."""

    topology: Topology


@runtime_checkable
class Refuses(Protocol):
    """An operator that leaves out something for want of room, and counts it: rows, or flows to remember."""

    refused: int


class PartitionWork(Generic[Rows]):
    """Blocks of one partition in, results and blocks for the next stage out."""

    stage: ClassVar[str]  # name of the stage, which is its agent's
    stream: ClassVar[str]  # whose topic holds the blocks
    block_format: ClassVar[str]  # what a block is called where one could not be used

    def __init__(self, operators: Sequence[Operator[Rows]], analysis: Analysis[Rows]) -> None:
        self.operators = operators
        self.analysis = analysis
        self._refused_told = 0

    def decode(self, payload: bytes) -> Block[Rows]:
        """Read a block of this stage; StateError where it is none."""
        raise NotImplementedError

    def apply(self, offset: int, block: Block[Rows]) -> Outcome[Rows]:
        """Take in the block at an offset."""
        return self.analysis.apply(offset, block)

    def take_partials(self) -> list[tuple[int, Block[PartialBatch]]]:
        """Return what the next stage has to be told since this was last asked, with the partition each goes to."""
        return []

    def take_refused(self) -> int:
        """Return how much operators have left out for want of room since this was last asked."""
        refused = sum(operator.refused for operator in self.operators if isinstance(operator, Refuses))
        told, self._refused_told = self._refused_told, refused
        return refused - told

    def replace_tables(self, links: LinkTable, topology: Topology) -> None:
        """Give the operators that go by links or topology other tables."""
        for operator in self.operators:
            if isinstance(operator, UsesLinks):
                operator.links = links
            if isinstance(operator, UsesTopology):
                operator.topology = topology
