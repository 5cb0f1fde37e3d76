"""The newest top talkers over HTTP: whoever holds the cube's partition answers, the others pass on."""

from __future__ import annotations

import pytest

from agents.demo_summary import top_talkers
from agents.newest_table import NewestTable
from agents.web_talkers import TalkerViews
from flowstream.operators import Result
from flowstream.partial_blocks import partition_of
from flowstream.settings import load
from flowstream.talker_results import WAYS
from flowstream.talkers import TopTalkers
from tests.agents.fakes import answer, holding, newest_table
from tests.talkers import FIRST, SECOND, Row, as_served, fed

PARTITIONS = 3
SETTINGS = load(
    topics={"partitions": PARTITIONS},
    talkers={"windows": [{"size_s": 10.0, "step_s": 5.0}, {"size_s": 2.0, "step_s": 1.0}], "by": ["port", "protocol"]},
)


def said(samples_min: float = 0.0) -> list[list[Result]]:
    operator = TopTalkers(SETTINGS.talkers.config(SETTINGS.panes, samples_min), SETTINGS.pane_ns)
    rows = [Row(FIRST + pane, (6,), 100 * pane + 1, by=by) for pane in range(30) for by in ("port", "protocol")]
    return [results for _, results in fed(operator, rows)]


async def views(held: set[int], samples_min: float = 0.0) -> tuple[TalkerViews, NewestTable]:
    table = newest_table(SETTINGS)
    for results in said(samples_min):
        for by in ("port", "protocol"):
            own = [r for r in results if r.value["by"] == by]
            await table.keep_results(int(partition_of(int(WAYS[by].cube), PARTITIONS)), own)
    context, peers = holding(SETTINGS, table, held)
    return TalkerViews(context, table, peers), table


@pytest.mark.parametrize("by", ["port", "protocol"])
@pytest.mark.parametrize("rank", ["bytes", "packets", "records"])
@pytest.mark.parametrize("size", [10, 2])
async def test_the_newest_of_each_is_given_without_what_does_not_name_it(by: str, rank: str, size: int) -> None:
    view, table = await views(set(range(PARTITIONS)))
    status, found = await answer(view.newest, by=by, rank=rank, size=str(size))
    wanted = [
        r.value
        for results in said()
        for r in results
        if r.stream == "talkers" and r.key.endswith(f"|{size}|{by}|{rank}")
    ][-1]
    assert (status, found) == (200, as_served(wanted))
    assert found["window_end_ns"] == (FIRST + 30) * SECOND
    assert len(table.table) == 2 * 3 * 2


async def test_what_too_few_samples_tell_is_null_and_the_demo_says_so() -> None:
    view, _ = await views(set(range(PARTITIONS)), samples_min=1000.0)
    _, found = await answer(view.newest, by="port", rank="bytes")
    assert {(e["bytes"], e["packets"], e["share"]) for e in found["top"]} == {(None, None, None)}
    table = top_talkers(found)
    assert [list(column.cells) for column in table.columns][1:] == [
        ["not enough samples"],
        [f"{found['top'][0]['bytes_low']:,} to {found['top'][0]['bytes_high']:,}"],
        [""],
    ]


async def test_what_is_not_asked_for_is_the_first_of_the_settings() -> None:
    view, _ = await views(set(range(PARTITIONS)))
    assert await answer(view.newest) == await answer(view.newest, by="port", rank="bytes", size="10")


@pytest.mark.parametrize("wrong", [{"by": "source"}, {"rank": "flows"}, {"size": "60"}, {"size": "x" * 5000}])
async def test_what_there_is_not_is_refused_in_a_line(wrong: dict[str, str]) -> None:
    view, _ = await views(set(range(PARTITIONS)))
    status, found = await answer(view.newest, **wrong)
    assert status == 400
    assert len(found["error"]) < 100


async def test_a_partition_that_is_elsewhere_is_asked_for_there() -> None:
    view, _ = await views(set())
    assert (await answer(view.newest))[0] == 503  # nobody has it, in this test


async def test_where_nothing_was_said_there_is_none() -> None:
    view, table = await views(set(range(PARTITIONS)))
    table.table.clear()
    assert (await answer(view.newest))[0] == 404
