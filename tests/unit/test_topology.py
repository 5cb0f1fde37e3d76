"""Laws of the topology: cables by the names of their ends, from CSV, records, and other tools' JSON."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.csv_rows import to_text
from flowstream.errors import SettingsError
from flowstream.links import LinkTable
from flowstream.topology import COLUMNS, Topology, cable_key
from flowstream.topology_json import _OUTSIDE, from_json

DATA = Path(__file__).resolve().parents[1] / "data"
HEADER = ",".join(COLUMNS) + "\n"
LETTERS = st.characters(codec="utf-8", exclude_characters="|", exclude_categories=["Cc", "Zs", "Zl", "Zp"])
NAMES = st.text(LETTERS, min_size=1, max_size=6)


@st.composite
def fabrics(draw):
    """Rows in which every named port has one cable; some lead to a host whose port has no name."""
    ports = draw(st.lists(st.tuples(NAMES, NAMES), unique=True, max_size=20))
    rows = []
    while len(ports) > 1:
        near = ports.pop()
        far = (draw(NAMES), "") if draw(st.booleans()) else ports.pop()
        rows.append(dict(zip(COLUMNS, (*near, *far), strict=True)))
    # containerlab's names of what is outside are no nodes in its JSON.
    return [row for row in rows if not {row["node"], row["peer"]} & set(_OUTSIDE)]


def turned(row):
    return {"node": row["peer"], "port": row["peer_port"], "peer": row["node"], "peer_port": row["port"]}


@given(fabrics(), st.randoms())
def test_order_and_direction_of_cables_say_nothing(rows, random):
    topology = Topology.from_rows(rows)
    mixed = [turned(row) if random.random() < 0.5 else row for row in random.sample(rows, len(rows))]
    assert Topology.from_rows(mixed).to_rows() == topology.to_rows()
    assert len(topology) == len(rows)
    assert sorted(map(cable_key, mixed)) == sorted(map(cable_key, rows))
    assert len(set(map(cable_key, rows))) == len(rows)


@given(fabrics())
def test_a_port_s_peer_is_at_the_other_end_and_its_peer_is_the_port(rows):
    topology = Topology.from_rows(rows)
    for row in rows:
        assert topology.peer(row["node"], row["port"]) == (row["peer"], row["peer_port"])
        if row["peer_port"]:
            assert topology.peer(row["peer"], row["peer_port"]) == (row["node"], row["port"])
        else:
            assert topology.peer(row["peer"], "") is None
    assert topology.peer("nobody's", "port") is None
    assert set(topology.nodes) == {row[end] for row in rows for end in ("node", "peer")}


@given(fabrics())
def test_rows_and_csv_come_back_as_they_went(rows):
    topology = Topology.from_rows(rows)
    assert Topology.from_rows(topology.to_rows()).to_rows() == topology.to_rows()
    assert Topology.from_csv(to_text(COLUMNS, topology.to_rows())).to_rows() == topology.to_rows()


@given(fabrics().map(lambda rows: [row for row in rows if row["peer_port"]]))
def test_the_json_of_other_tools_gives_the_same_topology(rows):
    sflow_rt = {"links": {f"L{n}": {
        "node1": r["node"], "port1": r["port"], "node2": r["peer"], "port2": r["peer_port"],
    } for n, r in enumerate(rows)}}  # fmt: skip
    ends = [
        {"a": {"node": r["node"], "interface": r["port"], "mac": ""},
         "z": {"node": r["peer"], "interface": r["peer_port"], "mac": ""}}
        for r in rows
    ]  # fmt: skip
    outside = {"a": {"node": "x", "interface": "eth1"}, "z": {"node": "host", "interface": "veth"}}
    expected = Topology.from_rows(rows).to_rows()
    for document in (sflow_rt, {"links": [{"endpoints": e} for e in (*ends, outside)]}, {"links": ends}):
        assert from_json(json.dumps(document)).to_rows() == expected


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("a,1,b", ["3 columns", "4"]),
        (",1,b,2", ["column node", "is empty"]),
        ("a,1,,2", ["column peer", "is empty"]),
        ("a,,b,", ["neither end"]),
        ("a,1,a,1", ["port 1 of a", "itself"]),
        ("a,1,c,1", ["port 1 of c", "fabric.csv, line 2", "keep one"]),
        ("a|b,1,d,1", ["column node", "'a|b'"]),
    ],
)
def test_an_error_in_a_file_names_line_value_and_fix(line, names):
    with pytest.raises(SettingsError) as raised:
        Topology.from_csv(f"{HEADER}c,1,d,2\n{line}\n", "fabric.csv")
    for name in ["fabric.csv, line 3", *names]:
        assert name in str(raised.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{", ["not JSON"]),
        ("[]", ['no "links"']),
        ('{"links": 3}', ['no "links"']),
        ('{"links": {"L1": {"node1": "a", "port1": "1", "node2": "b"}}}', ["link 'L1'", '"port2"']),
        ('{"links": {"L1": null}}', ["link 'L1'", '"node1"']),
        ('{"links": [{"endpoints": ["a:1", "b:1"]}]}', ["link 1", 'ends "a" and "z"']),
        ('{"links": [{"a": {"node": 1}, "z": {"node": "b"}}]}', ["link 1", '"node"']),
        (
            json.dumps(
                {
                    "links": {
                        name: dict(zip(("node1", "port1", "node2", "port2"), ends, strict=True))
                        for name, ends in (("L1", "a1b1"), ("L2", "c1a1"))
                    }
                }
            ),
            ["link 'L2': port 1 of a", "fabric.json, link 'L1'", "keep one"],
        ),
        (
            '{"links": [{"a": {"node": "a|b", "interface": "1"}, "z": {"node": "c", "interface": "1"}}]}',
            ["fabric.json, link 1, column node", "'a|b'"],
        ),
    ],
)
def test_an_error_in_json_names_the_link_and_the_field(text, names):
    with pytest.raises(SettingsError) as raised:
        from_json(text, "fabric.json")
    for name in ["fabric.json", *names]:
        assert name in str(raised.value)


@given(st.text(max_size=200) | st.text(max_size=100).map(lambda t: HEADER + t))
def test_no_text_makes_anything_but_a_topology_or_a_settings_error(text):
    for read in (Topology.from_csv, from_json):
        try:
            read(text)
        except SettingsError:
            continue


def test_every_port_of_the_recorded_fabric_is_in_the_table_of_links_and_has_the_recorded_neighbour():
    topology = Topology.from_path(DATA / "clos_topology.csv")
    links = LinkTable.from_path(DATA / "clos_links.csv").to_rows()
    numbered = {(row["node"], row["name"]): row["if_index"] for row in links}
    for port in json.loads((DATA / "clos_60s_topology.json").read_text())["ports"]:
        peer = topology.peer(port["switch"], port["ifname"])
        assert (peer.node, numbered.get(peer)) == (port["peer"], port["peer_ifindex"])
