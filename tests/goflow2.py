"""A real collector for tests: find or build goflow2, run it on loopback, replay a capture to it.

goflow2 (BSD-3) turns export datagrams into the messages that flowstream reads, so what it writes is the
best evidence of what arrives in production. Nothing here is imported by the program itself.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

VERSION = "v2.2.6"
MODULE = f"github.com/netsampler/goflow2/v2/cmd/goflow2@{VERSION}"
ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / ".flowstream" / "bin" / "goflow2"

_PCAP_MAGICS = {0xA1B2C3D4: 1_000, 0xA1B23C4D: 1}  # nanoseconds per unit of the fraction field
_LINK_HEADER_BYTES = {1: 14, 101: 0}  # Ethernet; raw IP
_UDP = 17


class Goflow2Error(Exception):
    """goflow2 cannot be had, or did not do what was asked; the message is one line."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """The payload of one captured UDP datagram and when it was captured."""

    time_ns: int
    payload: bytes


def find_goflow2(*, build: bool = False) -> Path:
    """Return the path of a goflow2 binary.

    Tried in order: ``FLOWSTREAM_GOFLOW2``, the PATH, the one built earlier, and, with ``build``, a build of
    the pinned version by the Go toolchain. Raises Goflow2Error where none of them gives one.
    """
    named = os.environ.get("FLOWSTREAM_GOFLOW2")
    if named:
        if not os.access(named, os.X_OK):
            raise Goflow2Error(f"FLOWSTREAM_GOFLOW2={named} is not an executable file")
        return Path(named)
    on_path = shutil.which("goflow2")
    if on_path:
        return Path(on_path)
    if os.access(BUILT, os.X_OK):
        return BUILT
    if not build:
        raise Goflow2Error("goflow2 is not on the PATH; set FLOWSTREAM_GOFLOW2, or install it")
    return _build()


def _build() -> Path:
    go = shutil.which("go")
    if go is None:
        raise Goflow2Error(f"goflow2 is not installed, and without Go {MODULE} cannot be built")
    BUILT.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(BUILT.parent)}
    run = subprocess.run([go, "install", MODULE], env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise Goflow2Error(f"go install {MODULE} failed: {run.stderr.strip().splitlines()[-1:]}")
    return BUILT


def udp_payloads(capture: Path) -> Iterator[Datagram]:
    """Yield the UDP payloads of a classic pcap (Ethernet or raw IP, IPv4 without fragments, or IPv6).

    Packets that are not UDP are passed over. Raises Goflow2Error for a file of another kind.
    """
    content = capture.read_bytes()
    for order in "<", ">":
        if len(content) >= 24 and struct.unpack_from(order + "I", content)[0] in _PCAP_MAGICS:
            break
    else:
        raise Goflow2Error(f"{capture.name} is not a classic pcap file")
    unit_ns = _PCAP_MAGICS[struct.unpack_from(order + "I", content)[0]]
    link = struct.unpack_from(order + "I", content, 20)[0] & 0xFFFF
    if link not in _LINK_HEADER_BYTES:
        raise Goflow2Error(f"{capture.name} has link type {link}, not Ethernet or raw IP")
    at = 24
    while at + 16 <= len(content):
        seconds, fraction, captured, _ = struct.unpack_from(order + "4I", content, at)
        packet = content[at + 16 : at + 16 + captured]
        at += 16 + captured
        payload = _udp_payload(packet[_LINK_HEADER_BYTES[link] :])
        if payload is not None:
            yield Datagram(seconds * 10**9 + fraction * unit_ns, payload)


def _udp_payload(packet: bytes) -> bytes | None:
    if len(packet) >= 28 and packet[0] >> 4 == 4 and packet[9] == _UDP:
        header = (packet[0] & 0xF) * 4
    elif len(packet) >= 48 and packet[0] >> 4 == 6 and packet[6] == _UDP:
        header = 40
    else:
        return None
    length = int.from_bytes(packet[header + 4 : header + 6], "big")
    return packet[header + 8 : header + length]


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a loopback port that nothing was bound to a moment ago."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def replay(datagrams: Iterable[Datagram], port: int, *, speed: float = 1.0) -> int:
    """Send the payloads to a loopback port at the recorded pace, ``speed`` times as fast.

    Returns the wall-clock time, in nanoseconds since the epoch, at which the first one was sent.
    """
    started_ns = first_ns = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        for datagram in datagrams:
            if not started_ns:
                started_ns, first_ns = time.time_ns(), datagram.time_ns
            due_ns = started_ns + int((datagram.time_ns - first_ns) / speed)
            wait_ns = due_ns - time.time_ns()
            if wait_ns > 0:
                time.sleep(wait_ns / 1e9)
            sender.send(datagram.payload)
    return started_ns


class Goflow2:
    """A running goflow2: sFlow on ``sflow_port``, NetFlow and IPFIX on ``netflow_port``, loopback only.

    One socket and one worker each, so that messages leave in the order in which datagrams came.
    """

    def __init__(self, arguments: Sequence[str], *, binary: Path | None = None) -> None:
        self.binary = binary or find_goflow2()
        self.sflow_port = free_port(socket.SOCK_DGRAM)
        self.netflow_port = free_port(socket.SOCK_DGRAM)
        self.web_port = free_port()
        self._arguments = list(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def to_file(cls, path: Path, *, binary: Path | None = None) -> Goflow2:
        """Write varint-delimited protobuf to a file, with no separator between the messages."""
        # The default separator is a line feed, which in a binary file is a stray byte after each message.
        arguments = ["-format", "bin", "-transport", "file", "-transport.file", str(path)]
        return cls([*arguments, "-transport.file.sep", ""], binary=binary)

    @classmethod
    def to_kafka(cls, bootstrap: str, topic: str, *, flush_ms: int = 200, binary: Path | None = None) -> Goflow2:
        """Produce varint-delimited protobuf to a topic, one message per flow record."""
        arguments = ["-format", "bin", "-transport", "kafka", "-transport.kafka.brokers", bootstrap]
        arguments += ["-transport.kafka.topic", topic, "-transport.kafka.flushfreq", f"{flush_ms}ms"]
        return cls(arguments, binary=binary)

    def __enter__(self) -> Self:
        listen = f"sflow://127.0.0.1:{self.sflow_port}?count=1&workers=1,"
        listen += f"netflow://127.0.0.1:{self.netflow_port}?count=1&workers=1"
        command = [str(self.binary), "-addr", f"127.0.0.1:{self.web_port}", "-loglevel", "warn"]
        command += ["-listen", listen, *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            self._until_healthy(deadline=time.monotonic() + 20)
        except BaseException:
            self._process.kill()
            self._process.communicate()
            raise
        return self

    def _until_healthy(self, deadline: float) -> None:
        process = self._running()
        while time.monotonic() < deadline:
            if process.poll() is not None:
                assert process.stderr is not None
                raise Goflow2Error(f"goflow2 ended at once: {process.stderr.read().decode()[-300:].strip()}")
            try:
                if self._get("/__health").startswith("OK"):
                    return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        raise Goflow2Error("goflow2 did not become healthy within 20 s")

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}{path}", timeout=2) as answer:
            text: str = answer.read().decode()
            return text

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise Goflow2Error("goflow2 was not started")
        return self._process

    def datagrams_received(self) -> int:
        """Return how many datagrams it has read from its sockets, by its own count."""
        lines = self._get("/metrics").splitlines()
        counts = [line for line in lines if line.startswith("goflow2_flow_traffic_packets_total{")]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in counts)

    def wait_for(self, datagrams: int, *, timeout_s: float = 20) -> None:
        """Return once that many datagrams were read; Goflow2Error if they are not in time: some are lost."""
        deadline = time.monotonic() + timeout_s
        while (received := self.datagrams_received()) < datagrams:
            if time.monotonic() > deadline:
                raise Goflow2Error(f"goflow2 read {received} of {datagrams} datagrams")
            time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # goflow2 drains its queue and flushes its transport on SIGTERM.
        process = self._running()
        process.terminate()
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
