"""Golden digests: what the recorded fabric gives, over every result stream.

``python -m tests.golden`` prints the digests of now; with ``--update`` it writes them to tests/data/golden.json.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flowstream.decode import Payloads, decode
from flowstream.links import LinkTable
from flowstream.operators import Result, one_by_one
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.recordings import Recording
from flowstream.results import ResultEncoder
from flowstream.settings import Settings, load
from flowstream.topics import name
from flowstream.topology_json import read_topology
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
    "the network": {
        "analyses": ("elephants", "paths", "talkers", "links"), "link_use": {"threshold": 0.3, "for_intervals": 1},
    },
}  # fmt: skip

#: An elephant of the recording, and by which (exporter, in_if, out_if) it goes once it was moved to the other spine.
MOVED = {
    "src_addr": bytes([10, 0, 1, 10]), "dst_addr": bytes([10, 0, 3, 10]), "src_port": 40001, "dst_port": 5201,
    "sampling_rate": 64, "bytes": 1518,
}  # fmt: skip
OTHER_WAY = ((11, 15, 12), (22, 13, 31), (13, 30, 33))
ENDED_NS = 1_795_224_870_000_000_000  # after the last message of the recording
HOUR_NS = 3600 * 10**9


def messages(*, doubtful: bool) -> Iterator[bytes]:
    """Yield the recording; with messages in between that name no sampling rate."""
    for n, message in enumerate(Recording(DATA / "clos_60s_goflow2_v2.bin.gz").messages()):
        yield message
        if doubtful and n % 50 == 0:
            time_ns = int(decode("goflow", Payloads.from_values([message])).flows.time_received_ns[0])
            yield delimited(goflow2_v2(time_received_ns=time_ns, sampling_rate=0, bytes=100 + n))


def moved() -> Iterator[bytes]:
    """Yield what follows the recording: its first elephant by the other spine for 30 s, and once more after an hour."""
    for at_ns in (*range(0, 30 * 10**9, 20_000_000), HOUR_NS):
        for hop, (exporter, in_if, out_if) in enumerate(OTHER_WAY):
            yield delimited(goflow2_v2(
                **MOVED, time_received_ns=ENDED_NS + at_ns + hop, sampler_address=bytes([10, 255, 0, exporter]),
                in_if=in_if, out_if=out_if, ip_ttl=64 - hop,
            ))  # fmt: skip


def of_run(run: str) -> Iterator[bytes]:
    """Yield the messages of one of ``RUNS``."""
    yield from messages(doubtful="log" in run)
    if run == "the network":
        yield from moved()


def digests(run: str) -> dict[str, str]:
    """Return the digest of each stream's (topic, key, value) in sorted order, for one of ``RUNS``."""
    settings = load(**RUNS[run], inputs=({"topic": "raw", "format": "goflow"},))
    encoder = ResultEncoder()
    said: dict[str, list[tuple[bytes, bytes, bytes]]] = {}
    for result in results(settings, of_run(run)):
        topic = name(settings, result.stream).encode()
        said.setdefault(result.stream, []).append((topic, result.key.encode(), encoder.encode(result)))
    return {stream: _digest(said[stream]) for stream in sorted(said)}


def results(settings: Settings, fed: Iterable[bytes]) -> Iterator[Result]:
    """Yield what messages give, with the inventory of the recorded fabric."""
    links, topology = LinkTable.from_path(DATA / "clos_links.csv"), read_topology(DATA / "clos_topology.csv")
    pipeline = FilePipeline(settings, links, settings.inputs[0].topic, "goflow", topology=topology)
    for payloads in in_batches(fed, BATCH):
        yield from one_by_one(pipeline.feed(payloads))
    yield from one_by_one(pipeline.finish())


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
