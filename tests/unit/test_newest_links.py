"""Which links are fullest now: of all that was said last the first of the order that is promised, and nothing else."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import cmp_to_key
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.newest_links import BY, Wanted, newest_links

NODES = {"10.0.0.2": "leaf2", "10.0.0.10": "leaf1", "192.0.2.1": "", "2001:db8::1": "spine1"}
MEASURES = ("share", "rate_bps", "low_bps", "high_bps", "samples")
Port = tuple[str, int, str]  # exporter, ifIndex, direction

few = st.integers(0, 3)  # so that much is equal
ports = st.tuples(st.sampled_from([*NODES]), st.integers(9, 11), st.sampled_from(["in", "out"]))
loads = st.fixed_dictionaries({
    "rate_bps": st.none() | few, "low_bps": few, "high_bps": few, "samples": few,
    "share": st.none() | few.map(lambda n: n / 4), "onset_ns": st.none() | few,
})  # fmt: skip
FIGURES = ("p95_bps", "p95_low_bps", "p95_high_bps", "max_bps", "max_low_bps", "max_high_bps")
percentiles = st.fixed_dictionaries(dict.fromkeys(FIGURES, few) | {"share": st.none() | few.map(lambda n: n / 4)})


def label(port: Port) -> dict[str, Any]:
    return {"if_index": port[1], "direction": port[2], "name": f"port{port[1] % 2}", "link_bps": None}


def uses(told: dict[Port, dict[str, Any]]) -> list[dict[str, Any]]:
    """One record for each of the exporters, with their ports, which may be none."""
    return [
        {
            "exporter": exporter, "node": node, "window_start_ns": len(exporter), "window_end_ns": len(exporter) + 10,
            "late_bytes": 0, "interfaces": [{**label(p), **load} for p, load in told.items() if p[0] == exporter],
        }
        for exporter, node in NODES.items()
    ]  # fmt: skip


def periods(told: dict[tuple[Port, str], dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "exporter": exporter, "node": node, "period": period, "window_start_ns": 7, "window_end_ns": 9,
            "interfaces": [{**label(p), **load} for (p, of), load in told.items() if (p[0], of) == (exporter, period)],
        }
        for exporter, node in NODES.items()
        for period in ("hour", "day")
    ]  # fmt: skip


def place(row: dict[str, Any]) -> Port:
    return row["exporter"], row["if_index"], row["direction"]


def goes_before(one: dict[str, Any], other: dict[str, Any], by: str) -> int:
    """Compare two rows measure by measure: the first that differs decides, and what is not there is last."""
    measures = [by, "share", "rate_bps", "high_bps"]
    pairs: list[tuple[Any, Any]] = [(one[m], other[m]) for m in measures]
    if by in ("hour", "day"):
        of = [[None, None] if row[by] is None else [row[by]["share"], row[by]["p95_bps"]] for row in (one, other)]
        pairs[:1] = list(zip(*of, strict=True))
    for mine, theirs in pairs:
        if mine != theirs:
            return -1 if theirs is None or (mine is not None and mine > theirs) else 1
    places = [(int(ipaddress.ip_address(r["exporter"])), r["if_index"], r["direction"] == "out") for r in (one, other)]
    return -1 if places[0] < places[1] else 1


@given(st.dictionaries(ports, loads), st.dictionaries(st.tuples(ports, st.sampled_from(["hour", "day"])), percentiles),
       st.sampled_from(BY), st.integers(1, 8))  # fmt: skip
def test_the_first_of_all_in_the_order_that_is_promised_are_given(told, over, by: str, count: int) -> None:
    found, every = newest_links(uses(told), periods(over), Wanted(by=by, count=1000))
    assert {place(row) for row in every} == {*told, *(port for port, _ in over)}
    assert found == len(every)
    expected = sorted(every, key=cmp_to_key(lambda one, other: goes_before(one, other, by)))
    assert [place(row) for row in every] == [place(row) for row in expected]
    assert newest_links(uses(told), periods(over), Wanted(by=by, count=count)) == (found, every[:count])
    for row in every:
        load = told.get(place(row))
        if load is None:
            assert (row["rate_bps"], row["samples"], row["share"], row["onset_ns"]) == (0, 0, None, None)
        else:
            assert {name: row[name] for name in load} == load
        assert (row["node"], row["window_start_ns"]) == (NODES[row["exporter"]], len(row["exporter"]))
        for period in ("hour", "day"):
            wanted = over.get((place(row), period))
            assert row[period] == (None if wanted is None else {"window_start_ns": 7, **wanted})


@given(st.lists(st.dictionaries(ports, loads), min_size=2, max_size=2), st.sampled_from(BY), st.randoms())
def test_the_order_of_what_was_said_does_not_matter(told: list[dict[Port, Any]], by: str, chance: Any) -> None:
    records, over = uses(told[0]), periods({(p, "day"): dict.fromkeys(FIGURES, 1) | {"share": None} for p in told[1]})
    expected = newest_links(records, over, Wanted(by=by))
    chance.shuffle(records)
    chance.shuffle(over)
    assert newest_links(records, over, Wanted(by=by)) == expected


LOAD = {"rate_bps": 1, "low_bps": 0, "high_bps": 2, "samples": 9, "share": 0.5, "onset_ns": None}
ALL = [(exporter, if_index, way) for exporter in NODES for if_index in (9, 10, 11) for way in ("in", "out")]


def chosen(exporter: str = "", interface: str = "") -> set[Port]:
    said = uses(dict.fromkeys(ALL, LOAD))
    return {place(row) for row in newest_links(said, [], Wanted(exporter, interface, count=1000))[1]}


def of(exporters: Iterable[str], interfaces: Iterable[int]) -> set[Port]:
    return {port for port in ALL if port[0] in set(exporters) and port[1] in set(interfaces)}


@pytest.mark.parametrize(
    ("exporter", "exporters"),
    [
        ("", NODES), ("leaf1", ["10.0.0.10"]), ("10.0.0.2", ["10.0.0.2"]), ("::ffff:10.0.0.2", ["10.0.0.2"]),
        ("2001:DB8:0::1", ["2001:db8::1"]), ("leaf", []), ("10.0.0.3", []),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("interface", "indices"), [("", (9, 10, 11)), ("9", (9,)), ("port1", (9, 11)), ("port", ())])
def test_an_exporter_is_named_by_address_or_node_and_an_interface_by_index_or_name(
    exporter: str, exporters: Iterable[str], interface: str, indices: Iterable[int]
) -> None:
    assert chosen(exporter, interface) == of(exporters, indices)


def test_the_measures_are_those_of_the_rows() -> None:
    _, rows = newest_links(uses(dict.fromkeys(ALL, LOAD)), [], Wanted())
    assert set(BY) == {*MEASURES, "hour", "day"} <= set(rows[0])
