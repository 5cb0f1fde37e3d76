"""Packets made up from a seed, as a pcap: for exporters that read captures. Nobody's traffic is in it."""

from __future__ import annotations

import ipaddress
import random
import struct
from dataclasses import dataclass

FIRST_NS = 1_700_000_000 * 10**9
SPAN_NS = 60 * 10**9
_TCP, _UDP = 6, 17
_ETHERNET = bytes.fromhex("020000000001020000000002")


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of a flow: when, from where to where, and how long its IP packet is."""

    time_ns: int
    src: str
    dst: str
    proto: int
    src_port: int
    dst_port: int
    ip_bytes: int


def packets(seed: int, network: int, flows: int = 800, sources: int = 40) -> list[Packet]:
    """Return packets in order of time, of IPv4 sources in 10.<network>.0.0/16 and of IPv6 ones beside them."""
    chance = random.Random(seed)
    made = []
    for number in range(flows):
        source = chance.randrange(sources)
        in_v6 = source % 4 == 0
        src = f"fd00:{network}::{source + 1:x}" if in_v6 else f"10.{network}.1.{source + 1}"
        dst = (
            f"fd00:{network}:1::{chance.randrange(1, 999):x}" if in_v6 else f"10.{network}.2.{chance.randrange(1, 250)}"
        )
        proto, dst_port = chance.choice((_TCP, _UDP)), chance.choice((53, 80, 443, 5201))
        begin_ns = FIRST_NS + chance.randrange(SPAN_NS // 2)
        # No two flows share a port, so that none is a continuation of another.
        made += [
            Packet(begin_ns + step * 10**7, src, dst, proto, 10_000 + number, dst_port, chance.randrange(80, 1500))
            for step in range(chance.randrange(1, 40))
        ]
    return sorted(made, key=lambda packet: (packet.time_ns, packet.src_port))


def to_pcap(made: list[Packet]) -> bytes:
    """Return packets as a pcap of whole Ethernet frames (nanoseconds)."""
    parts = [struct.pack("<IHHiIII", 0xA1B2_3C4D, 2, 4, 0, 0, 65_535, 1)]
    for packet in made:
        frame = _frame(packet)
        parts.append(struct.pack("<4I", *divmod(packet.time_ns, 10**9), len(frame), len(frame)) + frame)
    return b"".join(parts)


def _frame(packet: Packet) -> bytes:
    src, dst = ipaddress.ip_address(packet.src), ipaddress.ip_address(packet.dst)
    header_bytes = 20 if src.version == 4 else 40
    rest = packet.ip_bytes - header_bytes
    if packet.proto == _TCP:
        layer_4 = struct.pack(">HHIIBBHHH", packet.src_port, packet.dst_port, 1, 1, 5 << 4, 0x10, 8192, 0, 0)
    else:
        layer_4 = struct.pack(">HHHH", packet.src_port, packet.dst_port, rest, 0)
    if src.version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, packet.ip_bytes, 0, 0x4000, 64, packet.proto, 0)
        head += src.packed + dst.packed
        head = head[:10] + _checksum(head) + head[12:]
    else:
        head = struct.pack(">IHBB", 6 << 28, rest, packet.proto, 64) + src.packed + dst.packed
    kind = b"\x08\x00" if src.version == 4 else b"\x86\xdd"
    return _ETHERNET + kind + head + layer_4 + bytes(rest - len(layer_4))


def _checksum(head: bytes) -> bytes:
    """Return the checksum of an IPv4 header (RFC 1071)."""
    total = sum(struct.unpack(f">{len(head) // 2}H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)
