"""The table of what was said last: the last of each place, by partition; of exporters that are gone, nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agents.newest_table import LINKS_KEPT_NS, NewestTable, decoded
from flowstream.operators import Result
from flowstream.settings import load
from tests.agents.fakes import newest_table

HOUR_NS = 3600 * 10**9
PERIOD_NS = {"hour": HOUR_NS, "day": 24 * HOUR_NS}
SETTINGS = load(topics={"partitions": 2}, analyses=["links"])


def use(exporter: str, start_ns: int, length_ns: int = 10**10) -> Result:
    value = {
        "exporter": exporter, "node": "", "window_start_ns": start_ns, "window_end_ns": start_ns + length_ns,
        "late_bytes": 0, "correction": 1.0, "lost_share": 0.0, "interfaces": [],
    }  # fmt: skip
    return Result("link-use", f"{start_ns}|{exporter}", start_ns + length_ns, value)


def percentiles(exporter: str, period: str, start_ns: int) -> Result:
    end_ns = start_ns + PERIOD_NS[period]
    value = {
        "exporter": exporter, "node": "", "period": period, "window_start_ns": start_ns, "window_end_ns": end_ns,
        "value_ns": 10**10, "interfaces": [],
    }  # fmt: skip
    return Result("link-use-percentiles", f"{start_ns}|{period}|{exporter}", end_ns, value)


def kept(table: NewestTable, partition: int, stream: str) -> list[dict[str, Any]]:
    return sorted(map(decoded, table.values(partition, stream)), key=repr)


exporters = st.sampled_from(["192.0.2.1", "192.0.2.11", "2001:db8::1"])
results = st.builds(use, exporters, st.integers(0, 9).map(lambda n: n * 10**10)) | st.builds(
    percentiles, exporters, st.sampled_from(["hour", "day"]), st.integers(0, 9).map(lambda n: n * HOUR_NS)
)
batches = st.lists(st.tuples(st.integers(0, 1), st.lists(results, max_size=6)), max_size=8)


@given(batches)
async def test_the_last_that_was_said_of_each_place_is_kept(said: list[tuple[int, list[Result]]]) -> None:
    table = newest_table(SETTINGS)
    last: dict[tuple[int, str, str], dict[str, Any]] = {}
    for partition, batch in said:
        await table.keep_results(partition, [*batch, Result("link-events", "0|x|1|in|onset", 0, {})])
        last |= {(partition, r.stream, r.key.split("|", 1)[1]): r.value for r in batch}
    for partition in (0, 1):
        for stream in ("link-use", "link-use-percentiles"):
            expected = [v for (p, s, _), v in last.items() if (p, s) == (partition, stream)]
            assert kept(table, partition, stream) == sorted(expected, key=repr)
    for (partition, stream, place), value in last.items():
        assert table.record(partition, stream, place) == value
    assert table.record(0, "link-use", "192.0.2.2") is None


async def test_exporters_that_come_and_go_do_not_add_up() -> None:
    table, days, told = newest_table(SETTINGS), 30, 0
    for hour in range(24 * days):
        now_ns = (1000 + hour) * HOUR_NS
        passing = f"10.0.{hour >> 8}.{hour & 255}"
        said = [use("192.0.2.1", now_ns), use(passing, now_ns), percentiles("192.0.2.1", "hour", now_ns - HOUR_NS)]
        if (1000 + hour) % 24 == 0:
            said.append(percentiles("192.0.2.1", "day", now_ns - 24 * HOUR_NS))
            told += 1
        await table.keep_results(0, said)
        await table.keep_results(1, [use("192.0.2.7", 0)])
        assert len(table.table) <= LINKS_KEPT_NS // HOUR_NS + 6
        assert table.record(0, "link-use", "192.0.2.1") == said[0].value
        assert table.record(0, "link-use-percentiles", "hour|192.0.2.1") == said[2].value
        assert (table.record(0, "link-use-percentiles", "day|192.0.2.1") is not None) == (told > 0)
    assert table.record(1, "link-use", "192.0.2.7") is not None, "another partition's time is not this one's"
