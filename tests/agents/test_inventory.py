"""The tables of the inventory follow their topics: each record counts once it is taken, and nonsense counts nothing."""

from types import SimpleNamespace

import pytest

from agents.inventory import InventoryFollower
from flowstream import schemas
from flowstream.settings import Settings

LINK = {"exporter": "10.0.0.1", "if_index": 1, "name": "p1", "speed_bps": 1000, "edge": None, "node": "a", "lag": None}
CABLE = {"node": "a", "port": "p1", "peer": "b", "peer_port": "q1"}
OTHER_CABLE = {"node": "a", "port": "p2", "peer": "b", "peer_port": "q2"}


def records(stream, *rows):
    """Return fetched records, (key, row), of which None is a tombstone."""
    return {
        stream: [
            SimpleNamespace(key=key, value=row if row is None or isinstance(row, bytes)
                            else schemas.single_object_encode(stream, row), topic=stream, offset=n)
            for n, (key, row) in enumerate(rows)
        ]
    }  # fmt: skip


@pytest.fixture
def inventory():
    return InventoryFollower(Settings())


def test_both_tables_follow_their_topics(inventory):
    assert (len(inventory.links), len(inventory.topology)) == (0, 0)
    inventory._links.take(records("links", (b"1", LINK)))
    inventory._topology.take(records("topology", (b"1", CABLE), (b"2", OTHER_CABLE)))
    assert inventory.links.to_rows() == [LINK]
    assert inventory.topology.to_rows() == [CABLE, OTHER_CABLE]
    inventory._topology.take(records("topology", (b"1", None), (b"2", OTHER_CABLE | {"peer": "c"})))
    assert inventory.topology.to_rows() == [OTHER_CABLE | {"peer": "c"}]


def test_a_table_is_replaced_and_only_where_something_came(inventory):
    inventory._topology.take(records("topology", (b"1", CABLE)))
    before = inventory.topology
    inventory._topology.take({})
    assert inventory.topology is before
    inventory._topology.take(records("topology", (b"2", OTHER_CABLE)))
    assert inventory.topology is not before
    assert len(before) == 1


def test_what_is_no_row_of_the_topic_is_left_out(inventory):
    link = schemas.single_object_encode("links", LINK)
    wrong = CABLE | {"peer": ""}
    inventory._topology.take(records("topology", (b"1", b"junk"), (b"2", link), (b"3", wrong), (b"4", CABLE)))
    assert inventory.topology.to_rows() == [CABLE]


def test_rows_that_contradict_each_other_leave_the_table_as_it_was(inventory):
    inventory._topology.take(records("topology", (b"1", CABLE)))
    inventory._topology.take(records("topology", (b"2", CABLE | {"peer": "c"})))
    assert inventory.topology.to_rows() == [CABLE]
    inventory._topology.take(records("topology", (b"1", None)))
    assert inventory.topology.to_rows() == [CABLE | {"peer": "c"}]
