"""Distance records written by a kernel: byte for byte what fastavro writes of the same statistics."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream import distance_encoding, schemas
from flowstream.distances import DistancesConfig, DistancesOperator
from flowstream.features import feature_matrix, sample_groups
from flowstream.grouping import group_rows
from flowstream.operators import Pane, one_by_one
from flowstream.pairs import with_distinct_ids
from flowstream.summaries import summarise
from tests.builders import T0_NS, flows

SECOND = 10**9
NAMES = {7: "netflow-0", 65536: "größe.流-12", 65537: "t" * 249 + "-3", 9: ""}
FIGURES = ("p50", "p90", "p99", "p999")


def flow_ids(rows, index, names):
    """Name flows in plain Python: record id, or where the row came from."""
    columns = (rows.record_id, rows.origin_id, rows.origin_offset, rows.origin_row)
    return [
        str(record) if record else f"{names.get(origin) or origin}-{offset}" + (f"-{row}" if row else "")
        for record, origin, offset, row in zip(*(c[index].tolist() for c in columns), strict=True)
    ]


def records_of(rows, config, names=NAMES):
    """Build the records in plain Python, one at a time, from the columns of the summaries."""
    seen = group_rows(rows.src_addr)
    groups = sample_groups(rows, seen, config.flows_max)
    named = with_distinct_ids(rows, groups)
    matrix = feature_matrix(rows, groups, config.features, config.scaling)
    wanted = config.wanted()
    places = [wanted.quantiles.index(q) for q in (0.5, 0.9, 0.99, 0.999)]
    for part in summarise(matrix, groups.bounds, wanted):
        out = part.columns
        for own, pairs in enumerate(part.pairs.tolist()):
            g = part.first_group + own
            index = groups.order[groups.bounds[g] : groups.bounds[g + 1]]
            ids = flow_ids(named, index, names)
            least, greatest, mean, threshold, *quantiles = out.statistics[own].tolist()
            figures = {"min": least, "max": greatest, "mean": mean, "tail_threshold": threshold}
            figures |= {name: quantiles[at] for name, at in zip(FIGURES, places, strict=True)}
            bins = slice(part.bin_bounds[own], part.bin_bounds[own + 1])
            far = np.arange(out.far_bounds[own], out.far_bounds[own + 1])[: config.top_k]
            busy = range(out.busy_bounds[own], out.busy_bounds[own] + out.busy_used[own])
            number = int.from_bytes(rows.src_addr[index[0]].astype(">u8").tobytes(), "big")
            address = ipaddress.IPv6Address(number)
            above = int(out.above[own])
            yield {
                "src_addr": str(address.ipv4_mapped or address) if number else "",
                "window_start_ns": T0_NS, "window_end_ns": T0_NS + SECOND,
                "flows": len(index), "flows_seen": int(seen.sizes[g]), "sampled": int(seen.sizes[g]) > len(index),
                "features": list(config.features), "scaling": config.scaling, "pairs": pairs,
                **{name: figure if pairs else None for name, figure in figures.items()},
                "tail_pairs": above, "pairs_truncated": config.pairs == "tail" and above > config.pairs_max,
                "histogram": {
                    "bins": out.bins[bins].astype("<u2").tobytes(), "counts": out.counts[bins].astype("<i8").tobytes(),
                },
                "top": [
                    {"id_1": ids[i], "id_2": ids[j], "distance": float(distance)}
                    for i, j, distance in zip(
                        out.far_first[far], out.far_second[far], out.far_distance[far], strict=True
                    )
                ],
                "tails": [{"id": ids[out.busy_flow[t]], "pairs": int(out.busy_pairs[t])} for t in busy],
            }  # fmt: skip


def results_of(rows, config, names=NAMES):
    operator = DistancesOperator(config, SECOND, names)
    results = operator.process([Pane(T0_NS // SECOND, T0_NS, T0_NS + SECOND, rows)])
    return [r for r in one_by_one(results) if r.stream == "distances"]


def check(rows, config):
    rows = rows.in_time_order()
    results, records = results_of(rows, config), list(records_of(rows, config))
    assert [r.body for r in results] == [schemas.encode_body("distances", record) for record in records]
    assert [r.value for r in results] == records
    assert [r.key for r in results] == [f"{T0_NS}|{record['src_addr']}" for record in records]


CONFIGS = st.builds(
    DistancesConfig,
    size_panes=st.just(1),
    step_panes=st.just(1),
    features=st.sampled_from([DistancesConfig().features, ("all",), ("out_bytes",)]),
    scaling=st.sampled_from(["none", "standard", "log"]),
    top_k=st.sampled_from([0, 1, 10, 1000]),
    tails_max=st.sampled_from([0, 1, 10, 1000]),
    pairs=st.sampled_from(["none", "tail"]),
    tail_quantile=st.sampled_from([0.1, 0.5, 0.999]),
    tail_distance=st.sampled_from([None, 0.0, 50.0]),
    pairs_max=st.sampled_from([1, 5, 1000]),
    flows_max=st.sampled_from([2, 5, 5000]),
)
ADDRESSES = ("::", "10.0.0.1", "10.0.0.2", "255.255.255.255", "2001:db8::1", "fe80::1:0:0:1")


@st.composite
def windows(draw):
    count = draw(st.integers(1, 60))

    def column(*values):
        return draw(st.lists(st.sampled_from(values), min_size=count, max_size=count))

    return flows(
        count, time_ns=T0_NS + np.arange(count) * 10**6, src_addr=column(*ADDRESSES), bytes=column(0, 1, 100, 10**12),
        origin_id=column(7, 9, 65536, 65537, 2**32 - 1), origin_row=column(0, 0, 1, 2**32 - 1),
        origin_offset=column(0, 9, 10, 123_456_789, 2**63 - 1, -1, -(2**63)),
        record_id=column(0, 0, 5, 10**15 + 1, 2**64 - 1), time_flow_start_ns=column(T0_NS, T0_NS - 5 * SECOND),
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(windows(), CONFIGS)
def test_a_record_is_what_fastavro_writes_of_it(rows, config):
    check(rows, config)


@pytest.mark.parametrize("top_k", [0, 10, 1000])
def test_long_lists_and_full_histograms_are_what_fastavro_writes(top_k):
    rng = np.random.default_rng(4)
    sizes = [1, 400, 2, 90, 1]
    rows = flows(
        sum(sizes), time_ns=T0_NS + np.arange(sum(sizes)), bytes=rng.lognormal(8, 4, sum(sizes)).astype(np.int64),
        src_addr=np.repeat(ADDRESSES[:5], sizes).tolist(), origin_id=rng.choice([7, 65537], sum(sizes)),
        origin_offset=rng.integers(0, 10**12, sum(sizes)),
    )  # fmt: skip
    check(rows, DistancesConfig(1, 1, top_k=top_k, tails_max=1000, pairs="tail", pairs_max=100))


@pytest.mark.parametrize("buffer_bytes", [1, 300, 1000, 5000])
def test_bodies_do_not_depend_on_how_many_fit_the_buffer(buffer_bytes, monkeypatch):
    rows = flows(
        200, time_ns=T0_NS + np.arange(200), bytes=np.arange(200) ** 3 % 1009, origin_id=65537,
        src_addr=[f"10.0.{i % 37}.{i % 5}" for i in range(200)],
    )  # fmt: skip
    config = DistancesConfig(1, 1)
    whole = [r.body for r in results_of(rows, config)]
    monkeypatch.setattr(distance_encoding, "BUFFER_BYTES", buffer_bytes)
    assert [r.body for r in results_of(rows, config)] == whole


@pytest.mark.parametrize("chunk_max", [1, 100])
def test_bodies_do_not_depend_on_the_runs_of_summaries(chunk_max, monkeypatch):
    rows = flows(
        90, time_ns=T0_NS + np.arange(90), bytes=np.arange(90) ** 2, record_id=np.arange(90),
        src_addr=[ADDRESSES[i % 6] for i in range(90)],
    )  # fmt: skip
    config = DistancesConfig(1, 1)
    whole = [r.body for r in results_of(rows, config)]
    monkeypatch.setattr("flowstream.distances.summarise", lambda *given: summarise(*given, chunk_max=chunk_max))
    assert [r.body for r in results_of(rows, config)] == whole
    assert len(whole) == 6
