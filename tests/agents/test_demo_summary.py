"""The tables of the demo say what was published: a rate with its interval, and null as what it means."""

from __future__ import annotations

from typing import Any

import pytest
from rich.table import Table

from agents.demo_summary import Seen, elephants, shared_links

FLOW = {"src_addr": "10.0.0.1", "dst_addr": "10.0.0.2", "proto": 6, "src_port": 1, "dst_port": 2}


def rows(table: Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.cells for column in table.columns), strict=True))


def record(out_if: int, rate_bps: float | None, **more: Any) -> dict[str, Any]:
    share = None if rate_bps is None else rate_bps / 1e8
    return {
        "exporter": "192.0.2.1", "out_if": out_if, "node": "leaf1", "port": f"p{out_if}", "rate_bps": rate_bps,
        "low_bps": 1e6, "high_bps": 9e7, "share": share, "elephants": [{"flow": FLOW}] * 2, "idle_links": [],
    } | more  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
def test_each_shared_link_is_shown_in_its_fullest_window_with_the_interval_of_that(turned: bool) -> None:
    told = [
        record(1, 2e7), record(1, 3e7, low_bps=2e7, high_bps=4e7, idle_links=[{"port": "p3"}, {"port": "p4"}]),
        record(1, None), record(2, 5e7, node=None, port=None), record(7, None),
    ]  # fmt: skip
    flows = "\n".join(["tcp 10.0.0.1:1 > 10.0.0.2:2"] * 2)
    assert rows(shared_links(told[::-1] if turned else told)) == [
        ("192.0.2.1[2]", "50.0 Mb/s", "1.0 Mb/s to 90.0 Mb/s", "50%", flows, "none"),
        (r"leaf1\[p1]", "30.0 Mb/s", "20.0 Mb/s to 40.0 Mb/s", "30%", flows, "p3, p4"),
    ]


@pytest.mark.parametrize(
    ("rates", "shown"),
    [([2e7, None, 3e7], ("30.0 Mb/s", "1.0 Mb/s to 90.0 Mb/s", "30%")),
     ([None], ("18.0 Mb/s", "1.0 Mb/s to 80.0 Mb/s", "18%"))],
)  # fmt: skip
def test_an_elephant_is_shown_at_its_highest_named_rate_that_of_its_onset_where_no_update_has_one(
    rates: list[float | None], shown: tuple[str, ...]
) -> None:
    onset = {"flow": FLOW, "event": "onset", "time_ns": 10**9, "low_bps": 1e6, "high_bps": 8e7, "rate_bps": 1.8e7}
    told = {"onset": onset | {"share": 0.18}}
    for n, rate in enumerate(rates):
        share = None if rate is None else rate / 1e8
        told[str(n)] = onset | {"event": "update", "rate_bps": rate, "high_bps": 9e7, "share": share}
    (row,) = rows(elephants(Seen({"elephants": told})))
    assert row == ("tcp 10.0.0.1:1 > 10.0.0.2:2", "00:00:01.000", *shown, "not known")


def test_there_are_no_links_where_none_were_shared() -> None:
    assert rows(shared_links([])) == []
