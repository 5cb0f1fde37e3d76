"""Link use: what is told of a link is what its rows say, whatever way they came."""

from __future__ import annotations

import json
from collections import defaultdict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream import schemas
from flowstream.errors import SettingsError, StateError
from flowstream.link_use import LinkUse, LinkUseConfig
from flowstream.links import LinkTable
from tests.builders import T0_NS
from tests.link_rows import SECOND, loads, merged, ports, record, said, sample

FIRST = T0_NS // SECOND
PLAIN = (str, int, float, type(None))
CONFIG = LinkUseConfig(spread_max_s=60.0)
LINKS = LinkTable.from_csv(
    "exporter,if_index,name,speed_bps,edge,node,lag\n"
    "192.0.2.1,1,port1,100000000,true,leaf1,\n"
    "192.0.2.1,2,port2,1000000000,false,leaf1,\n"
    "192.0.2.2,1,a,1000000000,,spine,9\n"
    "192.0.2.2,2,b,1000000000,,spine,9\n"
    "192.0.2.2,9,po9,1000000000,,spine,\n"
)


def link_use(config: LinkUseConfig = CONFIG, links: LinkTable = LINKS) -> LinkUse:
    return LinkUse(config, SECOND, links)


def numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in time order, each in a datagram of its own, which its exporter has numbered."""
    sent: dict[str, int] = defaultdict(int)
    made = []
    for row in sorted(rows, key=lambda row: row["time_ns"]):
        made.append(row | {"sequence_num": sent[row["exporter"]]})
        sent[row["exporter"]] += 1
    return made


def expected(rows: list[dict[str, Any]], config: LinkUseConfig = CONFIG) -> dict[tuple[int, str, int, str], int]:
    """Return the bytes on the wire by port and interval, a row at a time in fractions."""
    sums: dict[tuple[int, str, int, str], int] = defaultdict(int)
    for row in rows:
        sampled = row["flow_type"] == 1
        total = (row["bytes"] + (20 if sampled else 38) * row["packets"]) * row["sampling_rate"]
        begin, end = (row["time_ns"],) * 2 if sampled else (row["time_flow_start_ns"], row["time_flow_end_ns"])
        for number in range(begin // config.interval_ns, max(begin, end - 1) // config.interval_ns + 1):
            start = number * config.interval_ns
            cuts = [
                Fraction(min(max(t, begin), end) - begin, max(1, end - begin))
                for t in (start, start + config.interval_ns)
            ]
            part = total if begin == end else (total * cuts[1]).__floor__() - (total * cuts[0]).__floor__()
            for port, side in ((row["in_if"], "in"), (row["out_if"], "out")):
                sums[start, row["exporter"], port, side] += part
                if row["exporter"] == "192.0.2.2" and port in (1, 2):
                    sums[start, row["exporter"], 9, side] += part
    return dict(sums)


def traffic(seed: int, count: int = 60, seconds: int = 100) -> list[dict[str, Any]]:
    """Return samples of one exporter and flow records of two, some of which ended before the first pane."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        time_ns = T0_NS + int(rng.integers(0, seconds * SECOND))
        where = {"in_if": int(rng.integers(1, 4)), "out_if": int(rng.integers(1, 4))}
        wire = int(rng.integers(100, 10**7))
        kind = rng.integers(0, 3)
        if kind == 0:
            rows.append(sample(time_ns, 20 + wire % 1500, int(rng.integers(1, 3)) * 1000, **where))
        else:
            life = int(rng.integers(0, 59 * SECOND))
            rows.append(record(time_ns - life, time_ns, wire, exporter=f"192.0.2.{kind + 1}", **where))
    return rows


@pytest.mark.parametrize("partitions", [1, 2, 5])
def test_each_interval_holds_the_bytes_that_its_rows_put_on_the_wire(partitions):
    for seed in range(4):
        rows = traffic(seed)
        results = said(link_use(), merged(rows, CONFIG, FIRST, 200, partitions))
        wanted = expected(rows)
        told = {key: port for key, port in ports(results).items() if port["samples"]}
        assert told.keys() == wanted.keys()
        for key, port in told.items():
            bits = Fraction(wanted[key] * 8, 10)
            assert port["rate_bps"] is None or port["rate_bps"] == pytest.approx(float(bits), abs=0.5)
            assert port["low_bps"] <= bits <= port["high_bps"] + 1
            assert port["rate_bps"] is not None or key[1] == "192.0.2.1"  # too few samples, or too unequal ones
        assert all(r.value["late_bytes"] == 0 for r in results if r.stream == "link-use")


def test_the_same_is_said_whichever_partition_the_rows_came_by():
    """Bytes, rates, shares and events; bounds of samples may differ in the last place, for floats are summed."""
    rows = traffic(7)
    one, five = (said(link_use(), merged(rows, CONFIG, FIRST, 200, p)) for p in (1, 5))
    assert [r.key for r in one] == [r.key for r in five]
    for a, b in zip(one, five, strict=True):
        for port, other in zip(a.value["interfaces"], b.value["interfaces"], strict=True):
            exact = ("if_index", "direction", "name", "rate_bps", "link_bps", "share")
            assert {n: port[n] for n in exact} == {n: other[n] for n in exact}
            assert port["high_bps"] == pytest.approx(other["high_bps"], rel=1e-6)


def test_a_restart_at_any_pane_changes_nothing():
    rows = [row for n, row in enumerate(numbered(traffic(3, 200))) if n % 7]
    panes = merged(rows, CONFIG, FIRST, 190, 2)
    through = link_use()
    states, results = [through.snapshot()], []
    for pane in panes:
        results.append(through.process([pane]))
        states.append(through.snapshot())
    shares = {r.value["lost_share"] for said in results for r in said if r.stream == "link-use"}
    assert len(shares) > 10
    for stop in range(0, len(panes), 7):
        again = link_use()
        again.restore(states[stop])
        assert again.snapshot() == states[stop]
        for n in range(stop, min(stop + 40, len(panes))):
            assert again.process([panes[n]]) == results[n]
            assert again.snapshot() == states[n + 1]


def test_a_long_flow_at_line_rate_is_100_percent_flat_however_it_is_exported():
    """Ten minutes, exported each minute: never above 100 %, where totals at their arrival would be 600 %."""
    line = 100_000_000 // 8
    rows = []
    for minute in range(10):
        start = T0_NS + 3 * SECOND + 60 * SECOND * minute
        rows.append(record(start, start + 60 * SECOND, 60 * line, packets=500_000))
    told = ports(said(link_use(LinkUseConfig(spread_max_s=120.0)), merged(rows, LinkUseConfig(), FIRST, 800)))
    shares = [port["share"] for key, port in sorted(told.items()) if key[2:] == (1, "in") and port["samples"]]
    assert shares[0] == pytest.approx(0.7, abs=1e-6)
    assert shares[1:-1] == pytest.approx([1.0] * 59, abs=1e-6)
    assert max(shares) <= 1.0 + 1e-6
    assert shares[-1] == pytest.approx(0.3, abs=1e-6)
    assert len(shares) == 61


@pytest.mark.parametrize("is_known", [False, True])
def test_a_start_that_never_moves_is_mended_by_the_active_timeout(is_known):
    """Each minute's bytes with the start of the whole flow: taken for what it says, the first minutes get it all."""
    config = LinkUseConfig(spread_max_s=120.0, active_timeout_s=60.0 if is_known else None)
    line = 60 * 100_000_000 // 8
    rows = [record(T0_NS, T0_NS + 60 * SECOND * minute, line, packets=500_000) for minute in range(1, 9)]
    results = said(link_use(config), merged(rows, config, FIRST, 700))
    told = ports(results)
    shares = [port["share"] for key, port in sorted(told.items()) if key[2:] == (1, "in") and port["samples"]]
    late = sum(r.value["late_bytes"] for r in results if r.stream == "link-use")
    if is_known:
        assert shares == pytest.approx([1.0] * 48, abs=1e-6)
        assert late == 0
    else:
        assert max(shares) > 1.4
        assert late > 2 * line


def test_samples_are_told_at_once_and_flow_records_when_nothing_can_come_any_more():
    rows = [sample(T0_NS, 1000), record(T0_NS - SECOND, T0_NS, 1000, exporter="192.0.2.3")]
    operator = link_use()
    when: dict[str, int] = {}
    for pane in merged(rows, CONFIG, FIRST, 100):
        for result in operator.process([pane]):
            when.setdefault(f"{result.value['exporter']} {result.value['window_start_ns']}", pane.end_ns)
    assert when[f"192.0.2.1 {T0_NS}"] == T0_NS + 10 * SECOND
    assert when[f"192.0.2.3 {T0_NS - 10 * SECOND}"] == T0_NS + 60 * SECOND
    assert operator.quiet


def test_a_port_that_falls_silent_is_told_once_more_as_zero():
    told = ports(said(link_use(), merged([sample(T0_NS + 5 * SECOND, 1500, 1000)], CONFIG, FIRST, 60)))
    starts = sorted({key[0] for key in told})
    assert starts == [T0_NS, T0_NS + 10 * SECOND]
    silent = told[T0_NS + 10 * SECOND, "192.0.2.1", 1, "in"]
    assert (silent["rate_bps"], silent["low_bps"], silent["samples"]) == (0, 0, 0)
    assert silent["high_bps"] == pytest.approx(3.69 * 1538 * 1000 * 8 / 10, rel=0.01)  # that much may have been missed


def test_what_comes_too_late_is_counted_in_the_next_record_and_in_no_interval():
    rows = [
        sample(T0_NS, 1000),
        sample(T0_NS + 9 * SECOND, 1000),
        record(T0_NS - 30 * SECOND, T0_NS + 30 * SECOND, 6000),  # five sixths of it before what is still open
        record(T0_NS - 570 * SECOND, T0_NS + 30 * SECOND, 60_000),
    ]
    results = said(link_use(), merged(rows, CONFIG, FIRST, 200))
    told = ports(results)
    sums = {start: sum(p["rate_bps"] * 10 // 8 for k, p in told.items() if k[0] == start and k[2:] == (1, "in"))
            for start in sorted({key[0] for key in told})}  # fmt: skip
    late = sum(r.value["late_bytes"] for r in results if r.stream == "link-use")
    # The first interval was told with what samples said, the next as zero.
    assert list(sums.values()) == [2000, 0, 2000, 0]
    assert late == 2 * (5000 + 59_000)
    assert sum(sums.values()) * 2 + late == 2 * (2000 + 66_000)


def test_a_bundle_is_the_sum_of_its_members():
    rows = [sample(T0_NS + n * SECOND, 1500, 1000, exporter="192.0.2.2", in_if=1 + n % 2, out_if=5) for n in range(10)]
    told = ports(said(link_use(), merged(rows, CONFIG, FIRST, 10)))
    one, two, both = (told[T0_NS, "192.0.2.2", port, "in"] for port in (1, 2, 9))
    assert both["rate_bps"] == one["rate_bps"] + two["rate_bps"] == 10 * 1500 * 1000 * 8 // 10
    assert (both["name"], both["link_bps"], both["samples"]) == ("po9", 2_000_000_000, 10)
    assert both["share"] == both["rate_bps"] / 2e9


def test_below_the_floor_of_samples_there_are_bounds_and_no_number():
    rows = [sample(T0_NS + n * SECOND, 1500, 1000) for n in range(3)]
    port = ports(said(link_use(), merged(rows, CONFIG, FIRST, 10)))[T0_NS, "192.0.2.1", 1, "in"]
    assert (port["rate_bps"], port["share"], port["samples"]) == (None, None, 3)
    assert 0 < port["low_bps"] < 3 * 1500 * 1000 * 8 // 10 < port["high_bps"]


def test_ports_over_the_limit_are_refused_and_counted():
    config = LinkUseConfig(ports_max=4)
    rows = [sample(T0_NS + SECOND * (n // 10), 1000, in_if=1 + n % 10, out_if=20) for n in range(60)]
    operator = LinkUse(config, SECOND, LinkTable())
    told = ports(said(operator, merged(rows, config, FIRST, 20)))
    assert {key[2] for key in told} == {1, 2, 3, 4}
    assert operator.refused == 6 * 7


def test_capacities_and_names_follow_the_table_of_links():
    operator = link_use()
    panes = merged(loads([0.5] * 4), CONFIG, FIRST, 40)
    before = ports(said(operator, panes[:20]))
    operator.links = LINKS.upserted(
        {"exporter": "192.0.2.1", "if_index": 1, "name": "faster", "speed_bps": 10**9, "lag": 7}
    )
    after = ports(said(operator, panes[20:]))
    assert before[T0_NS, "192.0.2.1", 1, "in"]["share"] == pytest.approx(0.5)
    port, bundle = (after[T0_NS + 20 * SECOND, "192.0.2.1", p, "in"] for p in (1, 7))
    assert (port["name"], port["share"]) == ("faster", pytest.approx(0.05))
    assert (bundle["rate_bps"], bundle["link_bps"]) == (port["rate_bps"], 10**9)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"interval_s": 7.0}, "interval_s"), ({"interval_s": 0.0}, "interval_s"),
        ({"spread_max_s": 0.0}, "spread_max_s"), ({"threshold": 0.0}, "threshold"), ({"hysteresis": 0.8}, "hysteresis"),
        ({"for_intervals": 0}, "for_intervals"), ({"samples_min": -1.0}, "samples_min"),
        ({"ports_max": 0}, "ports_max"), ({"active_timeout_s": 0.0}, "active_timeout_s"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(wrong, named):
    with pytest.raises(SettingsError, match=named):
        LinkUseConfig(**wrong)
    with pytest.raises(SettingsError, match="multiple of time"):
        LinkUse(LinkUseConfig(), 3 * SECOND, LINKS)


@given(st.binary(max_size=60), st.integers(0, 400))
def test_garbage_is_no_state(garbage, cut):
    operator = link_use()
    said(operator, merged(traffic(1, 6), CONFIG, FIRST, 3))
    whole = operator.snapshot()
    stranger = link_use(LinkUseConfig(spread_max_s=70.0)).snapshot()
    for state in (garbage, whole[: len(whole) - 1 - cut], whole + b"x", stranger):
        with pytest.raises(StateError):
            operator.restore(state)
        assert operator.snapshot() == whole


def test_values_fit_their_schemas():
    results = said(link_use(), merged(traffic(5, 200, 100) + loads([1.0] * 6), CONFIG, FIRST, 300))
    assert {r.stream for r in results} == {"link-use", "link-events"}
    for result in results:
        name = result.stream.replace("-", "_")
        assert schemas.decode_body(name, schemas.encode_body(name, result.value)) == result.value


def test_it_keeps_the_contract_of_operators():
    """Plain values under keys of their own, for a time that was reached; and input rows stay as they are."""
    operator, keys = link_use(), set()
    panes = merged(traffic(8) + loads([1.0] * 6), CONFIG, FIRST, 200, 2)
    for pane in panes:
        for column in pane.rows.columns.values():
            column.setflags(write=False)
        quiet, before = operator.quiet and not len(pane.rows), operator.snapshot()
        for result in operator.process([pane]):
            assert not quiet
            assert result.time_ns <= pane.end_ns
            json.dumps(result.value, allow_nan=False)
            keys.add((result.stream, result.key))
            assert not [v for port in result.value.get("interfaces", ()) for v in port.values() if type(v) not in PLAIN]
        assert not quiet or operator.snapshot() == before
    assert operator.quiet
    assert len(keys) == len(said(link_use(), panes))
