"""What was really sent in a run: per source and window, per flow with its path and rates, per link."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.testbed import plan
from deploy.testbed.packets import Packets

SECOND_NS = 10**9
TICK_NS = SECOND_NS // 4
#: A flow's rate is looked at over both: no shorter burst has to be, and no shorter one may be, taken for an elephant.
PEAK_S, STEADY_S = 1, 5
LATE_S = 1  # sFlow holds a sample back for up to a second, until its datagram is full
GAP_BYTES = 20  # preamble, start of frame and gap between frames (IEEE 802.3)


class Flow(NamedTuple):
    """A five-tuple, as results name it."""

    src_addr: str
    dst_addr: str
    proto: int
    src_port: int
    dst_port: int


class SentFlow(NamedTuple):
    """What a flow sent. Rates are the highest over ``PEAK_S`` and over ``STEADY_S``, in bits per second.

    ``path`` is its hops, (switch, in port, out port) in order; empty where it is not known.
    """

    bytes: int
    packets: int
    peak_bps: float
    steady_bps: float
    path: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """What was sent. Bytes are of frames with their check sequence, as sFlow counts them.

    ``sources`` is by (start of the window in ns since the epoch, source address); a ``window_ns`` of 0 says that
    the whole run is one window. ``links`` are the bytes that came in by a port, by (switch, port), on the wire: with
    20 a frame of preamble and gap. ``frames_lost`` are in all of these, but a switch was too slow to take them.
    ``before`` are the bytes of the last second before a window, by the same keys as ``sources``.
    """

    link_bps: int
    window_ns: int
    sources: Mapping[tuple[int, str], int]
    flows: Mapping[Flow, SentFlow]
    links: Mapping[tuple[str, str], int]
    frames_lost: int = 0
    before: Mapping[tuple[int, str], int] = field(default_factory=dict)

    def bounds(self, window_start_ns: int, src_addr: str) -> tuple[int, int]:
        """Return the least and the most bytes that may count for a window, where samples are up to a second late."""
        own = self.sources.get((window_start_ns, src_addr), 0)
        following = self.before.get((window_start_ns + self.window_ns, src_addr), 0) if self.window_ns else 0
        return own - following, own + self.before.get((window_start_ns, src_addr), 0)

    def to_json(self) -> str:
        """Return it as a JSON object of lists."""
        return json.dumps(
            {
                "link_bps": self.link_bps,
                "window_ns": self.window_ns,
                "frames_lost": self.frames_lost,
                "before": [[*key, sent] for key, sent in self.before.items()],
                "sources": [[*key, sent] for key, sent in self.sources.items()],
                "flows": [{**flow._asdict(), **sent._asdict()} for flow, sent in self.flows.items()],
                "links": [[*key, sent] for key, sent in self.links.items()],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Truth:
        """Read what ``to_json`` wrote; KeyError or ValueError for anything else."""
        stored = json.loads(text)
        flows = {}
        for row in stored["flows"]:
            sent = {**row, "path": tuple(tuple(hop) for hop in row["path"])}
            flows[Flow(*(row[name] for name in Flow._fields))] = SentFlow(*(sent[name] for name in SentFlow._fields))
        sources = {(start, src): sent for start, src, sent in stored["sources"]}
        before = {(start, src): sent for start, src, sent in stored["before"]}
        links = {(node, port): sent for node, port, sent in stored["links"]}
        return cls(stored["link_bps"], stored["window_ns"], sources, flows, links, stored["frames_lost"], before)


def measured(captures: Mapping[str, Packets], link_bps: int, window_ns: int) -> Truth:
    """Return the truth of captures, by the port through which the packets came in.

    What hosts sent is what came in at edges; a path is the edge and the spine at which a flow came in. ValueError
    where a flow went through both spines: then it has no one path.
    """
    edges = [port for port in plan.ports() if port.edge]
    sent = _joined([captures[port.name] for port in edges])
    flows, place = _by_flow(sent.flow)
    spine = _spines(captures, flows)
    bytes_of = np.bincount(place, sent.bytes, len(flows)).astype(np.int64)
    packets_of = np.bincount(place, minlength=len(flows))
    peak, steady = _rates(sent, place, len(flows))
    known = {}
    for row, flow in enumerate(flows):
        via = spine.get(flow, 0)
        path = tuple(plan.path(plan.leaf_of(flow.src_addr), plan.leaf_of(flow.dst_addr), via)) if via else ()
        known[flow] = SentFlow(int(bytes_of[row]), int(packets_of[row]), float(peak[row]), float(steady[row]), path)
    links = {(port.node, port.name): _on_wire(captures[port.name]) for port in plan.ports() if _seen(port)}
    sources = _windows(sent, place, list(flows), window_ns)
    return Truth(link_bps, window_ns, sources, known, links, 0, _before(sent, place, list(flows), window_ns))


def _on_wire(packets: Packets) -> int:
    return int(packets.bytes.sum()) + GAP_BYTES * len(packets.bytes)


def _before(sent: Packets, place: NDArray[np.int64], flows: list[Flow], window_ns: int) -> dict[tuple[int, str], int]:
    """Return what sources sent in the last second before each window."""
    if not window_ns:
        return {}
    late = (sent.time_ns + LATE_S * SECOND_NS) // window_ns > sent.time_ns // window_ns
    moved = Packets(sent.time_ns[late] + LATE_S * SECOND_NS, sent.bytes[late], sent.flow[late])
    return _windows(moved, place[late], flows, window_ns)


def _seen(port: plan.Port) -> bool:
    return port.edge or port.node.startswith("spine")


def _joined(parts: Sequence[Packets]) -> Packets:
    return Packets(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("time_ns", "bytes", "flow")))


def _by_flow(flow: NDArray[Any]) -> tuple[dict[Flow, int], NDArray[np.int64]]:
    """Return the distinct flows and, of every packet, which of them it belongs to."""
    distinct, place = np.unique(flow.view(f"V{flow.dtype.itemsize}"), return_inverse=True)
    rows = distinct.view(flow.dtype).tolist()
    named = {
        Flow(_address(src), _address(dst), proto, src_port, dst_port): row
        for row, (src, dst, proto, src_port, dst_port) in enumerate(rows)
    }
    return named, place


def _address(packed: bytes) -> str:
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


def _spines(captures: Mapping[str, Packets], flows: Mapping[Flow, int]) -> dict[Flow, int]:
    via: dict[Flow, int] = {}
    for spine in plan.SPINES:
        ports = [port.name for port in plan.ports() if port.node == f"spine{spine}"]
        for flow in _by_flow(_joined([captures[name] for name in ports]).flow)[0]:
            if via.setdefault(flow, spine) != spine:
                raise ValueError(f"{flow} went through two spines")
    return {flow: spine for flow, spine in via.items() if flow in flows}


def _rates(sent: Packets, place: NDArray[np.int64], flows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return every flow's highest rates over a moving ``PEAK_S`` and ``STEADY_S``, in steps of a quarter second."""
    if not flows:
        return np.zeros(0), np.zeros(0)
    tick = (sent.time_ns - sent.time_ns.min()) // TICK_NS
    ticks = int(tick.max()) + 1
    sums = np.bincount(place * ticks + tick, sent.bytes, flows * ticks).reshape(flows, ticks).cumsum(axis=1)
    return _highest(sums, PEAK_S), _highest(sums, STEADY_S)


def _highest(sums: NDArray[np.float64], span_s: int) -> NDArray[np.float64]:
    width = span_s * SECOND_NS // TICK_NS
    before = np.pad(sums, ((0, 0), (width, 0)))[:, : sums.shape[1]]
    return np.asarray((sums - before).max(axis=1) * 8 / span_s)


def _windows(sent: Packets, place: NDArray[np.int64], flows: list[Flow], window_ns: int) -> dict[tuple[int, str], int]:
    names = sorted({flow.src_addr for flow in flows})
    own = np.array([names.index(flow.src_addr) for flow in flows], np.int64)[place]
    window = sent.time_ns // window_ns if window_ns else np.zeros_like(sent.time_ns)
    keys, at = np.unique(window * len(names) + own, return_inverse=True)
    sums = np.bincount(at, sent.bytes, len(keys))
    return {
        (int(k) // len(names) * window_ns, names[int(k) % len(names)]): int(s) for k, s in zip(keys, sums, strict=True)
    }


def recorded(folder: Path) -> Truth:
    """Return the truth of the recorded minute (``tests/data``): sources over the whole of it, its 40 largest flows.

    The oracle counts bytes without check sequences and has the largest flows only. Of steady flows the generator
    wrote down the rate; of others the rate is at most as if all had come in a second.
    """
    oracle = json.loads((folder / "clos_60s_oracle.json").read_text())
    steady = {
        (f["src"], f["sport"]): f["payload_bps"] * 1.05
        for f in json.loads((folder / "clos_60s_truth.json").read_text())["elephants"]
    }
    flows = {}
    for row in oracle["flows"]:
        sent = row["bytes"] + 4 * row["packets"]
        rate = steady.get((row["src"], row["sport"]))
        path = tuple((hop["switch"], hop["in"], hop["out"]) for hop in row["path"])
        flow = Flow(row["src"], row["dst"], row["proto"], row["sport"], row["dport"])
        flows[flow] = SentFlow(sent, row["packets"], rate or sent * 8.0, rate or sent * 8.0 / STEADY_S, path)
    sources = {(0, row["src"]): row["bytes"] + 4 * row["packets"] for row in oracle["sources"]}
    return Truth(100_000_000, 0, sources, flows, {})
