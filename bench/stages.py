"""Each step of the path in one process, without Kafka: CPU microseconds per record, the best of some repeats.

The steps are those of the worker with the worker's own batch sizes: fetched batches of one source partition
become blocks for four destinations, and the blocks of one destination become panes and results.
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
from pathlib import Path
from typing import Any

import numpy as np

from agents.delivery import outgoing_results
from agents.publisher import BATCH_BYTES_MAX, sealed_batches
from agents.record_batches import SealedBatch
from bench.calibrate import ONE_THREAD
from bench.generate import Traffic
from bench.report import Stage
from flowstream.batch import FlowBatch
from flowstream.blocks import Block, SourcePartition, decode_block, encode_block
from flowstream.decode import DecodeContext, Payloads, decode
from flowstream.ingest import Ingest
from flowstream.links import LinkTable
from flowstream.normalise import normalise
from flowstream.operators import Pane, Result, Said
from flowstream.panes import PaneAssembly
from flowstream.pipeline import build_operators, ingest_config
from flowstream.results import ResultEncoder
from flowstream.settings import Settings

FETCHED = 6500  # messages in a megabyte, which is what a fetch brings from a partition
TOPIC, PARTITIONS = "bench-raw", 4


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
    stages.time("  of it route and cut", n, lambda: [judge._cut(d.flows, 0, 1, idle=False) for d in decoded])
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
            assembly.add(block.rows)
        return list(assembly.close_before(last_ns + 2 * settings.pane_ns))

    panes = [p for p in stages.time("panes: add, close, sort", n, assemble) if len(p.rows) > PARTITIONS]
    for at in range(len(settings.analyses)):
        name = settings.analyses[at]

        def operate(at: int = at) -> list[Said]:
            operator = build_operators(settings, links, {p: f"{TOPIC}-{p}" for p in range(PARTITIONS)})[at]
            said: list[Said] = []
            followed = [*panes, *_empty_after(panes[-1], 10)]
            for last in range(len(followed)):
                said += operator.process(followed[max(0, last - operator.lookback) : last + 1])
            operator.snapshot()
            return said

        said = stages.time(f"operator {name}", n, operate)
        count = sum(1 if isinstance(s, Result) else len(s) for s in said)
        stages.time(f"  encode its {count:,} results", n, partial(encode, said))


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
    small = Traffic(20_000, 1000, traffic.rate, traffic.exporters)
    stages = Stages(1)
    run_analyses(stages, settings, links, run_ingest(stages, settings, small)[0])
    stages = Stages(repeats)
    run_analyses(stages, settings, links, run_ingest(stages, settings, traffic)[0])
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
