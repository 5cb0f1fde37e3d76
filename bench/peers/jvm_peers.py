"""Kafka Streams and Apache Flink as peers: what runs them, and ``--check``, which tests that they compute right."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET

from agents import kafka_node
from bench.peers.contract import PeerCommand
from bench.report import BenchError

HOME = Path(__file__).resolve().parent / "jvm"
TARGET = HOME / "target"
STAMP = TARGET / "built.sha256"  # written last: a build without it was interrupted
MAVEN_TIMEOUT_S = 900  # a first build downloads some 130 MB
WINDOW_MS, GRACE_MS = 3000, 2000

JVM = (
    "-Xms1500m",
    "-Xmx1500m",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
STREAMS = {
    "threads": "1",
    "guarantee": "at least once, changelog on, commit every 10 s",
    "store": "in memory, retention 75 s; a cache of 256 MiB in jobs b and c",
    "final results": "EmitStrategy.onWindowClose",
    "by source": "one topic per input partition, merged by time (max.task.idle.ms 600000)",
    "producer": "linger 100 ms, batches of 256 KiB, lz4",
    "consumer": "max.poll.records 20000, fetch.max.wait.ms 10, 20000 records buffered per partition",
}
FLINK = {
    "parallelism": "1, in one process",
    "guarantee": "at least once, checkpoint every 10 s",
    "state": "hashmap (heap)",
    "object reuse": "on",
    "buffer timeout": "100 ms",
    "producer": "linger 100 ms, batches of 256 KiB, lz4",
    "consumer": "max.poll.records 10000",
}


def build() -> None:
    """Have Maven build ``jvm/target`` unless it is there and of these sources; BenchError where it cannot."""
    wanted = _sources_sha256()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return
    maven = shutil.which("mvn")
    if maven is None:
        raise BenchError("the JVM peers need Maven (mvn) on the PATH")
    command = [maven, "-q", "-B", "-f", str(HOME / "pom.xml"), "clean", "package"]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=MAVEN_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"Maven did not build the JVM peers within {MAVEN_TIMEOUT_S} s") from None
    if run.returncode:
        said = [line for line in (run.stdout + run.stderr).splitlines() if "ERROR" in line]
        raise BenchError(f"Maven could not build the JVM peers: {said[0] if said else run.returncode}")
    STAMP.write_text(wanted)


def commands() -> tuple[PeerCommand, ...]:
    """Return the peers; ``build`` must have been called before one is run."""
    pom = _versions()
    jdk = {"jdk": _jdk()}
    streams = {"kafka-streams": pom["kafka"], "protobuf-java": pom["protobuf"], **jdk}
    flink = {
        "flink": pom["flink"],
        "flink-connector-kafka": pom["flink.connector.kafka"],
        "kafka-clients": pom["kafka"],
        "protobuf-java": pom["protobuf"],
        **jdk,
    }
    heap = {"jvm": " ".join(option for option in JVM if option.startswith("-X"))}
    sql = FLINK | {"aggregation": "window table-valued function, local and global phase"}
    return (
        PeerCommand("Kafka Streams", streams, STREAMS | heap, ("a", "b", "c"), _argv("StreamsPeer"), {}),
        PeerCommand("Flink DataStream", flink, FLINK | heap, ("a", "b", "c"), _argv("FlinkDataStreamPeer"), {}),
        PeerCommand("Flink SQL", flink, sql | heap, ("a",), _argv("FlinkSqlPeer"), {}),
    )


def _argv(main: str) -> Callable[[str, str, str, str, str], list[str]]:
    def argv(job: str, bootstrap: str, source: str, output: str, group: str) -> list[str]:
        asked = {
            "job": job,
            "bootstrap": bootstrap,
            "input": source,
            "output": output,
            "group": group,
            "window-ms": str(WINDOW_MS),
            "grace-ms": str(GRACE_MS),
        }
        arguments = [word for flag, value in asked.items() for word in (f"--{flag}", value)]
        classpath = f"{TARGET / 'classes'}:{TARGET / 'lib'}/*"
        return [kafka_node.find_java(), *JVM, "-cp", classpath, f"flowstream.bench.{main}", *arguments]

    return argv


def _sources_sha256() -> str:
    digest = hashlib.sha256()
    for path in (HOME / "pom.xml", *sorted(p for p in (HOME / "src").rglob("*") if p.is_file())):
        digest.update(f"{path.relative_to(HOME)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    properties = ET.parse(HOME / "pom.xml").getroot().find("m:properties", space)
    found = {} if properties is None else {p.tag.partition("}")[2]: p.text or "" for p in properties}
    return {name.removesuffix(".version"): text for name, text in found.items() if name.endswith(".version")}


@cache
def _jdk() -> str:
    said = subprocess.run([kafka_node.find_java(), "-version"], capture_output=True, text=True, check=True).stderr
    version = re.search(r'"(.+?)"', said)
    return version[1] if version else said.splitlines()[0]


def main() -> int:
    """Build; with ``--check``, run every peer and job on a small load and compare with an oracle."""
    build()
    if sys.argv[1:] != ["--check"]:
        print(f"built in {TARGET}; --check runs the peers against an oracle")
        return 0
    from bench.peers.check import check

    return check(commands())


if __name__ == "__main__":
    raise SystemExit(main())
