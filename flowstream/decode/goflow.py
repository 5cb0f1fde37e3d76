"""Flow records of GoFlow v3, goflow2 v1 and goflow2 v2, as protobuf: bare, or each behind its varint length.

Which schema a record follows is told from the record: a receive time in nanoseconds (field 110) is goflow2
v2, one in seconds (field 2) is one of the older two, which differ only in whether fields 63 and 64 are
milliseconds. A record with neither has no time and is rejected: with the wrong schema it would lie in 1970.

* A record without a source address is not IP (ARP, LLDP): rejected with NO_ADDRESS. A missing destination
  or exporter (a device that aggregates by source exports no destination) is the zero address.
* A message that holds several delimited records, as goflow2's file transport can write them, gives a row
  each; it is rejected as a whole where one of them is bad.
* Absent flow times are the receive time. Flow times beyond 2262 are clipped, for ``normalise`` to judge.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import FlowBatch, FlowType
from flowstream.decode.payloads import DecodeContext, Decoded, Payloads
from flowstream.decode.protobuf_fields import ROW_WIDTH, SLOTS
from flowstream.decode.protobuf_kernel import count_rows, read_messages

WIRE_FORMAT = "goflow"

_COLUMNS: Final = (
    "sampling_rate", "sequence_num", "bytes", "packets", "src_as", "dst_as", "in_if", "out_if", "proto", "src_port",
    "dst_port", "ip_ttl", "tcp_flags", "time_received_ns", "time_flow_start_ns", "time_flow_end_ns",
    "origin_offset", "origin_row",
)  # fmt: skip
_ADDRESSES: Final = ("exporter", "src_addr", "dst_addr")

# GoFlow v2 (2018 and 2019) numbered NetFlow v9 as 9 and IPFIX as 10. Its 5 was sFlow, but others have since
# used 5 for eBPF, so that 5 stays unknown. The last entry stands for every larger number.
_FLOW_TYPES: Final = np.array([0, 1, 2, 3, 4, 0, 0, 0, 0, FlowType.NETFLOW_V9, FlowType.IPFIX, 0], np.uint8)


def decode(payloads: Payloads, context: DecodeContext) -> Decoded:  # noqa: ARG001 - the contract of a decoder
    """Decode GoFlow-family messages to rows, ``time_ns`` being the receive time.

    Null messages are skipped. Rejections: EMPTY, TRUNCATED, MALFORMED (also a known field with another wire
    type, and groups), NO_TIME, NO_ADDRESS, OUT_OF_RANGE (a number its column cannot hold); where several
    hold, the first in this order. Raises ValueError where ``bounds`` do not lie in ``buffer``, which no
    bytes can cause.
    """
    buffer = np.frombuffer(payloads.buffer, np.uint8)
    bounds = np.ascontiguousarray(payloads.bounds, np.int64)
    if bounds[0] < 0 or bounds[-1] > len(buffer) or (bounds[1:] < bounds[:-1]).any():
        raise ValueError("payload bounds do not lie in their buffer")
    rows = np.empty((count_rows(buffer, bounds), ROW_WIDTH), np.uint64)
    reasons = np.zeros(len(payloads), np.uint8)
    filled = read_messages(buffer, bounds, rows, reasons)
    rejected = np.flatnonzero((reasons != 0) & ~payloads.null)
    return Decoded(
        flows=_flows(rows[:filled]),
        rejected=rejected.astype(np.int64, copy=False),
        reasons=reasons[rejected],
        skipped=np.flatnonzero(payloads.null).astype(np.int64, copy=False),
    )


def _flows(rows: NDArray[np.uint64]) -> FlowBatch:
    columns = {name: rows[:, SLOTS[name]] for name in _COLUMNS}
    columns |= {name: rows[:, SLOTS[name] : SLOTS[name] + 2] for name in _ADDRESSES}
    columns["time_ns"] = columns["time_received_ns"]
    kinds = np.minimum(rows[:, SLOTS["flow_type"]], len(_FLOW_TYPES) - 1)
    return FlowBatch.of(len(rows), {**columns, "flow_type": _FLOW_TYPES[kinds]})
