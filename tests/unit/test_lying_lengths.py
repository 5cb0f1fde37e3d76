"""What claims to be large costs no memory by its claim: blocks, tables of sources, every decoder.

Each runs in a process of its own whose address space is held to little more than it has when it begins.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BEGIN = """
import json, resource, struct
import numpy as np
from flowstream import narrow, schemas
from flowstream.batch import FlowBatch
from flowstream.blocks import Block, SourcePartition, decode_block, encode_block
from flowstream.decode import DECODERS, decode
from flowstream.decode.payloads import DecodeContext, Payloads
from flowstream.errors import StateError
from flowstream.source_blocks import COLUMNS, SourceBlock

def hold(spare_bytes):
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + spare_bytes, resource.RLIM_INFINITY))

def refused(what, *args):
    try:
        what(*args)
    except StateError:
        return True
    return False
"""

BLOCKS = """
SOURCE = SourcePartition("raw", 0)
whole = encode_block(Block(SOURCE, 0, 1, 0, False, (("raw", 1),), FlowBatch.zeros(1)))
name, record = schemas.single_object_decode(whole)
# Its columns are of equal values: nine bytes each, for any number of rows.
lies = [record | {"rows": rows} for rows in (2**31 - 1, 2**24, 2**22, 10_000)]
lies += [record | {"rows": 2**22, "src_port": b"\\x02" + bytes(8 + 100)}]
payloads = [schemas.single_object_encode(name, lie) for lie in lies]
# A byte column and an array of sources that claim 2^60, by a number put in their place.
claim = b"\\xfe" * 8 + b"\\x0f"
payloads += [whole[:at] + claim + whole[at:] for at in range(10, len(whole))]
value = {n: narrow.pack(np.zeros(1, "<u8")) for n in COLUMNS} | {"window_start_ns": 0, "window_end_ns": 1}
tables = [value | {"count": n, "src_addr": narrow.pack_words(np.zeros((1, 2), np.uint64))} for n in (2**22, 2**40, 100)]
hold(8 << 20)
assert all(refused(decode_block, payload) for payload in payloads)
assert all(refused(SourceBlock.from_value, table) for table in tables)
print(len(payloads))
"""

DECODE = """
FORMAT = {wire_format!r}
deep = [b"[" * 900_000, b'{{"a":' * 150_000, b'{{"flow":' + b"[" * 500_000, b"\\x0a" * 900_000]
long = b'{{"timestamp": "' + b"9" * 900_000 + b'", "bytes": ' + b"9" * 90_000 + b"}}"
# Lengths of 2^31 and 2^63, where protobuf and Avro have them.
lies = [bytes([tag]) + claim for tag in range(256) for claim in (b"\\xff\\xff\\xff\\xff\\x0f", b"\\xff" * 9 + b"\\x01")]
writer = {{"type": "record", "name": "Flow", "fields": [
    {{"name": "more", "type": {{"type": "array", "items": "long"}}}},
    {{"name": "tags", "type": {{"type": "map", "values": "bytes"}}}},
    *[{{"name": n, "type": "long"}} for n in ("time_received_ns", "bytes", "packets")],
    {{"name": "src_addr", "type": "bytes"}},
]}}
framed = [b"\\x00\\x00\\x00\\x00\\x07" + lie for lie in lies]
decode(FORMAT, Payloads.from_values([b"{{}}", b"\\x08\\x01", framed[0]]), DecodeContext({{7: writer}}))
hostile = Payloads.from_values([*deep, long, *lies, *framed])
hold(64 << 20)
done = decode(FORMAT, hostile, DecodeContext({{7: writer}}))
assert len(done.rejected) + len(done.skipped) + len(done.flows) >= len(hostile), (len(done.rejected), len(hostile))
print(len(hostile))
"""


def run(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def test_blocks_that_claim_more_rows_than_they_have_bytes_are_refused_in_eight_mebibytes() -> None:
    assert int(run(BEGIN + BLOCKS)) > 200


@pytest.mark.parametrize("wire_format", ["goflow", "goflow-json", "avro", "flow-event-json", "suricata-eve"])
def test_messages_that_claim_much_or_nest_deeply_are_decoded_in_64_mebibytes(wire_format: str) -> None:
    assert int(run(BEGIN + DECODE.format(wire_format=wire_format))) > 1000
