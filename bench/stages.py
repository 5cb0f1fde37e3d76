"""Each step of the path in one process, without Kafka: CPU microseconds per record, the best of some repeats.

The steps are those of the worker with the worker's own batch sizes: fetched batches of one source partition
become blocks for four destinations, and the blocks of one destination become panes and results. At last all
destinations go through both stages with every analysis that there is, so that it is seen what merges add.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

import numpy as np

from agents.delivery import outgoing_results
from agents.publisher import BATCH_BYTES_MAX, sealed_batches
from agents.record_batches import SealedBatch
from bench.calibrate import ONE_THREAD
from bench.generate import Traffic
from bench.report import BenchError, Stage
from flowstream.batch import FlowBatch
from flowstream.blocks import Block, SourcePartition, decode_block, encode_block
from flowstream.counting import CountOnce
from flowstream.decode import DecodeContext, Payloads, decode
from flowstream.ingest import Ingest
from flowstream.links import LinkTable
from flowstream.merging import PartitionMerges
from flowstream.normalise import normalise
from flowstream.operators import Pane, Result, Said
from flowstream.panes import PaneAssembly
from flowstream.pipeline import PartitionAnalysis, build_operators, ingest_config
from flowstream.results import ResultEncoder
from flowstream.setting_tables import Analysis
from flowstream.settings import Settings

FETCHED = 6500  # messages in a megabyte, which is what a fetch brings from a partition
TOPIC, PARTITIONS = "bench-raw", 4
EVERY_ANALYSIS = get_args(Analysis)


class Stages:
    """Times steps one after the other; what a step returns feeds the next."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self.timed: list[Stage] = []

    def time(self, name: str, records: int, work: Callable[[], Any]) -> Any:
        """Time a step that may be repeated: what it starts from must still be there the second time."""
        times, outcome = [], None
        for _ in range(self.repeats):
            started = time.process_time()
            outcome = work()
            times.append(time.process_time() - started)
        self.timed.append(Stage(name, records, min(times)))
        return outcome


def run_ingest(stages: Stages, settings: Settings, traffic: Traffic) -> list[list[Block]]:
    """Time ingest's steps; return the blocks by destination."""
    values = [v for chunk in traffic.chunks() for v in chunk]
    values += traffic.closers(PARTITIONS)
    # Partition p has every fourth message, as the broker would hold them.
    fetched = [
        (p, values[p::PARTITIONS][at : at + FETCHED])
        for at in range(0, len(values), FETCHED)
        for p in range(PARTITIONS)
    ]
    fetched = [(p, batch) for p, batch in fetched if batch]
    n = len(values)
    config = ingest_config(settings, ((TOPIC, PARTITIONS),))
    context = DecodeContext()

    payloads = stages.time("join values", n, lambda: [Payloads.from_values(b) for _, b in fetched])
    decoded = stages.time("decode", n, lambda: [decode("goflow", p, context) for p in payloads])
    stages.time("normalise", n, lambda: [normalise(d.flows, config.normalisation, None) for d in decoded])

    def receive() -> list[list[Block]]:
        ingests = [Ingest(config, SourcePartition(TOPIC, p), "goflow") for p in range(PARTITIONS)]
        offsets = [0] * PARTITIONS
        made: list[list[Block]] = []
        for (p, _), part in zip(fetched, payloads, strict=True):
            at = np.arange(offsets[p], offsets[p] + len(part), dtype=np.int64)
            offsets[p] += len(part)
            made.append(ingests[p].receive(part, at, None, context).blocks)
        return made

    made = stages.time("ingest: decode to blocks (whole)", n, receive)
    judge = Ingest(config, SourcePartition(TOPIC, 0), "goflow")
    stages.time("  of it route and cut", n, lambda: [judge._cut(d.flows, 0, 1) for d in decoded])
    encoded = stages.time("encode blocks", n, lambda: [[encode_block(b) for b in blocks] for blocks in made])
    stages.time("decode blocks", n, lambda: [[decode_block(e) for e in row] for row in encoded])
    return [[blocks[p] for blocks in made] for p in range(PARTITIONS)]


def run_analyses(stages: Stages, settings: Settings, links: LinkTable, blocks: Sequence[Block]) -> None:
    """Time panes and each operator over the blocks of one flows partition."""
    n = sum(len(b.rows) for b in blocks)
    last_ns = max(int(b.rows.time_ns.max()) for b in blocks if len(b.rows))

    def assemble() -> list[Pane]:
        assembly = PaneAssembly(settings.pane_ns)
        for block in blocks:
            assembly.add(block.rows, block.rows.peek("time_ns"))
        return list(assembly.close_before(last_ns + 2 * settings.pane_ns))

    panes = [p for p in stages.time("panes: add, close, sort", n, assemble) if len(p.rows) > PARTITIONS]
    for at in range(len(settings.analyses)):
        name = settings.analyses[at]

        def operate(at: int = at) -> list[Said]:
            operator = build_operators(settings, CountOnce(links), {p: f"{TOPIC}-{p}" for p in range(PARTITIONS)})[at]
            said: list[Said] = []
            followed = [*panes, *_empty_after(panes[-1], 10)]
            for last in range(len(followed)):
                said += operator.process(followed[max(0, last - operator.lookback) : last + 1])
            operator.snapshot()
            return said

        said = stages.time(f"operator {name}", n, operate)
        count = sum(1 if isinstance(s, Result) else len(s) for s in said)
        stages.time(f"  encode its {count:,} results", n, partial(encode, said))


def run_two_stages(stages: Stages, links: LinkTable, blocks: Sequence[Sequence[Block]]) -> None:
    """Time every analysis over the blocks of all flows partitions, the merges of what they send on, and both."""
    settings = Settings(analyses=EVERY_ANALYSIS, topics={"partitions": PARTITIONS})
    n = sum(len(block.rows) for own in blocks for block in own)
    flows = [[encode_block(block) for block in own] for own in blocks]

    def analyse() -> tuple[list[Said], list[tuple[int, bytes]]]:
        works = [PartitionAnalysis(settings, links, partition=p) for p in range(PARTITIONS)]
        said: list[Said] = []
        partials: list[tuple[int, bytes]] = []
        for at, turn in enumerate(zip_longest(*flows)):
            for work, raw in zip(works, turn, strict=True):
                if raw is not None:
                    said += work.apply(at, work.decode(raw)).results
                    partials += [(to, encode_block(block)) for to, block in work.take_partials()]
        encode(said)
        return said, partials

    def merge() -> list[Said]:
        works = [PartitionMerges(settings, links, partition=p) for p in range(PARTITIONS)]
        said: list[Said] = []
        for at, (to, raw) in enumerate(partials):
            said += works[to].apply(at, works[to].decode(raw)).results
        encode(said)
        return said

    _, partials = stages.time("all eight analyses: first stage", n, analyse)
    merged = stages.time("  merges of its partials", n, merge)
    if not merged:
        raise BenchError("nothing came of the merges")
    both = sum(stage.cpu_s for stage in stages.timed[-2:])
    stages.timed.append(Stage("  both", n, both))


def encode(said: Sequence[Said]) -> list[SealedBatch]:
    """Return the results' batches, as the worker sends them, before compression."""
    records = outgoing_results(said, ResultEncoder(), str, 0)
    return [to_send.batch for to_send in sealed_batches(records, "none", 0, BATCH_BYTES_MAX)]


def _empty_after(pane: Pane, number: int) -> list[Pane]:
    length = pane.end_ns - pane.start_ns
    return [
        Pane(pane.index + i, pane.start_ns + i * length, pane.end_ns + i * length, FlowBatch.zeros(0))
        for i in range(1, number + 1)
    ]


def measure(traffic: Traffic, repeats: int) -> list[Stage]:
    """Time everything, once for the compilers and then ``repeats`` times for the figures."""
    settings = Settings()
    links = LinkTable.from_rows(traffic.links())
    small = Traffic(min(20_000, traffic.records), min(1000, traffic.sources), traffic.rate, traffic.exporters)
    for stages, load in ((Stages(1), small), (Stages(repeats), traffic)):
        blocks = run_ingest(stages, settings, load)
        run_analyses(stages, settings, links, blocks[0])
        run_two_stages(stages, links, blocks)
    return stages.timed


def run_stages(traffic: Traffic, repeats: int, core: int | None, timeout_s: float = 300.0) -> list[Stage]:
    """Time everything in a process of its own, on one core and one thread."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.stages", json.dumps(asdict(traffic)), str(repeats)],
        env={**os.environ, **ONE_THREAD}, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE,
    )  # fmt: skip
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    try:
        printed, _ = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return [Stage(**stage) for stage in json.loads(printed)]


if __name__ == "__main__":
    print(json.dumps([asdict(s) for s in measure(Traffic(**json.loads(sys.argv[1])), int(sys.argv[2]))]))
