"""After the warm-up no kernel of an enabled analysis is left to be compiled, or loaded, in the middle of the work."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import get_args

import pytest

from flowstream.setting_tables import Analysis
from tests.golden import DATA

#: A process of its own: here other tests have called kernels before. Kernels that are called by kernels alone have no
#: types of their own where they come from a cache, so it is looked at what a recording adds.
PROGRAM = """
import json, pathlib, sys
import numpy as np
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from numba.core.dispatcher import Dispatcher
from flowstream.batch import FlowType
from flowstream.blocks import Block, SourcePartition, decode_block, encode_block
from flowstream.decode import Payloads, decode
from flowstream.links import LinkTable
from flowstream.pipeline import FilePipeline, PartitionAnalysis, in_batches
from flowstream.record_batches import WireBatch, read_batches
from flowstream.recordings import Recording
from flowstream.settings import load
from flowstream.warmup import warm_up

def ready():
    return {
        (module, name, signature)
        for module in list(sys.modules) if module.startswith("flowstream.")
        for name, kernel in vars(sys.modules[module]).items()
        if isinstance(kernel, Dispatcher) and kernel.py_func.__module__ == module
        for signature in kernel.signatures
    }

settings, data = load(**json.loads(sys.argv[1])), pathlib.Path(sys.argv[2])
messages = list(Recording(data / "clos_60s_goflow2_v2.bin.gz").messages())  # files are cut by a kernel, too
warm_up(settings)
before = ready()
pipeline = FilePipeline(settings, LinkTable.from_path(data / "clos_links.csv"), "raw", "goflow")
for values in in_batches(messages, 1000):
    pipeline.feed(values)
pipeline.finish()
for codec, kind in ((0, bytes), (3, bytearray)):  # what is decompressed lies in memory that is used again
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, 0, 0, 1 << 20)
    builder.append(0, 1, b"key", messages[0], [])
    wire, plain = bytes(builder.build()), DefaultRecordBatchBuilder(2, 0, False, -1, 0, 0, 1 << 20)
    plain.append(0, 1, b"key", messages[0], [])
    body = memoryview(kind(bytes(plain.build())[61:]))
    (read,) = read_batches([WireBatch(memoryview(wire), 0, 1)], lambda *_: body)
    assert len(read) == 1 and not read.refused
# The same as flow records, of exporters that are not in the table.
rows = decode("goflow", Payloads.from_values(messages)).flows
rows = rows.replace(flow_type=np.full(len(rows), FlowType.IPFIX), origin_offset=np.arange(len(rows)))
block = Block(SourcePartition("raw", 0), 0, len(rows), int(rows.time_ns.max()), False, (("raw", 1),), rows)
part = PartitionAnalysis(settings, LinkTable())
part.apply(0, decode_block(encode_block(block)))
PartitionAnalysis(settings, LinkTable(), part.analysis.progress())
print(len(before), *sorted(f"{module}.{name}{signature}" for module, name, signature in ready() - before), sep="\\n")
"""


@pytest.mark.parametrize(
    "chosen",
    [
        {"analyses": get_args(Analysis)},
        {"analyses": ["paths"], "paths": {"size_s": 45.0}},
        {"analyses": ["links", "counting"], "counting": {"size_s": 20.0}},
    ],
)
def test_no_kernel_is_left_to_be_compiled(chosen):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(chosen), str(DATA)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    count, *compiled = done.stdout.splitlines()
    assert int(count) > 5
    assert compiled == []
