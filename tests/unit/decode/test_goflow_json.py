"""goflow2's JSON: the keys of both generations give the same columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import FlowType, address_words
from flowstream.decode import Payloads, decode
from flowstream.errors import Reason
from tests.unit.decode.batches import HOSTILE_JSON, assert_batch_equals_singles, rejection, row
from tests.unit.decode.examples import GOFLOW2_V1, GOFLOW2_V1_TAGGED, GOFLOW2_V2, VALID, packed

FORMAT = "goflow-json"

COUNTS = {
    "src_port": 2**16 - 1, "dst_port": 2**16 - 1, "ip_ttl": 2**8 - 1, "tcp_flags": 2**16 - 1,
    "src_as": 2**32 - 1, "dst_as": 2**32 - 1, "in_if": 2**32 - 1, "out_if": 2**32 - 1,
    "bytes": 2**63 - 1, "packets": 2**63 - 1, "sampling_rate": 2**32 - 1, "sequence_num": 2**32 - 1,
}  # fmt: skip
count_columns = st.fixed_dictionaries({name: st.integers(0, limit) for name, limit in COUNTS.items()})
seconds = st.integers(946_684_800, 4_000_000_000)


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def decode_row(flow: dict[str, object]) -> dict[str, object]:
    return row(FORMAT, packed(flow))


def without(flow: dict[str, object], *keys: str) -> dict[str, object]:
    return {key: value for key, value in flow.items() if key not in keys}


@given(count_columns, st.integers(0, 2**63 - 1), st.ip_addresses(), st.ip_addresses(), st.ip_addresses())
def test_every_number_and_address_of_v2_arrives_exactly(counts, received_ns, src, dst, exporter):
    received_ns = received_ns or 1
    found = decode_row(
        GOFLOW2_V2
        | counts
        | {
            "time_received_ns": received_ns,
            "src_addr": str(src),
            "dst_addr": str(dst),
            "sampler_address": str(exporter),
        }
    )
    assert {name: found[name] for name in counts} == counts
    assert found["time_ns"] == found["time_received_ns"] == received_ns
    for name, address in (("src_addr", src), ("dst_addr", dst), ("exporter", exporter)):
        assert found[name] == list(address_words(str(address)))


@given(count_columns, seconds, seconds, seconds)
def test_the_camel_case_and_the_tagged_form_of_v1_give_the_same_row(counts, received, start, end):
    tagged = GOFLOW2_V1_TAGGED | counts | {"time_received": received, "time_flow_start": start, "time_flow_end": end}
    found = decode_row(tagged)
    assert decode_row({camel(name): value for name, value in tagged.items()}) == found
    times = [found[f"time_{name}_ns"] for name in ("received", "flow_start", "flow_end")]
    assert times == [received * 10**9, start * 10**9, end * 10**9]


@given(seconds, st.integers(0, 999_999_999))
def test_the_receive_time_may_be_rfc_3339_with_nanoseconds(second, nanosecond):
    text = f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second):%Y-%m-%dT%H:%M:%S}"
    fraction = f".{nanosecond:09}".rstrip("0").rstrip(".")
    found = decode_row(GOFLOW2_V2 | {"time_received_ns": f"{text}{fraction}Z"})
    assert found["time_ns"] == second * 10**9 + nanosecond


@given(st.lists(st.sampled_from([*VALID[FORMAT], b"", None, *HOSTILE_JSON]), max_size=8))
def test_a_batch_decodes_as_its_messages_one_by_one(messages):
    assert_batch_equals_singles(FORMAT, messages)


def test_both_generations_in_one_message_keep_their_order():
    flows = [GOFLOW2_V1, GOFLOW2_V2, GOFLOW2_V1_TAGGED, GOFLOW2_V1, GOFLOW2_V2]
    decoded = decode(FORMAT, Payloads.from_values([packed(*flows)]))
    assert decoded.flows.flow_type.tolist() == [3, 1, 4, 3, 1]
    assert decoded.flows.origin_row.tolist() == [0, 1, 2, 3, 4]


def test_milliseconds_are_preferred_to_seconds_where_they_are_not_zero():
    found = decode_row(GOFLOW2_V1 | {"TimeFlowEndMs": 0})
    assert found["time_flow_start_ns"] == GOFLOW2_V1["TimeFlowStartMs"] * 10**6
    assert found["time_flow_end_ns"] == GOFLOW2_V1["TimeFlowEnd"] * 10**9


@pytest.mark.parametrize(
    ("old", "new", "column"),
    [
        ("IPTTL", "IpTtl", "ip_ttl"),
        ("TCPFlags", "TcpFlags", "tcp_flags"),
        ("SrcAS", "SrcAs", "src_as"),
        ("DstAS", "DstAs", "dst_as"),
    ],
)
def test_the_first_spelling_of_v1_is_read_too(old, new, column):
    assert decode_row(without(GOFLOW2_V1, new) | {old: 63})[column] == 63


@pytest.mark.parametrize("absent", [{}, {"time_received_ns": 0}, {"time_received_ns": ""}, {"time_received_ns": None}])
def test_without_a_receive_time_the_end_of_the_flow_stands_for_it(absent):
    found = decode_row(without(GOFLOW2_V2, "time_received_ns") | absent)
    assert found["time_ns"] == found["time_received_ns"] == GOFLOW2_V2["time_flow_end_ns"]


def test_absent_flow_times_are_the_receive_time():
    found = decode_row(without(GOFLOW2_V2, "time_flow_start_ns", "time_flow_end_ns"))
    assert found["time_flow_start_ns"] == found["time_flow_end_ns"] == found["time_ns"]


def test_an_absurd_flow_time_stays_for_normalise_to_judge():
    found = decode_row(GOFLOW2_V2 | {"time_flow_end_ns": 2**64 - 1, "time_flow_start_ns": -1})
    assert (found["time_flow_start_ns"], found["time_flow_end_ns"]) == (0, 2**63 - 1)


@pytest.mark.parametrize("keys", [("dst_addr",), ("sampler_address",), ("dst_addr", "sampler_address")])
@pytest.mark.parametrize("empty", ["", None])
def test_an_absent_destination_or_exporter_is_the_zero_address(keys, empty):
    found = decode_row(GOFLOW2_V2 | dict.fromkeys(keys, empty))
    assert all(found["exporter" if key == "sampler_address" else key] == [0, 0] for key in keys)


@pytest.mark.parametrize("kind", ["SFLOW_5", "NETFLOW_V5", "NETFLOW_V9", "IPFIX"])
def test_types_are_read_by_name_and_by_number(kind):
    expected = FlowType[kind]
    assert decode_row(GOFLOW2_V2 | {"type": kind})["flow_type"] == expected
    assert decode_row(GOFLOW2_V2 | {"type": int(expected)})["flow_type"] == expected


@pytest.mark.parametrize("kind", ["FLOWUNKNOWN", "", "sflow", 9, -1, 2**70, None])
def test_other_types_are_unknown(kind):
    assert decode_row(GOFLOW2_V2 | {"type": kind})["flow_type"] == FlowType.UNKNOWN


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"src_addr": ""}, Reason.NO_ADDRESS),
        ({"src_addr": None}, Reason.NO_ADDRESS),
        ({"src_addr": "198.51.100"}, Reason.NO_ADDRESS),
        ({"dst_addr": "elsewhere"}, Reason.NO_ADDRESS),
        ({"sampler_address": "192.0.2.256"}, Reason.NO_ADDRESS),
        ({"src_addr": "1" * 100}, Reason.MALFORMED),
        ({"src_addr": [10, 0, 0, 1]}, Reason.MALFORMED),
        ({"time_received_ns": "yesterday"}, Reason.MALFORMED),
        ({"time_received_ns": [1]}, Reason.MALFORMED),
        ({"time_flow_start_ns": "x"}, Reason.MALFORMED),
        ({"time_received_ns": -1}, Reason.TIME_OUT_OF_RANGE),
        ({"time_received_ns": 2**63}, Reason.TIME_OUT_OF_RANGE),
        ({"time_received_ns": "9999-01-01T00:00:00Z"}, Reason.TIME_OUT_OF_RANGE),
        ({"proto": 256}, Reason.OUT_OF_RANGE),
        ({"proto": "300"}, Reason.OUT_OF_RANGE),
        ({"proto": {}}, Reason.MALFORMED),
        ({"src_port": 65536}, Reason.OUT_OF_RANGE),
        ({"src_port": "many"}, Reason.MALFORMED),
        ({"bytes": 2**63}, Reason.OUT_OF_RANGE),
        ({"bytes": 1.5}, Reason.MALFORMED),
        ({"SrcPort": -1}, Reason.OUT_OF_RANGE),
    ],
)
def test_what_cannot_be_a_column_rejects_the_message(changes, reason):
    assert rejection(FORMAT, packed(GOFLOW2_V2 | changes)) == reason
    assert rejection(FORMAT, packed(GOFLOW2_V1, GOFLOW2_V2 | changes, GOFLOW2_V2)) == reason


@pytest.mark.parametrize("flow", [GOFLOW2_V2, GOFLOW2_V1, GOFLOW2_V1_TAGGED])
def test_without_any_time_there_is_no_row(flow):
    timeless = {key: value for key, value in flow.items() if not key.lower().startswith("time")}
    assert rejection(FORMAT, packed(timeless)) == Reason.NO_TIME


KNOWN = {*GOFLOW2_V2, *GOFLOW2_V1, *COUNTS, *map(camel, COUNTS), "IPTTL", "TCPFlags", "SrcAS", "DstAS"}


@given(st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.text() | st.integers(), st.lists), max_size=4))
def test_unknown_keys_change_nothing(extra):
    unknown = {key: value for key, value in extra.items() if key not in KNOWN}
    assert decode_row(GOFLOW2_V2 | unknown) == decode_row(GOFLOW2_V2)
