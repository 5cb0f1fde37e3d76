"""Golden digests: what the recorded fabric gives, over every result stream.

``python -m tests.golden`` prints the digests of now; with ``--update`` it writes them to tests/data/golden.json.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flowstream.decode import Payloads, decode
from flowstream.links import LinkTable
from flowstream.operators import one_by_one
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.recordings import Recording
from flowstream.results import ResultEncoder
from flowstream.settings import load
from flowstream.topics import name
from tests.builders import delimited, goflow2_v2

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "golden.json"
BATCH = 1000

#: Runs that together say something on every stream, by every scaling. One message in fifty is doubtful in the second.
RUNS: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "tail pairs, all features, log": {
        "distances": {"pairs": "tail", "features": ("all",), "scaling": "log"}, "quality": {"size_s": 10},
    },
    "all pairs, hopping, standard": {
        "analyses": ("distances",),
        "distances": {"pairs": "all", "scaling": "standard", "size_s": 4, "step_s": 2, "flows_max": 100},
    },
    "counted once": {"analyses": ("counting",), "counting": {"size_s": 10}},
}  # fmt: skip


def messages(*, doubtful: bool) -> Iterator[bytes]:
    """Yield the recording; with messages in between that name no sampling rate."""
    for n, message in enumerate(Recording(DATA / "clos_60s_goflow2_v2.bin.gz").messages()):
        yield message
        if doubtful and n % 50 == 0:
            time_ns = int(decode("goflow", Payloads.from_values([message])).flows.time_received_ns[0])
            yield delimited(goflow2_v2(time_received_ns=time_ns, sampling_rate=0, bytes=100 + n))


def digests(run: str) -> dict[str, str]:
    """Return the digest of each stream's (topic, key, value) in sorted order, for one of ``RUNS``."""
    settings = load(**RUNS[run], inputs=({"topic": "raw", "format": "goflow"},))
    pipeline = FilePipeline(settings, LinkTable.from_path(DATA / "clos_links.csv"), "raw", "goflow")
    encoder = ResultEncoder()
    said: dict[str, list[tuple[bytes, bytes, bytes]]] = {}
    fed = (
        result for payloads in in_batches(messages(doubtful="log" in run), BATCH) for result in pipeline.feed(payloads)
    )
    for result in one_by_one([*fed, *pipeline.finish()]):
        topic = name(settings, result.stream).encode()
        said.setdefault(result.stream, []).append((topic, result.key.encode(), encoder.encode(result)))
    return {stream: _digest(said[stream]) for stream in sorted(said)}


def _digest(records: list[tuple[bytes, bytes, bytes]]) -> str:
    """Hash the records in order, each part behind its length: no two sets of records give the same bytes."""
    hashed = hashlib.sha256()
    for record in sorted(records):
        for part in record:
            hashed.update(len(part).to_bytes(8, "big") + part)
    return f"{len(records)} records, sha256 {hashed.hexdigest()}"


def now() -> dict[str, dict[str, str]]:
    """Return the digests of every run."""
    return {run: digests(run) for run in RUNS}


if __name__ == "__main__":
    made = json.dumps(now(), indent=2) + "\n"
    sys.stdout.write(made)
    if "--update" in sys.argv[1:]:
        GOLDEN.write_text(made, "utf-8")
