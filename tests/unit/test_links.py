"""Laws of the link table."""

import io
import json
from pathlib import Path

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import address_words
from flowstream.errors import SettingsError
from flowstream.links import LinkTable, link_key

ROOT = Path(__file__).resolve().parents[2]
HEADER = "exporter,if_index,name,speed_bps,edge\n"

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str).filter(lambda text: text != "::")
records = st.builds(
    lambda exporter, if_index, name, speed, edge, node, lag: {
        "exporter": exporter, "if_index": if_index, "name": name, "speed_bps": speed, "edge": edge, "node": node,
        "lag": None if lag == if_index else lag,
    },
    st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1", "::1"]) | addresses,
    st.integers(1, 5) | st.integers(1, 2**32 - 1),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=10),
    st.integers(1, 2**63 - 1),
    st.sampled_from([None, True, False]),
    st.sampled_from(["", "leaf1"]),
    st.none() | st.integers(1, 2**32 - 1),
)  # fmt: skip
tables = st.lists(records, max_size=30, unique_by=lambda r: (address_words(r["exporter"]), r["if_index"]))


def looked_up(table, pairs):
    exporter = np.array([address_words(a) for a, _ in pairs], np.uint64).reshape(-1, 2)
    speed, edge = table.lookup(exporter, np.array([i for _, i in pairs], np.uint32))
    assert (speed.dtype, edge.dtype) == (np.int64, np.int8)
    return list(zip(speed.tolist(), edge.tolist(), strict=True))


@given(tables, st.lists(st.tuples(addresses, st.integers(0, 2**32 - 1)), max_size=10))
def test_a_lookup_finds_every_row_and_nothing_else(rows, strangers):
    table = LinkTable.from_rows(rows)
    known = {
        (address_words(r["exporter"]), r["if_index"]): (
            r["speed_bps"],
            -1 if r["edge"] is None else int(r["edge"]),
        )
        for r in rows
    }
    near = [(r["exporter"], r["if_index"] ^ 1) for r in rows]
    pairs = [(r["exporter"], r["if_index"]) for r in rows] + near + strangers
    assert looked_up(table, pairs) == [known.get((address_words(a), i), (0, -1)) for a, i in pairs]


@given(tables)
def test_rows_come_back_in_address_order_whatever_their_order_was(rows):
    table = LinkTable.from_rows(rows)
    assert len(table) == len(rows)
    assert table.to_rows() == LinkTable.from_rows(reversed(rows)).to_rows()
    places = [(address_words(r["exporter"]), r["if_index"]) for r in table.to_rows()]
    assert places == sorted(places)
    assert LinkTable.from_rows(table.to_rows()).to_rows() == table.to_rows()


@given(tables, tables)
def test_upserting_is_a_dictionary_update_and_leaves_the_old_table_alone(rows, more):
    table = LinkTable.from_rows(rows)
    before = table.to_rows()
    merged = {link_key(r): r for r in rows} | {link_key(r): r for r in more}
    assert table.upserted(*more).to_rows() == LinkTable.from_rows(merged.values()).to_rows()
    assert table.to_rows() == before


@given(tables)
def test_a_tombstone_takes_out_its_row_only(rows):
    table = LinkTable.from_rows(rows)
    for row in rows:
        left = table.without(link_key(row)).to_rows()
        assert left == [r for r in table.to_rows() if link_key(r) != link_key(row)]
    assert table.without("192.0.2.99|1|x").to_rows() == table.to_rows()


@given(tables)
def test_records_fit_the_schema_of_the_topic(rows):
    schema = fastavro.parse_schema(json.loads((ROOT / "avro_schemas/links.v1.avsc").read_text()))
    for row in LinkTable.from_rows(rows).to_rows():
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schema, row, strict=True)
        stream.seek(0)
        assert fastavro.schemaless_reader(stream, schema, None) == row


def test_every_spelling_of_an_address_has_one_key():
    row = {"if_index": 7, "name": "", "speed_bps": 1}
    spellings = ["2001:DB8:0:0::1", "2001:db8::1", "2001:0db8:0000:0000:0000:0000:0000:0001"]
    assert {link_key(row | {"exporter": text}) for text in spellings} == {"2001:db8::1|7"}


def test_csv_may_leave_edge_out_be_quoted_have_a_mark_blank_lines_and_columns_in_any_order():
    plain = LinkTable.from_csv("exporter,if_index,name,speed_bps\n10.0.0.1,3,x,1000\n")
    row = {"exporter": "10.0.0.1", "if_index": 3, "name": "x", "speed_bps": 1000, "edge": None, "node": "", "lag": None}
    assert plain.to_rows() == [row]
    odd = '\ufefflag,speed_bps, name ,edge,node,if_index,exporter\r\n\r\n9,1000,"Ethernet1, up",TRUE,a,3, 10.0.0.1 \r\n'
    assert LinkTable.from_csv(odd).to_rows() == [row | {"name": "Ethernet1, up", "edge": True, "node": "a", "lag": 9}]


def test_an_empty_table_knows_nothing():
    for table in (LinkTable(), LinkTable.from_csv(HEADER), LinkTable.from_rows([])):
        assert len(table) == 0
        assert table.to_rows() == []
        assert looked_up(table, [("10.0.0.1", 3)]) == [(0, -1)]


def test_the_links_of_the_test_bed_are_twenty_of_100_mbps_with_four_edges():
    table = LinkTable.from_path(ROOT / "tests/data/clos_links.csv")
    rows = table.to_rows()
    assert [r["speed_bps"] for r in rows] == [100_000_000] * 20
    assert [(r["exporter"], r["name"]) for r in rows if r["edge"]] == [
        (f"10.255.0.1{n}", f"l{n}h") for n in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("10.0.0,3,x,1000,true", ["column exporter", "'10.0.0'", "192.0.2.1"]),
        ("::,3,x,1000,true", ["column exporter", "'::'"]),
        ("10.0.0.1,0,x,1000,true", ["column if_index", "'0'", "1 to 4294967295"]),
        ("10.0.0.1,4294967296,x,1000,true", ["column if_index", "'4294967296'"]),
        ("10.0.0.1,eth0,x,1000,true", ["column if_index", "'eth0'"]),
        ("10.0.0.1,3,x,10G,true", ["column speed_bps", "'10G'", "10000000000"]),
        ("10.0.0.1,3,x,0,true", ["column speed_bps", "'0'"]),
        ("10.0.0.1,3,x,-5,true", ["column speed_bps", "'-5'"]),
        ("10.0.0.1,3,x,1e9,true", ["column speed_bps", "'1e9'"]),
        ("10.0.0.1,3,x,1_000,true", ["column speed_bps", "'1_000'"]),
        ("10.0.0.1,3,x,\u0661\u0662,true", ["column speed_bps"]),
        ("10.0.0.1,3,x,9223372036854775808,true", ["column speed_bps"]),
        ("10.0.0.1,3,x,,true", ["column speed_bps", "''"]),
        ("10.0.0.1,3,x,1000,yes", ["column edge", "'yes'", "true nor false"]),
        ("10.0.0.1,3,x,1000", ["4 columns", "5"]),
        ("10.0.0.9,3,x,1000,true", ["column if_index", "10.0.0.9", "already on line 2"]),
        ('10.0.0.1,3,"x,1000,true', ["not CSV"]),
    ],
)
def test_an_error_in_a_file_names_file_line_column_value_and_fix(line, names):
    text = HEADER + "10.0.0.9,3,x,1000,true\n" + line + "\n"
    with pytest.raises(SettingsError) as raised:
        LinkTable.from_csv(text, "fabric.csv")
    for name in ["fabric.csv, line 3", *names]:
        assert name in str(raised.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["line 1", "exporter is missing"]),
        ("exporter,if_index,name\n", ["column speed_bps is missing"]),
        ("exporter,if_index,name,speed_bps,egde\n", ["column 5", "'egde'"]),
        ("exporter,if_index,name,speed_bps,name\n", ["column 5", "'name'"]),
    ],
)
def test_an_error_in_the_header_names_the_column(text, names):
    with pytest.raises(SettingsError) as raised:
        LinkTable.from_csv(text)
    assert all(name in str(raised.value) for name in names)


def test_a_file_that_cannot_be_read_is_a_settings_error(tmp_path):
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + b"10.0.0.1,3,\xe9,1000,true\n")
    for name in ("absent.csv", "latin.csv"):
        with pytest.raises(SettingsError, match=name):
            LinkTable.from_path(tmp_path / name)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"speed_bps": 1.5}, "speed_bps"),
        ({"speed_bps": True}, "speed_bps"),
        ({"if_index": None}, "if_index"),
        ({"exporter": 167772161}, "exporter"),
        ({"edge": 1.0}, "edge"),
        ({"lag": 3}, "lag"),
        ({"lag": "po1"}, "lag"),
    ],
)
def test_an_error_in_a_record_names_the_row_and_the_column(wrong, named):
    row = {"exporter": "10.0.0.1", "if_index": 3, "name": "x", "speed_bps": 1000, "edge": None}
    with pytest.raises(SettingsError, match=rf"row 2.*{named}"):
        LinkTable.from_rows([row | {"if_index": 4}, row | wrong])


@given(st.text(max_size=200) | st.text(max_size=100).map(lambda t: HEADER + t))
def test_no_text_makes_anything_but_a_table_or_a_settings_error(text):
    try:
        LinkTable.from_csv(text)
    except SettingsError:
        return
