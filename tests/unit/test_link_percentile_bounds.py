"""Bounds of link use's percentiles: the same rank of the bounds of all values, so they hold what really was."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import gamma

from flowstream.batch import FlowBatch, FlowType
from flowstream.counting import CountOnce
from flowstream.cubes import CubesConfig, CubesOf
from flowstream.errors import StateError
from flowstream.link_state import HIGH, LOAD, LOW, PORT, LinkState
from flowstream.link_use import LinkUse, LinkUseConfig
from flowstream.links import LinkTable
from flowstream.operators import Pane, Result
from flowstream.partials import Cube, PartialBatch
from flowstream.wire_load import SAMPLES, WireLoadConfig, interface_partials
from tests.builders import T0_NS
from tests.link_rows import SECOND, merged, ports, said, sample
from tests.unit.test_elephants_clos import recording

HOUR = 3600 * SECOND
DAY = 24 * HOUR
MIDNIGHT = T0_NS // DAY * DAY
FULL_FRAME = 1538.0  # on the wire
FIGURES = ("p95_bps", "p95_low_bps", "p95_high_bps", "max_bps", "max_low_bps", "max_high_bps")


def pane(start_ns: int, sizes: list[int], rate: int, length_ns: int) -> Pane:
    """Return a pane in which an interface took in packets of such sizes, each sampled 1-in-``rate``."""
    weights = np.array(sizes, np.float64) * rate
    columns: dict[str, Any] = {
        "cube": Cube.INTERFACE, "time_ns": start_ns, "origin_offset": start_ns // length_ns, "key_1": 0xFFFFC0000201,
        "key_2": 3 << 1, "key_3": start_ns, "key_4": SAMPLES, "bytes": int(weights.sum()),
        "packets": len(sizes) * rate, "records": len(sizes), "variance": float((weights**2).sum()) * (1 - 1 / rate),
        "weight_max": FULL_FRAME * rate if rate > 1 else 0.0,
    }  # fmt: skip
    rows = PartialBatch.of(1, {name: np.array([value]) for name, value in columns.items()})
    return Pane(start_ns // length_ns, start_ns, start_ns + length_ns, rows)


def traffic(seed: int, count: int, busy: float) -> list[tuple[list[int], int]]:
    """Return for each of some intervals the sizes of its samples, often none, and how densely it was sampled."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        samples = int(rng.integers(1, 60)) if rng.random() < busy else 0
        drawn.append((rng.integers(84, 1538, samples).tolist(), int(rng.choice([100, 1000]))))
    drawn[0] = ([100, 1500], 100)  # it is known from the first one on
    return drawn


def bounds(
    parts: list[tuple[list[int], int]], weight_max: float, length_ns: int, count: int
) -> tuple[float, float, float]:
    """Return (load, low, high) of samples in bits per second: Fay and Feuer, by scipy, one of ``count`` bounds."""
    tail = 0.025 / count
    total = float(sum(sum(sizes) * rate for sizes, rate in parts))
    variance = sum((size * rate) ** 2 * (1 - 1 / rate) for sizes, rate in parts for size in sizes)
    y, v = total + weight_max, variance + weight_max**2
    low = gamma.ppf(tail, total * total / variance, scale=variance / total) if variance else total
    high = gamma.isf(tail, y * y / v, scale=v / y) if weight_max else total
    return tuple(bits * 8 * SECOND / length_ns for bits in (total, low, high))  # type: ignore[return-value]


def ranked(values: list[tuple[float, float, float]]) -> dict[str, float]:
    """Return the 95th percentile by nearest rank, and the largest, of loads, lows and highs each."""
    rank = math.ceil(0.95 * len(values)) - 1
    columns = [sorted(column) for column in zip(*values, strict=True)]
    return dict(zip(FIGURES, [column[at] for at in (rank, -1) for column in columns], strict=True))


def told(results: list[Result], period: str) -> dict[str, Any]:
    """Return what was said first of the one port."""
    return next(r.value for r in results if r.value.get("period") == period)["interfaces"][0]


def run(drawn: list[tuple[list[int], int]], length_ns: int, closing_ns: int, *, restored: bool = False) -> list[Result]:
    operator = LinkUse(LinkUseConfig(length_ns / SECOND), length_ns, LinkTable())
    results = []
    for n, (sizes, rate) in [*enumerate(drawn), ((closing_ns - MIDNIGHT) // length_ns, ([100], 100))]:
        if sizes:
            results += said(operator, [pane(MIDNIGHT + n * length_ns, sizes, rate, length_ns)])
        if restored:
            state = operator.snapshot()
            operator = LinkUse(LinkUseConfig(length_ns / SECOND), length_ns, LinkTable())
            operator.restore(state)
            assert operator.snapshot() == state
    return results


@pytest.mark.parametrize(("seed", "busy"), [(0, 1.0), (1, 0.6), (2, 0.04), (3, 0.01)])
def test_bounds_of_an_hour_are_the_same_rank_of_the_bounds_of_all_its_intervals(seed: int, busy: float):
    """An interval without a sample has an upper bound, too: by the last weight that was seen."""
    drawn, length_ns = traffic(seed, 360, busy), 10 * SECOND
    last = FULL_FRAME * next(rate for sizes, rate in reversed(drawn) if sizes)
    values = [bounds([d], FULL_FRAME * d[1] if d[0] else last, length_ns, 360) for d in drawn]
    port = told(run(drawn, length_ns, MIDNIGHT + 2 * HOUR), "hour")
    assert {name: port[name] for name in FIGURES} == pytest.approx(ranked(values), rel=1e-5, abs=1)
    assert port["values"] == 360
    assert port["p95_low_bps"] <= port["p95_bps"] < port["p95_high_bps"]


@pytest.mark.parametrize(("seed", "busy"), [(0, 0.9), (1, 0.02)])
def test_bounds_of_a_day_are_those_of_its_means_of_five_minutes(seed: int, busy: float):
    drawn, length_ns = traffic(seed, 1440, busy), 60 * SECOND
    last = FULL_FRAME * next(rate for sizes, rate in reversed(drawn) if sizes)
    values, before = [], 0.0
    for n in range(0, len(drawn), 5):
        parts = [part for part in drawn[n : n + 5] if part[0]]
        # Of an interval without a sample that comes right behind another the bound is by that one's weight.
        rates = [rate for _, rate in parts] + ([before] if n and drawn[n - 1][0] and not drawn[n][0] else [])
        values.append(bounds(parts, FULL_FRAME * max(rates) if parts else last, 300 * SECOND, 288))
        before = next((float(rate) for sizes, rate in reversed(drawn[: n + 5]) if sizes), before)
    port = told(run(drawn, length_ns, MIDNIGHT + DAY + HOUR), "day")
    assert {name: port[name] for name in FIGURES} == pytest.approx(ranked(values), rel=1e-5, abs=1)
    assert port["values"] == 288


def test_what_was_counted_and_not_sampled_is_its_own_bounds():
    drawn = [(sizes, 1) for sizes, _ in traffic(4, 360, 0.5)]
    port = told(run(drawn, 10 * SECOND, MIDNIGHT + 2 * HOUR), "hour")
    for figure in ("p95", "max"):
        assert 0 < port[f"{figure}_bps"] - 1 <= port[f"{figure}_low_bps"] <= port[f"{figure}_bps"]
        assert port[f"{figure}_bps"] <= port[f"{figure}_high_bps"] <= port[f"{figure}_low_bps"] + 1


@pytest.mark.parametrize("length_ns", [10 * SECOND, 60 * SECOND])
def test_what_was_saved_and_restored_at_any_time_says_the_same(length_ns: int):
    drawn = traffic(5, 200, 0.3)
    whole, cut = (run(drawn, length_ns, MIDNIGHT + DAY + HOUR, restored=restored) for restored in (False, True))
    assert cut == whole
    assert {r.value["period"] for r in whole if "period" in r.value} == {"hour", "day"}


def percentiles_of(batch: FlowBatch) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Return the percentiles of the first hour of rows, in intervals of a second."""
    config = LinkUseConfig(interval_s=1.0)
    wire = partial(interface_partials, config=WireLoadConfig(config.interval_ns, config.reach_ns, config.life_max_ns))
    cubes = CubesOf(CubesConfig(frozenset(), {Cube.INTERFACE: wire}), CountOnce(LinkTable()))
    operator, results = LinkUse(config, SECOND, LinkTable()), []
    cuts = np.unique(batch.time_ns // SECOND)
    for index in [*cuts.tolist()]:
        begin, end = np.searchsorted(batch.time_ns, [index * SECOND, (index + 1) * SECOND])
        own = Pane(index, index * SECOND, (index + 1) * SECOND, batch.take(slice(begin, end)))
        results += said(operator, [Pane(own.index, own.start_ns, own.end_ns, cubes.of(own, 0))])
    return {key[1:]: port for key, port in ports(results, "link-use-percentiles").items()}


def test_on_the_recorded_fabric_the_true_percentile_and_maximum_lie_within():
    """Its samples are taken for all there was, at the end of an hour, and one in three of them is sampled."""
    rows = recording()
    first, last = int(rows.time_ns[0]), int(rows.time_ns[-1])
    rows = rows.replace(time_ns=rows.time_ns - last + MIDNIGHT + HOUR - 1)
    rng = np.random.default_rng(6)
    closing = np.unique(rows.exporter, axis=0, return_index=True)[1]
    later = rows.take(closing).replace(time_ns=np.full(len(closing), MIDNIGHT + HOUR))
    sampled = rows.take(rng.random(len(rows)) < 1 / 3)
    exact, estimated = (
        percentiles_of(FlowBatch.concat([part.replace(sampling_rate=np.full(len(part), rate)), later]))
        for part, rate in ((rows, 1), (sampled, 3))
    )
    seconds = (last - first) // SECOND
    within, widths = [], []
    for key, port in estimated.items():
        inside = ((rows.in_if if key[2] == "in" else rows.out_if) == key[1]) & _is_of(rows, key[0])
        number = (rows.time_ns[inside] - MIDNIGHT) // SECOND
        sums = np.bincount(number, (rows.bytes[inside] + 20) * 8.0, 3600)[-port["values"] :]
        true_95, true_max = sorted(sums)[math.ceil(0.95 * len(sums)) - 1], max(sums)
        assert port["values"] <= seconds + 1
        if exact[key]["values"] == port["values"]:
            assert (exact[key]["p95_bps"], exact[key]["max_bps"]) == (true_95, true_max)
        within.append(port["p95_low_bps"] <= true_95 <= port["p95_high_bps"])
        within.append(port["max_low_bps"] <= true_max <= port["max_high_bps"])
        widths.append((port["p95_high_bps"] - port["p95_low_bps"]) / max(true_95, 1))
    assert len(within) >= 80
    assert all(within)
    assert min(widths) < 2  # where there are samples, they are of some use


def many(index: int, samples: NDArray[np.int64], rate: int) -> Pane:
    """Return a pane of 10 s in which each of many interfaces took in so many full frames, sampled 1-in-``rate``."""
    numbers, start_ns = np.flatnonzero(samples), index * 10 * SECOND
    weight = FULL_FRAME * rate
    columns: dict[str, Any] = {
        "cube": Cube.INTERFACE, "time_ns": start_ns, "origin_offset": index, "key_1": 0xFFFFC0000201,
        "key_2": numbers + 1 << 1, "key_3": start_ns, "key_4": SAMPLES, "bytes": samples[numbers] * int(weight),
        "packets": samples[numbers] * rate, "records": samples[numbers],
        "variance": samples[numbers] * weight**2 * (1 - 1 / rate), "weight_max": weight,
    }  # fmt: skip
    rows = PartialBatch.of(len(numbers), {name: np.resize(value, len(numbers)) for name, value in columns.items()})
    return Pane(index, start_ns, start_ns + 10 * SECOND, rows)


@pytest.mark.parametrize(("busy", "samples"), [(360, 40), (20, 15), (360, 0.3)])
def test_of_loads_that_are_known_the_bounds_hold_in_95_of_100_hours(busy: int, samples: float):
    """Constant loads, and bursts of which the percentile is the least: where errors of single values add up most."""
    rng, first = np.random.default_rng(busy), MIDNIGHT // (10 * SECOND)
    operator, count = LinkUse(LinkUseConfig(), 10 * SECOND, LinkTable()), 150
    results = said(operator, [many(first, np.full(count, 30), 1000)])  # known from the first interval on
    for n in range(1, 360):
        results += said(operator, [many(first + n, rng.poisson(samples if n <= busy else 0, count), 1000)])
    results += said(operator, [many(first + 360, np.ones(count, np.int64), 1000)])
    true_bps = samples * FULL_FRAME * 1000 * 8 / 10
    found = list(ports(results, "link-use-percentiles").values())
    assert len(found) == count
    assert np.mean([p["p95_low_bps"] <= true_bps <= p["p95_high_bps"] for p in found]) >= 0.95
    if samples >= 30:
        assert np.mean([p["max_low_bps"] <= true_bps <= p["max_high_bps"] for p in found]) >= 0.95


def _is_of(rows: FlowBatch, exporter: str) -> Any:
    return rows.exporter[:, 1] == np.uint64(0xFFFF_0000_0000 + int.from_bytes(map(int, exporter.split("."))))


@pytest.mark.parametrize(("kind", "moved"), [(FlowType.SFLOW_5, ("high",)), (FlowType.NETFLOW_V5, ("", "low", "high"))])
def test_what_may_be_lost_moves_the_upper_bounds_and_what_is_lost_all_three(kind: FlowType, moved: tuple[str, ...]):
    """Every other datagram of the last twenty minutes of a day is missing."""
    first, length_ns, config = MIDNIGHT + DAY - 1200 * SECOND, 10 * SECOND, LinkUseConfig(spread_max_s=10.0)
    told_of = []
    for step in (1, 2):
        sizes = [100] * 10 + [1000 + 50 * (n // 10 % 10) for n in range(10, 1200)]  # of the first no number is known
        times = [*(first + n * SECOND for n in range(1200)), MIDNIGHT + DAY + 60 * SECOND]
        rows = [
            sample(t, size, 1000, sequence_num=n * step, flow_type=int(kind))
            for n, (t, size) in enumerate(zip(times, [*sizes, 100], strict=True))
        ]
        panes = merged(rows, config, first // length_ns, 140, 1, length_ns)
        told_of.append(
            [ports([r], "link-use-percentiles") for r in said(LinkUse(config, length_ns, LinkTable()), panes)]
        )
    for whole, halved in zip(*told_of, strict=True):
        for key, port in halved.items():
            for name in FIGURES:
                bound = name.removesuffix("_bps").partition("_")[2]
                factor = 2 if bound in moved else 1
                assert port[name] == pytest.approx(factor * whole[key][name], rel=0.01)
    assert sum(map(len, told_of[0])) == 4  # an hour and a day, in and out


tables = st.lists(st.tuples(*[st.lists(st.integers(0, 1 << 62), min_size=6, max_size=6)] * 3), min_size=1, max_size=4)


@given(tables)
def test_the_largest_values_are_kept_as_they_are(drawn: list[Any]):
    rows = -np.sort(-np.array(drawn, np.int64), axis=2)
    rows[:, LOW] = np.minimum(rows[:, LOW], rows[:, LOAD])
    rows[:, HIGH] = np.maximum(rows[:, HIGH], rows[:, LOAD])
    state = LinkState.none(4, 2)
    state.ports = np.zeros(len(rows), PORT)
    state.ports["key"][:, 2] = np.arange(len(rows))
    state.hours, state.days = rows[:, :, :4], rows[:, :, 4:]
    state.place_exporters()
    again = LinkState.from_bytes(state.to_bytes((1, 1)), (1, 1), (4, 2))
    assert np.array_equal(again.hours, state.hours)
    assert np.array_equal(again.days, state.days)


def test_a_snapshot_of_the_version_without_bounds_is_refused():
    operator = LinkUse(LinkUseConfig(), 10 * SECOND, LinkTable())
    said(operator, [pane(MIDNIGHT, [100] * 9, 100, 10 * SECOND)])
    fields = msgspec.msgpack.decode(operator.snapshot())
    assert fields[1] == 2
    with pytest.raises(StateError, match="version 1"):
        operator.restore(msgspec.msgpack.encode([fields[0], 1, *fields[2:]]))
