"""The peers that run in ``.venv-peers``, and flowstream itself, as the harness starts them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from agents.admin import create_topics
from agents.kafka_jars import resolve_jars
from agents.kafka_node import free_port
from bench.peers.contract import PeerCommand
from bench.peers.jobs import PARTITIONS
from bench.report import BenchError
from flowstream.setting_tables import Input, Kafka, Topics
from flowstream.settings import Settings

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
FAUST = {
    "store": "memory", "group_by": "none (right with one worker only)", "changelog": "on, it is the output",
    "stream_buffer_maxsize": "4096 (default)", "web": "off",
}  # fmt: skip
QUIX = {
    "group_by": "a repartition topic", "state": "RocksDB with changelog (default)", "closing_strategy": "partition",
    "grace_ms": "2000", "commit_interval": "5 s (default)", "guarantee": "at least once (default)",
}  # fmt: skip
BYTEWAX = {
    "workers": "1", "batch_size": "1000 (default)", "ordered": "False", "recovery": "off",
    "clock": "event time that all partitions have reached",
}  # fmt: skip
SPARK = {
    "master": "local[1]", "driver memory": "4g", "shuffle partitions": "1", "state store": "HDFS-backed (default)",
    "trigger": "as soon as possible (default)", "parsing": "mapInArrow",
}  # fmt: skip
SPARK_JARS = ROOT / ".flowstream" / "spark"


def flowstream() -> PeerCommand:
    """Return flowstream's worker, ingest and one analysis, as a peer."""

    def argv(job: str, bootstrap: str, source: str, output: str, group: str) -> list[str]:
        chosen = {
            "APP": group,
            "KAFKA__BOOTSTRAP": bootstrap,
            "INPUTS": json.dumps([{"topic": source, "format": "goflow"}]),
            "TOPICS__PREFIX": output,
            "TOPICS__PARTITIONS": str(PARTITIONS),
            **JOB_SETTINGS[job],
        }
        env = [f"FLOWSTREAM_{name}={value}" for name, value in chosen.items()]
        command = [str(Path(sys.executable).with_name("flowstream")), "worker", "--port", str(free_port())]
        return ["env", *env, *command]

    settings = {f"job {job}": json.dumps(chosen) for job, chosen in JOB_SETTINGS.items()}
    return PeerCommand(
        "flowstream", versions(sys.executable, "flowstream", "numba"), settings, ("a", "b", "c"), argv, {}
    )


JOB_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "a": {"ANALYSES": '["sources"]', "SOURCES__SIZE_S": "3", "SOURCES__DISTANCES": "false"},
    # Otherwise the pairs of the closing messages come ten seconds later, and the clock stops with the last message.
    "b": {
        "ANALYSES": '["distances"]', "DISTANCES__PAIRS": "all", "DISTANCES__PAIR_FORM": "records",
        "DISTANCES__FLOWS_MAX": "2001", "OUTPUT__FORMAT": "json", "TIME__IDLE_AFTER_S": "600",
    },
    "c": {"ANALYSES": '["distances"]'},
}  # fmt: skip
RESULTS = {"a": "sources", "b": "distance-pairs", "c": "distances"}


def create_result_topics(bootstrap: str, source: str, output: str, job: str) -> None:
    """Create flowstream's topics and the raw one, as ``flowstream topics`` does."""
    settings = Settings(
        inputs=(Input(topic=source, format="goflow"),), kafka=Kafka(bootstrap=bootstrap),
        topics=Topics(prefix=output, partitions=PARTITIONS),
        analyses=tuple(json.loads(JOB_SETTINGS[job]["ANALYSES"])),
    )  # fmt: skip
    asyncio.run(create_topics(settings))


def _faust() -> PeerCommand:
    return _script("faust", "faust_events", "abc", ("faust-streaming", "aiokafka", "protobuf"), FAUST)


def _faust_take() -> PeerCommand:
    settings = FAUST | {"take": "1000 within 0.1 s"}
    return _script("faust take", "faust_take", "a", ("faust-streaming", "aiokafka", "protobuf"), settings)


def _quix() -> PeerCommand:
    return _script("quix", "quix", "abc", ("quixstreams", "confluent-kafka", "rocksdict", "protobuf"), QUIX)


def _spark() -> PeerCommand:
    resolve_jars(SPARK_JARS, Path(__file__).with_name("spark_jars") / "pom.xml")
    env = {"PYSPARK_PYTHON": str(PYTHON), "SPARK_LOCAL_IP": "127.0.0.1"}
    return _script("spark", "spark", "abc", ("pyspark", "pyarrow", "pandas", "protobuf"), SPARK, env)


def _bytewax() -> PeerCommand:
    def argv(*where: str) -> list[str]:
        return [str(PYTHON), "-m", "bytewax.run", f"bench.peers.bytewax_flow:flow{where[:4]}"]

    found = versions(str(PYTHON), "bytewax", "confluent-kafka", "protobuf")
    return PeerCommand("bytewax", found, BYTEWAX, ("a", "b", "c"), argv, {})


def _script(
    name: str, module: str, jobs: str, packages: tuple[str, ...], settings: dict[str, str],
    env: dict[str, str] | None = None,
) -> PeerCommand:  # fmt: skip
    def argv(*where: str) -> list[str]:
        return [str(PYTHON), "-m", f"bench.peers.{module}", *where]

    return PeerCommand(name, versions(str(PYTHON), *packages), settings, tuple(jobs), argv, env or {})


#: By name. Each raises BenchError or BrokerError, with the reason, where its engine cannot be had.
PEERS: Mapping[str, Callable[[], PeerCommand]] = {
    "flowstream": flowstream, "faust": _faust, "faust take": _faust_take, "quix": _quix, "bytewax": _bytewax,
    "spark": _spark,
}  # fmt: skip


def versions(python: str, *packages: str) -> dict[str, str]:
    """Return the versions of packages in the environment of an interpreter; BenchError where one is missing."""
    code = (
        "import json, platform, sys; from importlib.metadata import version;"
        "print(json.dumps({'python': platform.python_version()} | {p: version(p) for p in sys.argv[1:]}))"
    )
    if not Path(python).exists():
        raise BenchError(f"there is no {python}: `make bench-peers` makes it")
    run = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=False, timeout=60)
    if run.returncode:
        raise BenchError(run.stderr.strip().splitlines()[-1])
    found: dict[str, str] = json.loads(run.stdout)
    return found
