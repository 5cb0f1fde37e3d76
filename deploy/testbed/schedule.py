"""What the hosts send in a run, drawn from its seed: the same seed gives the same traffic. Nothing here sends."""

from __future__ import annotations

import random
from dataclasses import dataclass

from deploy.testbed import plan
from deploy.testbed.plan import Run

BULK_FLOWS = 98  # with E1 and E2 a hundred flows between two servers, of which two are elephants
BULK_SHARE = 0.001  # of the link, each
HUNDRED_PORTS = (5201, 5202, 5206)  # of E1, E2 and bulk
SINK_PORT = 7000
SCAN_PORTS_PER_S = 400


@dataclass(frozen=True, slots=True)
class Transfer:
    """A run of iperf3: ``streams`` flows of ``rate_bps`` of payload each, from ``begin_s`` into the run on."""

    name: str
    src: str
    dst: str
    dst_port: int
    proto: str
    rate_bps: int
    begin_s: int
    duration_s: int
    streams: int = 1


@dataclass(frozen=True, slots=True)
class Mouse:
    """A short flow over TCP to another host's sink."""

    at_s: float
    src: str
    dst: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Scan:
    """Connections that are tried, port by port, against one address."""

    at_s: float
    src: str
    dst: str
    ports: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that is sent in a run."""

    transfers: tuple[Transfer, ...]
    mice: tuple[Mouse, ...]
    scan: Scan


def schedule(run: Run) -> Schedule:
    """Return the traffic of a run.

    Between two servers a hundred flows of which E1 and E2 are elephants, and E3 from a third host; M1 stays just
    under 5 % of its link, M2 speaks IPv6. E1 goes on throughout, E2 and E3 come later and end earlier.
    """
    chance = random.Random(run.seed)
    leaves = list(plan.LEAVES)
    chance.shuffle(leaves)
    a, b, c, d = leaves
    late, short = max(3, run.duration_s // 8), run.duration_s - run.duration_s // 4
    # Names, hosts and shares of the link; frames add 4 to 5 % to the payload that iperf3 is told to send.
    wanted = (
        ("E1", (a, 0), (c, 0), HUNDRED_PORTS[0], "tcp", chance.uniform(0.27, 0.32), 0, run.duration_s, 1),
        ("E2", (a, 1), (c, 1), HUNDRED_PORTS[1], "tcp", chance.uniform(0.19, 0.22), late, short, 1),
        ("E3", (b, 0), (c, 2), 5203, "udp", chance.uniform(0.16, 0.18), 2 * late, short - late, 1),
        ("M1", (d, 0), (b, 1), 5204, "tcp", chance.uniform(0.040, 0.044), 0, run.duration_s, 1),
        ("M2", (d, 5), (a, 5), 5205, "udp", chance.uniform(0.015, 0.025), 0, run.duration_s, 1),
        ("bulk", (a, 0), (c, 0), HUNDRED_PORTS[2], "tcp", BULK_SHARE, 1, run.duration_s - 2, BULK_FLOWS),
    )
    transfers = tuple(
        Transfer(
            name,
            plan.addresses(src)[which],
            plan.addresses(dst)[other],
            port,
            proto,
            round(share * run.link_bps),
            begin,
            length,
            streams,
        )
        for name, (src, which), (dst, other), port, proto, share, begin, length, streams in wanted
    )
    scan = Scan(run.duration_s / 3, plan.addresses(d)[4], plan.addresses(b)[4], SCAN_PORTS_PER_S * run.duration_s // 5)
    return Schedule(transfers, tuple(_mice(chance, run)), scan)


def _mice(chance: random.Random, run: Run) -> list[Mouse]:
    """Return some eleven flows a second of 1 kB to 250 kB (log-uniform), between any two hosts' IPv4 addresses."""
    mice = []
    at_s = 0.5
    while at_s < run.duration_s - 1:
        src, dst = chance.sample(plan.LEAVES, 2)
        size = round(1000 * 250 ** chance.random())
        mice.append(
            Mouse(at_s, plan.addresses(src)[chance.randrange(5)], plan.addresses(dst)[chance.randrange(5)], size)
        )
        at_s += chance.expovariate(11)
    return mice


def client_command(transfer: Transfer) -> list[str]:
    """Return the iperf3 client of a transfer; small blocks keep small flows steady."""
    command = ["iperf3", "-c", transfer.dst, "-B", transfer.src, "-p", str(transfer.dst_port)]
    command += ["-b", str(transfer.rate_bps), "-t", str(transfer.duration_s), "-P", str(transfer.streams), "-i", "0"]
    if transfer.proto == "udp":
        return [*command, "-u", "-l", "1400"]
    return [*command, "-l", "1448" if transfer.streams > 1 else "32K"]
