"""From settings to running parts: the same for the worker and for files, so that both give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flowstream.analysis import Analysis, Bounds, Outcome, Progress
from flowstream.batch import FlowBatch
from flowstream.blocks import Block, SourcePartition, decode_block, origin_names
from flowstream.counting import CountOnce
from flowstream.cubes import CubesConfig, CubesOf, Maker
from flowstream.decode import DecodeContext, Payloads
from flowstream.decode.avro_writers import Writer
from flowstream.distances import DistancesConfig, DistancesOperator
from flowstream.elephant_hops import elephant_hops
from flowstream.elephants import ElephantsConfig, ElephantsOperator
from flowstream.errors import SchemaError, SettingsError
from flowstream.holders import Holders
from flowstream.ingest import Ingest, IngestConfig, Ingested, Rejected
from flowstream.links import LinkTable
from flowstream.merging import PartitionMerges
from flowstream.normalise import Normalisation
from flowstream.operators import Operator, Said
from flowstream.partial_blocks import PartialsOperator, Route
from flowstream.partials import Cube, PartialBatch
from flowstream.partition_work import PartitionWork
from flowstream.paths import PathsConfig, PathsOperator
from flowstream.quality import QualityConfig, QualityOperator
from flowstream.setting_tables import Input
from flowstream.settings import Settings
from flowstream.sources import SourcesConfig, SourcesOperator
from flowstream.topics import name
from flowstream.topology import Topology
from flowstream.wire_load import WireLoadConfig, interface_partials

#: What one block covers at the most. A row takes up to 170 bytes where other rows of its block differ widely, and its
#: message 50 or more if it fills them: three megabytes of messages stay below the ten or so of ``BLOCK_BYTES_MAX``.
MESSAGES_PER_BLOCK = 32768
PAYLOAD_BYTES_PER_BLOCK = 3 << 20

#: The cubes of what counts that are summed up for an analysis.
CUBES_OF: Mapping[str, frozenset[Cube]] = {
    "talkers": CubesConfig().cubes - {Cube.COUNTING},
    "links": frozenset({Cube.SEQUENCE}),
    "counting": frozenset({Cube.COUNTING, Cube.SEQUENCE}),
    "paths": frozenset({Cube.SEQUENCE}),
}


def decode_context(chosen: Input, writer_schemas: Mapping[int, Any] | None = None) -> DecodeContext:
    """Return what an input's decoder needs beside the bytes; ``writer_schemas`` may grow later.

    Raises SettingsError where the input's schema file is missing or no schema of flow records.
    """
    bare = None
    if chosen.schema_file:
        try:
            bare = json.loads(Path(chosen.schema_file).read_text("utf-8"))
            Writer(bare)
        except (OSError, ValueError, RecursionError, SchemaError) as error:
            raise SettingsError(f"setting inputs: schema_file = {chosen.schema_file!r}: {error}") from error
    return DecodeContext({} if writer_schemas is None else writer_schemas, bare)


def ingest_config(settings: Settings, sources: tuple[tuple[str, int], ...]) -> IngestConfig:
    """Return what ingest needs to know; ``sources`` are the input topics with their partition counts."""
    return IngestConfig(
        sources,
        settings.topics.partitions,
        round(settings.time.out_of_orderness_s * 1e9),
        None if settings.time.behind_max_s is None else round(settings.time.behind_max_s * 1e9),
        Normalisation(
            default_sampling_rate=settings.sampling.default_rate,
            exporter_sampling_rates=dict(settings.sampling.exporters),
            event_time=settings.time.event_time,
            ahead_max_ns=round(settings.time.ahead_max_s * 1e9),
        ),
    )


def distances_config(settings: Settings) -> DistancesConfig:
    """Return the distances operator's configuration; ValueError names what does not fit."""
    chosen = settings.distances
    return DistancesConfig(
        size_panes=settings.panes(chosen.size_s), step_panes=settings.panes(chosen.step_s), features=chosen.features,
        scaling=chosen.scaling, top_k=chosen.top_k, pairs=chosen.pairs, pair_form=chosen.pair_form,
        tail_quantile=chosen.tail_quantile, pairs_max=chosen.pairs_max, flows_max=chosen.flows_max,
    )  # fmt: skip


def build_operators(settings: Settings, counting: CountOnce, names: Mapping[int, str]) -> list[Operator]:
    """Build the enabled operators; ``names`` gives ``topic-partition`` by origin id and may grow later.

    They go by the table of links that the counting goes by; the topology is given with
    ``PartitionWork.replace_tables``.
    """
    links, pane_ns = counting.links, settings.pane_ns
    built: list[Operator] = []
    for analysis in settings.analyses:
        if analysis == "distances":
            built.append(DistancesOperator(distances_config(settings), pane_ns, names))
        elif analysis == "elephants":
            config = ElephantsConfig(
                threshold=settings.elephants.threshold,
                rate_bps_min=settings.elephants.rate_bps_min,
                flows_max=settings.elephants.flows_max,
                named_min=settings.sampling.samples_min,
            )
            built.append(ElephantsOperator(config, pane_ns, links))
        elif analysis == "sources":
            sources = SourcesConfig(
                size_panes=settings.panes(settings.sources.size_s),
                distances=distances_config(settings) if settings.sources.distances else None,
                samples_min=settings.sampling.samples_min,
            )
            built.append(SourcesOperator(sources, pane_ns, counting))
        elif analysis == "quality":
            built.append(QualityOperator(QualityConfig(size_panes=settings.panes(settings.quality.size_s)), pane_ns))
    if "paths" in settings.analyses:  # after the elephants, of which it asks which flows they are
        paths = PathsConfig(
            settings.panes(settings.paths.size_s), settings.paths.flows_max, settings.sampling.samples_min
        )
        built.append(PathsOperator(paths, pane_ns, counting, Topology(), elephants_of(built)))
    return built


def elephants_of(operators: Iterable[Operator]) -> ElephantsOperator | None:
    """Return the operator that knows which flows are elephants, None where it is not enabled."""
    return next((o for o in operators if isinstance(o, ElephantsOperator)), None)


def cubes_config(settings: Settings, operators: Iterable[Operator]) -> CubesConfig:
    """Return the cubes that the enabled analyses merge; ``operators`` are those of the flows partition."""
    others: dict[Cube, Maker] = {}
    if "links" in settings.analyses:
        link_use = settings.link_use.config(settings.sampling.samples_min)
        wire_load = WireLoadConfig(link_use.interval_ns, link_use.reach_ns, link_use.life_max_ns)
        others[Cube.INTERFACE] = partial(interface_partials, config=wire_load)
    elephants = elephants_of(operators)
    if "paths" in settings.analyses and elephants is not None:
        others[Cube.ELEPHANT_HOP] = elephant_hops(elephants)
    wanted = (cubes for analysis, cubes in CUBES_OF.items() if analysis in settings.analyses)
    return CubesConfig(frozenset().union(*wanted), others)


class PartitionAnalysis(PartitionWork[FlowBatch]):
    """One flows partition: its blocks tell the names of source partitions, and the next stage is told its sums."""

    stage = "analyses"
    stream = "flows"
    block_format = "flow-block"

    def __init__(
        self,
        settings: Settings,
        links: LinkTable,
        progress: Progress | None = None,
        bounds: Bounds = Bounds(),  # noqa: B008 - it is frozen
        partition: int = 0,
    ) -> None:
        self._names: dict[int, str] = {}
        self._named: tuple[tuple[str, int], ...] = ()
        self._counting = CountOnce(links)
        operators = build_operators(settings, self._counting, self._names)
        self._partials: PartialsOperator | None = None
        if settings.is_merging:
            route = Route(name(settings, "flows"), partition, settings.topics.partitions)
            said = None if progress is None else progress.closed
            cubes = CubesOf(cubes_config(settings, operators), self._counting)
            self._partials = PartialsOperator(cubes, settings.pane_ns, route, said)
            operators.append(self._partials)
        if settings.counting.remember_s and (
            settings.is_merging or not {"sources", "paths"}.isdisjoint(settings.analyses)
        ):
            lookback = max(operator.lookback for operator in operators)
            remember, flows_max = settings.panes(settings.counting.remember_s), settings.counting.flows_max
            self._counting.holders = Holders(remember, lookback, flows_max, settings.pane_ns)
            operators.insert(0, self._counting)  # it remembers before anybody asks
        super().__init__(operators, Analysis(operators, settings.pane_ns, progress, bounds))

    def decode(self, payload: bytes) -> Block:
        """Read a block of flow records; StateError where it is none."""
        return decode_block(payload)

    def apply(self, offset: int, block: Block) -> Outcome:
        """Take in the block at an offset, and the names of source partitions that it tells."""
        if block.sources != self._named:
            self._named = block.sources
            self._names.update(origin_names(block.sources))
        return super().apply(offset, block)

    def replace_tables(self, links: LinkTable, topology: Topology) -> None:
        """Give operators, and what decides which rows count, other tables."""
        super().replace_tables(links, topology)
        self._counting.links = links

    def take_partials(self) -> list[tuple[int, Block[PartialBatch]]]:
        """Return the blocks of partials of the panes closed since this was last asked, with their partitions."""
        return [] if self._partials is None else self._partials.take(self.analysis.closed)


@dataclass(slots=True)
class Ledger:
    """Where every message and row went: both sums must hold."""

    messages: int = 0
    rejected: int = 0
    skipped: int = 0
    rows: int = 0
    applied: int = 0
    late: int = 0
    duplicate: int = 0


@dataclass(slots=True)
class FilePipeline:
    """Ingest and both stages of the analysis in one process, fed from a file standing in for a raw topic."""

    settings: Settings
    links: LinkTable
    topic: str
    wire_format: str
    context: DecodeContext | None = None
    topology: Topology = field(default_factory=Topology)
    ledger: Ledger = field(default_factory=Ledger)
    rejected: list[Rejected] = field(default_factory=list)
    _next: int = 0
    _block: int = 0
    _ingest: Ingest = field(init=False)
    _partitions: list[PartitionAnalysis] = field(init=False)
    _merges: list[PartitionMerges] = field(init=False)

    def __post_init__(self) -> None:
        config = ingest_config(self.settings, ((self.topic, 1),))
        self._ingest = Ingest(config, SourcePartition(self.topic, 0), self.wire_format)
        partitions = range(self.settings.topics.partitions)
        self._partitions = [PartitionAnalysis(self.settings, self.links, partition=p) for p in partitions]
        self._merges = [PartitionMerges(self.settings, self.links, partition=p) for p in partitions]
        for part in self._partitions:
            part.replace_tables(self.links, self.topology)
        for merges in self._merges:
            merges.replace_tables(self.links, self.topology)

    def feed(self, payloads: Payloads) -> list[Said]:
        """Take in the next messages and return what the operators say."""
        offsets = np.arange(self._next, self._next + len(payloads), dtype=np.int64)
        self._next += len(payloads)
        ingested = self._ingest.receive(payloads, offsets, None, self.context)
        self._count(ingested)
        said = [r for p, block in enumerate(ingested.blocks) for r in self._apply(p, block)]
        return said + self._merge()

    def finish(self) -> list[Said]:
        """Close everything."""
        said = [r for p in self._partitions for r in p.analysis.finish()] + self._merge()
        return said + [r for p in self._merges for r in p.analysis.finish()]

    def _merge(self) -> list[Said]:
        said: list[Said] = []
        for part in self._partitions:
            for destination, block in part.take_partials():
                said.extend(self._merges[destination].apply(self._block, block).results)
                self._block += 1
        return said

    def _apply(self, partition: int, block: Block) -> Sequence[Said]:
        outcome = self._partitions[partition].apply(self._block, block)
        self._block += 1
        self.ledger.applied += outcome.applied
        self.ledger.late += len(outcome.late)
        self.ledger.duplicate += outcome.duplicate
        return outcome.results

    def _count(self, ingested: Ingested) -> None:
        self.ledger.messages += ingested.messages
        self.ledger.rejected += len(ingested.rejected)
        self.ledger.skipped += ingested.skipped
        self.ledger.rows += ingested.rows
        self.rejected.extend(ingested.rejected)


def in_batches(values: Iterable[bytes], size: int = MESSAGES_PER_BLOCK) -> Iterable[Payloads]:
    """Cut a stream of messages into batches."""
    batch: list[bytes] = []
    for value in values:
        batch.append(value)
        if len(batch) == size:
            yield Payloads.from_values(batch)
            batch = []
    if batch:
        yield Payloads.from_values(batch)
