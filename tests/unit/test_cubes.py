"""Laws of cubes: every cube holds the sums of the rows that count, wherever the rows are summed up first."""

from __future__ import annotations

import ipaddress
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import FlowBatch, FlowType
from flowstream.counting import CountOnce, count_once
from flowstream.cubes import OF_EVERY_ROW, CubesConfig, CubesOf, service_port
from flowstream.links import LinkTable
from flowstream.partials import KEYS, Cube, PartialBatch
from tests.partial_rows import merged, pane_of, summed

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "src_addr": st.sampled_from([(0, 0xFFFF_0A00_0001), (0, 0xFFFF_0A00_0002), (1 << 61, 3), (1 << 61, 4)]),
            "dst_addr": st.sampled_from([(0, 0xFFFF_0A00_0001), (1 << 61, 3), (0, 0)]),
            "src_port": st.sampled_from([0, 53, 40000]), "dst_port": st.sampled_from([0, 53, 443]),
            "proto": st.sampled_from([1, 6, 17]), "exporter": st.sampled_from([(0, 7), (0, 8), (5, 0)]),
            "in_if": st.integers(1, 2), "ip_ttl": st.sampled_from([0, 62, 63]), "src_as": st.integers(0, 2),
            "dst_as": st.sampled_from([0, 2**32 - 1]), "bytes": st.integers(0, 10**9), "packets": st.integers(0, 900),
            "sampling_rate": st.sampled_from([0, 1, 64, 1000]), "flow_type": st.sampled_from([0, 1, 2, 3, 4, 16]),
            "sequence_num": st.sampled_from([0, 63, 64, 65, 2**32 - 1]),
            "time_received_ns": st.sampled_from([5, 5, 5, 6]),
        }
    ),
    max_size=30,
)  # fmt: skip
EDGES = st.dictionaries(st.tuples(st.sampled_from([7, 8]), st.integers(1, 2)), st.booleans(), max_size=4)


def batch(rows) -> FlowBatch:
    made = FlowBatch.zeros(len(rows))
    for n, row in enumerate(rows):
        for name, value in row.items():
            made.column(name)[n] = value
    made.time_ns[:], made.origin_offset[:] = 5, np.arange(len(rows))
    return made


def table(edges) -> LinkTable:
    return LinkTable.from_rows(
        {"exporter": str(ipaddress.IPv6Address(e)), "if_index": i, "name": "", "speed_bps": 1, "edge": edge}
        for (e, i), edge in edges.items()
    )


def keys_of(row) -> dict[Cube, tuple[int, ...]]:
    """Return a row's key in every cube, as partials.py words them."""
    source, destination, ports = row["src_addr"], row["dst_addr"], (row["src_port"], row["dst_port"])
    known = [p for p in ports if p]
    service = min(known) if known and row["proto"] in (6, 17, 33, 132, 136) else 0
    conversation = ports[0] << 32 | ports[1] << 8 | row["proto"]
    return {
        Cube.SOURCE: source,
        Cube.DESTINATION: destination,
        Cube.PAIR: (*source, *destination),
        Cube.CONVERSATION: (*source, *destination, conversation),
        Cube.PORT: (row["proto"] << 16 | service,),
        Cube.PROTOCOL: (row["proto"],),
        Cube.AS: (row["src_as"] << 32 | row["dst_as"],),
        Cube.EXPORTER_INTERFACE: (*row["exporter"], row["in_if"]),
    }


def sequence_of(row) -> tuple[tuple[int, ...], int]:
    kind, number = row["flow_type"], row["sequence_num"]
    if kind not in (1, 2, 3, 4) or row["time_received_ns"] != 5:
        return (*row["exporter"], kind, 0, 64), 0
    low = number % 64 if kind in (FlowType.NETFLOW_V5, FlowType.IPFIX) else 0
    return (*row["exporter"], kind, number // 64, low), 1 << number % 64


def brute_force(rows, counted):
    """Sum up row by row."""
    found = defaultdict(lambda: {"bytes": 0, "packets": 0, "records": 0, "variance": 0.0, "weight_max": 0.0, "bits": 0})
    for row, counts, rule in zip(rows, counted.counts.tolist(), counted.rule.tolist(), strict=True):
        rate = max(row["sampling_rate"], 1)
        samples = 1 if row["flow_type"] in (0, 1) else max(row["packets"], 1)
        per_sample = row["bytes"] * rate / samples
        adds = {
            "bytes": row["bytes"] * rate, "packets": row["packets"] * rate, "records": 1,
            "variance": samples * per_sample**2 * (1 - 1 / rate),
        }  # fmt: skip
        keys = [(Cube.COUNTING, (rule << 1 | counts,)), *(keys_of(row).items() if counts else ())]
        for cube, key in keys:
            sums = found[cube, key + (0,) * (len(KEYS) - len(key))]
            for name, value in adds.items():
                sums[name] += value
            sums["weight_max"] = max(sums["weight_max"], max(per_sample, 1518 * rate) if rate > 1 else 0.0)
        key, bit = sequence_of(row)
        sums = found[Cube.SEQUENCE, key + (0,) * (len(KEYS) - len(key))]
        sums["bytes"] += counts * adds["bytes"]
        sums["packets"] += counts * adds["packets"]
        sums["records"] += 1
        sums["bits"] |= bit
    rules = ruled(counted)
    for (cube, _), sums in found.items():
        sums["bits"] |= rules * (cube not in OF_EVERY_ROW)
    return dict(found)


def ruled(counted):
    """Return by which rules rows count, as bits."""
    return sum(
        1 << rule for rule in {r for r, counts in zip(counted.rule.tolist(), counted.counts, strict=True) if counts}
    )


def assert_alike(found, expected):
    """Whole numbers are the same; sums of floats but for the order in which they were added."""
    assert set(found) == set(expected)
    for key, sums in expected.items():
        for name, value in sums.items():
            if name in ("variance", "weight_max"):
                assert math.isclose(found[key][name], value, rel_tol=1e-12), (key, name)
            else:
                assert found[key][name] == value, (key, name)


@given(ROWS, EDGES)
def test_every_cube_is_the_sum_of_its_rows(rows, edges):
    made, links = batch(rows), table(edges)
    counted = count_once(made, links.lookup(made.exporter, made.in_if)[1])
    partials = summed(made, links, partition=3, index=0)
    assert_alike(merged([partials]), brute_force(rows, counted))
    assert set(partials.origin_id.tolist()) <= {3}
    assert partials.origin_row.tolist() == list(range(len(partials)))
    places = list(zip(partials.cube.tolist(), *(partials.column(key).tolist() for key in KEYS), strict=True))
    assert places == sorted(set(places))


@given(ROWS, EDGES, st.integers(1, 4))
def test_rows_spread_over_partitions_by_their_source_add_up_to_the_same(rows, edges, partitions):
    made, links = batch(rows), table(edges)
    home = np.array([sum(row["src_addr"]) % partitions for row in rows], np.int64)
    parts = [summed(made.take(home == p), links, partition=p) for p in range(partitions)]
    found, whole = merged(parts), merged([summed(made, links)])
    bits: dict[Cube, int] = defaultdict(int)
    for (cube, _), sums in found.items():
        # Rules are those of the pane in the partition: of all keys of a cube together they are those of the pane.
        bits[cube] |= sums.pop("bits") if cube not in OF_EVERY_ROW else 0
    for (cube, _), sums in whole.items():
        assert cube in OF_EVERY_ROW or bits[cube] == sums.pop("bits")
    assert_alike(found, whole)


@given(ROWS, EDGES, st.randoms(use_true_random=False))
def test_the_order_in_which_rows_came_changes_not_a_bit(rows, edges, random):
    made, links = batch(rows), table(edges)
    order = list(range(len(rows)))
    random.shuffle(order)
    mixed = summed(made.take(np.array(order, np.int64)), links)
    for name, column in summed(made, links).columns.items():
        assert column.tobytes() == mixed.column(name).tobytes(), name


def test_sums_stop_at_the_limit_of_their_column():
    row = {"bytes": 2**62, "packets": 2**40, "sampling_rate": 2**31, "flow_type": 1, "exporter": (0, 7)}
    for key, sums in merged([summed(batch([row, row, row]))]).items():
        assert (sums["bytes"], sums["packets"]) == (2**63 - 1, 2**63 - 1), key


@pytest.mark.parametrize(
    ("ports", "service"), [((40000, 443), 443), ((53, 53), 53), ((0, 53), 53), ((40000, 0), 40000), ((0, 0), 0)]
)
def test_the_service_is_the_lower_port_that_is_known(ports, service):
    both = np.array([ports, ports[::-1]], np.uint16)
    assert service_port(both[:, 0], both[:, 1]).tolist() == [service, service]


def test_a_pane_without_rows_adds_nothing():
    assert len(summed(FlowBatch.zeros(0))) == 0


def test_only_the_cubes_that_are_asked_for_are_made_and_others_take_their_place():
    made = {"key_0": np.array([1, 2]), "bytes": np.array([10, 20])}
    config = CubesConfig(frozenset({Cube.SOURCE, Cube.SEQUENCE}), {Cube.INTERFACE: lambda pane: made})
    partials = CubesOf(config, CountOnce(LinkTable())).of(pane_of(batch([{"src_addr": (0, 1)}])), 0)
    assert partials.cube.tolist() == [Cube.SOURCE, Cube.INTERFACE, Cube.INTERFACE, Cube.SEQUENCE]
    assert partials.bytes.tolist() == [0, 10, 20, 0]


def test_a_cube_that_nothing_makes_is_refused():
    with pytest.raises(ValueError, match="INTERFACE"):
        CubesConfig(frozenset({Cube.INTERFACE}))
    assert issubclass(type(summed(batch([{}]))), PartialBatch)
