"""Record what goflow2 makes of the sFlow capture of the CLOS test bed; see README.md beside this file.

    python tests/data/make_clos_recording.py --source <folder with sflow.pcap, truth.json, ...> [--build]

Takes about 70 s, the length of the capture. The recording is refused unless it holds every flow sample and
agrees, source by source and to the byte, with the estimates that the test bed computed on its own.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import ipaddress
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.goflow2 import Goflow2, Goflow2Error, find_goflow2, replay, udp_payloads  # noqa: E402

RECORDING = "clos_60s_goflow2_v2.bin.gz"
TIME_FIELDS = (110, 111, 112)  # time_received_ns, time_flow_start_ns, time_flow_end_ns
FLOW_SAMPLES = 20_198
FCS_BYTES = 4  # goflow2 counts the frame check sequence, the oracle does not

Field = tuple[int, int, int, int]  # number, wire type, start and end of the value


def varint(buffer: bytes, at: int) -> tuple[int, int]:
    """Return the number at ``at`` and the position behind it; ValueError where it is cut or too long."""
    number = shift = 0
    while True:
        if at >= len(buffer) or shift > 63:
            raise ValueError(f"bad varint at {at}")
        byte = buffer[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, at


def encode_varint(number: int) -> bytes:
    """Return the shortest varint of a non-negative number."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def messages(stream: bytes) -> Iterator[bytes]:
    """Yield the messages of a varint-delimited stream, without their length prefix."""
    at = 0
    while at < len(stream):
        length, at = varint(stream, at)
        if at + length > len(stream):
            raise ValueError(f"the stream ends inside a message at {at}")
        yield stream[at : at + length]
        at += length


def fields(message: bytes) -> Iterator[Field]:
    """Yield the fields of a protobuf message in their order."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        start = at
        match tag & 7:
            case 0:
                _, at = varint(message, at)
            case 2:
                length, start = varint(message, at)
                at = start + length
            case wire_type:
                raise ValueError(f"wire type {wire_type} is not one that goflow2 writes")
        if at > len(message):
            raise ValueError("the message ends inside a field")
        yield tag >> 3, tag & 7, start, at


def shifted(message: bytes, offset_ns: int) -> bytes:
    """Return the message with ``offset_ns`` taken from each of its times and every other byte as it was."""
    parts, copied = [], 0
    for number, _, start, end in fields(message):
        if number in TIME_FIELDS:
            parts += [message[copied:start], encode_varint(varint(message, start)[0] - offset_ns)]
            copied = end
    return b"".join([*parts, message[copied:]])


def plain(message: bytes) -> dict[int, int | bytes]:
    """Return the fields of a message by number; the last one wins, as protobuf says."""
    out: dict[int, int | bytes] = {}
    for number, wire_type, start, end in fields(message):
        out[number] = message[start:end] if wire_type == 2 else varint(message, start)[0]
    return out


def record(capture: Path, binary: Path) -> bytes:
    """Replay the capture to goflow2 and return what it wrote, its times moved back to the capture's."""
    datagrams = list(udp_payloads(capture))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "flows.bin")
        with Goflow2.to_file(written, binary=binary) as collector:
            started_ns = replay(datagrams, collector.sflow_port)
            collector.wait_for(len(datagrams))
        stream = written.read_bytes()
    offset_ns = started_ns - datagrams[0].time_ns
    moved = (shifted(message, offset_ns) for message in messages(stream))
    return b"".join(encode_varint(len(message)) + message for message in moved)


def faults(stream: bytes, source: Path) -> list[str]:
    """Return what is wrong with a recording: samples missing, or estimates other than the test bed's."""
    oracle = json.loads((source / "oracle.json").read_text())
    topology = json.loads((source / "topology.json").read_text())
    ingress = {
        (ipaddress.ip_address(port["agent"]).packed, port["ifindex"])
        for port in topology["ports"]
        if port["peer"] in topology["hosts"]
    }
    found: collections.Counter[str] = collections.Counter()
    by_switch: collections.Counter[str] = collections.Counter()
    names = {ipaddress.ip_address(s["agent"]).packed: name for name, s in topology["switches"].items()}
    flows = [plain(message) for message in messages(stream)]
    for flow in flows:
        by_switch[names.get(flow[11], "unknown")] += 1  # type: ignore[arg-type]
        if (flow[11], flow.get(18, 0)) in ingress and flow.get(6):
            # sFlow gives the length of one sampled frame; 1-in-N makes it N frames of that length.
            found[str(ipaddress.ip_address(flow[6]))] += flow[9] * flow[3]  # type: ignore[operator,arg-type]
    wanted = {s["src"]: s["sflow_bytes"] + FCS_BYTES * s["sflow_packets"] for s in oracle["sources"]}
    out = [] if len(flows) == FLOW_SAMPLES else [f"{len(flows)} flow samples, not {FLOW_SAMPLES}"]
    if by_switch != oracle["flow_samples_by_switch"]:
        out.append(f"samples by switch {dict(by_switch)}, not {oracle['flow_samples_by_switch']}")
    out += [
        f"{src}: {found[src]} bytes, not {wanted.get(src, 0)}"
        for src in sorted(wanted.keys() | found.keys())
        if found[src] != wanted.get(src, 0)
    ]
    return out


def main() -> int:
    """Make the recording; 1 and the reasons on standard error where it is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", type=Path, required=True, help="sflow.pcap and the JSON files beside it")
    parser.add_argument("--build", action="store_true", help="build goflow2 with Go if it is not installed")
    chosen = parser.parse_args()
    try:
        stream = record(chosen.source / "sflow.pcap", find_goflow2(build=chosen.build))
        wrong = faults(stream, chosen.source)
    except (Goflow2Error, OSError, ValueError) as error:
        wrong = [str(error)]
    if wrong:
        sys.stderr.write("\n  ".join(["no recording made:", *wrong]) + "\n")
        return 1
    # Without a time in the gzip header the same messages give the same file.
    (HERE / RECORDING).write_bytes(gzip.compress(stream, 9, mtime=0))
    for name in "truth", "topology", "oracle":
        shutil.copyfile(chosen.source / f"{name}.json", HERE / f"clos_60s_{name}.json")
    count = sum(1 for _ in messages(stream))
    sys.stdout.write(f"{RECORDING}: {count} messages, {len(stream)} bytes before gzip\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
