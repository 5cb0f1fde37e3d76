"""Laws of the GoFlow-family protobuf decoder, case by case, and a recording of the real collector."""

from __future__ import annotations

import collections
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from flowstream.batch import COLUMNS, FlowType, address_text
from flowstream.decode.goflow import decode
from flowstream.decode.payloads import DecodeContext, Decoded, Payloads
from flowstream.errors import Reason
from tests.builders import (
    GOFLOW2_V2,
    T0_NS,
    T0_S,
    delimited,
    field,
    goflow2_v1,
    goflow2_v2,
    goflow_v3,
    varint,
)

RECORDED = Path(__file__).resolve().parents[2] / "data"
INT64_MAX = 2**63 - 1


def decoded(*payloads: bytes | None) -> Decoded:
    return decode(Payloads.from_values(payloads), DecodeContext())


def reason_of(payload: bytes) -> Reason | None:
    outcome = decoded(payload)
    assert len(outcome.flows) == 0 or len(outcome.rejected) == 0
    return outcome.reason(0) if len(outcome.rejected) else None


def times(payload: bytes) -> tuple[int, int, int]:
    flows = decoded(payload).flows
    assert len(flows) == 1
    assert flows.time_ns[0] == flows.time_received_ns[0]
    return tuple(int(flows.columns[f"time_{n}_ns"][0]) for n in ("received", "flow_start", "flow_end"))


def test_nanoseconds_are_taken_from_a_v2_record_whatever_its_ip_flags_say():
    payload = goflow2_v2(
        ip_flags=1_600_000_000,
        time_flow_start_ns=T0_NS - 3,
        time_flow_end_ns=T0_NS - 1,
        time_received_ns=T0_NS,
    )
    assert times(payload) == (T0_NS, T0_NS - 3, T0_NS - 1)


def test_milliseconds_of_a_v1_record_win_over_its_seconds():
    second = 10**9
    assert times(goflow2_v1()) == (T0_NS, T0_NS - 1_750_000_000, T0_NS - 250_000_000)
    only_end = goflow2_v1(time_flow_start_ms=None)
    assert times(only_end) == (T0_NS, T0_NS - 2 * second, T0_NS - 250_000_000)


def test_the_ppp_fields_of_a_v3_record_are_not_milliseconds():
    assert times(goflow_v3()) == (T0_NS, T0_NS - 2 * 10**9, T0_NS - 10**9)
    assert times(goflow_v3(ppp_address_control=2**32 - 1)) == times(goflow_v3())


@pytest.mark.parametrize("build", [goflow2_v1, goflow_v3])
def test_absent_flow_times_are_the_receive_time(build):
    absent = dict.fromkeys(("time_flow_start", "time_flow_end"))
    absent |= dict.fromkeys(("time_flow_start_ms", "time_flow_end_ms") if build is goflow2_v1 else ())
    assert times(build(**absent)) == (T0_NS, T0_NS, T0_NS)
    assert times(goflow2_v2(time_flow_start_ns=None, time_flow_end_ns=0)) == (T0_NS, T0_NS, T0_NS)


def test_a_record_with_no_time_in_either_schema_is_refused_and_never_lies_in_1970():
    assert reason_of(goflow2_v2(time_received_ns=None)) is Reason.NO_TIME
    assert reason_of(goflow2_v1(time_received=0)) is Reason.NO_TIME


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (goflow_v3(time_received=INT64_MAX // 10**9), None),
        (goflow_v3(time_received=INT64_MAX // 10**9 + 1), Reason.OUT_OF_RANGE),
        (goflow_v3(time_received=2**64 - 1), Reason.OUT_OF_RANGE),
        (goflow2_v2(time_received_ns=INT64_MAX), None),
        (goflow2_v2(time_received_ns=INT64_MAX + 1), Reason.OUT_OF_RANGE),
    ],
)
def test_a_receive_time_beyond_the_column_is_out_of_range(payload, expected):
    assert reason_of(payload) is expected


@pytest.mark.parametrize("huge", [INT64_MAX + 1, 2**64 - 1])
def test_a_flow_time_beyond_the_column_is_clipped_and_does_not_cost_the_record(huge):
    assert times(goflow2_v2(time_flow_start_ns=huge)) == (T0_NS, INT64_MAX, T0_NS)
    assert times(goflow_v3(time_flow_end=huge))[2] == INT64_MAX
    assert times(goflow2_v1(time_flow_start_ms=huge))[1] == INT64_MAX


LIMITED = ["sampling_rate", "sequence_num", "in_if", "out_if", "src_port", "dst_port", "tcp_flags"]
LIMITED += ["src_as", "dst_as", "proto", "ip_ttl", "bytes", "packets"]


@pytest.mark.parametrize("name", LIMITED)
def test_the_largest_number_of_a_column_is_kept_and_one_more_is_out_of_range(name):
    largest = int(np.iinfo(COLUMNS[name].dtype).max)
    assert decoded(goflow2_v2(**{name: largest})).flows.columns[name].tolist() == [largest]
    assert reason_of(goflow2_v2(**{name: largest + 1})) is Reason.OUT_OF_RANGE
    assert reason_of(goflow2_v2(**{name: 2**64 - 1})) is Reason.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (bytes([10, 0, 0, 255]), "10.0.0.255"),
        (bytes(4), "0.0.0.0"),
        (bytes.fromhex("20010db8000000000000000000000001"), "2001:db8::1"),
        (bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 7]), "192.0.2.7"),
    ],
)
def test_addresses_of_both_families_are_read_in_network_order(packed, text):
    flows = decoded(goflow2_v2(src_addr=packed, dst_addr=packed, sampler_address=packed)).flows
    for column in (flows.src_addr, flows.dst_addr, flows.exporter):
        assert address_text(*column[0].tolist()) == text


def test_a_record_without_a_source_address_is_not_ip_and_is_refused():
    for none in (None, b""):
        assert reason_of(goflow2_v2(src_addr=none)) is Reason.NO_ADDRESS


def test_a_record_without_destination_or_exporter_keeps_its_counts():
    flows = decoded(goflow2_v2(dst_addr=None, sampler_address=b"")).flows
    assert flows.dst_addr.tolist() == flows.exporter.tolist() == [[0, 0]]
    assert flows.bytes.tolist() == [1500]


@pytest.mark.parametrize("name", ["src_addr", "dst_addr", "sampler_address"])
@pytest.mark.parametrize("length", [1, 3, 5, 15, 17])
def test_an_address_of_another_length_is_refused(name, length):
    assert reason_of(goflow2_v2(**{name: bytes(length)})) is Reason.NO_ADDRESS


def test_flow_types_keep_the_numbers_of_all_generations_and_never_guess():
    expected = {0: 0, 1: FlowType.SFLOW_5, 2: FlowType.NETFLOW_V5, 3: FlowType.NETFLOW_V9, 4: FlowType.IPFIX}
    expected |= {9: FlowType.NETFLOW_V9, 10: FlowType.IPFIX, 5: 0, 8: 0, 11: 0, 12: 0, 2**64 - 1: 0}
    outcome = decoded(*(goflow2_v2(type=number) for number in expected))
    assert outcome.flows.flow_type.tolist() == list(expected.values())


def test_the_last_value_of_a_repeated_scalar_wins_even_over_a_bad_one():
    later = field(GOFLOW2_V2["bytes"], 7) + field(GOFLOW2_V2["src_addr"], bytes([1, 2, 3, 4]))
    flows = decoded(goflow2_v2(bytes=2**63, src_addr=bytes(5)) + later).flows
    assert flows.bytes.tolist() == [7]
    assert address_text(*flows.src_addr[0].tolist()) == "1.2.3.4"
    assert reason_of(goflow2_v2() + field(GOFLOW2_V2["src_addr"], b"")) is Reason.NO_ADDRESS


UNKNOWN = {
    "varint": varint(1005 << 3) + varint(2**64 - 1),
    "eight bytes": varint(1002 << 3 | 1) + bytes(8),
    "four bytes": varint(1003 << 3 | 5) + bytes(4),
    "bytes": field(1011, b"x" * 300),
    "packed repeated": field(102, b"".join(varint(n) for n in (64512, 1, 2**32 - 1))),
    "unpacked repeated": field(102, 64512) + field(102, 1),
    "the largest field number": varint((2**29 - 1) << 3) + varint(0),
}


@pytest.mark.parametrize("unknown", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_fields_are_passed_over_by_their_wire_type(unknown):
    for payload in (goflow2_v2() + unknown, unknown + goflow2_v2()):
        assert decoded(payload).flows.dst_port.tolist() == [443]


MALFORMED = {
    "field zero": b"\x00\x00",
    "field number beyond 29 bits": varint(2**29 << 3) + b"\x00",
    "start of a group": varint(1000 << 3 | 3),
    "end of a group": varint(1000 << 3 | 4),
    "wire type 6": varint(1000 << 3 | 6),
    "wire type 7": varint(1000 << 3 | 7),
    "varint of eleven bytes": varint(1000 << 3) + b"\x80" * 10 + b"\x01",
    "varint of 65 bits": varint(1000 << 3) + b"\xff" * 9 + b"\x02",
    "an address as a varint": field(6, 5),
    "a number as bytes": field(9, b"\x01"),
    "a number as eight bytes": varint(9 << 3 | 1) + bytes(8),
    "an address as four bytes": varint(6 << 3 | 5) + bytes(4),
}
TRUNCATED = {
    "inside a tag": b"\x80",
    "before a value": varint(9 << 3),
    "inside a value": varint(9 << 3) + b"\xff",
    "inside bytes": varint(6 << 3 | 2) + b"\x04abc",
    "a length near 2**64": varint(1011 << 3 | 2) + varint(2**64 - 1),
    "a length of 2**63": varint(1011 << 3 | 2) + varint(2**63),
    "inside eight bytes": varint(1002 << 3 | 1) + bytes(7),
    "inside four bytes": varint(1003 << 3 | 5) + bytes(3),
}


@pytest.mark.parametrize("framing", [bytes, delimited], ids=["bare", "delimited"])
@pytest.mark.parametrize("tail", MALFORMED.values(), ids=MALFORMED)
def test_what_protobuf_forbids_is_malformed(tail, framing):
    assert reason_of(framing(goflow2_v2() + tail)) is Reason.MALFORMED


@pytest.mark.parametrize("framing", [bytes, delimited], ids=["bare", "delimited"])
@pytest.mark.parametrize("tail", TRUNCATED.values(), ids=TRUNCATED)
def test_what_ends_inside_a_field_is_truncated(tail, framing):
    assert reason_of(framing(goflow2_v2() + tail)) is Reason.TRUNCATED


def test_bare_and_delimited_records_may_be_mixed_in_a_batch():
    records = [
        goflow2_v2(bytes=1),
        delimited(goflow2_v1(bytes=2)),
        goflow_v3(bytes=3),
        delimited(goflow2_v2(bytes=4)),
    ]
    assert decoded(*records).flows.bytes.tolist() == [1, 2, 3, 4]


def test_a_run_of_delimited_records_gives_a_row_each_and_rows_number_on_from_zero():
    run = delimited(goflow2_v2(bytes=1), goflow2_v1(bytes=2), goflow_v3(bytes=3))
    outcome = decoded(goflow2_v2(bytes=9), run, None, b"", delimited(goflow2_v2(bytes=8)))
    assert outcome.flows.bytes.tolist() == [9, 1, 2, 3, 8]
    assert outcome.flows.origin_offset.tolist() == [0, 1, 1, 1, 4]
    assert outcome.flows.origin_row.tolist() == [0, 0, 1, 2, 0]
    assert (outcome.skipped.tolist(), outcome.rejected.tolist()) == ([2], [3])


def test_a_run_with_one_bad_record_is_refused_whole_and_its_neighbours_are_not():
    run = delimited(goflow2_v2(bytes=1), goflow2_v2(src_addr=None), goflow2_v2(bytes=3))
    outcome = decoded(goflow2_v2(bytes=5), run, goflow2_v2(bytes=6))
    assert outcome.flows.bytes.tolist() == [5, 6]
    assert outcome.flows.origin_offset.tolist() == [0, 2]
    assert (outcome.rejected.tolist(), outcome.reason(0)) == ([1], Reason.NO_ADDRESS)


def test_a_bare_record_that_happens_to_begin_with_its_own_length_is_read_as_bare():
    # The first byte, 16, is the tag of the receive time in seconds, and 16 bytes follow it.
    payload = field(2, T0_S) + field(6, bytes([10, 0, 0, 1])) + field(9, 1500) + field(10, 1)
    assert payload[0] == len(payload) - 1
    assert decoded(payload).flows.bytes.tolist() == [1500]


def test_zero_length_records_give_no_rows_however_many_there_are():
    assert reason_of(bytes(100_000)) is Reason.MALFORMED


def test_bounds_outside_the_buffer_are_a_programming_error_not_a_read():
    for bounds in ([0, 5], [-1, 2], [2, 1]):
        broken = Payloads(b"abc", np.array(bounds, np.int64), np.zeros(1, np.bool_))
        with pytest.raises(ValueError, match="bounds"):
            decode(broken, DecodeContext())


def test_a_recording_of_goflow2_gives_the_bytes_per_source_that_the_test_bed_measured():
    stream = gzip.decompress((RECORDED / "clos_60s_goflow2_v2.bin.gz").read_bytes())
    oracle = json.loads((RECORDED / "clos_60s_oracle.json").read_text())
    topology = json.loads((RECORDED / "clos_60s_topology.json").read_text())
    host_ports = {(p["agent"], p["ifindex"]) for p in topology["ports"] if p["peer"] in topology["hosts"]}
    switches = {switch["agent"]: name for name, switch in topology["switches"].items()}

    flows = decoded(stream).flows
    exporters = [address_text(high, low) for high, low in flows.exporter.tolist()]
    assert collections.Counter(switches[e] for e in exporters) == oracle["flow_samples_by_switch"]

    estimates: collections.Counter[str] = collections.Counter()
    sizes = (flows.bytes * flows.sampling_rate).tolist()
    for exporter, port, source, size in zip(
        exporters, flows.in_if.tolist(), flows.src_addr.tolist(), sizes, strict=True
    ):
        if (exporter, port) in host_ports:
            estimates[address_text(*source)] += size
    # sFlow counts the frame check sequence, four bytes a packet, and the test bed's figures leave it out.
    measured = {s["src"]: s["sflow_bytes"] + 4 * s["sflow_packets"] for s in oracle["sources"]}
    assert estimates == {source: size for source, size in measured.items() if size}
    assert flows.time_received_ns.min() >= oracle["first"] * 10**9 - 10**9
    assert flows.time_received_ns.max() <= oracle["last"] * 10**9 + 10**9
