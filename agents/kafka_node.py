"""What a one-node Kafka needs to start: Java, settings, formatted storage; and whether it answers."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from flowstream.errors import BrokerError

HOST = "127.0.0.1"

# Serial collector, first compiler only. Measured on two cores: ready half a second sooner, and over the first
# three million records a third to a half less CPU. A broker mostly hands bytes from file to socket, while the
# second compiler would compete for the cores with whatever is being measured.
JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)

# Replication, partition counts of internal topics, threads and buffers suit one small machine. The controller
# refuses a broker that comes back from a crash until the session of the crashed one has run out, hence 4 s in
# place of 9. Whatever decides about delivery (message size, retention, flushing) is left at Kafka's defaults.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={log_dirs}
num.partitions=4
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=16777216
"""


def find_java() -> str:
    """Return the path of ``java``, that of JAVA_HOME if set; BrokerError where there is none."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if java is None:
        where = f"JAVA_HOME={home} has no bin/java" if home else "java is not on the PATH"
        raise BrokerError(f"{where}: the local broker needs a JDK of 17 or newer")
    return java


def free_port() -> int:
    """Return a loopback port that nothing was bound to a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(port: int) -> None:
    """Raise BrokerError, naming the port and the fix, where something listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            fix = "stop what listens there, or choose another port (0 takes a free one)"
            raise BrokerError(f"port {port} on {HOST} is in use: {fix}") from None


def format_storage(command: Sequence[str], properties: Path, folder: Path) -> str:
    """Format ``folder/kraft`` unless it is, and return the cluster's id.

    ``command`` starts Java with the jars. Raises BrokerError where the JDK is too old or the tool fails.
    """
    kraft, id_path = folder / "kraft", folder / "cluster_id"
    if (kraft / "meta.properties").exists() and id_path.exists():
        return id_path.read_text()
    # The id is written when formatting is done, so storage without one is a formatting cut short.
    shutil.rmtree(kraft, ignore_errors=True)
    # Kafka's own form of an id; the tool would take a leading dash for an option.
    cluster_id = "f" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
    run = subprocess.run(  # noqa: S603
        [*command, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if run.returncode:
        if "UnsupportedClassVersionError" in run.stderr:
            raise BrokerError(f"{command[0]} is too old: the local broker needs a JDK of 17 or newer")
        raise BrokerError(f"Kafka's storage tool failed: {tail(run.stdout + run.stderr)}")
    id_path.write_text(cluster_id)
    return cluster_id


def cluster_at(port: int, timeout_s: float) -> str | None:
    """Return the id of the cluster that answers a Kafka client on the port, None while none does."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((HOST, port)):
            return None  # spares the client its loud complaints about a refused connection
    found: list[str] = []

    async def ask() -> None:
        client = AIOKafkaAdminClient(bootstrap_servers=f"{HOST}:{port}")
        try:
            await client.start()
            cluster = await client.describe_cluster()
            if cluster["brokers"]:
                found.append(cluster["cluster_id"])
        finally:
            await client.close()

    def run() -> None:
        try:
            asyncio.run(asyncio.wait_for(ask(), timeout_s))
        except (KafkaError, OSError, TimeoutError):
            found.clear()  # not ready yet; the caller asks again

    # In a thread of its own, because the caller may be inside a running event loop.
    asking = threading.Thread(target=run)
    asking.start()
    asking.join()
    return found[0] if found else None


def tail(text: str, lines: int = 3) -> str:
    """Return the last lines of a log as one, without the frames of Java's stack traces."""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    wanted = [line for line in said if not line.startswith("at ")] or ["it said nothing"]
    return " | ".join(wanted[-lines:])[-600:]
