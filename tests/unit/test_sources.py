"""The table of sources, and the block it is kept in."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from flowstream.batch import address_words
from flowstream.counting import CountOnce
from flowstream.distances import DistancesConfig
from flowstream.links import LinkTable
from flowstream.operators import Pane
from flowstream.results import ResultEncoder
from flowstream.source_blocks import SourceBlock
from flowstream.sources import SOURCES_PER_BLOCK, SourcesConfig, SourcesOperator
from flowstream.topics import BLOCK_BYTES_MAX
from tests.builders import flows
from tests.sightings import Sighting, counting_places
from tests.source_rows import SECOND, block_of, operator_of, said, sample

LIMIT = 2**63 - 1


addresses = st.sampled_from(["10.0.0.1", "10.0.0.2", "255.255.255.255", "2001:db8::1", "fe80::2", "::"])
counts = st.integers(0, 10**6) | st.integers(LIMIT - 5, LIMIT)
rows_of_sources = st.lists(
    st.tuples(addresses, addresses, counts, counts, st.integers(1, 2**32 - 1), counts, counts),
    min_size=1,
    max_size=40,
)


@given(rows_of_sources)
def test_every_column_is_the_exact_sum_or_stops_at_the_limit(listed):
    src, dst, sent, packets, rate, in_bytes, in_packets = map(list, zip(*listed, strict=True))
    rows = flows(
        len(listed), src_addr=src, dst_addr=dst, bytes=sent, packets=packets, sampling_rate=rate,
        in_bytes=in_bytes, in_packets=in_packets,
    )  # fmt: skip
    block = block_of(rows, SourcesConfig(1, samples_min=0.0))
    found = {row["src_addr"]: row for row in block.rows()}
    assert set(found) == {"" if a == "::" else a for a in src}
    for address in set(src):
        own = [entry for entry in listed if entry[0] == address]
        row = found["" if address == "::" else address]
        assert row["records"] == row["flows"] == len(own)
        assert row["bytes"] == min(sum(e[2] for e in own), LIMIT)
        assert row["packets"] == min(sum(e[3] for e in own), LIMIT)
        assert row["estimated_bytes"] == min(sum(e[2] * e[4] for e in own), LIMIT)
        assert row["estimated_packets"] == min(sum(e[3] * e[4] for e in own), LIMIT)
        assert row["in_bytes"] == min(sum(e[5] for e in own), LIMIT)
        assert row["in_packets"] == min(sum(e[6] for e in own), LIMIT)
        assert row["dst_addrs"] == len({e[1] for e in own})
        assert (row["distance_p999"] is None) == (len(own) < 2)


FEW = st.lists(
    st.tuples(
        st.sampled_from(["10.0.0.1", "10.0.0.2"]), st.integers(1, 2),  # source address and port: the flow
        st.sampled_from(["192.0.2.1", "192.0.2.2"]), st.integers(1, 3),  # exporter, in_if
        st.sampled_from([0, 62, 63]), st.integers(1, 9), st.integers(0, 3 * SECOND - 1),  # ttl, bytes, time
    ),
    min_size=1, max_size=30,
)  # fmt: skip
TABLES = st.dictionaries(
    st.tuples(st.sampled_from(["192.0.2.1", "192.0.2.2"]), st.integers(1, 3)), st.booleans(), max_size=4
)


@given(FEW, TABLES, st.integers(0, 3))
def test_of_a_flow_only_the_sightings_that_stand_for_it_in_a_pane_count_also_after_a_restart(rows, edges, restart):
    links = LinkTable.from_rows(
        {"exporter": exporter, "if_index": in_if, "name": "", "speed_bps": 1, "edge": edge}
        for (exporter, in_if), edge in edges.items()
    )
    panes = []
    for k in range(3):
        own = [row for row in rows if row[6] // SECOND == k]
        src, port, exporter, in_if, ttl, sent, time_ns = zip(*own, strict=True) if own else [()] * 7
        made = flows(len(own), src_addr=list(src), src_port=list(port), exporter=list(exporter), in_if=list(in_if),
                     ip_ttl=list(ttl), bytes=list(sent), sampling_rate=1, time_ns=list(time_ns))  # fmt: skip
        panes.append(Pane(k, k * SECOND, (k + 1) * SECOND, made.in_time_order()))
    operator, results = operator_of(SourcesConfig(3, 3), links), []
    for k in range(3):
        if k == restart:
            operator = operator_of(SourcesConfig(3, 3), links)
        results += operator.process(panes[: k + 1])
    (result,) = results
    expected: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    rules: dict[str, set[str]] = defaultdict(set)
    for k, src, port in {(row[6] // SECOND, *row[:2]) for row in rows}:
        mine = [row for row in rows if (row[6] // SECOND, *row[:2]) == (k, src, port)]
        seen = {
            place: Sighting(max(r[4] for r in mine if r[2:4] == place), sum(r[5] for r in mine if r[2:4] == place))
            for place in {r[2:4] for r in mine}
        }
        counting, rule = counting_places(seen, edges)
        rules[src] |= {rule} | {"EDGE" for place in seen if place in edges}
        counted = [r[5] for r in mine if r[2:4] in counting]
        for at, more in enumerate((len(mine), len(counted), sum(counted))):
            expected[src][at] += more
    told = list(SourceBlock.from_value(result.value).rows())
    assert {r["src_addr"]: {*r["counted_by"]} for r in told} == rules
    assert {r["src_addr"]: [r["records"], r["flows"], r["estimated_bytes"]] for r in told} == dict(expected)


def test_the_distance_is_the_quantile_of_all_pairs_of_the_source():
    rows = sample()
    for row in block_of(rows).rows():
        own = np.all(rows.src_addr == np.array(address_words(row["src_addr"]), np.uint64), axis=1)
        points = np.stack([rows.bytes[own], rows.packets[own]]).astype(np.float64).T
        assert row["distance_p999"] == pytest.approx(np.quantile(pdist(points), 0.999), rel=1e-12)


def test_distances_can_be_left_out_and_follow_their_configuration():
    rows = sample()
    assert {row["distance_p999"] for row in block_of(rows, SourcesConfig(1, distances=None)).rows()} == {None}
    scaled = SourcesConfig(1, distances=DistancesConfig(features=("out_bytes",), scaling="standard"))
    assert all(row["distance_p999"] < 10 for row in block_of(rows, scaled).rows())
    few = SourcesConfig(1, distances=DistancesConfig(flows_max=2))
    assert [r["flows"] for r in block_of(rows, few).rows()] == [r["flows"] for r in block_of(rows).rows()]


def test_a_window_of_many_sources_comes_in_parts_that_make_the_whole(monkeypatch):
    rows = sample(2000, 100)
    (whole,) = operator_of().process([Pane(7, 7 * SECOND, 8 * SECOND, rows)])
    monkeypatch.setattr("flowstream.sources.SOURCES_PER_BLOCK", 33)
    parts = operator_of().process([Pane(7, 7 * SECOND, 8 * SECOND, rows)])
    start = f"{7 * SECOND}"
    assert [r.key for r in parts] == [start, f"{start}|1", f"{start}|2", f"{start}|3"]
    assert [r.value["count"] for r in parts] == [33, 33, 33, 1]
    merged = SourceBlock.merged([SourceBlock.from_value(r.value) for r in parts])
    assert list(merged.rows()) == list(SourceBlock.from_value(whole.value).rows())


@pytest.mark.parametrize("written", ["avro", "json"])
def test_no_number_of_sources_and_no_figures_make_a_message_too_large(written):
    # The longest there is of every figure: full words, and IPv6 addresses that nothing shortens.
    count = SOURCES_PER_BLOCK + 1000
    rng = np.random.default_rng(0)
    words = rng.integers(1 << 60, 1 << 63, (count, 2)).astype(np.uint64)
    words[:, 0] |= np.uint64(0x8888_8888_8888_8888)
    words[:, 1] |= np.uint64(0x1111_1111_1111_1111)
    figures = {name: rng.integers(LIMIT // 4, LIMIT, count) for name in ("bytes", "packets", "in_bytes", "in_packets")}
    rows = flows(count, **figures).replace(src_addr=words)
    results = operator_of().process([Pane(7, 7 * SECOND, 8 * SECOND, rows)])
    assert sum(r.value["count"] for r in results) == count
    sizes = [len(ResultEncoder(written).encode(r)) for r in results]
    assert max(sizes) < BLOCK_BYTES_MAX - (1 << 16), "room for key and headers"


def test_a_window_is_one_result_keyed_by_its_start():
    result = said(sample())
    assert (result.stream, result.key, result.time_ns) == ("sources", f"{7 * SECOND}", 8 * SECOND)
    assert result.value["count"] == 9
    assert {len(column) for column in SourceBlock.from_value(result.value).columns.values()} == {9}


def test_hopping_windows_hold_the_rows_of_their_panes():
    operator = operator_of(SourcesConfig(3, 1))
    assert operator.lookback == 2
    panes = [Pane(i, i * SECOND, (i + 1) * SECOND, flows(1)) for i in range(5)]
    flows_seen = [
        [
            row["flows"]
            for r in operator.process(panes[max(0, i - 2) : i + 1])
            for row in SourceBlock.from_value(r.value).rows()
        ]
        for i in range(5)
    ]
    assert flows_seen == [[1], [2], [3], [3], [3]]


def test_lengths_must_be_positive():
    with pytest.raises(ValueError, match="no length"):
        SourcesOperator(SourcesConfig(), 0, CountOnce(LinkTable()))
    with pytest.raises(ValueError, match="cannot step"):
        operator_of(SourcesConfig(2, 3))
