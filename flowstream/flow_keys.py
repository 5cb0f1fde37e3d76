"""Flows by their five-tuple: as words that compare, as a record's fields, as part of a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import FlowBatch, address_text

#: 0-1 src_addr, 2-3 dst_addr, 4 ``proto << 32 | src_port << 16 | dst_port``: in this order words of flows compare.
FLOW_WORDS = 5

Words = NDArray[np.uint64]


class ElephantFlows(Protocol):
    """Who knows which flows are elephants, having seen the same pane before: ``flowstream/elephants.py``."""

    begun: Words  # flows that became elephants in the pane

    @property
    def active(self) -> Words:
        """Flows that are elephants after the pane."""
        ...


def port_words(rows: FlowBatch) -> Words:
    """Return of each row ``proto << 32 | src_port << 16 | dst_port``."""
    ports = rows.src_port.astype(np.uint64) << np.uint64(16) | rows.dst_port.astype(np.uint64)
    return np.asarray(rows.proto.astype(np.uint64) << np.uint64(32) | ports)


def flow_words(rows: FlowBatch) -> Words:
    """Return of each row the five words of its flow."""
    words = np.empty((len(rows), FLOW_WORDS), np.uint64)
    words[:, 0:2], words[:, 2:4], words[:, 4] = rows.src_addr, rows.dst_addr, port_words(rows)
    return words


def flow_fields(words: Sequence[int] | Words) -> dict[str, Any]:
    """Return a flow as the fields that results name it by."""
    src_high, src_low, dst_high, dst_low, ports = (int(word) for word in words[:FLOW_WORDS])
    return {
        "src_addr": address_text(src_high, src_low),
        "dst_addr": address_text(dst_high, dst_low),
        "proto": ports >> 32,
        "src_port": ports >> 16 & 0xFFFF,
        "dst_port": ports & 0xFFFF,
    }


def flow_key(flow: dict[str, Any]) -> str:
    """Return the flow's part of a result's key: ``src_addr|dst_addr|proto|src_port|dst_port``."""
    return "|".join(str(part) for part in flow.values())


def among(flows: Words, wanted: Words) -> NDArray[np.bool_]:
    """Mark the flows, (n, 5) words, that are among a few ``wanted``."""
    marked = np.isin(flows[:, 4], wanted[:, 4])
    keys = set(map(tuple, wanted.tolist()))
    at = np.flatnonzero(marked)
    marked[at] = [tuple(words) in keys for words in flows[at].tolist()]
    return marked


def places_among(rows: FlowBatch, wanted: Words) -> NDArray[np.int64]:
    """Return which rows are of a few flows, by their places."""
    likely = np.flatnonzero(np.isin(port_words(rows), wanted[:, 4]))  # the words of all rows would cost more
    return likely[among(flow_words(rows.take(likely)), wanted)]


def rows_among(rows: FlowBatch, wanted: Words) -> FlowBatch:
    """Return the rows of a few flows."""
    return rows.take(places_among(rows, wanted))
