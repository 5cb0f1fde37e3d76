"""Rows of flows on the recorded fabric's switches, for the tests of paths: a test says at which hops."""

import numpy as np

from flowstream.batch import FlowBatch
from flowstream.counting import CountOnce
from flowstream.links import LinkTable
from flowstream.operators import Pane
from flowstream.paths import PathsConfig, PathsOperator
from flowstream.topology import Topology
from tests.builders import T0_NS, flows
from tests.golden import DATA

SECOND = 10**9
FIRST = T0_NS // SECOND
LINKS = LinkTable.from_path(DATA / "clos_links.csv")
TOPOLOGY = Topology.from_path(DATA / "clos_topology.csv")
_ROWS = {(row["node"], row["name"]): row for row in LINKS.to_rows()}


def names(spine, a=1, b=3):
    """Return the hops from leaf a to leaf b by a spine, (node, port in, port out)."""
    return [
        (f"leaf{a}", f"l{a}h", f"l{a}s{spine}"),
        (f"spine{spine}", f"s{spine}l{a}", f"s{spine}l{b}"),
        (f"leaf{b}", f"l{b}s{spine}", f"l{b}h"),
    ]


def sampled(second, *hops, src_port=40000, times=1, ttl=64, **columns):
    """Return samples of a flow at some hops, at a second after T0, ``times`` of each."""
    rows = []
    for n, (node, into, out) in enumerate(hops):
        port = _ROWS[node, into]
        after = int(second * SECOND) + np.arange(times) + n * times
        own = {"src_addr": "10.0.1.10", "dst_addr": "10.0.3.10", "src_port": src_port, "dst_port": 5201} | columns
        rows.append(
            flows(times, time_ns=T0_NS + after, exporter=port["exporter"], in_if=port["if_index"],
                  out_if=_ROWS[node, out]["if_index"], ip_ttl=ttl - n, origin_offset=src_port * 10**6 + after, **own)
        )  # fmt: skip
    return FlowBatch.concat(rows)


def panes(*batches, seconds=60):
    """Cut rows into panes of a second from T0."""
    rows = FlowBatch.concat(batches).in_time_order()
    for index in range(FIRST, FIRST + seconds):
        begin, end = np.searchsorted(rows.time_ns, [index * SECOND, (index + 1) * SECOND])
        yield Pane(index, index * SECOND, (index + 1) * SECOND, rows.take(slice(begin, end)))


def operator(elephants=None, **config):
    return PathsOperator(PathsConfig(**config), SECOND, CountOnce(LINKS), TOPOLOGY, elephants)


def run(one, *batches, seconds=60):
    """Return what an operator says of rows, by stream."""
    said, before = {"paths": [], "path-events": [], "path-windows": []}, []
    for pane in panes(*batches, seconds=seconds):
        before = [*before, pane][-1 - one.lookback :]
        for result in one.process(before):
            said[result.stream].append(result)
    return said


def route(value):
    return [(hop["node"], hop["in_port"], hop["out_port"]) for hop in value["hops"]]
