"""Text to columns: addresses, protocol names and times, as JSON formats spell them.

Times never pass through floating point: a number keeps all its digits until it is a count of nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import Struct

import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from flowstream.batch import V4_MAPPED, address_words
from flowstream.decode.time_kernel import ABSENT, FINE, OUT_OF_RANGE, UNREADABLE, read_times
from flowstream.errors import Reason

SECONDS, MILLISECONDS, NANOSECONDS = 9, 6, 0  # decimal places between a unit and the nanosecond

MAX_TEXT = 64  # characters of an address or a name, which are remembered

Reading = tuple[NDArray[np.int64], NDArray[np.uint8]]  # nanoseconds and what reading came to, row by row
Addresses = tuple[NDArray[np.uint64], NDArray[np.uint8]]  # words (n, 2) and what reading came to

UNKNOWN_PROTO = 255  # IANA: reserved; for a name that is not in the table

# Keyword and number, from the IANA "Protocol Numbers" registry, with the usual second names.
_PROTOCOLS = """
HOPOPT 0 ICMP 1 IGMP 2 GGP 3 IPv4 4 IP-in-IP 4 IPIP 4 ST 5 TCP 6 CBT 7 EGP 8 IGP 9 BBN-RCC-MON 10 NVP-II 11
PUP 12 ARGUS 13 EMCON 14 XNET 15 CHAOS 16 UDP 17 MUX 18 DCN-MEAS 19 HMP 20 PRM 21 XNS-IDP 22 TRUNK-1 23
TRUNK-2 24 LEAF-1 25 LEAF-2 26 RDP 27 IRTP 28 ISO-TP4 29 NETBLT 30 MFE-NSP 31 MERIT-INP 32 DCCP 33 3PC 34
IDPR 35 XTP 36 DDP 37 IDPR-CMTP 38 TP++ 39 IL 40 IPv6 41 SDRP 42 IPv6-Route 43 IPv6-Frag 44 IDRP 45 RSVP 46
GRE 47 DSR 48 BNA 49 ESP 50 AH 51 I-NLSP 52 SWIPE 53 NARP 54 Min-IPv4 55 MOBILE 55 TLSP 56 SKIP 57
IPv6-ICMP 58 ICMPv6 58 ICMP6 58 IPv6-NoNxt 59 IPv6-Opts 60 CFTP 62 SAT-EXPAK 64 KRYPTOLAN 65 RVD 66 IPPC 67
SAT-MON 69 VISA 70 IPCV 71 CPNX 72 CPHB 73 WSN 74 PVP 75 BR-SAT-MON 76 SUN-ND 77 WB-MON 78 WB-EXPAK 79
ISO-IP 80 VMTP 81 SECURE-VMTP 82 VINES 83 TTP 84 IPTM 84 NSFNET-IGP 85 DGP 86 TCF 87 EIGRP 88 OSPFIGP 89
OSPF 89 Sprite-RPC 90 LARP 91 MTP 92 AX.25 93 OS 93 MICP 95 SCC-SP 96 ETHERIP 97 ENCAP 98 GMTP 100 IFMP 101
PNNI 102 PIM 103 ARIS 104 SCPS 105 QNX 106 A/N 107 IPComp 108 SNP 109 Compaq-Peer 110 IPX-in-IP 111 VRRP 112
CARP 112 PGM 113 L2TP 115 DDX 116 IATP 117 STP 118 SRP 119 UTI 120 SMP 121 SM 122 PTP 123 ISIS-over-IPv4 124
FIRE 125 CRTP 126 CRUDP 127 SSCOPMCE 128 IPLT 129 SPS 130 PIPE 131 SCTP 132 FC 133 RSVP-E2E-IGNORE 134
Mobility-Header 135 UDPLite 136 MPLS-in-IP 137 manet 138 Shim6 139 WESP 140 ROHC 141 Ethernet 142 AGGFRAG 144
NSH 145 Homa 146 BIT-EMU 147 Reserved 255
"""
_WORDS = _PROTOCOLS.split()
PROTO_NUMBERS = {name.lower(): int(number) for name, number in zip(_WORDS[::2], _WORDS[1::2], strict=True)}

_ADDRESS = Struct("=QQQ")  # FINE, ABSENT or UNREADABLE; high word; low word


@lru_cache(maxsize=1 << 16)
def _address(text: str | None) -> bytes:
    if not text:
        return _ADDRESS.pack(ABSENT, 0, 0)
    try:
        return _ADDRESS.pack(FINE, *address_words(text))
    except ValueError:
        return _ADDRESS.pack(UNREADABLE, 0, 0)


def _table(packed: Iterable[bytes]) -> Addresses:
    table = np.frombuffer(b"".join(packed), np.uint64).reshape(-1, 3)
    return table[:, 1:], table[:, 0].astype(np.uint8)


def addresses(texts: Sequence[str | None]) -> Addresses:
    """Read IPv4 and IPv6 addresses: the words (n, 2) and FINE, ABSENT or UNREADABLE (n,) for each.

    Texts are remembered, so they must be bounded (``MAX_TEXT``) before they come here.
    """
    return _table(map(_address, texts))


@lru_cache(maxsize=1 << 16)
def _packed_address(packed: bytes) -> bytes:
    if len(packed) == 4:
        return _ADDRESS.pack(FINE, 0, V4_MAPPED | int.from_bytes(packed))
    if len(packed) == 16:
        return _ADDRESS.pack(FINE, int.from_bytes(packed[:8]), int.from_bytes(packed[8:]))
    return _ADDRESS.pack(UNREADABLE if packed else ABSENT, 0, 0)


def _text_or_packed(value: str | bytes | None) -> bytes:
    if len(value or "") > MAX_TEXT:  # Not into the cache, which would keep it.
        return _ADDRESS.pack(UNREADABLE, 0, 0)
    return _packed_address(value) if isinstance(value, bytes) else _address(value)


def mixed_addresses(values: Sequence[str | bytes | None]) -> Addresses:
    """Read addresses given as text or as 4 or 16 bytes in network order; as ``addresses`` otherwise."""
    return _table(map(_text_or_packed, values))


@lru_cache(maxsize=1 << 12)
def _proto(value: int | str | None) -> int:
    if isinstance(value, int):
        return value if 0 <= value <= 255 else -1
    if not value:
        return 0
    if value.isascii() and value.isdigit():
        return int(value) if len(value) <= 3 and int(value) <= 255 else -1
    return PROTO_NUMBERS.get(value.lower(), UNKNOWN_PROTO)


def protocols(values: Sequence[int | str | None]) -> NDArray[np.int16]:
    """Read IP protocols, given by number or by IANA name: 0 where absent.

    An unknown name is UNKNOWN_PROTO; what does not fit a byte is -1.
    """
    return np.fromiter(map(_proto, values), np.int16, len(values))


def times(tokens: Sequence[Raw], places: int) -> Reading:
    """Read times or durations as the JSON spells them, into nanoseconds and a status for each.

    ``places`` is the unit of a bare number (SECONDS, ...). Null, the empty string and 0 are ABSENT, with a
    value of 0. UNREADABLE is neither a number nor an RFC 3339 date-time. OUT_OF_RANGE is negative, with a
    value of 0, or beyond what 63 bits hold, with LAST_NS. A second of 60 is the first of the next minute.
    """
    count = len(tokens)
    bounds = np.zeros(count + 1, np.int64)
    np.cumsum(np.fromiter(map(len, tokens), np.int64, count), out=bounds[1:])
    values, statuses = np.zeros(count, np.int64), np.zeros(count, np.uint8)
    read_times(np.frombuffer(b"".join(tokens), np.uint8), bounds, places, values, statuses)
    return values, statuses


def first_known(*readings: Reading) -> Reading:
    """Take, row by row, the first reading that is not ABSENT."""
    values, statuses = readings[0][0].copy(), readings[0][1].copy()
    for more, more_statuses in readings[1:]:
        absent = statuses == ABSENT
        values[absent], statuses[absent] = more[absent], more_statuses[absent]
    return values, statuses


class Rows:
    """The reasons of rows under judgement; the first reason that a row is given stays."""

    def __init__(self, rows: int, reasons: NDArray[np.uint8] | None = None) -> None:
        self.reasons = np.zeros(rows, np.uint8) if reasons is None else reasons

    def reject(self, where: NDArray[np.bool_], reason: Reason) -> None:
        """Give a reason to rows that have none yet."""
        self.reasons[where & (self.reasons == 0)] = reason

    def event_time(self, reading: Reading) -> NDArray[np.int64]:
        """Return a time without which a row cannot be placed, rejecting the rows that do not have it."""
        values, statuses = reading
        self.reject(statuses == ABSENT, Reason.NO_TIME)
        self.reject(statuses == UNREADABLE, Reason.MALFORMED)
        self.reject(statuses == OUT_OF_RANGE, Reason.TIME_OUT_OF_RANGE)
        return values

    def flow_time(self, reading: Reading, otherwise: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a time that has a substitute for where it is absent; absurd ones stay, clipped."""
        values, statuses = reading
        self.reject(statuses == UNREADABLE, Reason.MALFORMED)
        return np.where(statuses == ABSENT, otherwise, values)

    def address(self, texts: Sequence[str | None], *, required: bool = False) -> NDArray[np.uint64]:
        """Return the words of addresses, rejecting what is not one, and absent ones where required."""
        words, statuses = addresses(texts)
        self.judge_addresses(statuses, required=required)
        return words

    def judge_addresses(self, statuses: NDArray[np.uint8], *, required: bool) -> None:
        """Reject what is not an address, and absent ones where required."""
        self.reject(statuses == UNREADABLE, Reason.NO_ADDRESS)
        if required:
            self.reject(statuses == ABSENT, Reason.NO_ADDRESS)

    def proto(self, values: Sequence[int | str | None]) -> NDArray[np.uint8]:
        """Return protocol numbers, rejecting what does not fit a byte."""
        numbers = protocols(values)
        self.reject(numbers < 0, Reason.OUT_OF_RANGE)
        return numbers.astype(np.uint8)

    def record_id(self, values: Sequence[int | None]) -> NDArray[np.uint64]:
        """Return numbers of 64 bits, rejecting larger ones; None is 0."""
        try:
            return np.fromiter(values, np.uint64, len(values))
        except (TypeError, OverflowError):
            self.reject(
                np.fromiter(((value or 0) >> 64 != 0 for value in values), np.bool_, len(values)),
                Reason.OUT_OF_RANGE,
            )
            return np.fromiter(((value or 0) & 2**64 - 1 for value in values), np.uint64, len(values))
