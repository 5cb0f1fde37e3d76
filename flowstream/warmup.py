"""Compile every kernel the settings need, before a worker joins its group: seconds once, then from a cache.

The rows are made up, and chosen so that each kernel is called: small and large groups of flows, both address
families, sampled packets and whole flows, flows that two exporters saw.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flowstream.batch import FlowBatch, FlowType
from flowstream.blocks import Block, SourcePartition, decode_block, encode_block
from flowstream.byte_column import ByteColumn
from flowstream.decode import Payloads, decode
from flowstream.grouping import RADIX_ROWS_MIN, group_rows
from flowstream.links import LinkTable
from flowstream.merging import PartitionMerges
from flowstream.operators import Results
from flowstream.pipeline import PartitionAnalysis
from flowstream.record_batches import WireBatch, read_batches
from flowstream.record_kernel import Run, SectionWriter
from flowstream.results import ResultEncoder
from flowstream.settings import Settings

_ROWS = 400
_SECOND_NS = 1_000_000_000
#: One message per wire format that gets past framing: the least that makes a decoder's kernels run.
_PAYLOADS = [b"\x08\x01", b"{}", b'{"time_received_ns":1}', b"\xc3\x01", b"\x00\x00\x00\x00\x01"]


def warm_up(settings: Settings) -> None:
    """Run made-up input through the decoders of the inputs and the enabled operators, and write what these say."""
    # One byte behind the header of a batch, which declares no record: as it is fetched, and as it is decompressed.
    for wire in (bytes(16) + b"\x02" + bytes(45), bytearray(16) + b"\x02" + bytes(45)):
        list(read_batches([WireBatch(memoryview(wire), 0, 1)], _as_it_is))
    for chosen in settings.inputs:
        decode(chosen.format, Payloads.from_values(_PAYLOADS))
    links = LinkTable.from_rows(
        [{"exporter": "192.0.2.1", "if_index": 1, "name": "", "speed_bps": 1_000_000, "edge": True}]
    )
    topics = settings.topics.model_copy(update={"partitions": 1})
    settings = settings.model_copy(update={"topics": topics})
    work, merges = PartitionAnalysis(settings, links), PartitionMerges(settings, links)
    span = max(2, settings.panes(settings.distances.size_s)) * settings.pane_ns
    rows = _rows(span)
    block = Block(SourcePartition("warm-up", 0), 0, _ROWS, None, idle=False, sources=(("warm-up", 1),), rows=rows)
    # Windows end with this, and intervals of exporters of flow records, so that what is made of them then runs, too.
    past_s = max(
        settings.distances.size_s, settings.sources.size_s, settings.quality.size_s, settings.counting.size_s,
        settings.paths.size_s, min(window.step_s for window in settings.talkers.windows),
        2 * settings.link_use.interval_s + settings.link_use.spread_max_s,
    )  # fmt: skip
    closing = replace(decode_block(encode_block(block)), watermark_ns=int(rows.time_ns[-1]) + round(past_s * 1e9))
    said = work.apply(0, closing).results
    for offset, (_, partials) in enumerate(work.take_partials()):
        said += merges.apply(offset, merges.decode(encode_block(partials))).results
    wide = np.arange(RADIX_ROWS_MIN, dtype=np.uint64) << np.uint64(40)
    group_rows(wide, wide)  # more rows than were made up are sorted by a kernel of its own
    work.analysis.progress()
    merges.analysis.progress()
    encoder, writer = ResultEncoder(settings.output.format), SectionWriter(1 << 20)
    runs = [Run(None, ByteColumn.of([b"value"]))]
    for results in said:
        if isinstance(results, Results):
            encoded = encoder.encode_column(results)
            runs.append(Run(results.keys, encoded.values, encoded.prefix, (("source", b"warm-up"),)))
    for run in runs:
        list(writer.put(run))


def _as_it_is(_codec: int, body: memoryview) -> memoryview:
    return body


def _rows(span_ns: int) -> FlowBatch:
    index = np.arange(_ROWS)
    times = index * (span_ns // _ROWS) + 1_000_000 * _SECOND_NS
    source = np.zeros((_ROWS, 2), np.uint64)
    source[:, 1] = 0xFFFF_0A00_0000 + np.where(index % 2, index % 40, 0).astype(np.uint64)
    exporter = np.zeros((_ROWS, 2), np.uint64)
    exporter[:, 1] = 0xFFFF_C000_0201 + (index % 7 == 0)  # two exporters see the same flows
    whole = index % 5 == 0
    return FlowBatch.of(
        _ROWS,
        {
            "origin_offset": index, "time_ns": times, "time_received_ns": times, "exporter": exporter,
            "time_flow_start_ns": np.where(whole, times - 10 * _SECOND_NS, times), "time_flow_end_ns": times,
            "src_addr": source, "dst_addr": source, "src_port": index % 3, "proto": np.full(_ROWS, 6),
            "in_if": np.ones(_ROWS), "bytes": 1500 + index % 7, "packets": np.ones(_ROWS),
            "sampling_rate": np.full(_ROWS, 64), "ip_ttl": 64 - index % 3,
            "flow_type": np.where(whole, int(FlowType.IPFIX), int(FlowType.SFLOW_5)),
        },
    )  # fmt: skip
