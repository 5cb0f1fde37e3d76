"""Flow records of two routers on one path count once, whatever the table of links says and whenever each sends them."""

from __future__ import annotations

import pytest

from flowstream.batch import FlowBatch, FlowType
from flowstream.counting import CountOnce
from flowstream.counting_results import CountingResults
from flowstream.cubes import CubesConfig, CubesOf
from flowstream.holders import Holders
from flowstream.links import LinkTable
from flowstream.operators import Pane
from flowstream.partials import Cube
from tests.builders import flows
from tests.partial_rows import SECOND

EDGES = LinkTable.from_csv("exporter,if_index,name,speed_bps,edge\n::1,1,,9,true\n::2,1,,9,false\n")


@pytest.mark.parametrize(
    ("links", "apart_s", "expected"),
    [
        (EDGES, 0, [("EDGE", 5000, 5000)]),
        (EDGES, 20, [("EDGE", 5000, 5000)]),
        (LinkTable(), 0, [("LARGEST", 1000, 1000), ("FIRST", 4000, 4000)]),
        (LinkTable(), 20, [("ONLY", 1000, 0), ("FIRST", 4000, 5000)]),
    ],
)
def test_flow_records_of_two_routers_count_once_whenever_each_sends_them(links, apart_s, expected):
    counting = CountOnce(links, Holders(120, 0, 1, SECOND))
    cubes, operator, rules = (
        CubesOf(CubesConfig(frozenset({Cube.COUNTING})), counting),
        CountingResults(300, SECOND),
        [],
    )
    first = 1_795_224_600
    for index in range(first, first + 300):
        ages = {"::1": index - first, "::2": index - first - apart_s}
        exporters = [exporter for exporter, age in ages.items() if age >= 0 and age % 60 == 0]
        rows = flows(
            len(exporters), exporter=exporters, in_if=1, bytes=1000, time_ns=index * SECOND, sampling_rate=1,
            flow_type=int(FlowType.NETFLOW_V9), origin_offset=range(len(exporters)),
        ) if exporters else FlowBatch.zeros(0)  # fmt: skip
        begin, end = index * SECOND, (index + 1) * SECOND
        partials = cubes.of(Pane(index, begin, end, rows), 0)
        rules += [r for said in operator.process([Pane(index, begin, end, partials)]) for r in said.value["rules"]]
    assert [(r["rule"], r["bytes_counted"], r["bytes_removed"]) for r in rules] == expected
