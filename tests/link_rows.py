"""Builders for tests of link use: flow rows, and the panes of what flows partitions make of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from flowstream.batch import FlowBatch, FlowType
from flowstream.counting import CountOnce
from flowstream.cubes import CubesConfig, CubesOf
from flowstream.link_use import LinkUse, LinkUseConfig
from flowstream.links import LinkTable
from flowstream.operators import Pane, Result, one_by_one
from flowstream.partials import Cube, PartialBatch
from flowstream.wire_load import WireLoadConfig, interface_partials
from tests.builders import T0_NS, flows

SECOND = 10**9
Rows = Sequence[dict[str, Any]]


def batch(rows: Rows) -> FlowBatch:
    """Return rows given as dicts, one value per column; an empty batch for none."""
    if not rows:
        return FlowBatch.zeros(0)
    return flows(**{name: [row[name] for row in rows] for name in rows[0]}, origin_offset=np.arange(len(rows)))


def sample(time_ns: int, wire_bytes: int, rate: int = 1, **columns: Any) -> dict[str, Any]:
    """Return an sFlow sample of a packet of so many bytes on the wire."""
    usual = {"exporter": "192.0.2.1", "in_if": 1, "out_if": 2}
    return {
        **usual, "time_ns": time_ns, "time_flow_start_ns": time_ns, "time_flow_end_ns": time_ns, "packets": 1,
        "bytes": wire_bytes - 20, "sampling_rate": rate, "flow_type": int(FlowType.SFLOW_5), **columns,
    }  # fmt: skip


def record(start_ns: int, end_ns: int, wire_bytes: int, packets: int = 1, **columns: Any) -> dict[str, Any]:
    """Return a flow record, received when the flow ended, of so many bytes on the wire."""
    return sample(
        end_ns, 0, time_flow_start_ns=start_ns, packets=packets, bytes=wire_bytes - 38 * packets,
        flow_type=int(FlowType.NETFLOW_V9),
    ) | columns  # fmt: skip


def merged(
    rows: Rows, config: LinkUseConfig, first: int, count: int, partitions: int = 1, pane_ns: int = SECOND
) -> list[Pane]:
    """Return ``count`` panes from ``first`` on of what the flows partitions, to which rows are dealt, say of rows."""
    wire = partial(interface_partials, config=WireLoadConfig(config.interval_ns, config.reach_ns, config.life_max_ns))
    cubes = CubesOf(CubesConfig(frozenset({Cube.SEQUENCE}), {Cube.INTERFACE: wire}), CountOnce(LinkTable()))
    panes = []
    for index in range(first, first + count):
        start_ns = index * pane_ns
        parts = []
        for partition in range(partitions):
            own = [r for n, r in enumerate(rows) if r["time_ns"] // pane_ns == index and n % partitions == partition]
            pane = Pane(index, start_ns, start_ns + pane_ns, batch(own).in_time_order())
            parts.append(cubes.of(pane, partition))
        panes.append(Pane(index, start_ns, start_ns + pane_ns, PartialBatch.concat(parts).in_time_order()))
    return panes


def said(operator: LinkUse, panes: Sequence[Pane]) -> list[Result]:
    """Return what an operator says of panes, one after the other."""
    return [result for pane in panes for result in one_by_one(operator.process([pane]))]


def ports(results: Sequence[Result], stream: str = "link-use") -> dict[tuple[int, str, int, str], dict[str, Any]]:
    """Return what was said of each port, by start of the interval, exporter, ifIndex and direction."""
    return {
        (r.value["window_start_ns"], r.value["exporter"], port["if_index"], port["direction"]): port
        for r in results
        if r.stream == stream
        for port in r.value["interfaces"]
    }


def loads(levels: Sequence[float], per_interval: int = 10, start_ns: int = T0_NS) -> list[dict[str, Any]]:
    """Return samples that load port 1, of 100 Mb/s, by so much in one interval after the other."""
    rows = []
    for n, level in enumerate(levels):
        packet = round(level * 100e6 / 8 * 10 / per_interval / 1000)
        times = [start_ns + n * 10 * SECOND + k * SECOND for k in range(per_interval if level else 0)]
        rows += [sample(t, packet, 1000, out_if=0x3FFF_FFFF) for t in times]
    return rows
