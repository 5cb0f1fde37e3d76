"""The newest link use over HTTP: of all that was said of interfaces the last, filtered, ranked and bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agents.bounded_http import ANSWER_BYTES_MAX
from agents.newest_table import NewestTable
from agents.web_links import LinkViews
from agents.web_query import COUNT_MAX
from flowstream.link_use import LinkUse
from flowstream.links import LinkTable
from flowstream.newest_links import BY
from flowstream.operators import Result
from flowstream.partial_blocks import partition_of
from flowstream.partials import Cube
from flowstream.settings import Settings, load
from tests.agents.fakes import answer, holding, newest_table
from tests.builders import T0_NS
from tests.link_rows import SECOND, loads, merged, said, sample

HOUR = 3600
SETTINGS = load(topics={"partitions": 3}, analyses=["links"], link_use={"for_intervals": 1})
PARTITION = int(partition_of(int(Cube.INTERFACE), 3))
LINKS = LinkTable.from_csv(
    "exporter,if_index,name,speed_bps,node\n"
    "192.0.2.1,1,to-core,100000000,leaf1\n192.0.2.1,2,to-host,1000000000,leaf1\n192.0.2.9,7,,1000000,\n"
)
FIGURES = ("p95_bps", "p95_low_bps", "p95_high_bps", "max_bps", "max_low_bps", "max_high_bps")
NAME_MAX = "x" * 255  # of an ifName or ifAlias, in SNMP


def told(*, an_hour: bool = False) -> list[Result]:
    """Three intervals: port 1 of leaf1 over its threshold, port 2 in the first alone; another exporter in all."""
    rows = loads([0.5, 0.7, 0.9])
    rows += [sample(T0_NS + k * SECOND, 1000, 500, in_if=2, out_if=0x3FFF_FFFF) for k in range(9)]
    rows += [sample(T0_NS + k * SECOND, 100, 10, exporter="192.0.2.9", in_if=7, out_if=8) for k in range(30)]
    config = SETTINGS.link_use.config(SETTINGS.sampling.samples_min)
    operator = LinkUse(config, SETTINGS.pane_ns, LINKS)
    results = said(operator, merged(rows, config, T0_NS // SECOND, 30))
    if an_hour:
        late = [sample(T0_NS + HOUR * SECOND + k * SECOND, 1000, 500, out_if=0x3FFF_FFFF) for k in range(9)]
        results += said(operator, merged(late, config, T0_NS // SECOND + HOUR, 10))
    return results


async def view(
    results: list[Result], held: tuple[int, ...] = (0, 1, 2), settings: Settings = SETTINGS
) -> tuple[LinkViews, NewestTable]:
    table = newest_table(settings)
    for result in results:
        await table.keep_results(PARTITION, [result])
    context, peers = holding(settings, table, held)
    return LinkViews(context, table, peers), table


async def asked(results: list[Result], **query: str) -> Any:
    links, _ = await view(results)
    return await answer(links.newest, **query)


async def test_the_fullest_come_first_each_in_the_newest_interval_of_its_exporter() -> None:
    status, found = await asked(told())
    assert (status, found["by"], found["interfaces"]) == (200, "share", 3)
    assert [(row["exporter"], row["if_index"], row["direction"]) for row in found["links"]] == [
        ("192.0.2.1", 1, "in"), ("192.0.2.9", 7, "in"), ("192.0.2.9", 8, "out"),
    ]  # fmt: skip
    first = found["links"][0]
    (use,) = [r.value for r in told() if r.key == f"{T0_NS + 20 * SECOND}|192.0.2.1" and r.stream == "link-use"]
    (port,) = use["interfaces"]
    assert first == {
        "exporter": "192.0.2.1", "node": "leaf1", "window_start_ns": T0_NS + 20 * SECOND,
        "window_end_ns": T0_NS + 30 * SECOND, **port, "hour": None, "day": None,
    }  # fmt: skip
    assert first["share"] == pytest.approx(0.9, abs=0.01)
    assert first["onset_ns"] == T0_NS + 30 * SECOND


async def test_what_is_silent_now_and_was_not_in_the_last_hour_is_there_too() -> None:
    results = told(an_hour=True)
    (hour,) = [r.value for r in results if r.stream == "link-use-percentiles" and r.value["node"] == "leaf1"]
    status, found = await asked(results, exporter="leaf1", by="hour")
    assert (status, len(hour["interfaces"])) == (200, 2)
    for port in hour["interfaces"]:
        (row,) = [row for row in found["links"] if row["if_index"] == port["if_index"]]
        of_hour = {name: port[name] for name in (*FIGURES, "share")}
        assert row["hour"] == {"window_start_ns": hour["window_start_ns"], **of_hour}
        is_silent = port["if_index"] == 2
        assert (row["samples"] == 0, row["high_bps"] is None) == (is_silent, is_silent)


@pytest.mark.parametrize("by", BY)
async def test_so_many_as_asked_for_are_given_and_all_are_counted(by: str) -> None:
    status, found = await asked(told(), by=by, count="2")
    assert (status, found["by"], found["interfaces"], len(found["links"])) == (200, by, 3, 2)


@pytest.mark.parametrize(
    ("query", "indices"),
    [({"exporter": "leaf1"}, [1]), ({"exporter": "192.0.2.9"}, [7, 8]), ({"interface": "to-core"}, [1]),
     ({"interface": "8"}, [8]), ({"exporter": "192.0.2.9", "interface": "7"}, [7])],
)  # fmt: skip
async def test_an_exporter_and_an_interface_can_be_named(query: dict[str, str], indices: list[int]) -> None:
    _, found = await asked(told(), **query)
    assert [row["if_index"] for row in found["links"]] == indices


@pytest.mark.parametrize(
    "wrong", [{"by": "rate"}, {"by": ""}, {"count": "0"}, {"count": "-1"}, {"count": "ten"}, {"by": "x" * 5000}]
)
async def test_what_cannot_be_is_refused_in_a_line(wrong: dict[str, str]) -> None:
    status, found = await asked(told(), **wrong)
    assert (status, [*found]) == (400, ["error"])
    assert len(found["error"]) < 120


@pytest.mark.parametrize("query", [{"exporter": "leaf9"}, {"interface": "to-host"}, {"exporter": "x" * 5000}])
async def test_what_is_not_there_is_not_found(query: dict[str, str]) -> None:
    status, found = await asked(told(), **query)
    assert (status, [*found]) == (404, ["error"])
    assert len(found["error"]) < 120


async def test_before_the_first_interval_and_without_the_analysis_it_says_so() -> None:
    status, found = await asked([])
    assert (status, found) == (404, {"error": "no interval has been told yet"})
    links, _ = await view(told(), settings=load(topics={"partitions": 3}, analyses=["talkers"]))
    status, found = await answer(links.newest)
    assert status == 404
    assert "analyses does not name links" in found["error"]


async def test_a_partition_that_is_elsewhere_is_asked_for_there() -> None:
    links, _ = await view(told(), tuple({0, 1, 2} - {PARTITION}))
    assert (await answer(links.newest))[0] == 503  # nobody has it, in this test


def record(exporter: int, ports: int) -> Result:
    """An exporter whose ports have the longest names and figures there are."""
    address, most = f"2001:db8:ffff:ffff:ffff:ffff:ffff:{exporter:x}", (1 << 63) - 1
    port = {
        "direction": "out", "name": NAME_MAX, "rate_bps": most, "low_bps": most, "high_bps": most, "samples": most,
        "link_bps": most, "share": 0.12345678901234567, "onset_ns": most,
    }  # fmt: skip
    value = {
        "exporter": address, "node": NAME_MAX[:64], "window_start_ns": most, "window_end_ns": most, "late_bytes": 0,
        "correction": 1.0, "lost_share": 0.0,
        "interfaces": [{"if_index": (1 << 32) - 1 - n, **port} for n in range(ports)],
    }  # fmt: skip
    return Result("link-use", f"{most}|{address}", most, value)


async def test_the_longest_answer_is_one_that_another_worker_takes() -> None:
    results = [record(exporter, 40) for exporter in range(40)]
    status, found = await asked(results, count="100000")
    assert (status, found["interfaces"], len(found["links"])) == (200, 1600, COUNT_MAX)
    percentile = dict.fromkeys(("window_start_ns", *FIGURES), 1 << 62) | {"share": 0.12345678901234567}
    longest = {**found, "links": [{**row, "hour": percentile, "day": percentile} for row in found["links"]]}
    assert len(json.dumps(longest)) < ANSWER_BYTES_MAX
