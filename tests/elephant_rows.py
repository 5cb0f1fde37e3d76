"""Rows, links and panes for the tests of the elephants operator."""

import math

import numpy as np

from flowstream.batch import FlowBatch, FlowType
from flowstream.elephants import ElephantsConfig, ElephantsOperator
from flowstream.links import LinkTable
from flowstream.operators import Pane
from tests.builders import T0_NS, flows

SECOND = 10**9
GIGABIT = 10**9


def link(exporter="192.0.2.1", if_index=3, speed_bps=GIGABIT, edge=None):
    return {"exporter": exporter, "if_index": if_index, "name": "", "speed_bps": speed_bps, "edge": edge}


LINKS = LinkTable.from_rows([link()])


def panes(batch, seconds, pane_ns=SECOND):
    """Cut rows into the panes of ``seconds`` from T0; empty ones too."""
    batch = batch.in_time_order()
    first = T0_NS // pane_ns
    for index in range(first, first + seconds * SECOND // pane_ns):
        begin, end = np.searchsorted(batch.time_ns, [index * pane_ns, (index + 1) * pane_ns])
        yield Pane(index, index * pane_ns, (index + 1) * pane_ns, batch.take(slice(begin, end)))


def run(operator, batch, seconds=40, pane_ns=SECOND):
    return [r for pane in panes(batch, seconds, pane_ns) for r in operator.process([pane])]


def events(results, *names):
    return [r.value for r in results if r.value["event"] in (names or ("onset", "update", "offset"))]


def operator(links=LINKS, pane_ns=SECOND, **config):
    return ElephantsOperator(ElephantsConfig(**config), pane_ns, links)


def steady(share, seconds, begin_s=0.0, bytes_each=1500, rate=1000, **columns):
    """Samples of a flow at a share of a gigabit, evenly spaced: what sampling sees without its luck."""
    count = round(share * GIGABIT / 8 / bytes_each / rate * seconds)
    times = T0_NS + ((begin_s + (np.arange(count) + 0.5) * seconds / count) * SECOND).astype(np.int64)
    return flows(count, time_ns=times, bytes=bytes_each, sampling_rate=rate, **columns)


def record(share, start_s, end_s, export_s=None, rate=1, **columns):
    """A NetFlow record of a flow at a share of a gigabit over its life, exported at its end."""
    total = int(share * GIGABIT / 8 * (end_s - start_s) / rate)
    return flows(
        1,
        **{
            "time_ns": T0_NS + round((end_s if export_s is None else export_s) * SECOND),
            "time_flow_start_ns": T0_NS + round(start_s * SECOND),
            "time_flow_end_ns": T0_NS + round(end_s * SECOND),
            "bytes": total, "packets": max(1, total // 1000), "sampling_rate": rate, "ip_ttl": 0,
            "flow_type": FlowType.NETFLOW_V9,
        } | columns,
    )  # fmt: skip


def poisson(share, seed, count, seconds, sizes=(1500,)):
    """Random samples of ``count`` flows, each alone on a gigabit link of its own, and the links."""
    rng = np.random.default_rng(seed)
    expected = share * GIGABIT / 8 / np.mean(sizes) / 1000 * seconds
    which = np.repeat(np.arange(count), rng.poisson(expected, count))
    times = T0_NS + (rng.random(len(which)) * seconds * SECOND).astype(np.int64)
    names = [f"10.1.{n >> 8}.{n & 255}" for n in range(count)]
    batch = flows(len(which), time_ns=times, bytes=rng.choice(sizes, len(which)))
    words = flows(count, exporter=names).exporter[which]
    return batch.replace(exporter=words, src_addr=words), LinkTable.from_rows([link(name) for name in names])


def first_onsets_s(share, seed, count=200, seconds=20, **mix):
    batch, links = poisson(share, seed, count, seconds, **mix)
    seen = {}
    for value in events(run(operator(links), batch, seconds), "onset"):
        seen.setdefault(value["exporter"], (value["time_ns"] - T0_NS) / SECOND)
    return sorted(seen.values()) + [math.inf] * (count - len(seen))


LEAF_IN, SPINE, LEAF_OUT = ("192.0.2.11", 1, 64), ("192.0.2.21", 2, 63), ("192.0.2.13", 3, 62)


def path(*hops, share=0.3, seconds=8):
    return FlowBatch.concat(
        steady(share, seconds, exporter=exporter, in_if=in_if, out_if=9, ip_ttl=ttl) for exporter, in_if, ttl in hops
    )


def fabric(*edges):
    return LinkTable.from_rows(
        [link(exporter, in_if, edge=(exporter in edges) if edges else None)
         for exporter, in_if, _ in (LEAF_IN, SPINE, LEAF_OUT)]
    )  # fmt: skip
