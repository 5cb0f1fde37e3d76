"""Wire load: every byte of every sighting is on its link, in the intervals in which its flow lived."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream import wire_load
from flowstream.batch import FlowBatch, FlowType, Quality
from flowstream.operators import Pane
from flowstream.wire_load import WireLoadConfig, interface_partials
from tests.builders import T0_NS, flows

SECOND = 10**9
CONFIG = WireLoadConfig(10 * SECOND, 60 * SECOND)
SUMS = ("bytes", "packets", "records")


def pane(rows: FlowBatch, start_ns: int = T0_NS) -> Pane:
    return Pane(start_ns // SECOND, start_ns, start_ns + SECOND, rows.in_time_order())


def by_key(columns: dict[str, Any]) -> dict[tuple[int, ...], dict[str, Any]]:
    """Return a pane's partials by exporter, ifIndex, is out, interval and kind."""
    names = ("key_0", "key_1", "key_2", "key_3", "key_4")
    keys = list(zip(*(columns[name].tolist() for name in names), strict=True))
    assert keys == sorted(set(keys))
    values = {name: column.tolist() for name, column in columns.items() if name not in names}
    return {
        (high, low, port >> 1, port & 1, start, kind): {name: column[n] for name, column in values.items()}
        for n, (high, low, port, start, kind) in enumerate(keys)
    }


def expected(rows: FlowBatch, config: WireLoadConfig, start_ns: int) -> dict[tuple[int, ...], dict[str, Any]]:
    """Compute the same a row and a nanosecond at a time, in fractions."""
    sums: dict[tuple[int, ...], dict[str, Any]] = defaultdict(
        lambda: {"bytes": 0, "packets": 0, "records": 0, "variance": Fraction(0), "weight_max": 0.0}
    )
    length = config.interval_ns
    nearest, furthest = start_ns - config.reach_ns, start_ns + SECOND + config.reach_ns
    columns = {name: column.tolist() for name, column in rows.columns.items()}
    for n in range(len(rows)):
        row = {name: column[n] for name, column in columns.items()}
        if row["bytes"] <= 0 or row["flow_type"] == FlowType.EVENT:
            continue
        sampled = row["flow_type"] in (FlowType.UNKNOWN, FlowType.SFLOW_5)
        rate = max(row["sampling_rate"], 1)
        total = (row["bytes"] + (20 if sampled else 38) * row["packets"]) * rate
        packets, count = row["packets"] * rate, 1 if sampled else max(row["packets"], 1)
        life = (row["time_ns"],) * 2 if sampled else (row["time_flow_start_ns"], row["time_flow_end_ns"])
        parts: dict[int, list[Any]] = {}
        left = [total, packets, Fraction(1)]
        if sampled or not (row["quality"] & Quality.FLOW_TIMES_IMPLAUSIBLE or life[0] <= 0):
            for number in range(life[0] // length, max(life[1] - 1, life[0]) // length + 1):
                begin, end = max(number * length, life[0]), min((number + 1) * length, life[1])
                if (number + 1) * length <= nearest // length * length or number * length >= furthest:
                    continue
                span = [Fraction(t - life[0], max(life[1] - life[0], 1)) for t in (begin, end)]
                if life[0] == life[1]:
                    span = [Fraction(0), Fraction(1)]
                part = [(what * span[1]).__floor__() - (what * span[0]).__floor__() for what in (total, packets)]
                parts[number * length] = [*part, span[1] - span[0]]
                left = [a - b for a, b in zip(left, parts[number * length], strict=True)]
        if any(left):
            parts[0] = left
        for is_out, port in enumerate((row["in_if"], row["out_if"])):
            if not 0 < port < 0x3FFF_FFFF:
                continue
            for start, (part_bytes, part_packets, share) in parts.items():
                cell = sums[(*row["exporter"], port, is_out, start, int(not sampled))]
                cell["bytes"] += part_bytes
                cell["packets"] += part_packets
                cell["records"] += 1
                cell["variance"] += share * Fraction(total * total, count) * (1 - Fraction(1, rate))
                cell["weight_max"] = max(cell["weight_max"], max(total / count, 1538 * rate) if rate > 1 else 0.0)
    return dict(sums)


def check(rows: FlowBatch, config: WireLoadConfig = CONFIG, start_ns: int = T0_NS) -> dict[tuple[int, ...], Any]:
    told = by_key(interface_partials(pane(rows, start_ns), config))
    wanted = expected(rows, config, start_ns)
    assert told.keys() == wanted.keys()
    for key, cell in wanted.items():
        assert {n: told[key][n] for n in SUMS} == {n: cell[n] for n in SUMS}
        assert told[key]["variance"] == pytest.approx(float(cell["variance"]), rel=1e-9, abs=1e-6)
        assert told[key]["weight_max"] == pytest.approx(cell["weight_max"])
    return told


ROWS = st.fixed_dictionaries({
    "time_ns": st.integers(0, SECOND - 1),
    "life": st.one_of(st.integers(0, 3 * SECOND), st.integers(0, 200 * SECOND)),
    "late": st.integers(-70 * SECOND, 100 * SECOND),
    "exporter": st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"]),
    "in_if": st.sampled_from([0, 1, 2, 0x3FFF_FFFF]), "out_if": st.sampled_from([0, 1, 3, 0xFFFF_FFFF]),
    "bytes": st.one_of(st.integers(0, 2000), st.integers(0, 10**12)), "packets": st.integers(0, 10**6),
    "sampling_rate": st.sampled_from([1, 2, 1000]),
    "flow_type": st.sampled_from(list(FlowType)),
    "quality": st.sampled_from([0, 0, 0, int(Quality.FLOW_TIMES_IMPLAUSIBLE), int(Quality.LATE)]),
})  # fmt: skip


def batch_of(drawn: list[dict[str, Any]]) -> FlowBatch:
    columns = {name: [row[name] for row in drawn] for name in drawn[0] if name not in ("life", "late")}
    columns["time_ns"] = [T0_NS + row["time_ns"] for row in drawn]
    columns["time_flow_end_ns"] = [T0_NS + row["time_ns"] - row["late"] for row in drawn]
    columns["time_flow_start_ns"] = [T0_NS + row["time_ns"] - row["late"] - row["life"] for row in drawn]
    return flows(**columns)


@given(st.lists(ROWS, min_size=1, max_size=12), st.integers(1, 30), st.integers(1, 90))
def test_it_is_what_fractions_say(drawn, interval_s, reach_s):
    check(batch_of(drawn), WireLoadConfig(interval_s * SECOND, reach_s * SECOND))


@given(st.integers(1, 1 << 46), st.integers(0, 10 * SECOND - 1), st.integers(1, 1 << 50))
def test_the_parts_of_a_flow_are_its_bytes_to_the_last_one(life, phase, sent):
    """Of flows of up to a day, of any length in nanoseconds and any number of bytes."""
    end = T0_NS + phase
    rows = flows(
        1, time_ns=T0_NS, time_flow_start_ns=end - life, time_flow_end_ns=end, flow_type=FlowType.NETFLOW_V9,
        bytes=sent, packets=3, sampling_rate=1, out_if=0,
    )  # fmt: skip
    told = by_key(interface_partials(pane(rows), WireLoadConfig(10 * SECOND, 90_000 * SECOND)))
    assert sum(cell["bytes"] for cell in told.values()) == sent + 3 * 38
    assert sum(cell["packets"] for cell in told.values()) == 3
    for key, cell in told.items():
        inside = min(key[4] + 10 * SECOND, end) - max(key[4], end - life)
        assert abs(cell["bytes"] - Fraction(inside * (sent + 3 * 38), life)) < 1


def test_every_sighting_is_on_its_own_links_by_its_own_header():
    told = check(
        flows(
            exporter=["192.0.2.1", "192.0.2.2", "192.0.2.3"], in_if=[1, 2, 3], out_if=[4, 5, 6],
            flow_type=[FlowType.SFLOW_5, FlowType.NETFLOW_V9, FlowType.IPFIX], bytes=1000, packets=[1, 2, 2],
            sampling_rate=[100, 1, 10], time_ns=T0_NS,
        )
    )  # fmt: skip
    sent = {(key[2], key[3]): cell["bytes"] for key, cell in told.items()}
    assert sent == {(1, 0): 102_000, (4, 1): 102_000, (2, 0): 1076, (5, 1): 1076, (3, 0): 10760, (6, 1): 10760}


def test_what_cannot_be_placed_is_under_no_interval_and_not_lost():
    rows = flows(
        3, time_ns=T0_NS, flow_type=FlowType.IPFIX, sampling_rate=1, bytes=10_000, packets=10, out_if=0,
        time_flow_end_ns=T0_NS,
        time_flow_start_ns=[T0_NS - 600 * SECOND, T0_NS - 30 * SECOND, T0_NS - 30 * SECOND],
        quality=[0, 0, int(Quality.FLOW_TIMES_IMPLAUSIBLE)],
    )  # fmt: skip
    told = check(rows)
    none = [cell["bytes"] for key, cell in told.items() if key[4] == 0]
    assert none == [10_380 - 1038 + 10_380]  # nine tenths of the first, which lived ten minutes, and the third
    assert sum(cell["bytes"] for cell in told.values()) == 3 * 10_380


def test_more_parts_than_fit_at_once_give_the_same_sums(monkeypatch):
    rng = np.random.default_rng(4)
    count = 200
    end = T0_NS + rng.integers(0, SECOND, count)
    rows = flows(
        time_ns=end, time_flow_end_ns=end, time_flow_start_ns=end - rng.integers(0, 100 * SECOND, count),
        in_if=rng.integers(1, 9, count), out_if=rng.integers(1, 9, count), bytes=rng.integers(1, 10**6, count),
        flow_type=FlowType.IPFIX, sampling_rate=[1, 10] * 100,
    )  # fmt: skip
    whole = by_key(interface_partials(pane(rows), CONFIG))
    monkeypatch.setattr(wire_load, "_PARTS", 20)
    cut = check(rows)
    assert {k: [c[n] for n in SUMS] for k, c in cut.items()} == {k: [c[n] for n in SUMS] for k, c in whole.items()}


def test_absurd_counts_stop_at_a_bound():
    rows = flows(
        3000, time_ns=T0_NS, bytes=2**63 - 1, packets=2**63 - 1, sampling_rate=2**32 - 1, flow_type=FlowType.SFLOW_5
    )
    told = by_key(interface_partials(pane(rows), CONFIG))
    assert [cell["bytes"] for cell in told.values()] == [2**63 - 1] * 2
    assert all(cell["packets"] > 0 and cell["variance"] > 0 for cell in told.values())


def test_no_rows_give_no_partials():
    told = interface_partials(pane(FlowBatch.zeros(0)), CONFIG)
    assert {len(column) for column in told.values()} == {0}


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0), (-1, 5), (1, 1, 0)])
def test_lengths_are_positive(wrong):
    with pytest.raises(ValueError, match="above 0"):
        WireLoadConfig(*wrong)
