"""Captured frames as columns: what tcpdump wrote (pcap, Ethernet, IPv4 or IPv6), read at once."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FCS_BYTES = 4  # sFlow counts the frame check sequence, a capture leaves it out
NANOSECONDS, MICROSECONDS = 0xA1B2_3C4D, 0xA1B2_C3D4
_RECORD, _ETHERNET, _READ = 16, 14, 70  # bytes: of a record's header, of a frame's, and what is read of a frame
FLOW = np.dtype([("src", "V16"), ("dst", "V16"), ("proto", "u1"), ("src_port", ">u2"), ("dst_port", ">u2")])


@dataclass(frozen=True, slots=True)
class Packets:
    """IP packets: when (ns since the epoch), how long with their FCS, and of which flow (``FLOW``)."""

    time_ns: NDArray[np.int64]
    bytes: NDArray[np.int64]
    flow: NDArray[Any]


def read_pcap(path: Path) -> Packets:
    """Read a capture; ValueError where it is no little-endian pcap of Ethernet. Frames other than IP are left out.

    IPv6 extension headers are not followed, and of protocols other than TCP and UDP ports are 0.
    """
    content = path.read_bytes()
    if len(content) < 24 or struct.unpack_from("<I", content)[0] not in {NANOSECONDS, MICROSECONDS}:
        raise ValueError(f"{path}: not a pcap file")
    unit_ns = 1 if struct.unpack_from("<I", content)[0] == NANOSECONDS else 1000
    if struct.unpack_from("<I", content, 20)[0] != 1:
        raise ValueError(f"{path}: not of Ethernet")
    starts, at = [], 24
    while at + _RECORD <= len(content):
        starts.append(at)
        at += _RECORD + int.from_bytes(content[at + 8 : at + 12], "little")
    if starts and at > len(content):
        starts.pop()  # cut off in the middle of a frame
    buffer = np.frombuffer(content + bytes(_RECORD + _READ), np.uint8)
    offsets = np.array(starts, np.int64)[:, None]
    head = buffer[offsets + np.arange(_RECORD)].view("<u4").astype(np.int64)
    frame = buffer[offsets + _RECORD + np.arange(_READ)]
    kind = frame[:, 12].astype(np.int64) << 8 | frame[:, 13]
    is_ip = (kind == 0x0800) | (kind == 0x86DD)
    return Packets(
        (head[:, 0] * 10**9 + head[:, 1] * unit_ns)[is_ip],
        (head[:, 3] + FCS_BYTES)[is_ip],
        _flows(frame[is_ip], kind[is_ip] == 0x86DD),
    )


def _flows(frame: NDArray[np.uint8], is_v6: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the five-tuples; IPv4 addresses are mapped into ::ffff:0:0/96."""
    ip = frame[:, _ETHERNET:]
    rows = len(ip)
    flow = np.zeros((rows, FLOW.itemsize), np.uint8)
    v4, v6 = np.flatnonzero(~is_v6), np.flatnonzero(is_v6)
    for column, own in ((0, 12), (16, 16)):  # of source and destination: in a flow, in an IPv4 header
        flow[v4, column + 10 : column + 12] = 0xFF
        flow[v4, column + 12 : column + 16] = ip[v4, own : own + 4]
        flow[v6, column : column + 16] = ip[v6, 8 + column : 24 + column]
    proto = np.where(is_v6, ip[:, 6], ip[:, 9])
    ports_at = np.where(is_v6, 40, (ip[:, 0] & 0xF).astype(np.int64) * 4)
    ports_at = np.minimum(ports_at, ip.shape[1] - 4)
    ports = ip[np.arange(rows)[:, None], ports_at[:, None] + np.arange(4)]
    flow[:, 32] = proto
    flow[:, 33:37] = np.where(((proto == 6) | (proto == 17))[:, None], ports, 0)
    return flow.view(FLOW).reshape(rows)
