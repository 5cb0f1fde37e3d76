"""The fabric on paper: 2 spines, 4 leaves, 4 hosts; names, addresses, forwarding and inventory. Nothing here acts.

spine1        spine2          leaf N: l<N>s1 and l<N>s2 up, l<N>h to its host
 | | | |       | | | |        spine M: s<M>l1 .. s<M>l4 down
leaf1 .. leaf4 (each to both)
  |        |
  hA  ..   hD                 host N: 10.0.N.10 to .14, fd00:0:0:N::10
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

LEAVES = (1, 2, 3, 4)
SPINES = (1, 2)
PREFIX = "ftb-"  # of every namespace the test bed makes
FABRIC = PREFIX + "fabric"
SFLOW_PORT = 6343
COUNTERS_EVERY_S = 10


@dataclass(frozen=True, slots=True)
class Port:
    """An interface of a switch and what its cable leads to; ``peer_port`` is empty for a host's."""

    node: str
    name: str
    peer: str
    peer_port: str

    @property
    def edge(self) -> bool:
        """Whether a host is behind it."""
        return not self.peer_port


@dataclass(frozen=True, slots=True)
class Run:
    """What makes one run of the test bed differ from the next."""

    link_mbps: int = 100
    sampling: int = 64
    seed: int = 1
    duration_s: int = 40

    def __post_init__(self) -> None:
        for name, low, high in (
            ("link_mbps", 10, 1000),
            ("sampling", 1, 1 << 16),
            ("seed", 0, 2**31),
            ("duration_s", 20, 600),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; give {low} to {high}")

    @property
    def link_bps(self) -> int:
        """The speed of every link."""
        return self.link_mbps * 1_000_000


def host(leaf: int) -> str:
    """Return the name of the host behind a leaf: hA to hD."""
    return "h" + "ABCD"[leaf - 1]


def leaf_of(address: str) -> int:
    """Return the leaf that an address of a host is behind; ValueError for any other address."""
    parts = address.split(":" if ":" in address else ".")
    leaf = int(parts[3] if ":" in address else parts[2])
    if leaf not in LEAVES or address not in addresses(leaf):
        raise ValueError(f"{address} is no host's")
    return leaf


def addresses(leaf: int) -> tuple[str, ...]:
    """Return the addresses of a leaf's host, IPv4 first."""
    return (*(f"10.0.{leaf}.{n}" for n in range(10, 15)), f"fd00:0:0:{leaf}::10")


def agents() -> dict[str, str]:
    """Return the sFlow agent address of every switch."""
    return {f"leaf{n}": f"10.255.0.{10 + n}" for n in LEAVES} | {f"spine{n}": f"10.255.0.{20 + n}" for n in SPINES}


def ports() -> Iterator[Port]:
    """Yield every port of every switch, leaves first."""
    for leaf in LEAVES:
        for spine in SPINES:
            yield Port(f"leaf{leaf}", f"l{leaf}s{spine}", f"spine{spine}", f"s{spine}l{leaf}")
        yield Port(f"leaf{leaf}", f"l{leaf}h", host(leaf), "")
    for spine in SPINES:
        for leaf in LEAVES:
            yield Port(f"spine{spine}", f"s{spine}l{leaf}", f"leaf{leaf}", f"l{leaf}s{spine}")


def mac(node: str) -> str:
    """Return the Ethernet address by which a switch or a host is spoken to; no interface of Linux's has a switch's."""
    kind = {"l": 1, "s": 2, "h": 3}[node[0]]
    number = "ABCD".index(node[1]) + 1 if kind == 3 else int(node[-1])
    return f"02:00:00:00:{kind:02x}:{number:02x}"


def forwarding(node: str, basis: int) -> tuple[list[str], list[str]]:
    """Return the groups and flows (``ovs-ofctl -O OpenFlow15``) of a switch; ``basis`` varies what ECMP hashes to.

    The select group hashes by ``selection_method=hash``: Open vSwitch's default recirculates, and then sFlow does
    not know the output port.
    """
    drop = "priority=0,actions=drop"
    number = int(node[-1])
    if node.startswith("spine"):
        return [], [drop, *_down(node, {leaf: (f"s{number}l{leaf}", f"leaf{leaf}") for leaf in LEAVES})]
    fields = "fields(ip_src,ip_dst,ipv6_src,ipv6_dst,nw_proto,tcp_src,tcp_dst,udp_src,udp_dst)"
    buckets = "".join(
        f",bucket=bucket_id:{spine},actions=mod_dl_dst:{mac(f'spine{spine}')},output:l{number}s{spine}"
        for spine in SPINES
    )
    group = f"group_id=1,type=select,selection_method=hash,selection_method_param={basis},{fields}{buckets}"
    up = [f"priority=50,{family},actions=dec_ttl,mod_dl_src:{mac(node)},group:1" for family in ("ip", "ipv6")]
    return [group], [drop, *up, *_down(node, {number: (f"l{number}h", host(number))})]


def _down(node: str, towards: Mapping[int, tuple[str, str]]) -> Iterator[str]:
    for leaf, (port, neighbour) in towards.items():
        rewritten = f"actions=dec_ttl,mod_dl_src:{mac(node)},mod_dl_dst:{mac(neighbour)},output:{port}"
        yield f"priority=100,ip,nw_dst=10.0.{leaf}.0/24,{rewritten}"
        yield f"priority=100,ipv6,ipv6_dst=fd00:0:0:{leaf}::/64,{rewritten}"


def links_csv(if_index: Mapping[str, int], link_bps: int) -> str:
    """Return the table of links (``docs/inventory.md``) of a fabric whose interfaces have these numbers, by name."""
    agent = agents()
    rows = [
        f"{agent[p.node]},{if_index[p.name]},{p.name},{link_bps},{'true' if p.edge else 'false'},{p.node}"
        for p in ports()
    ]
    return "\n".join(["exporter,if_index,name,speed_bps,edge,node", *rows, ""])


def topology_csv() -> str:
    """Return the cables (``docs/inventory.md``), each once."""
    rows = [f"{p.node},{p.name},{p.peer},{p.peer_port}" for p in ports() if p.node.startswith("leaf")]
    return "\n".join(["node,port,peer,peer_port", *rows, ""])


def path(src_leaf: int, dst_leaf: int, spine: int) -> list[tuple[str, str, str]]:
    """Return the hops (switch, in port, out port) from one leaf's host to another's by way of a spine."""
    return [
        (f"leaf{src_leaf}", f"l{src_leaf}h", f"l{src_leaf}s{spine}"),
        (f"spine{spine}", f"s{spine}l{src_leaf}", f"s{spine}l{dst_leaf}"),
        (f"leaf{dst_leaf}", f"l{dst_leaf}s{spine}", f"l{dst_leaf}h"),
    ]
