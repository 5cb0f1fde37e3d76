"""Laws of what was lost on the way: top talkers and link use make up for it where it is sure, and else allow for it."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import FlowType
from flowstream.decode import Payloads, decode
from flowstream.link_use import LinkUse, LinkUseConfig
from flowstream.links import LinkTable
from flowstream.operators import Result, one_by_one
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.recordings import Recording
from flowstream.settings import Settings
from flowstream.talker_results import Wanted
from flowstream.talkers import TalkersConfig, TopTalkers
from tests.builders import T0_NS, delimited, goflow2_v2
from tests.link_rows import SECOND, merged, ports, record, said
from tests.talkers import FIRST, Row, exported, fed, run

RECORDED = Path(__file__).resolve().parents[1] / "data"
LINKS = LinkTable.from_path(RECORDED / "clos_links.csv")
ONE = TalkersConfig(((64, 64),), ("protocol",), wanted=Wanted(("bytes",), samples_min=0.0))
START = FIRST // 64 * 64


def window(results: Iterable[Result]) -> dict[str, Any]:
    (result,) = [r for r in results if r.stream == "talkers"]
    return result.value


LOST = st.sets(st.integers(START + 1, START + 62), max_size=61)


@given(LOST, st.integers(1, 10**6), st.booleans())
def test_of_flow_records_of_one_size_that_are_lost_the_totals_are_those_sent(lost, size, beyond):
    panes = [p for p in range(START, START + 64) if p not in lost]
    rows = [Row(p, (p % 3,), size, packets=2) for p in panes] + exported(range(START, START + 64), lost)
    rows += [Row(START + 70, (7,), size)] * beyond
    value = next(r.value for r in run(ONE, rows))
    assert (value["bytes"], value["packets"], value["records"]) == (64 * size, 128, len(panes))
    assert value["lost_share"] == pytest.approx(len(lost) / 64)
    assert value["correction"] == pytest.approx(64 / len(panes))
    (plain,) = run(ONE, [row for row in rows if row.by == "protocol" and row.pane < START + 64])
    for bound in ("bytes_low", "bytes_high"):
        assert value[bound] == pytest.approx(plain.value[bound] * 64 / len(panes), abs=2)
    for entry in value["top"]:
        came = sum(p % 3 == entry["proto"] for p in panes)
        assert entry["bytes"] == pytest.approx(64 * size * came / len(panes), abs=0.51)
        assert entry["packets"] == pytest.approx(128 * came / len(panes), abs=0.51)
        assert entry["records"] == came
        assert entry["share"] == came / len(panes)
        assert entry["bytes_low"] <= entry["bytes"] <= entry["bytes_high"]


@given(LOST, st.integers(1, 10**6), st.sampled_from([FlowType.SFLOW_5, FlowType.NETFLOW_V9, FlowType.IPFIX]))
def test_what_may_have_been_no_flow_moves_the_upper_bound_alone_and_that_far(lost, size, kind):
    panes = [p for p in range(START, START + 64) if p not in lost]
    rows = [Row(p, (6,), size) for p in panes] + exported(range(START, START + 64), lost, kind)
    (whole,) = run(ONE, [row for row in rows if row.by == "protocol"])
    (value,) = run(ONE, rows)
    entry, plain = value.value["top"][0], whole.value["top"][0]
    assert value.value["correction"] == 1.0
    assert value.value["lost_share"] == pytest.approx(len(lost) / 64)
    assert {k: v for k, v in entry.items() if k != "bytes_high"} == {
        k: v for k, v in plain.items() if k != "bytes_high"
    }
    for one, other in ((entry, plain), (value.value, whole.value)):
        assert (one["bytes"], one["bytes_low"]) == (other["bytes"], other["bytes_low"])
        assert one["bytes_high"] == pytest.approx(other["bytes_high"] * 64 / len(panes), abs=2)
        assert one["bytes_high"] >= 64 * size


def test_a_window_adds_up_what_its_steps_lost():
    """Each step at its own loss: an hour of which one minute was lost is not scaled as if all of it were."""
    config = TalkersConfig(((4, 4), (16, 4), (64, 16)), ("protocol",), wanted=Wanted(("bytes",), samples_min=0.0))
    lost = {START + n for n in (1, 2, 21, 23, 24, 25, 26, 40)}
    rows = [Row(p, (6,), 100 + p % 7) for p in range(START, START + 128) if p not in lost]
    values = [r.value for r in run(config, rows + exported(range(START, START + 128), lost))]
    steps = {v["window_end_ns"]: v["bytes"] for v in values if v["window_end_ns"] - v["window_start_ns"] == 4 * SECOND}
    assert len(values) == 32 + 32 + 8
    for value in values:
        inside = [sent for end, sent in steps.items() if value["window_start_ns"] < end <= value["window_end_ns"]]
        assert value["bytes"] == sum(inside)
    came = {v["window_end_ns"]: v["correction"] for v in values if v["window_end_ns"] // SECOND == START + 64}
    assert 1.0 < came[(START + 64) * SECOND] < 64 / 50


def test_a_step_in_which_nothing_of_a_way_to_group_came_adds_nothing():
    operator = TopTalkers(ONE, SECOND)
    rows = [*exported(range(START, START + 64), {START + 5}), Row(START + 64, (6,), 9)]
    assert [r.value["bytes"] for _, told in fed(operator, rows) for r in told if r.stream == "talkers"] == [9]


def netflow(count: int, seconds: int = 100) -> list[dict[str, Any]]:
    """Return flow records of two exporters, all of a size, each in a datagram of its own."""
    rows = []
    for n in range(count):
        time_ns = T0_NS + n * seconds * SECOND // count
        rows.append(record(
            time_ns - n % 9 * SECOND, time_ns, 100_000, 10, exporter=f"192.0.2.{1 + n % 2}", sequence_num=n // 2,
            flow_type=int(FlowType.NETFLOW_V5),
        ))  # fmt: skip
    return rows


PANE_NS = 10 * SECOND
WIDE = LinkUseConfig(interval_s=300.0, spread_max_s=60.0)


@given(st.sets(st.integers(2, 77)))
def test_loads_are_made_up_for_by_what_their_own_exporter_lost(lost):
    rows = [row | {"time_flow_start_ns": row["time_ns"]} for row in netflow(80)]
    first = T0_NS // WIDE.interval_ns * WIDE.interval_ns
    kept = [row for n, row in enumerate(rows) if n not in lost]
    results = said(LinkUse(WIDE, PANE_NS, LinkTable()), merged(kept, WIDE, first // PANE_NS, 40, 2, PANE_NS))
    told = ports(results)
    shares = {r.value["exporter"]: r.value["lost_share"] for r in results if r.value["window_start_ns"] == first}
    for exporter in (0, 1):
        address = f"192.0.2.{exporter + 1}"
        for port, way in ((1, "in"), (2, "out")):
            load = told[first, address, port, way]
            assert load["rate_bps"] == round(40 * 100_000 * 8 / 300)
            assert load["low_bps"] <= load["rate_bps"] <= load["high_bps"]
        assert shares[address] == pytest.approx(sum(n % 2 == exporter for n in lost) / 40)


@pytest.mark.parametrize("dropped", [0.1, 0.3])
def test_intervals_that_wait_are_made_up_for_by_what_was_lost_while_they_waited(dropped):
    config = LinkUseConfig(spread_max_s=60.0)
    rows, rng = netflow(20_000, 200), np.random.default_rng(3)
    kept = [row for row, gone in zip(rows, rng.random(len(rows)) < dropped, strict=True) if not gone]
    whole, some = (
        ports(said(LinkUse(config, SECOND, LinkTable()), merged(part, config, T0_NS // SECOND, 300)))
        for part in (rows, kept)
    )
    told = [(some[key]["rate_bps"], port["rate_bps"]) for key, port in whole.items() if port["samples"] > 500]
    ratio = np.array(told)[:, 0] / np.array(told)[:, 1]
    assert len(told) > 60
    assert abs(ratio.mean() - 1) < 0.005  # without it would be 0.9 and 0.7
    assert np.all(np.abs(ratio - 1) < 4 * np.sqrt(dropped / 500))


@given(st.sets(st.integers(1, 38)))
def test_what_was_lost_long_after_an_interval_is_missing_in_it(lost):
    """Flows of 40 s are exported when they have ended, and lost then."""
    config = LinkUseConfig(spread_max_s=60.0)
    rows = [
        record(T0_NS + n * SECOND // 4, T0_NS + 40 * SECOND + n * SECOND // 4, 80_000, sequence_num=n,
               flow_type=int(FlowType.NETFLOW_V5))
        for n in range(40)
    ]  # fmt: skip
    kept = [row for n, row in enumerate(rows) if n not in lost]
    whole, some = (
        ports(said(LinkUse(config, PANE_NS, LinkTable()), merged(part, config, T0_NS // PANE_NS, 12, 1, PANE_NS)))
        for part in (rows, kept)
    )
    assert some.keys() == whole.keys()
    sent, made_up = (sum(port["rate_bps"] for port in told.values()) for told in (whole, some))
    assert made_up == pytest.approx(sent, abs=len(some))


@pytest.mark.parametrize(
    ("period", "length_s", "interval_s", "count"), [("hour", 3600, 10, 400), ("day", 86_400, 300, 1080)]
)
def test_percentiles_are_of_loads_that_are_made_up_for(period, length_s, interval_s, count):
    config, pane_ns = LinkUseConfig(interval_s=interval_s, spread_max_s=interval_s), interval_s * SECOND
    rows = [row | {"time_flow_start_ns": row["time_ns"]} for row in netflow(count, length_s)]
    times = ("time_ns", "time_flow_start_ns", "time_flow_end_ns")
    rows += [row | dict.fromkeys(times, row["time_ns"] + 2 * length_s * SECOND) for row in rows[-2:]]
    busy = [
        row | {"bytes": 5 * row["bytes"]} for row in rows[30:54] if row["sequence_num"] % 2
    ]  # every other one is lost
    panes = merged(rows[:30] + busy + rows[54:], config, T0_NS // pane_ns, 3 * length_s // interval_s + 3, 1, pane_ns)
    results = [r for r in said(LinkUse(config, pane_ns, LinkTable()), panes) if r.value["exporter"] == "192.0.2.1"]
    rates = {key[0]: port["rate_bps"] for key, port in ports(results).items() if key[2:] == (1, "in")}
    first = next(r.value for r in results if r.stream == "link-use-percentiles" and r.value["period"] == period)
    inside = [rate for start, rate in rates.items() if first["window_start_ns"] <= start < first["window_end_ns"]]
    assert first["interfaces"][0]["max_bps"] == pytest.approx(max(inside), abs=1)
    corrections = {r.value["window_start_ns"]: r.value["correction"] for r in results if r.stream == "link-use"}
    assert all(corrections[start] > 1.2 for start, rate in rates.items() if rate == max(inside))


def pipeline(messages: Iterable[bytes], batch: int = 3000, **changed: Any) -> list[Result]:
    chosen = {"analyses": ("talkers", "links"), **changed}
    made = FilePipeline(Settings(**chosen), LINKS, "clos", "goflow")
    told = [result for payloads in in_batches(messages, batch) for result in made.feed(payloads)]
    return sorted(one_by_one([*told, *made.finish()]), key=lambda r: (r.stream, r.key))


def test_both_stages_say_the_same_over_any_number_of_partitions_and_in_any_batches():
    messages = [
        delimited(goflow2_v2(
            type=int(FlowType.NETFLOW_V5), sequence_num=n // 2, sampling_rate=1, packets=10, bytes=10_000,
            sampler_address=bytes([192, 0, 2, 1 + n % 2]), src_addr=bytes([10, 0, 0, n % 11]),
            **dict.fromkeys(("time_received_ns", "time_flow_start_ns", "time_flow_end_ns"), T0_NS + n * 50_000_000),
        ))
        for n in range(3000) if n % 16 not in (1, 5, 6)
    ]  # fmt: skip
    chosen = {"talkers": {"windows": ({"size_s": 30, "step_s": 10}, {"size_s": 120, "step_s": 30})}}
    one = pipeline(messages, **chosen, topics={"partitions": 1})
    assert len({r.value["lost_share"] for r in one if r.stream in ("talkers", "link-use")}) > 5
    for partitions, batch in ((2, 3000), (3, 77), (4, 500)):
        assert pipeline(messages, batch, **chosen, topics={"partitions": partitions}) == one


@cache
def datagrams() -> tuple[list[bytes], np.ndarray[Any, Any]]:
    """Return the messages of the recorded fabric, a sample each, and which datagram each came in."""
    messages = list(Recording(RECORDED / "clos_60s_goflow2_v2.bin.gz").messages())
    rows = decode(
        "goflow", Payloads.from_values([gzip.decompress((RECORDED / "clos_60s_goflow2_v2.bin.gz").read_bytes())])
    ).flows
    assert len(rows) == len(messages)
    return messages, np.unique(rows.exporter[:, 1] << np.uint64(32) | rows.sequence_num, return_inverse=True)[1]


@pytest.mark.parametrize("dropped", [0.1, 0.3])
def test_of_a_fabric_whose_datagrams_were_lost_the_truth_is_within_the_upper_bounds(dropped):
    """A window of many steps, and each host's own port: what sFlow lost may be counters, so nothing is made up for."""
    messages, datagram = datagrams()
    gone = np.random.default_rng(7).random(int(datagram.max()) + 1) < dropped
    kept = [message for message, lost in zip(messages, gone[datagram].tolist(), strict=True) if not lost]
    results = pipeline(
        kept, talkers={"windows": ({"size_s": 300, "step_s": 10},), "by": ("source",), "count": 99},
        link_use={"interval_s": 300.0},
    )  # fmt: skip
    value = [r.value for r in results if r.stream == "talkers" and r.value["ranked_by"] == "bytes"][-1]
    sent = {s["src"]: s for s in json.loads((RECORDED / "clos_60s_oracle.json").read_text())["sources"]}
    assert value["correction"] == 1.0
    assert abs(value["lost_share"] - dropped) < 0.05
    covered = [
        e["bytes_low"] <= sent[e["src_addr"]]["bytes"] + 4 * sent[e["src_addr"]]["packets"] <= e["bytes_high"]
        for e in value["top"]
    ]
    assert value["bytes_low"] <= sum(s["bytes"] + 4 * s["packets"] for s in sent.values()) <= value["bytes_high"]
    assert len(covered) > 18
    assert sum(covered) >= 0.93 * len(covered)
    through: dict[str, int] = defaultdict(int)
    for source in sent.values():
        prefix = source["src"].replace("fd00:0:0:", "10.0.").replace("::", ".")[:7]
        through[prefix] += source["bytes"] + 24 * source["packets"]
    told = ports([r for r in results if r.stream == "link-use"])
    names = {(key[1], port["name"], key[3]): port for key, port in told.items() if port["samples"]}
    for leaf, total in enumerate((through[f"10.0.{n}."] for n in (1, 2, 3, 4)), 1):
        port = names[f"10.255.0.1{leaf}", f"l{leaf}h", "in"]
        assert port["low_bps"] <= total * 8 / 300 <= port["high_bps"]
        assert port["rate_bps"] == pytest.approx(total * 8 / 300 * (1 - dropped), rel=0.1)
