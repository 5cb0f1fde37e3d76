"""The fabric in network namespaces: Open vSwitch's userspace datapath, built and removed.

Each cable is two ports of Open vSwitch (taps, because a tap's speed can be set and a veth's is always 10 Gb/s) joined
by a Linux bridge; a host's is a tap and a veth. A token bucket on each holds it to its speed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

from agents.broker import LocalBroker
from deploy.testbed import plan
from deploy.testbed.plan import FABRIC, Run
from deploy.testbed.processes import TestbedError, end, enter, inside, run, start, started, until

# One test bed per machine: names of namespaces are the machine's, so what was started is written down there, too.
FOLDER = Path("/var/lib/flowstream-testbed")
PACKAGES = {
    "ovs-vswitchd": "openvswitch-switch",
    "iperf3": "iperf3",
    "ip": "iproute2",
    "ethtool": "ethtool",
    "tcpdump": "tcpdump",
}
TAP_FRAMES = 10_000  # that wait for a switch; at 100 Mb/s a second's worth of full ones
OVS_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


def require(packages: dict[str, str] | None = None) -> None:
    """Raise TestbedError, naming the Debian packages, unless this can run here."""
    if os.geteuid():
        raise TestbedError("the test bed makes network namespaces: run it as root")
    wanted = PACKAGES if packages is None else packages
    missing = sorted({package for command, package in wanted.items() if shutil.which(command) is None})
    if missing:
        raise TestbedError(f"packages are missing: apt-get install --no-install-recommends {' '.join(missing)}")


def claim() -> None:
    """Begin: from here on ``down`` is called for. TestbedError where one is there already, or packages are not."""
    require()
    if FOLDER.exists() or any(name.startswith(plan.PREFIX) for name in _namespaces()):
        raise TestbedError("a test bed is up already, or was not removed: make testbed-down does that")
    FOLDER.mkdir(mode=0o700)


def up(settings: Run) -> None:
    """Build the fabric and enter its namespace."""
    for name in (FABRIC, *(plan.PREFIX + plan.host(leaf) for leaf in plan.LEAVES)):
        (FOLDER / f"{name}.netns").touch()  # before it is made: what is written down is removed, come what may
        run("ip", "netns", "add", name)
        run(*inside(name, "ip", "link", "set", "lo", "up"))
    enter(FABRIC)
    # Interfaces of the fabric are wires: with addresses of their own they would send neighbour discovery.
    run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    _start_switches()
    for node, agent in plan.agents().items():
        _switch(node, agent, settings)
    for port in plan.ports():
        _tap(port.name, settings)
    for port in plan.ports():
        if port.edge:
            _host(port, settings)
        elif port.node.startswith("leaf"):
            _cable(port.name, port.peer_port)


def down() -> list[str]:
    """End what was started and remove the namespaces and files; return what was there. Nothing there is no error."""
    names = started(FOLDER)
    end(FOLDER, [name for name in names if name not in {"ovsdb-server", "ovs-vswitchd"}])
    broker = LocalBroker(FOLDER / "broker")
    if broker.status().running:
        broker.stop()
        names.append("broker")
    end(FOLDER, ["ovs-vswitchd"])
    end(FOLDER, ["ovsdb-server"])
    mine = sorted(path.stem for path in FOLDER.glob("*.netns"))
    for name in mine:
        if name in _namespaces():
            run("ip", "netns", "delete", name)
        (FOLDER / f"{name}.netns").unlink()
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(FOLDER)
    return names + mine


def if_indices() -> dict[str, int]:
    """Return the number of every interface of the fabric, by name; from inside its namespace."""
    return {link["ifname"]: link["ifindex"] for link in json.loads(run("ip", "-j", "link", "show"))}


def frames_lost() -> int:
    """Return how many frames the switches did not take off their ports so far: they were too slow for them."""
    stats = {link["ifname"]: link["stats64"]["tx"] for link in json.loads(run("ip", "-j", "-s", "link", "show"))}
    return sum(stats[port.name]["dropped"] for port in plan.ports())


def _namespaces() -> set[str]:
    return {entry["name"] for entry in json.loads(run("ip", "-j", "netns", "list") or "[]")}


def _start_switches() -> None:
    database, socket = FOLDER / "conf.db", FOLDER / "db.sock"
    run("ovsdb-tool", "create", str(database), OVS_SCHEMA)
    env = {"OVS_RUNDIR": str(FOLDER), "OVS_DBDIR": str(FOLDER), "OVS_LOGDIR": str(FOLDER)}
    os.environ.update(env)  # for ovs-vsctl and ovs-ofctl, too
    # No pid files of their own: they take the place of ours, and say nothing of when the process was born.
    start(FOLDER, "ovsdb-server", ["ovsdb-server", str(database), f"--remote=punix:{socket}"])
    until(socket.exists, "ovsdb-server")
    _vsctl("--no-wait", "init")
    control = FOLDER / "vswitchd.ctl"
    # Before everything else on a busy machine: frames that it does not take in time are lost as on no real switch.
    start(FOLDER, "ovs-vswitchd", ["nice", "-n", "-15", "ovs-vswitchd", f"unix:{socket}", f"--unixctl={control}"])
    until(control.exists, "ovs-vswitchd")


def _vsctl(*arguments: str) -> None:
    run("ovs-vsctl", "--timeout=20", f"--db=unix:{FOLDER}/db.sock", *arguments)


def _switch(node: str, agent: str, settings: Run) -> None:
    ports = [port.name for port in plan.ports() if port.node == node]
    command = ["add-br", node, "--", "set", "bridge", node, "datapath_type=netdev", "fail-mode=secure"]
    command += ["protocols=OpenFlow15"]
    for name in ports:
        command += ["--", "add-port", node, name, "--", "set", "interface", name, "type=internal"]
    sflow = [f'agent="{agent}"', f'target="127.0.0.1:{plan.SFLOW_PORT}"', "header=128"]
    sflow += [f"sampling={settings.sampling}", f"polling={plan.COUNTERS_EVERY_S}"]
    _vsctl(*command, "--", "--id=@s", "create", "sflow", *sflow, "--", "set", "bridge", node, "sflow=@s")
    groups, flows = plan.forwarding(node, settings.seed)
    for group in groups:
        _ofctl("add-group", node, group)
    for flow in flows:
        _ofctl("add-flow", node, flow)


def _ofctl(command: str, node: str, text: str) -> None:
    run("ovs-ofctl", "-O", "OpenFlow15", command, f"unix:{FOLDER}/{node}.mgmt", text)


def _tap(name: str, settings: Run) -> None:
    run("ethtool", "-s", name, "speed", str(settings.link_mbps), "duplex", "full", "autoneg", "off")
    run("ip", "link", "set", name, "txqueuelen", str(TAP_FRAMES), "up")
    _shape(name, settings)


def _shape(name: str, settings: Run, namespace: str = FABRIC) -> None:
    # A bucket of 5 ms: less than a tick's worth of bytes would not reach the rate.
    burst = max(16_000, settings.link_bps // 8 // 200)
    bucket = ["rate", f"{settings.link_mbps}mbit", "burst", str(burst), "latency", "50ms"]
    run(*inside(namespace, "tc", "qdisc", "add", "dev", name, "root", "tbf", *bucket))


def _cable(one: str, other: str) -> None:
    bridge = f"b-{one}"
    run("ip", "link", "add", bridge, "type", "bridge", "stp_state", "0", "mcast_snooping", "0")
    for name in one, other:
        run("ip", "link", "set", name, "master", bridge)
        # Both ends carry addresses of routers that no port has: nothing is to be learnt from them.
        run("ip", "link", "set", name, "type", "bridge_slave", "learning", "off", "flood", "on")
    run("ip", "link", "set", bridge, "up")


def _host(port: plan.Port, settings: Run) -> None:
    leaf = int(port.node[-1])
    namespace, outer = plan.PREFIX + port.peer, f"v-{port.peer}"
    run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    run("ip", "link", "set", outer, "up")
    _cable(port.name, outer)
    _shape(outer, settings)
    in_host = inside(namespace)
    # Frames are to be as they are on a wire: none of 64 kB, and with checksums.
    run(*in_host, "ethtool", "-K", "eth0", "tso", "off", "gso", "off", "gro", "off", "tx", "off", "rx", "off")
    for name, value in ("accept_dad", 0), ("accept_ra", 0), ("router_solicitations", 0), ("autoconf", 0):
        run(*in_host, "sysctl", "-qw", f"net.ipv6.conf.eth0.{name}={value}")
    run(*in_host, "ip", "link", "set", "eth0", "address", plan.mac(port.peer), "addrgenmode", "none", "up")
    for address in plan.addresses(leaf):
        run(*in_host, "ip", "address", "add", f"{address}/{'64' if ':' in address else '24'}", "dev", "eth0")
    for gateway in f"10.0.{leaf}.1", f"fd00:0:0:{leaf}::1":
        neighbour = ["lladdr", plan.mac(port.node), "dev", "eth0", "nud", "permanent"]
        run(*in_host, "ip", "neighbour", "add", gateway, *neighbour)
        run(*in_host, "ip", "-6" if ":" in gateway else "-4", "route", "add", "default", "via", gateway)
