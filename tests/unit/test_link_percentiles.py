"""95th percentiles of link use: the nearest rank of all values, those without traffic being zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flowstream.link_use import LinkUse, LinkUseConfig
from flowstream.links import LinkTable
from flowstream.operators import Pane
from flowstream.partials import Cube, PartialBatch
from flowstream.wire_load import SAMPLES
from tests.builders import T0_NS
from tests.link_rows import SECOND, ports, said

HOUR = 3600 * SECOND
DAY = 24 * HOUR
MIDNIGHT = T0_NS // DAY * DAY
LINKS = LinkTable.from_csv("exporter,if_index,name,speed_bps\n192.0.2.1,3,port3,100000000\n")
CONFIG = LinkUseConfig(spread_max_s=60.0)


def pane(start_ns: int, sent: int, if_index: int = 3, length_ns: int = 10 * SECOND) -> Pane:
    """Return a pane in which an interface took in so many bytes."""
    columns: dict[str, Any] = {
        "cube": Cube.INTERFACE, "time_ns": start_ns, "origin_offset": start_ns // length_ns, "key_1": 0xFFFFC0000201,
        "key_2": if_index << 1, "key_3": start_ns, "key_4": SAMPLES, "bytes": sent, "packets": 1, "records": 1,
    }  # fmt: skip
    rows = PartialBatch.of(1, {name: np.array([value]) for name, value in columns.items()})
    return Pane(start_ns // length_ns, start_ns, start_ns + length_ns, rows)


def nearest_rank(values: list[int], length_ns: int) -> int:
    """Return the percentile of bytes per value as bits per second, by its definition."""
    rank = -(-95 * len(values) // 100)
    return round(sorted(values)[rank - 1] * 8 * 10**9 / length_ns)


def run(sent: dict[int, int], length_ns: int = 10 * SECOND) -> dict[tuple[int, str], dict[str, Any]]:
    """Return the percentiles of a port that sent so much in each interval, by start of the period and its name."""
    operator = LinkUse(LinkUseConfig(length_ns / SECOND), length_ns, LINKS)
    results = said(operator, [pane(start_ns, count, 3, length_ns) for start_ns, count in sorted(sent.items())])
    names = {(r.value["window_start_ns"], r.value["period"]): r.value["interfaces"] for r in results
             if r.stream == "link-use-percentiles"}  # fmt: skip
    assert all(len(interfaces) == 1 for interfaces in names.values())
    return {key: interfaces[0] for key, interfaces in names.items()}


@pytest.mark.parametrize("seed", range(3))
def test_an_hour_is_the_nearest_rank_of_its_intervals(seed):
    rng = np.random.default_rng(seed)
    starts = range(MIDNIGHT, MIDNIGHT + HOUR, 10 * SECOND)
    busy = rng.random(len(starts)) < (1.0, 0.5, 0.03)[seed]
    values = np.where(busy, rng.integers(1, 10**8, len(starts)), 0).tolist()
    values[0] = 5  # it is known from the first interval on
    sent = {start: value for start, value in zip(starts, values, strict=True) if value}
    told = run({**sent, MIDNIGHT + HOUR + 600 * SECOND: 1})
    port = told[MIDNIGHT, "hour"]
    assert port["p95_bps"] == nearest_rank(values, 10 * SECOND)
    assert port["max_bps"] == round(max(values) * 8 / 10)
    assert (port["values"], port["name"]) == (360, "port3")
    assert port["share"] == port["p95_bps"] / 100_000_000


def test_a_port_counts_from_its_first_traffic_on():
    first = MIDNIGHT + 30 * 60 * SECOND
    told = run({first: 1000, first + 10 * SECOND: 3000, MIDNIGHT + HOUR: 1, MIDNIGHT + 2 * HOUR: 1})
    assert told[MIDNIGHT, "hour"]["values"] == 180
    assert told[MIDNIGHT, "hour"]["p95_bps"] == 0  # two values of 180
    assert told[MIDNIGHT + HOUR, "hour"]["values"] == 360
    late = run({MIDNIGHT + HOUR - 30 * SECOND: 10, MIDNIGHT + HOUR - 20 * SECOND: 30, MIDNIGHT + HOUR: 1})
    assert (late[MIDNIGHT, "hour"]["values"], late[MIDNIGHT, "hour"]["p95_bps"]) == (3, 24)


def test_a_bundle_without_any_traffic_yet_has_no_percentiles():
    """The table makes a member of a port of which nothing has come since."""
    operator = LinkUse(CONFIG, 10 * SECOND, LINKS)
    results = said(operator, [pane(MIDNIGHT, 1000, 5)])
    operator.links = LinkTable.from_csv("exporter,if_index,name,speed_bps,lag\n192.0.2.1,5,port5,100000000,9\n")
    later = [(HOUR, 3), (2 * HOUR, 5), (3 * HOUR, 3)]
    results += said(operator, [pane(MIDNIGHT + after, 1000, port) for after, port in later])
    told = ports(results, "link-use-percentiles")
    hours = {port: [(key[0] - MIDNIGHT) // HOUR for key in sorted(told) if key[2] == port] for port in (3, 5, 9)}
    assert hours == {3: [1, 2], 5: [0, 1, 2], 9: [2]}


@pytest.mark.parametrize("seed", range(2))
def test_a_day_is_the_nearest_rank_of_its_means_of_five_minutes(seed):
    rng = np.random.default_rng(seed)
    minute = 60 * SECOND
    starts = list(range(MIDNIGHT, MIDNIGHT + DAY, minute))
    busy = rng.random(len(starts)) < (0.9, 0.02)[seed]
    values = np.where(busy, rng.integers(1, 10**8, len(starts)), 0).tolist()
    values[3] = 77
    sent = {start: value for start, value in zip(starts, values, strict=True) if value}
    told = run({**sent, MIDNIGHT + DAY: 1}, minute)
    means = [sum(values[n : n + 5]) for n in range(0, len(values), 5)]
    port = told[MIDNIGHT, "day"]
    assert (port["values"], port["p95_bps"]) == (288, nearest_rank(means, 300 * SECOND))
    assert port["max_bps"] == round(max(means) * 8 / 300)
    assert len([key for key in told if key[1] == "hour"]) == (
        24 if seed == 0 else len({n // 60 for n, v in enumerate(values) if v})
    )


def test_a_port_that_was_silent_for_a_day_is_forgotten_after_it_was_told_as_zero():
    operator = LinkUse(CONFIG, 10 * SECOND, LINKS)
    panes = [pane(MIDNIGHT, 1000, 4)]
    panes += [pane(MIDNIGHT + n * HOUR, 1000, 3) for n in range(1, 80)]
    days = ports([r for r in said(operator, panes) if r.value.get("period") == "day"], "link-use-percentiles")
    assert {(key[0] - MIDNIGHT) // DAY: days[key]["max_bps"] for key in days if key[2] == 4} == {0: 27, 1: 0}
    assert sorted((key[0] - MIDNIGHT) // DAY for key in days if key[2] == 3) == [0, 1, 2]


def test_state_is_bounded_by_the_ports_not_by_the_length_of_the_period():
    operator = LinkUse(CONFIG, 10 * SECOND, LINKS)
    sizes = []
    for n in range(1200):
        operator.process([pane(MIDNIGHT + n * 10 * SECOND, 10**9 + n)])
        if n % 100 == 99:
            sizes.append(len(operator.snapshot()))
    assert max(sizes) < 1000
