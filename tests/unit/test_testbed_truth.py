"""What the test bed takes down as the truth: frames as captured, summed in the plainest way."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.testbed import plan, synthetic
from deploy.testbed.packets import Packets, read_pcap
from deploy.testbed.synthetic import Packet
from deploy.testbed.truth import Flow, Truth, measured

SECOND_NS = 10**9
ETHERNET_AND_FCS = 18
LINK_BPS = 100_000_000


def captured(tmp_path: Path, packets: list[Packet]) -> Packets:
    path = tmp_path / "x.pcap"
    path.write_bytes(synthetic.to_pcap(packets))
    return read_pcap(path)


def flow(packet: Packet) -> Flow:
    return Flow(packet.src, packet.dst, packet.proto, packet.src_port, packet.dst_port)


def through(tmp_path: Path, packets: list[Packet], via: dict[Flow, list[int]]) -> dict[str, Packets]:
    """Return captures of every port that is listened to, for flows by way of the spines given."""
    by_port: dict[str, list[Packet]] = defaultdict(list)
    for packet in packets:
        leaf = plan.leaf_of(packet.src)
        by_port[f"l{leaf}h"].append(packet)
        for spine in via[flow(packet)]:
            by_port[f"s{spine}l{leaf}"].append(packet)
    listened = [port.name for port in plan.ports() if port.edge or port.node.startswith("spine")]
    return {name: captured(tmp_path, by_port[name]) for name in listened}


def some_packets() -> list[Packet]:
    """Return packets between hosts: one steady flow, one burst, some of IPv6."""
    begin_ns = 1_700_000_003 * SECOND_NS
    steady = [
        Packet(begin_ns + n * SECOND_NS // 50, "10.0.1.10", "10.0.3.10", 6, 40_001, 5201, 1500) for n in range(900)
    ]
    burst = [Packet(begin_ns + 7 * SECOND_NS + n * 1000, "10.0.2.11", "10.0.3.10", 17, 9, 7000, 700) for n in range(50)]
    sixth = [
        Packet(begin_ns + n * SECOND_NS, "fd00:0:0:4::10", "fd00:0:0:1::10", 17, 40_005, 5205, 1448) for n in range(18)
    ]
    return sorted(steady + burst + sixth, key=lambda packet: packet.time_ns)


VIA = {
    Flow("10.0.1.10", "10.0.3.10", 6, 40_001, 5201): [1],
    Flow("10.0.2.11", "10.0.3.10", 17, 9, 7000): [2],
    Flow("fd00:0:0:4::10", "fd00:0:0:1::10", 17, 40_005, 5205): [2],
}


def test_a_capture_is_read_as_it_was_written(tmp_path: Path):
    packets = synthetic.packets(3, 9)
    read = captured(tmp_path, packets)
    assert read.time_ns.tolist() == [packet.time_ns for packet in packets]
    assert read.bytes.tolist() == [packet.ip_bytes + ETHERNET_AND_FCS for packet in packets]
    assert len(np.unique(read.flow)) == len({flow(packet) for packet in packets})


def test_a_capture_that_ends_within_a_frame_gives_the_whole_ones(tmp_path: Path):
    packets = some_packets()[:5]
    path = tmp_path / "cut.pcap"
    path.write_bytes(synthetic.to_pcap(packets)[:-10])
    assert len(read_pcap(path).bytes) == 4


@pytest.mark.parametrize("content", [b"", b"no pcap at all, and longer than its header"])
def test_another_file_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="not a pcap"):
        read_pcap(tmp_path / "x")


def test_sums_per_source_and_window_per_flow_and_per_link_are_those_of_the_frames(tmp_path: Path):
    packets = some_packets()
    truth = measured(through(tmp_path, packets, VIA), LINK_BPS, 10 * SECOND_NS)
    sources: dict[tuple[int, str], int] = defaultdict(int)
    flows: dict[Flow, list[int]] = defaultdict(lambda: [0, 0])
    links: dict[tuple[str, str], int] = defaultdict(int)
    for packet in packets:
        frame = packet.ip_bytes + ETHERNET_AND_FCS
        sources[packet.time_ns // (10 * SECOND_NS) * 10 * SECOND_NS, packet.src] += frame
        flows[flow(packet)][0] += frame
        flows[flow(packet)][1] += 1
        leaf, spine = plan.leaf_of(packet.src), VIA[flow(packet)][0]
        links[f"leaf{leaf}", f"l{leaf}h"] += frame + 20
        links[f"spine{spine}", f"s{spine}l{leaf}"] += frame + 20
    assert truth.sources == sources
    assert {f: [sent.bytes, sent.packets] for f, sent in truth.flows.items()} == flows
    assert {place: sent for place, sent in truth.links.items() if sent} == links


def test_the_path_is_by_the_spine_that_was_given_the_flow(tmp_path: Path):
    truth = measured(through(tmp_path, some_packets(), VIA), LINK_BPS, 10 * SECOND_NS)
    for each, sent in truth.flows.items():
        ends = plan.leaf_of(each.src_addr), plan.leaf_of(each.dst_addr)
        assert list(sent.path) == plan.path(*ends, VIA[each][0])


def test_a_flow_by_two_spines_has_no_one_path(tmp_path: Path):
    both = VIA | {next(iter(VIA)): [1, 2]}
    with pytest.raises(ValueError, match="two spines"):
        measured(through(tmp_path, some_packets(), both), LINK_BPS, 10 * SECOND_NS)


def test_the_highest_rates_are_those_of_some_second_and_some_five(tmp_path: Path):
    packets = some_packets()
    truth = measured(through(tmp_path, packets, VIA), LINK_BPS, 10 * SECOND_NS)
    begin_ns = packets[0].time_ns
    for each, sent in truth.flows.items():
        own = [(p.time_ns - begin_ns, p.ip_bytes + ETHERNET_AND_FCS) for p in packets if flow(p) == each]
        for span_s, rate_bps in ((1, sent.peak_bps), (5, sent.steady_bps)):
            ends = [quarter * SECOND_NS // 4 for quarter in range(1, 4 * 20)]
            sums = [sum(size for t, size in own if end - span_s * SECOND_NS <= t < end) for end in ends]
            assert rate_bps == max(sums) * 8 / span_s


def test_the_truth_survives_its_file(tmp_path: Path):
    truth = replace(measured(through(tmp_path, some_packets(), VIA), LINK_BPS, 10 * SECOND_NS), frames_lost=3)
    assert Truth.from_json(truth.to_json()) == truth


def test_a_window_may_have_gained_the_second_before_it_and_lost_its_last_one(tmp_path: Path):
    packets = some_packets()
    truth = measured(through(tmp_path, packets, VIA), LINK_BPS, 10 * SECOND_NS)

    def between(src: str, begin_ns: int, end_ns: int) -> int:
        own = [p for p in packets if p.src == src and begin_ns <= p.time_ns < end_ns]
        return sum(p.ip_bytes + ETHERNET_AND_FCS for p in own)

    for start_ns, src in truth.sources:
        end_ns = start_ns + 10 * SECOND_NS
        least = between(src, start_ns, end_ns - SECOND_NS)
        most = between(src, start_ns - SECOND_NS, end_ns)
        assert truth.bounds(start_ns, src) == (least, most)
