"""The second stage: what flows partitions have summed up by cube is merged, and said of the whole."""

from __future__ import annotations

from collections.abc import Mapping

from flowstream.analysis import Analysis, Bounds, Progress
from flowstream.blocks import Block, decode_partials
from flowstream.link_use import LinkUse
from flowstream.links import LinkTable
from flowstream.operators import Operator
from flowstream.partials import PartialBatch
from flowstream.partition_work import PartitionWork
from flowstream.settings import Settings
from flowstream.shared_links import SharedLinks
from flowstream.talkers import TopTalkers
from flowstream.topology import Topology


def build_merging_operators(settings: Settings, links: LinkTable) -> list[Operator[PartialBatch]]:
    """Build the enabled operators of the second stage; the topology is given with ``replace_tables``."""
    built: list[Operator[PartialBatch]] = []
    for analysis in settings.analyses:
        if analysis == "talkers":
            config = settings.talkers.config(settings.panes, settings.sampling.samples_min)
            built.append(TopTalkers(config, settings.pane_ns))
        elif analysis == "links":
            built.append(LinkUse(settings.link_use.config(settings.sampling.samples_min), settings.pane_ns, links))
        elif analysis == "paths":
            built.append(SharedLinks(settings.panes(settings.paths.size_s), links, Topology()))
    return built


def merging_bounds(bounds: Mapping[int, Bounds]) -> Bounds:
    """Return which merged panes are wanted, by what is wanted of each flows partition.

    A merged pane is right where all of its parts are, and there where all of them are.
    """
    silent_ns = [b.silent_before_ns for b in bounds.values() if b.silent_before_ns is not None]
    until_ns = [b.until_ns for b in bounds.values() if b.until_ns is not None]
    return Bounds(max(silent_ns, default=None), min(until_ns, default=None))


class PartitionMerges(PartitionWork[PartialBatch]):
    """One partials partition."""

    stage = "merges"
    stream = "partials"
    block_format = "partial-block"

    def __init__(
        self,
        settings: Settings,
        links: LinkTable,
        progress: Progress | None = None,
        bounds: Bounds = Bounds(),  # noqa: B008 - it is frozen
        partition: int = 0,  # noqa: ARG002 - what is merged does not depend on it
    ) -> None:
        operators = build_merging_operators(settings, links)
        super().__init__(operators, Analysis(operators, settings.pane_ns, progress, bounds, PartialBatch))

    def decode(self, payload: bytes) -> Block[PartialBatch]:
        """Read a block of partials; StateError where it is none."""
        return decode_partials(payload)
