"""Which fields of the GoFlow family's protobuf messages are read, and where their numbers are put.

A record becomes a row of ``ROW_WIDTH`` unsigned 64-bit numbers, one per *slot*; ``SLOT_OF_FIELD`` says which field
number fills which slot. Wire types: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from typing import Final

import numpy as np

# Addresses come first and take two slots each (high word, low word), so "slot < ADDRESS_SLOTS" tells
# the kinds apart. Slot names are those of the columns they end in, where there is one.
SLOT_NAMES: Final = (
    "exporter", "exporter_low", "src_addr", "src_addr_low", "dst_addr", "dst_addr_low",
    "sampling_rate", "sequence_num", "bytes", "packets", "src_as", "dst_as", "in_if", "out_if", "proto", "src_port",
    "dst_port", "ip_ttl", "tcp_flags", "flow_type", "received_s", "flow_start_s", "flow_end_s",
    "flow_start_ms", "flow_end_ms", "time_received_ns", "time_flow_start_ns", "time_flow_end_ns",
    "origin_offset", "origin_row",
)  # fmt: skip
SLOTS: Final = {name: slot for slot, name in enumerate(SLOT_NAMES)}
ROW_WIDTH: Final = len(SLOTS)
ADDRESS_SLOTS: Final = 6

# Protobuf field number -> slot. The three schemas differ in the times only: goflow2 v2 reuses 38 for the IP
# flags, and 63 and 64 are HasPPP and PPPAddressControl in GoFlow v3.
FIELDS: Final = {
    1: "flow_type", 2: "received_s", 3: "sampling_rate", 4: "sequence_num", 5: "flow_end_s", 6: "src_addr",
    7: "dst_addr", 9: "bytes", 10: "packets", 11: "exporter", 14: "src_as", 15: "dst_as",
    18: "in_if", 19: "out_if", 20: "proto", 21: "src_port", 22: "dst_port", 25: "ip_ttl", 26: "tcp_flags",
    38: "flow_start_s", 63: "flow_start_ms", 64: "flow_end_ms", 110: "time_received_ns", 111: "time_flow_start_ns",
    112: "time_flow_end_ns",
}  # fmt: skip
LAST_FIELD: Final = max(FIELDS)
SLOT_OF_FIELD: Final = np.full(LAST_FIELD + 1, -1, np.int64)
for _number, _name in FIELDS.items():
    SLOT_OF_FIELD[_number] = SLOTS[_name]

# A tag is field number << 3 | wire type. -1: not a number's of ours.
NUMBER_TAGS: Final = (LAST_FIELD + 1) << 3
NUMBER_SLOT_OF_TAG: Final = np.full(NUMBER_TAGS, -1, np.int64)
for _number, _slot in enumerate(SLOT_OF_FIELD.tolist()):
    if _slot >= ADDRESS_SLOTS:
        NUMBER_SLOT_OF_TAG[_number << 3] = _slot

NO_WIRE_TYPE: Final = np.uint64(255)
# Bytes that a value takes, by wire type; 0: a varint says. Groups (3, 4) are in none of the schemas.
FIXED_BYTES: Final = np.array([0, 8, 0, 255, 255, 4, 255, 255], np.uint64)
TAG_MAX: Final = np.uint64(0xFFFF_FFFF)  # field numbers end at 2**29 - 1

_U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF
LIMITS: Final = np.full(ROW_WIDTH, _U64_MAX, np.uint64)  # the largest value a slot's column can hold
for _bits, _names in {
    8: "proto ip_ttl",
    16: "src_port dst_port tcp_flags",
    32: "sampling_rate sequence_num src_as dst_as in_if out_if",
    63: "bytes packets time_received_ns",
}.items():
    for _name in _names.split():
        LIMITS[SLOTS[_name]] = (1 << _bits) - 1

# A record without a time and a source address is refused, and those two take eight bytes. Asking for them of
# every record of a run keeps the rows set aside for a message in proportion to its size.
RECORD_BYTES_MIN: Final = 8
# A flow_start_ms above this is a time (2001 and later); below, it is one of the fields GoFlow v3 has there.
MILLISECONDS_MIN: Final = np.uint64(10**12)
TIME_MAX: Final = np.uint64((1 << 63) - 1)
