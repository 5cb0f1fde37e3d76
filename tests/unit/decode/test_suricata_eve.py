"""Suricata's eve.json: flow and netflow events become rows, all others are passed over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import FlowType, address_words
from flowstream.decode import Payloads, decode
from flowstream.errors import Reason
from tests.unit.decode.batches import HOSTILE_JSON, assert_batch_equals_singles, rejection, row
from tests.unit.decode.examples import EVE_DNS, EVE_FLOW, EVE_NETFLOW, VALID, packed

FORMAT = "suricata-eve"

count = st.integers(0, 2**63 - 1)
ODD_LINES = [
    EVE_DNS,
    {"event_type": "stats", "stats": {"flow": {"memuse": 7}}},
    {"event_type": "alert", "flow": "not counters", "src_ip": 5},
    {"event_type": None, "src_port": -1},
    {"event_type": ["flow"], "src_port": -1},
    {"event_type": {"flow": 1}, "tcp": 3},
    {"timestamp": "x"},
    {"event_type": "flow", "event": {"event_type": "tls", "proto": []}},
]


def decode_row(event: dict[str, object]) -> dict[str, object]:
    return row(FORMAT, packed(event))


def within(event: dict[str, object], key: str, **changes: object) -> dict[str, object]:
    return event | {key: event[key] | changes}


@given(count, count, count, count, st.integers(0, 2**64 - 1))
def test_a_flow_event_counts_both_ways(to_server, pkts_to_server, to_client, pkts_to_client, flow_id):
    found = decode_row(
        within(
            EVE_FLOW | {"flow_id": flow_id},
            "flow",
            bytes_toserver=to_server,
            pkts_toserver=pkts_to_server,
            bytes_toclient=to_client,
            pkts_toclient=pkts_to_client,
        )
    )
    assert [found[name] for name in ("bytes", "packets", "in_bytes", "in_packets", "record_id")] == [
        to_server, pkts_to_server, to_client, pkts_to_client, flow_id,
    ]  # fmt: skip


@given(count, count, st.integers(0, 255))
def test_a_netflow_event_counts_one_way(octets, packets, ttl):
    found = decode_row(within(EVE_NETFLOW, "netflow", bytes=octets, pkts=packets, min_ttl=ttl))
    assert [found[name] for name in ("bytes", "packets", "in_bytes", "in_packets", "ip_ttl")] == [
        octets, packets, 0, 0, ttl,
    ]  # fmt: skip


def test_the_example_event_gives_the_row_it_describes():
    found = decode_row(EVE_FLOW)
    assert found["src_addr"] == list(address_words("198.51.100.20"))
    assert found["dst_addr"] == list(address_words("203.0.113.4"))
    assert (found["src_port"], found["dst_port"], found["proto"], found["tcp_flags"]) == (50000, 443, 6, 0x1B)
    assert (found["sampling_rate"], found["flow_type"], found["exporter"]) == (1, FlowType.EVENT, [0, 0])
    assert found["time_flow_start_ns"] == 1731102857_000001000
    assert found["time_flow_end_ns"] == 1731102860_999999000
    assert found["time_ns"] == found["time_received_ns"] == 1731102918_257416000


@given(
    st.datetimes(datetime.fromisoformat("1970-01-03"), datetime.fromisoformat("2262-01-01")),
    st.integers(-1439, 1439),
    st.sampled_from(["Z", "basic", "colon"]),
)
def test_a_timestamp_may_have_any_offset(moment, minutes, form):
    zone = UTC if form == "Z" else timezone(timedelta(minutes=minutes))
    basic = f"{moment.replace(tzinfo=zone):%z}"
    suffix = {"Z": "Z", "basic": basic, "colon": f"{basic[:3]}:{basic[3:]}"}[form]
    since = moment.replace(tzinfo=zone) - datetime(1970, 1, 1, tzinfo=UTC)
    expected = ((since.days * 86400 + since.seconds) * 10**6 + since.microseconds) * 1000
    text = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06}{suffix}"
    assert decode_row(EVE_FLOW | {"timestamp": text})["time_ns"] == expected


@given(st.lists(st.sampled_from([*VALID[FORMAT], *map(packed, ODD_LINES), b"", None, *HOSTILE_JSON]), max_size=8))
def test_a_batch_decodes_as_its_messages_one_by_one(messages):
    assert_batch_equals_singles(FORMAT, messages)


@given(st.lists(st.sampled_from([EVE_FLOW, EVE_NETFLOW, *ODD_LINES]), min_size=1, max_size=8))
def test_the_rows_of_a_message_are_its_flows_and_other_lines_do_not_matter(lines):
    decoded = decode(FORMAT, Payloads.from_values([packed(*lines)]))
    ids = [line["flow_id"] for line in lines if line in (EVE_FLOW, EVE_NETFLOW)]
    assert len(decoded.rejected) == 0
    assert decoded.flows.record_id.tolist() == ids
    assert decoded.flows.origin_row.tolist() == list(range(len(ids)))
    assert decoded.skipped.tolist() == ([] if ids else [0])


@given(st.sampled_from([EVE_FLOW, EVE_NETFLOW]))
def test_a_wrapped_event_gives_the_row_of_the_bare_one(event):
    assert decode_row({"firewall_name": "f", "event_timestamp": "17", "event": event}) == decode_row(event)


def test_an_absent_timestamp_is_the_end_of_the_flow_else_its_start():
    bare = {key: value for key, value in EVE_FLOW.items() if key != "timestamp"}
    assert decode_row(bare)["time_ns"] == decode_row(EVE_FLOW)["time_flow_end_ns"]
    assert decode_row(within(bare, "flow", end=""))["time_ns"] == decode_row(EVE_FLOW)["time_flow_start_ns"]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (EVE_FLOW | {"flow": None}, Reason.MALFORMED),
        (EVE_FLOW | {"event_type": "netflow"}, Reason.MALFORMED),
        (EVE_FLOW | {"flow": []}, Reason.MALFORMED),
        (EVE_FLOW | {"event": "x"}, Reason.MALFORMED),
        ({"event": EVE_FLOW | {"src_port": -1}}, Reason.OUT_OF_RANGE),
        (EVE_FLOW | {"src_port": 65536}, Reason.OUT_OF_RANGE),
        (EVE_FLOW | {"flow_id": 2**64}, Reason.OUT_OF_RANGE),
        (EVE_FLOW | {"src_ip": None}, Reason.NO_ADDRESS),
        (EVE_FLOW | {"dest_ip": "host"}, Reason.NO_ADDRESS),
        (EVE_FLOW | {"timestamp": "2024-11-08T21:55:18"}, Reason.MALFORMED),
        (EVE_FLOW | {"timestamp": "1969-11-08T21:55:18Z"}, Reason.TIME_OUT_OF_RANGE),
        (EVE_FLOW | {"timestamp": "", "flow": {}}, Reason.NO_TIME),
        (EVE_FLOW | {"tcp": {"tcp_flags": "zz"}}, Reason.MALFORMED),
        (EVE_FLOW | {"tcp": {"tcp_flags": "fffff"}}, Reason.MALFORMED),
        (within(EVE_FLOW, "flow", bytes_toclient=2**63), Reason.OUT_OF_RANGE),
        (within(EVE_FLOW, "flow", start="early"), Reason.MALFORMED),
    ],
)
def test_a_bad_flow_event_rejects_its_message(event, reason):
    assert rejection(FORMAT, packed(event)) == reason
    assert rejection(FORMAT, packed(EVE_NETFLOW, EVE_DNS, event)) == reason


def test_a_bad_line_of_another_type_must_still_be_json():
    assert rejection(FORMAT, packed(EVE_FLOW) + b'\n{"event_type":"dns",}') == Reason.MALFORMED
