"""The bench's own promises: its traffic is what it says it is, and its figures follow from what was measured."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.console import Console

from bench.generate import CHUNK, CLOSING_NS, ELEPHANTS, IFS, JITTER_NS, LINK_BPS, START_NS, Traffic
from bench.peers.flow_message import body, flow_message
from bench.pipeline import _analysed, counts
from bench.report import Run, Stage, count, runs_markdown, show_runs
from flowstream.batch import FlowBatch
from flowstream.decode import Payloads, decode
from flowstream.links import LinkTable
from tests.builders import GOFLOW2_V2, delimited

SMALL = Traffic(records=20_000, sources=1000, rate=10_000)


def messages(traffic: Traffic) -> list[bytes]:
    return [message for chunk in traffic.chunks() for message in chunk]


def rows(values: list[bytes]) -> FlowBatch:
    decoded = decode("goflow", Payloads.from_values(values))
    assert not len(decoded.rejected)
    return decoded.flows


def test_the_same_traffic_gives_the_same_bytes_and_another_seed_other_ones() -> None:
    assert messages(SMALL) == messages(replace(SMALL))
    assert messages(SMALL) != messages(replace(SMALL, seed=2))


def test_more_records_only_add_to_those_there_were() -> None:
    whole = replace(SMALL, records=CHUNK + 1000)
    assert messages(whole)[:CHUNK] == messages(replace(whole, records=CHUNK))


def test_every_message_is_whole_and_as_long_as_its_prefix_says() -> None:
    parse = protobuf_class().FromString
    for message in messages(replace(SMALL, records=500)):
        content = body(message)
        assert message == delimited(content)
        read = parse(content)
        assert read.SerializeToString(deterministic=True) == content, "not what protobuf itself would write"
        assert read.sampling_rate == 1000
        assert len(read.sampler_address) == 4
        assert len(read.src_addr) == len(read.dst_addr) == (16 if read.etype == 0x86DD else 4)


def protobuf_class() -> Any:
    """goflow2 v2's message as protobuf's own runtime has it: every field that the load carries."""
    numbers = GOFLOW2_V2 | {
        "src_mac": 27,
        "dst_mac": 28,
        "fragment_id": 35,
        "layer_stack": 103,
        "layer_size": 104,
    }
    file = descriptor_pb2.FileDescriptorProto(name="bench_test.proto", package="bench", syntax="proto3")
    message = file.message_type.add(name="Flow")
    for name, number in numbers.items():
        bytes_field = name.endswith("_addr") or name in {"sampler_address", "layer_stack", "layer_size"}
        message.field.add(name=name, number=number, type=12 if bytes_field else 4, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("bench.Flow"))


@hypothesis_settings(max_examples=30)
@given(sources=st.integers(32, 5000), extra=st.integers(0, 3000))
def test_an_even_load_gives_every_source_the_same_number_of_records_give_or_take_one(sources: int, extra: int) -> None:
    traffic = Traffic(records=sources + extra, sources=sources)
    index = np.arange(traffic.records)
    given_out = np.bincount(traffic.source_of(np.random.default_rng(1), index), minlength=sources)
    assert len(given_out) == sources
    assert given_out.max() - given_out.min() <= 1


def test_a_skewed_load_follows_the_law_of_zipf() -> None:
    traffic = replace(SMALL, skew=1.0)
    drawn = np.bincount(traffic.source_of(np.random.default_rng(1), np.arange(200_000)), minlength=1000)
    harmonic = sum(1 / k for k in range(1, 1001))
    for rank in 1, 2, 10, 100:
        expected = 200_000 / harmonic / rank
        assert drawn[rank - 1] == pytest.approx(expected, abs=6 * expected**0.5)


def test_the_decoder_finds_as_many_sources_as_were_asked_for_in_both_families() -> None:
    flows = rows(messages(SMALL))
    distinct = np.unique(flows.src_addr, axis=0)
    assert len(distinct) == SMALL.sources
    v6 = np.count_nonzero(distinct[:, 0])
    assert v6 == SMALL.sources // 8


def test_event_time_advances_at_the_rate_and_is_out_of_order_by_no_more_than_the_jitter() -> None:
    flows = rows(messages(SMALL))
    due_ns = START_NS + np.arange(SMALL.records) * 10**9 // SMALL.rate
    late_ns = flows.time_ns - due_ns
    assert late_ns.min() >= 0
    assert late_ns.max() < JITTER_NS
    assert (np.diff(flows.time_ns) < 0).any(), "a load in perfect order tests no sorting"
    assert (flows.time_flow_start_ns <= flows.time_flow_end_ns).all()
    assert (flows.time_flow_end_ns - flows.time_flow_start_ns).max() < 5 * 10**9


def test_the_closing_messages_lie_beyond_every_window_that_holds_a_record() -> None:
    flows, closing = rows(messages(SMALL)), rows(SMALL.closers(4))
    assert len(closing) == 4
    assert (closing.time_ns - flows.time_ns.max() >= CLOSING_NS - JITTER_NS).all()


def test_every_link_of_the_load_has_a_capacity_and_some_flows_take_more_than_their_share() -> None:
    traffic = Traffic(records=100_000, sources=50_000)
    flows = rows(messages(traffic))
    speed_bps, _ = LinkTable.from_rows(traffic.links()).lookup(flows.exporter, flows.in_if)
    assert (speed_bps == LINK_BPS).all()
    assert set(flows.in_if.tolist()) == set(range(1, IFS + 1))
    keys = np.stack([flows.src_addr[:, 1], flows.dst_addr[:, 1], flows.src_port, flows.dst_port], axis=1)
    _, of_flow = np.unique(keys, axis=0, return_inverse=True)
    rate_bps = np.bincount(of_flow, weights=flows.bytes * 8.0 * flows.sampling_rate)  # in one second
    often = np.bincount(of_flow) > 50  # one record of an unsampled flow is no rate
    assert np.count_nonzero((rate_bps > LINK_BPS / 10) & often) == ELEPHANTS


def run(**changes: Any) -> Run:
    usual: dict[str, Any] = {
        "name": "one", "records": 1_000_000, "wall_s": 8.0, "cpu_s": 4.0, "consumed_s": 6.0, "broker_cpu_s": 1.0,
        "others_cpu_s": 2.0, "peak_rss_bytes": 300_000_000,
    }  # fmt: skip
    return Run(**(usual | changes))


def test_rates_are_records_over_seconds_of_the_wall_and_of_the_processor() -> None:
    assert (run().per_s, run().per_cpu_s, run().us_per_record) == (125_000.0, 250_000.0, 4.0)
    assert Stage("decode", 200_000, 0.1).us_per_record == pytest.approx(0.5)


@given(st.floats(1000, 1e12))
def test_a_rate_is_shown_in_three_digits_within_half_of_the_last(number: float) -> None:
    shown = int(count(number).replace(",", ""))
    assert len(str(shown).rstrip("0")) <= 3
    assert abs(shown - number) <= number * 0.0051


def test_a_small_rate_keeps_three_digits() -> None:
    assert [count(0.12345), count(3.2149), count(999.4)] == ["0.123", "3.21", "999"]


def test_the_tables_in_the_terminal_and_in_markdown_name_every_run_and_stage() -> None:
    runs, stages = [run(name="whole path")], [Stage("  decode", 10, 0.1)]
    console = Console(record=True, width=200, file=StringIO())
    show_runs(console, runs, stages)
    for text in console.export_text(), runs_markdown(runs, stages):
        for expected in "whole path", "decode", "250,000", "4.00":
            assert expected in text


def test_a_metrics_page_is_summed_over_labels_and_leaves_out_histograms_buckets() -> None:
    page = (
        '# HELP flowstream_rows_open x\nflowstream_rows_open{partition="0"} 2.0\n'
        'flowstream_rows_open{partition="1"} 3.0\n'
        'flowstream_decode_seconds_bucket{le="1.0"} 9.0\nflowstream_rows_applied_total 1.5e+06\npython_gc 1.0\n'
    )
    assert counts(page) == {"rows_open": 5.0, "rows_applied_total": 1_500_000.0}


def test_the_analyses_are_done_only_when_all_is_applied_and_only_closing_rows_wait() -> None:
    assert _analysed({"rows_applied_total": 104.0, "rows_open": 4.0}, 104)
    assert not _analysed({"rows_applied_total": 103.0, "rows_open": 4.0}, 104)
    assert not _analysed({"rows_applied_total": 104.0, "rows_open": 5.0}, 104)
    assert not _analysed({}, 104)


def test_the_peer_reads_what_the_load_says() -> None:
    flow = flow_message()
    values = messages(replace(SMALL, records=300))
    read = [flow.FromString(body(v)) for v in values]
    assert [r.bytes for r in read] == rows(values).bytes.tolist()
    assert [r.time_received_ns for r in read] == rows(values).time_ns.tolist()
