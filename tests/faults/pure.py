"""The second check: the same bytes as flowstream's own pure pipeline gives from the same raw log, with no broker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count, groupby

import numpy as np

from flowstream.blocks import Block, SourcePartition
from flowstream.decode import Payloads
from flowstream.ingest import Ingest
from flowstream.links import LinkTable
from flowstream.merging import PartitionMerges
from flowstream.operators import Said as SaidByOne
from flowstream.operators import one_by_one
from flowstream.pipeline import PartitionAnalysis, ingest_config
from flowstream.results import ResultEncoder
from flowstream.settings import Settings
from tests.faults.checker import key_of
from tests.faults.client import Record

#: By stream, then by (partition, key).
Said = dict[str, dict[tuple[int, bytes], bytes]]


def said(settings: Settings, topic: str, partitions: int, raw: Sequence[Record]) -> Said:
    """Return what every analysis says of the raw records, which are ordered by partition and offset."""
    config = ingest_config(settings, ((topic, partitions),))
    wire_format = settings.inputs[0].format
    blocks: list[list[Block]] = []
    for partition, run in groupby(raw, key=lambda r: r.partition):
        records = list(run)
        ingested = Ingest(config, SourcePartition(topic, partition), wire_format).receive(
            Payloads.from_values([r.value for r in records]),
            np.array([r.offset for r in records], np.int64),
            np.array([r.timestamp_ms * 1_000_000 for r in records], np.int64),
        )
        blocks.append(ingested.blocks)
    encoder = ResultEncoder()
    told: Said = {}

    def say(partition: int, results: Iterable[SaidByOne]) -> None:
        for result in one_by_one(results):
            value = encoder.encode(result)
            told.setdefault(result.stream, {})[partition, key_of(result.stream, result.key.encode(), value)] = value

    numbered, numbers = range(settings.topics.partitions), count()
    merges = [PartitionMerges(settings, LinkTable(), partition=p) for p in numbered]
    for partition in numbered:
        part = PartitionAnalysis(settings, LinkTable(), partition=partition)
        for offset, of_source in enumerate(blocks):
            say(partition, part.apply(offset, of_source[partition]).results)
            for to, block in part.take_partials():
                say(to, merges[to].apply(next(numbers), block).results)
    return told
