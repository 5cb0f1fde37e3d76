"""Connection events as flat JSON: two-way counts, IPv4 by number, seconds with a fraction."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import FlowType, address_words
from flowstream.errors import Reason
from tests.unit.decode.batches import HOSTILE_JSON, assert_batch_equals_singles, rejection, row
from tests.unit.decode.examples import EVENT, EVENT_OF_STRINGS, VALID, packed

FORMAT = "flow-event-json"

KEYS = {  # our column: (their key, the largest value)
    "record_id": ("eventid", 2**64 - 1),
    "src_port": ("src_port", 2**16 - 1),
    "dst_port": ("dst_port", 2**16 - 1),
    "bytes": ("out_bytes", 2**63 - 1),
    "packets": ("out_packets", 2**63 - 1),
    "in_bytes": ("in_bytes", 2**63 - 1),
    "in_packets": ("in_packets", 2**63 - 1),
    "proto": ("nproto", 255),
}
count_columns = st.fixed_dictionaries({name: st.integers(0, limit) for name, (_, limit) in KEYS.items()})


def decode_row(event: dict[str, object]) -> dict[str, object]:
    return row(FORMAT, packed(event))


@given(count_columns, st.booleans())
def test_every_number_arrives_exactly_as_a_number_or_as_a_string(columns, quoted):
    event = EVENT | {KEYS[name][0]: str(value) if quoted else value for name, value in columns.items()}
    found = decode_row(event)
    assert {name: found[name] for name in columns} == columns


def test_the_example_event_gives_the_row_it_describes():
    found = decode_row(EVENT)
    assert found["src_addr"] == list(address_words("10.5.0.4"))
    assert found["dst_addr"] == list(address_words("255.255.255.255"))
    assert (found["bytes"], found["packets"], found["in_bytes"], found["in_packets"]) == (157, 1, 0, 0)
    assert (found["proto"], found["src_port"], found["dst_port"]) == (17, 42126, 40237)
    assert found["time_ns"] == found["time_flow_start_ns"] == found["time_flow_end_ns"] == 1490024708 * 10**9
    assert found["time_received_ns"] == 1490024739 * 10**9
    assert (found["sampling_rate"], found["flow_type"], found["quality"]) == (1, FlowType.EVENT, 0)
    assert found["record_id"] == 995491697672682


@given(st.integers(10**9, 4 * 10**9), st.integers(0, 10**9 - 1), st.integers(0, 10**6), st.integers(0, 10**9 - 1))
def test_fractions_of_seconds_are_exact_to_the_nanosecond(start, start_ns, duration, duration_ns):
    text = packed(EVENT | {"eventtime": "S", "duration": "D"})
    text = text.replace(b'"S"', f"{start}.{start_ns:09}".encode())
    found = row(FORMAT, text.replace(b'"D"', f"{duration}.{duration_ns:09}".encode()))
    assert found["time_flow_start_ns"] == start * 10**9 + start_ns
    assert found["time_flow_end_ns"] == (start + duration) * 10**9 + start_ns + duration_ns


@given(st.floats(1e9, 4e9))
def test_a_float_is_read_by_its_digits(moment):
    expected = int(f"{moment:.9f}".replace(".", ""))
    assert abs(decode_row(EVENT | {"eventtime": moment})["time_ns"] - expected) <= 500


@given(st.lists(st.sampled_from([*VALID[FORMAT], b"", None, *HOSTILE_JSON]), max_size=8))
def test_a_batch_decodes_as_its_messages_one_by_one(messages):
    assert_batch_equals_singles(FORMAT, messages)


@given(
    st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    st.one_of(st.none(), st.just(""), st.ip_addresses(v=6)),
    st.one_of(st.none(), st.just(""), st.ip_addresses()),
)
def test_an_address_is_its_number_else_its_v6_text_else_its_text(number, v6, other):
    event = EVENT | {"dst_ip4": number, "dst_ip6": v6 and str(v6), "dst_ip": other and str(other)}
    text = str(v6 or other or "::")
    expected = [0, 0xFFFF << 32 | number] if number else list(address_words(text))
    assert decode_row(event)["dst_addr"] == expected
    source = {key.replace("dst", "src"): event[key] for key in ("dst_ip4", "dst_ip6", "dst_ip")}
    if number or v6 or other:
        assert decode_row(EVENT | source)["src_addr"] == expected
    else:
        assert rejection(FORMAT, packed(EVENT | source)) == Reason.NO_ADDRESS


def test_mixed_families_in_a_batch_keep_their_rows():
    assert_batch_equals_singles(FORMAT, [packed(EVENT), packed(EVENT_OF_STRINGS), packed(EVENT, EVENT_OF_STRINGS)])


@pytest.mark.parametrize("absent", [None, 0, "", "0"])
def test_without_eventtime_the_timestamp_stands_for_it(absent):
    found = decode_row(EVENT | {"eventtime": absent})
    assert found["time_ns"] == 1490024708 * 10**9
    assert rejection(FORMAT, packed(EVENT | {"eventtime": absent, "@timestamp": absent})) == Reason.NO_TIME


@pytest.mark.parametrize("absent", [None, 0, ""])
def test_without_dvc_time_an_event_is_received_when_it_began(absent):
    assert decode_row(EVENT | {"dvc_time": absent})["time_received_ns"] == 1490024708 * 10**9


def test_a_duration_beyond_all_time_ends_at_the_end_of_time():
    assert decode_row(EVENT | {"duration": 10**30})["time_flow_end_ns"] == 2**63 - 1
    assert decode_row(EVENT | {"duration": -5})["time_flow_end_ns"] == 1490024708 * 10**9


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"eventid": 2**64}, Reason.OUT_OF_RANGE),
        ({"eventid": -1}, Reason.OUT_OF_RANGE),
        ({"eventid": "abc"}, Reason.MALFORMED),
        ({"src_ip4": 2**32}, Reason.OUT_OF_RANGE),
        ({"src_ip4": 0, "src_ip6": "nowhere"}, Reason.NO_ADDRESS),
        ({"dst_ip4": 0, "dst_ip": "nowhere"}, Reason.NO_ADDRESS),
        ({"out_bytes": 2**63}, Reason.OUT_OF_RANGE),
        ({"in_packets": "-1"}, Reason.OUT_OF_RANGE),
        ({"dst_port": 70000}, Reason.OUT_OF_RANGE),
        ({"nproto": 256}, Reason.OUT_OF_RANGE),
        ({"eventtime": "soon"}, Reason.MALFORMED),
        ({"duration": "long"}, Reason.MALFORMED),
        ({"dvc_time": {}}, Reason.MALFORMED),
        ({"eventtime": -1}, Reason.TIME_OUT_OF_RANGE),
        ({"eventtime": 10**12}, Reason.TIME_OUT_OF_RANGE),
    ],
)
def test_what_cannot_be_a_column_rejects_the_message(changes, reason):
    assert rejection(FORMAT, packed(EVENT | changes)) == reason


def test_an_unused_address_text_is_not_judged():
    assert decode_row(EVENT | {"src_ip": "sensor-7"}) == decode_row(EVENT)


@given(st.dictionaries(st.text(max_size=4), st.text(), max_size=4))
def test_unknown_keys_change_nothing(extra):
    unknown = {key: value for key, value in extra.items() if key not in EVENT}
    assert row(FORMAT, json.dumps(EVENT | unknown).encode()) == decode_row(EVENT)
