"""The top sources by flowstream and by nfdump, of the same datagrams: unsampled, so equal to the byte.

softflowd makes NetFlow v9 and IPFIX of synthetic packets and sends each datagram to a goflow2, behind which are Kafka
and a worker, and to nfcapd.
"""

from __future__ import annotations

import csv
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agents.broker import LocalBroker
from agents.kafka_node import free_port
from deploy.testbed import pipeline, synthetic
from deploy.testbed.fabric import require
from deploy.testbed.pipeline import read_results
from deploy.testbed.processes import TestbedError, end, run, start, started, until

PACKAGES = {"nfcapd": "nfdump", "nfdump": "nfdump", "softflowd": "softflowd"}
#: Version of softflowd's export -> second octet of its sources, which tells the two apart in flowstream's results.
NETWORKS = {"9": 9, "10": 10}
NAMES = {"9": "NetFlow v9", "10": "IPFIX"}
TOP = 10

Ranking = list[tuple[str, int]]


def compare(out: Console, seed: int, folder: Path) -> int:
    """Print both rankings and return 1 where they differ; TestbedError or FlowstreamError where it cannot run."""
    require(PACKAGES)
    folder = folder.resolve()
    if started(folder):
        raise TestbedError(f"something still runs in {folder}: end it first")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port = free_port()
    try:
        running = pipeline.begin(folder, f"netflow://127.0.0.1:{port}?count=1&workers=1")
        theirs = {version: _export(folder, version, seed, port) for version in NETWORKS}
        pipeline.until_analysed(running)
        pipeline.save(running, folder / "results")
    finally:
        end(folder, started(folder))
        LocalBroker(folder / "broker").stop()
    sums = _sums(folder / "results")
    equal = [_print(out, NAMES[v], theirs[v], _of_network(sums, network)) for v, network in NETWORKS.items()]
    return 0 if all(equal) else 1


def _sums(results: Path) -> dict[str, int]:
    """Return the bytes of each source over all windows."""
    sums: dict[str, int] = {}
    for value in read_results(results, "sources"):
        for row in value["sources"]:
            sums[row["src_addr"]] = sums.get(row["src_addr"], 0) + row["estimated_bytes"]
    return sums


def _of_network(sums: dict[str, int], network: int) -> Ranking:
    own = [pair for pair in sums.items() if pair[0].startswith((f"10.{network}.", f"fd00:{network}:"))]
    return sorted(own, key=lambda pair: (-pair[1], pair[0]))[:TOP]


def _print(out: Console, export: str, theirs: Ranking, ours: Ranking) -> bool:
    table = Table("", "nfdump", "bytes", "flowstream", "bytes", title=f"Top {TOP} sources of {export}")
    for rank, ((src, sent), (own, counted)) in enumerate(zip(theirs, ours, strict=False), 1):
        table.add_row(str(rank), src, f"{sent:,}", own, f"{counted:,}")
    equal = len(theirs) == TOP and theirs == ours
    out.print(table, "[green]equal to the byte" if equal else "[red]not equal")
    return equal


def _export(folder: Path, version: str, seed: int, collector: int) -> Ranking:
    """Export the packets of a version, to the collector and to an nfcapd, and return nfdump's top sources."""
    captured = folder / f"nfcapd-{version}"
    captured.mkdir()
    name, port = f"nfcapd-v{version}", free_port()
    start(folder, name, ["nfcapd", "-b", "127.0.0.1", "-p", str(port), "-w", str(captured), "-t", "3600"])
    until(lambda: _is_bound(port), "nfcapd")
    with tempfile.TemporaryDirectory() as scratch, _forked((collector, port)) as (sent, entry):
        pcap = Path(scratch, "packets.pcap")
        pcap.write_bytes(synthetic.to_pcap(synthetic.packets(seed, NETWORKS[version])))
        # Without "-c none" softflowd waits for ever at its control socket; IPFIX times need milliseconds.
        command = ["softflowd", "-r", str(pcap), "-n", f"127.0.0.1:{entry}", "-v", version, "-6", "-a", "-d"]
        run(*command, "-c", "none", "-p", f"{scratch}/pid", *(["-A", "milli"] if version == "10" else []))
        until(lambda: _is_quiet(sent), "the export to end")
    end(folder, [name])
    table = run("nfdump", "-R", str(captured), "-s", "srcip/bytes", "-n", str(TOP), "-o", "csv", "-q").splitlines()
    parsed = [(row["val"], int(row["byt"])) for row in csv.DictReader(table)]
    return sorted(parsed, key=lambda pair: (-pair[1], pair[0]))


def _is_bound(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _is_quiet(sent: list[int]) -> bool:
    """Return whether datagrams came, and none since the last time that this was asked."""
    before, sent[1] = sent[1], sent[0]
    return 0 < before == sent[0]


@contextmanager
def _forked(targets: tuple[int, ...]) -> Iterator[tuple[list[int], int]]:
    """Hand every datagram that comes in at a port on to each of the targets; yield the count of them, and the port."""
    sent = [0, 0]
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as entry,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way_out,
    ):
        entry.bind(("127.0.0.1", 0))
        entry.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        entry.settimeout(0.1)
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                try:
                    datagram = entry.recv(1 << 16)
                except TimeoutError:
                    continue
                for port in targets:
                    way_out.sendto(datagram, ("127.0.0.1", port))
                sent[0] += 1

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield sent, entry.getsockname()[1]
        finally:
            over.set()
            thread.join()
