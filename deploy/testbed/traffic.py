"""Send the traffic of a run, and record every frame where it enters a switch."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.testbed import plan
from deploy.testbed.fabric import FOLDER
from deploy.testbed.plan import Run
from deploy.testbed.processes import TestbedError, end, inside, run, start, until
from deploy.testbed.schedule import SINK_PORT, Transfer, client_command, schedule

ROOT = Path(__file__).resolve().parents[2]
HEADER_BYTES = 80  # of a frame: Ethernet, IPv6 and the ports
LEAD_S = 2.0  # from starting the senders to their common beginning


@contextmanager
def captured(folder: Path) -> Iterator[None]:
    """Record, for as long as the block lasts, what enters each switch, port by port, as ``<port>.pcap``.

    The taps are looked at behind their token buckets, where frames go over to the switch: what is recorded is what
    the switch was given, and not what a host tried to send.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [port.name for port in plan.ports() if port.edge or port.node.startswith("spine")]
    names = [f"capture-{name}" for name in wanted]
    for name in wanted:
        command = ["tcpdump", "-i", name, "-Q", "out", "-s", str(HEADER_BYTES), "-B", "16384", "-n", "-Z", "root"]
        start(FOLDER, f"capture-{name}", [*command, "--time-stamp-precision=nano", "-w", str(folder / f"{name}.pcap")])
    try:
        until(lambda: all((folder / f"{name}.pcap").exists() for name in wanted), "tcpdump")
        yield
    finally:
        end(FOLDER, names)
    for name in names:
        log = (FOLDER / f"{name}.log").read_text()
        if "0 packets dropped by kernel" not in log:
            raise TestbedError(f"tcpdump lost packets, so there is no truth: {log.strip().splitlines()[-1:]}")


def send(settings: Run) -> tuple[int, int]:
    """Send the run's traffic; return when it began and ended, nanoseconds since the epoch.

    Raises TestbedError where a transfer failed.
    """
    wanted = schedule(settings)
    servers = [_serve(transfer) for transfer in wanted.transfers]
    sinks = [_sink(leaf) for leaf in plan.LEAVES]
    try:
        for leaf in plan.LEAVES:
            listening = inside(plan.PREFIX + plan.host(leaf), "ss", "-Hltn")
            ports = [SINK_PORT, *(t.dst_port for t in wanted.transfers if plan.leaf_of(t.dst) == leaf)]
            until(lambda c=listening, p=ports: _listening(c, p), f"the servers of {plan.host(leaf)}")  # type: ignore[misc]
        begin = time.time() + LEAD_S
        senders = [_send(leaf, settings, begin) for leaf in plan.LEAVES]
        clients = [_transfer(t, begin) for t in sorted(wanted.transfers, key=lambda t: t.begin_s)]
        deadline = begin + settings.duration_s + 20
        failed = [name for name, process in [*senders, *clients] if _status(process, deadline)]
        if failed:
            said = [(FOLDER / f"{name}.log").read_text().strip().splitlines()[-1:] for name in failed]
            raise TestbedError(f"{', '.join(failed)} failed: {said}")
        return int(begin * 1e9), time.time_ns()
    finally:
        end(FOLDER, [*servers, *sinks, *(f"mice-{leaf}" for leaf in plan.LEAVES), *(t.name for t in wanted.transfers)])


def _listening(command: list[str], ports: list[int]) -> bool:
    bound = {int(line.split()[3].rpartition(":")[2]) for line in run(*command).splitlines()}
    return set(ports) <= bound


def _namespace(address: str) -> str:
    return plan.PREFIX + plan.host(plan.leaf_of(address))


def _serve(transfer: Transfer) -> str:
    name = f"{transfer.name}-server"
    # Bound, because a datagram is otherwise answered from the first address of the host.
    command = ["iperf3", "-s", "-1", "-B", transfer.dst, "-p", str(transfer.dst_port)]
    start(FOLDER, name, inside(_namespace(transfer.dst), *command))
    return name


def _python(leaf: int, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = inside(plan.PREFIX + plan.host(leaf), sys.executable, "-m", "deploy.testbed.host", *arguments)
    return start(FOLDER, name, command, {"PYTHONPATH": str(ROOT)})


def _sink(leaf: int) -> str:
    _python(leaf, f"sink-{leaf}", "sink")
    return f"sink-{leaf}"


def _send(leaf: int, settings: Run, begin: float) -> tuple[str, subprocess.Popen[bytes]]:
    name = f"mice-{leaf}"
    arguments = ["send", str(leaf), str(settings.seed), str(settings.duration_s), str(begin)]
    return name, _python(leaf, name, *arguments)


def _transfer(transfer: Transfer, begin: float) -> tuple[str, subprocess.Popen[bytes]]:
    time.sleep(max(0.0, begin + transfer.begin_s - time.time()))
    return transfer.name, start(FOLDER, transfer.name, inside(_namespace(transfer.src), *client_command(transfer)))


def _status(process: subprocess.Popen[bytes], deadline: float) -> int:
    try:
        return process.wait(max(1.0, deadline - time.time()))
    except subprocess.TimeoutExpired:
        return 1
