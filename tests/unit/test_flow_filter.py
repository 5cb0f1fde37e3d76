"""Flows as people write them."""

import pytest

from flowstream.flow_filter import FlowFilter
from flowstream.render import PROTOCOLS, flow_text

FLOW = {"src_addr": "10.0.1.10", "dst_addr": "10.0.3.10", "proto": 6, "src_port": 5001, "dst_port": 5201}
V6 = {"src_addr": "fd00::1", "dst_addr": "fd00::2", "proto": 17, "src_port": 1, "dst_port": 53}


@pytest.mark.parametrize(
    "text",
    [
        "10.0.1.10:5001>10.0.3.10:5201/tcp",
        "10.0.1.10>10.0.3.10",
        " 10.0.1.10 > 10.0.3.10:5201",
        "10.0.1.10>10.0.3.10/6",
    ],
)
def test_what_is_left_out_matches_anything(text):
    assert FlowFilter.parse(text).matches(FLOW)
    assert not FlowFilter.parse(text).matches(FLOW | {"dst_addr": "10.0.3.11"})


@pytest.mark.parametrize("field", FLOW)
def test_what_is_named_must_be_the_same(field):
    chosen = FlowFilter.parse("10.0.1.10:5001>10.0.3.10:5201/tcp")
    assert not chosen.matches(FLOW | {field: "10.9.9.9" if field.endswith("addr") else 17})


def test_addresses_of_version_6_are_in_brackets_with_a_port_and_may_be_without():
    for text in ("[fd00::1]:1>[fd00::2]:53/udp", "fd00::1>fd00:0:0::2", "[fd00::1]>[fd00::2]"):
        assert FlowFilter.parse(text).matches(V6)


@pytest.mark.parametrize("flow", [FLOW, V6])
def test_what_tail_prints_can_be_asked_for(flow):
    protocol, ends = flow_text(flow).split(" ", 1)
    assert FlowFilter.parse(f"{ends}/{protocol}").matches(flow)
    assert PROTOCOLS[flow["proto"]] == protocol


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.0.1.10", "is no flow"),
        ("a>b", "'a' is no IP address"),
        ("10.0.1.10:70000>10.0.3.10", "70000 is no port"),
        ("10.0.1.10>10.0.3.10/quic", "'quic' is no protocol"),
        ("10.0.1.10>10.0.3.10/256", "'256' is no protocol"),
        ("1.1.1.1>2.2.2.2>3.3.3.3", "is no flow"),
    ],
)
def test_what_is_no_flow_is_said_with_the_fix(text, says):
    with pytest.raises(ValueError, match="write") as raised:
        FlowFilter.parse(text)
    assert says in str(raised.value)
