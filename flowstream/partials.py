"""Partials: what one flows partition adds, in one pane, to totals that are keyed by anything but the source.

A link, a destination, a port or a global list has flows in every flows partition, so each partition sums up its own
flows per pane and cube, and the sums of all partitions are merged. A cube is one way to group: its keys are the
columns ``key_0 ..`` of its rows. Merging adds; ``weight_max`` is a maximum, ``bits`` a union.

Where a row came from orders and deduplicates it: the flows partition is its ``origin_id``, the pane's index its
``origin_offset``. So the machinery of panes (``flowstream/analysis.py``) merges partials as it analyses flows.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from flowstream.columns import Column, ColumnBatch

KEYS = tuple(f"key_{i}" for i in range(8))


class Cube(IntEnum):
    """What a row is a sum over; the comment gives what its keys are. Addresses are two words, high and low."""

    SOURCE = 0  # address
    DESTINATION = 1  # address
    PAIR = 2  # source address, destination address
    CONVERSATION = 3  # source address, destination address, src_port << 32 | dst_port << 8 | proto
    PORT = 4  # proto << 16 | service port
    PROTOCOL = 5  # proto
    AS = 6  # source AS << 32 | destination AS
    EXPORTER_INTERFACE = 7  # exporter, in_if: what counts there, as of a talker
    INTERFACE = 8  # exporter, if_index << 1 | is_out, start of interval (ns), 1 if flow records: wire_load.py
    COUNTING = 9  # Rule << 1 | counts: rows and bytes by what became of them when flows were counted once
    SEQUENCE = 10  # exporter, flow type, number >> 6, its low bits where it counts records: cubes.py
    ELEPHANT_HOP = 11  # exporter, out_if, flow key (source address, destination address, ports and protocol)


#: Cubes whose rows go to every partials partition, not to one: every operator that merges estimates needs them.
EVERYWHERE = frozenset({Cube.SEQUENCE})

PARTIAL_COLUMNS: Mapping[str, Column] = {
    "origin_id": Column("u4", "flows partition"),
    "origin_offset": Column("i8", "index of the pane"),
    "origin_row": Column("u4", "index of the row within the pane's partials"),
    "time_ns": Column("i8", "start of the pane"),
    "quality": Column("u1", "zero: partials are never late, their panes are closed in order"),
    "cube": Column("u1", "Cube"),
    **{key: Column("u8", "of the cube; 0 where it has fewer") for key in KEYS},
    "bytes": Column("i8", "estimated: as counted, times the sampling rate"),
    "packets": Column("i8", "estimated"),
    "records": Column("i8", "flow records, or samples"),
    "variance": Column("f8", "of the bytes (estimate.rate_interval): 0 where nothing was sampled"),
    "weight_max": Column("f8", "the largest weight one more sample could have: of what was seen, or a full frame"),
    "bits": Column("u8", "of cube SEQUENCE; where rows are counted once, 1 << Rule of those by which rows count"),
}


class PartialBatch(ColumnBatch):
    """Rows of partials, column by column."""

    LAYOUT = PARTIAL_COLUMNS
    __slots__ = ()
