"""The second stage: what flows partitions have summed up by cube is merged, and said of the whole."""

from __future__ import annotations

from collections.abc import Mapping

from flowstream.analysis import Analysis, Bounds, Progress
from flowstream.blocks import Block, decode_partials
from flowstream.counting_results import CountingResults
from flowstream.export_loss_results import ExportLoss
from flowstream.link_use import LinkUse
from flowstream.links import LinkTable
from flowstream.operators import Operator
from flowstream.partial_blocks import partition_of
from flowstream.partials import Cube, PartialBatch
from flowstream.partition_work import PartitionWork
from flowstream.settings import Settings
from flowstream.shared_links import SharedLinks
from flowstream.talkers import TopTalkers
from flowstream.topology import Topology


def build_merging_operators(
    settings: Settings, links: LinkTable, partition: int, whole_from_ns: int | None = None
) -> list[Operator[PartialBatch]]:
    """Build the enabled operators of a partials partition; the topology is given with ``replace_tables``.

    Before ``whole_from_ns`` there were rows that are not merged; None: there was nothing.
    """
    built: list[Operator[PartialBatch]] = []
    if "talkers" in settings.analyses:
        config = settings.talkers.config(settings.panes, settings.sampling.samples_min)
        built.append(TopTalkers(config, settings.pane_ns, whole_from_ns))
    if "links" in settings.analyses:
        built.append(LinkUse(settings.link_use.config(settings.sampling.samples_min), settings.pane_ns, links))
    if "counting" in settings.analyses:
        size_panes = settings.panes(settings.counting.size_s)
        built.append(CountingResults(size_panes, settings.pane_ns, settings.sampling.samples_min))
        # Its rows are in every partition, and it speaks in one.
        if partition == partition_of(int(Cube.SEQUENCE), settings.topics.partitions):
            built.append(ExportLoss(size_panes, settings.pane_ns))
    if "paths" in settings.analyses:
        size_panes = settings.panes(settings.paths.size_s)
        built.append(SharedLinks(size_panes, links, Topology(), settings.sampling.samples_min))
    return built


def merging_bounds(bounds: Mapping[int, Bounds]) -> Bounds:
    """Return which merged panes are wanted, by what is wanted of each flows partition.

    A merged pane is right where all of its parts are, and there where all of them are.
    """
    silent_ns = [b.silent_before_ns for b in bounds.values() if b.silent_before_ns is not None]
    until_ns = [b.until_ns for b in bounds.values() if b.until_ns is not None]
    whole_ns = [b.whole_from_ns for b in bounds.values() if b.whole_from_ns is not None]
    return Bounds(max(silent_ns, default=None), min(until_ns, default=None), max(whole_ns, default=None))


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
        partition: int = 0,
    ) -> None:
        # A life before this one knows from when on it had read everything; one that knew nothing begins now.
        whole_from_ns = bounds.whole_from_ns if progress is None else None
        operators = build_merging_operators(settings, links, partition, whole_from_ns)
        super().__init__(operators, Analysis(operators, settings.pane_ns, progress, bounds, PartialBatch))

    def decode(self, payload: bytes) -> Block[PartialBatch]:
        """Read a block of partials; StateError where it is none."""
        return decode_partials(payload)
