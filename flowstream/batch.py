"""FlowBatch: many flow records as columns, one numpy array each (``flowstream/columns.py``).

Rule 1: nothing past ``decode/`` sees a wire message.
Rule 2: an address is two ``uint64`` (high, low) of its 16 bytes in network order, IPv4 mapped into
        ``::ffff:0:0/96``, so that both families are one code path and compare in address order.
Rule 3: units are in the names: ``_ns`` nanoseconds since the Unix epoch (UTC). ``bytes`` and ``packets``
        are as the exporter counted them, not multiplied by the sampling rate.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

from flowstream.columns import Array, Column, ColumnBatch

__all__ = ["COLUMNS", "Array", "Column", "FlowBatch", "FlowType", "Quality"]

V4_MAPPED = 0xFFFF_0000_0000  # the low word of ::ffff:0:0/96, above the 32 address bits


class FlowType(IntEnum):
    """What kind of export a row came from. 0 to 4 are the numbers of the GoFlow protobuf enum."""

    UNKNOWN = 0
    SFLOW_5 = 1
    NETFLOW_V5 = 2
    NETFLOW_V9 = 3
    IPFIX = 4
    EVENT = 16  # a two-way connection event (Suricata and its like)


class Quality(IntFlag):
    """What is doubtful about a row; set by decoders and ``normalise``, counted by the quality operator."""

    SAMPLING_RATE_UNKNOWN = 1  # the record said 0; a default was used
    FLOW_TIMES_IMPLAUSIBLE = 2  # start or end disagree with the receive time, which was used instead
    IN_IF_PSEUDO = 4  # in_if is not an interface (discard, multiple, internal)
    OUT_IF_PSEUDO = 8
    ZERO_BYTES = 16  # the record counts no bytes
    LATE = 32  # behind its source partition's watermark: published as late, in no window


COLUMNS: Mapping[str, Column] = {
    "origin_id": Column("u4", "source partition: index of the input << 16 | partition"),
    "origin_offset": Column("i8", "offset of the message in its source partition"),
    "origin_row": Column("u4", "index of the row within its message"),
    "time_ns": Column("i8", "event time"),
    "time_received_ns": Column("i8", "when the collector received it"),
    "time_flow_start_ns": Column("i8", "first packet of the flow"),
    "time_flow_end_ns": Column("i8", "last packet of the flow"),
    "record_id": Column("u8", "the record's own id (eventid, flow_id); 0 where it has none"),
    "exporter": Column("u8", "exporter address (GoFlow: sampler address); zero where unknown", 2),
    "src_addr": Column("u8", "source address", 2),
    "dst_addr": Column("u8", "destination address", 2),
    "src_port": Column("u2", "source port"),
    "dst_port": Column("u2", "destination port"),
    "proto": Column("u1", "IP protocol number"),
    "ip_ttl": Column("u1", "time to live of the sampled packet; 0 where unknown"),
    "tcp_flags": Column("u2", "TCP flags, OR of the flow's packets"),
    "src_as": Column("u4", "autonomous system of the source; 0 where unknown"),
    "dst_as": Column("u4", "autonomous system of the destination; 0 where unknown"),
    "in_if": Column("u4", "ifIndex where it entered the exporter; 0 where unknown"),
    "out_if": Column("u4", "ifIndex where it left the exporter"),
    "bytes": Column("i8", "bytes from source to destination"),
    "packets": Column("i8", "packets from source to destination"),
    "in_bytes": Column("i8", "bytes from destination back to source; 0 in one-way records"),
    "in_packets": Column("i8", "packets from destination back to source; 0 in one-way records"),
    "sampling_rate": Column("u4", "N of 1-in-N"),
    "sequence_num": Column("u4", "export datagram's sequence number"),
    "flow_type": Column("u1", "FlowType"),
    "quality": Column("u1", "Quality flags"),
}


class FlowBatch(ColumnBatch):
    """Rows of flow records, column by column."""

    LAYOUT = COLUMNS
    __slots__ = ()


def address_words(text: str) -> tuple[int, int]:
    """Return the (high, low) words of an IPv4 or IPv6 address given as text; ValueError if it is neither."""
    address = ipaddress.ip_address(text)
    number = int(address) | V4_MAPPED if address.version == 4 else int(address)
    return number >> 64, number & 0xFFFF_FFFF_FFFF_FFFF


def address_text(high: int, low: int) -> str:
    """Return the usual text of an address: dotted quad for IPv4-mapped, RFC 5952 for IPv6, "" for none."""
    if high == 0:
        if low == 0:
            return ""
        if low >> 32 == 0xFFFF:
            return f"{low >> 24 & 255}.{low >> 16 & 255}.{low >> 8 & 255}.{low & 255}"
    return str(ipaddress.IPv6Address(high << 64 | low))


def packed_to_words(packed: bytes) -> NDArray[np.uint64]:
    """Return the address columns (n, 2) of ``n`` concatenated 16-byte network-order addresses."""
    return np.frombuffer(packed, ">u8").astype(np.uint64).reshape(-1, 2)


def words_to_packed(words: Array) -> bytes:
    """Return (n, 2) address words as ``n`` concatenated 16-byte network-order addresses."""
    return words.astype(">u8").tobytes()
