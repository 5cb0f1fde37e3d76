"""Top talkers against sums in dicts, row by row; their windows, restarts and bounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream import schemas, talker_steps
from flowstream.batch import address_words
from flowstream.errors import SettingsError, StateError
from flowstream.operators import Pane, Result
from flowstream.partials import KEYS, Cube, PartialBatch
from flowstream.talker_results import WAYS
from flowstream.talker_tables import MEASURES, SUM_MAX, Table, folded
from flowstream.talkers import TalkersConfig, TopTalkers

SECOND = 10**9
FIRST = 1_700_000_400  # a whole number of quarters of an hour


class Row(NamedTuple):
    """What a flows partition adds to a key in a pane."""

    pane: int
    key: tuple[int, ...]
    sent: int
    packets: int = 1
    records: int = 1
    partition: int = 0
    by: str = "protocol"


def pane_of(index: int, rows: Iterable[Row]) -> Pane:
    """Return a pane of rows, in time order as the analysis gives it."""
    rows = list(rows)
    if not rows:
        return Pane(index, index * SECOND, (index + 1) * SECOND, PartialBatch.zeros(0))
    columns: dict[str, Any] = {
        "time_ns": [r.pane * SECOND for r in rows],
        "origin_id": [r.partition for r in rows],
        "origin_offset": [r.pane for r in rows],
        "origin_row": range(len(rows)),
        "cube": [int(WAYS[r.by].cube) for r in rows],
        "bytes": [r.sent for r in rows],
        "packets": [r.packets for r in rows],
        "records": [r.records for r in rows],
        "variance": [float(r.sent) ** 2 for r in rows],
        "weight_max": [float(r.sent) for r in rows],
    }
    for at, name in enumerate(KEYS):
        columns[name] = np.array([r.key[at] if at < len(r.key) else 0 for r in rows], np.uint64)
    batch = PartialBatch.of(len(rows), {name: np.asarray(column) for name, column in columns.items()})
    return Pane(index, index * SECOND, (index + 1) * SECOND, batch.in_time_order())


def fed(operator: TopTalkers, rows: Sequence[Row], first: int = 0) -> Iterator[tuple[int, list[Result]]]:
    """Give an operator the panes of rows from ``first`` on, as ``Analysis`` does, and yield what it says after each."""
    panes: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        panes[row.pane].append(row)
    history: list[Pane] = []
    wanted, last = iter(sorted(panes)), max(panes)
    at = next(wanted)
    while at <= last or not operator.quiet or any(len(p.rows) for p in history):
        history = [p for p in [*history, pane_of(at, panes.get(at, []))] if p.index >= at - operator.lookback]
        if at >= first:
            yield at, operator.process(history)
        if operator.quiet and not any(len(p.rows) for p in history):
            at = next((index for index in wanted if index > at), last + 1)
            if at > last:
                return
        else:
            at += 1


def run(config: TalkersConfig, rows: Sequence[Row]) -> list[Result]:
    """Return the talkers of all windows."""
    operator = TopTalkers(config, SECOND)
    return [r for _, said in fed(operator, rows) for r in said if r.stream == "talkers"]


def summed(rows: Iterable[Row]) -> dict[tuple[int, ...], list[int]]:
    """Return the sums of every key, in plain Python."""
    sums: dict[tuple[int, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in rows:
        for at, number in enumerate((row.sent, row.packets, row.records)):
            sums[row.key][at] += number
    return sums


def expected(config: TalkersConfig, rows: Sequence[Row]) -> dict[str, tuple[Any, ...]]:
    """Return the largest keys of every window by brute force: by result key, (keys, total, [(key, sums)])."""
    found: dict[str, tuple[Any, ...]] = {}
    for by in config.by:
        own = [r for r in rows if r.by == by]
        for size, step in config.windows:
            for end in sorted({(r.pane // step + 1) * step for r in own}):
                sums = summed(r for r in own if end - size <= r.pane < end)
                for ranking in config.rank:
                    m = MEASURES.index(ranking)
                    ranked = sorted((-s[m], key) for key, s in sums.items() if s[m] > 0)[: config.count]
                    top = [(key, *sums[key]) for _, key in ranked]
                    total = sum(s[m] for s in sums.values())
                    found[f"{(end - size) * SECOND}|{size}|{by}|{ranking}"] = (len(sums), total, top)
    return found


def told(results: Iterable[Result], name: str = "proto") -> dict[str, tuple[Any, ...]]:
    """Return results in the form of ``expected``, of keys that are one number."""
    return {
        r.key: (
            r.value["keys"],
            r.value[r.value["ranked_by"]],
            [((t[name],), t["bytes"], t["packets"], t["records"]) for t in r.value["top"]],
        )
        for r in results
    }


CONFIG = TalkersConfig(((4, 2), (12, 4), (8, 8)), count=3, by=("protocol",))
ROWS = st.lists(
    st.builds(
        Row, st.integers(FIRST, FIRST + 40), st.tuples(st.integers(0, 6)), st.integers(0, 3), st.integers(0, 3),
        st.integers(1, 2), st.integers(0, 3), st.just("protocol"),
    ),
    min_size=1, max_size=60,
)  # fmt: skip


def traffic(seed: int, panes: int = 60, keys: int = 40) -> list[Row]:
    """Return rows of some panes, with gaps, of a few large keys and many small ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for pane in range(FIRST, FIRST + panes):
        if (pane // 7) % 4 != 3:
            drawn = zip((rng.zipf(1.3, 8) % keys).tolist(), rng.integers((1, 0), (9, 4), (8, 2)).tolist(), strict=True)
            rows += [Row(pane, (key,), sent, 2, 1, partition) for key, (sent, partition) in drawn]
    return rows


@given(ROWS)
def test_every_window_has_the_sums_of_its_rows_and_ties_are_in_the_order_of_keys(rows):
    assert told(run(CONFIG, rows)) == expected(CONFIG, rows)


def test_many_windows_that_slide_by_a_pane_have_the_sums_of_their_rows():
    config = TalkersConfig(((10, 1), (60, 5)), count=5, by=("protocol",))
    rows = traffic(1, panes=200)
    results = run(config, rows)
    assert told(results) == expected(config, rows)
    assert len(results) > 450


@given(ROWS, st.randoms(use_true_random=False))
def test_how_rows_are_spread_over_flows_partitions_changes_nothing(rows, random):
    spread = [row._replace(partition=random.randrange(4)) for row in rows]
    assert run(CONFIG, spread) == run(CONFIG, [row._replace(partition=0) for row in rows])


@pytest.mark.parametrize("keys_max", [1_000_000, 12])
def test_a_restart_after_any_pane_says_what_never_stopping_says(keys_max):
    config = TalkersConfig(((4, 2), (12, 4), (48, 16)), count=4, by=("protocol", "port"), keys_max=keys_max)
    rows = [r._replace(by=by) for r in traffic(2) for by in ("protocol", "port")]
    through, lives = TopTalkers(config, SECOND), []
    for pane, said in fed(through, rows):
        lives.append((pane, said, through.snapshot()))
    assert (keys_max == 12) == any(
        r.value["bytes_error_max"] for _, said, _ in lives for r in said if r.stream == "talkers"
    )
    steps = [[r for r in said if r.stream == "talker-steps"] for _, said, _ in lives]
    for stop in range(len(lives) - 1):
        for ahead in {stop + 1, min(stop + 5, len(lives)), len(lives)}:
            again = TopTalkers(config, SECOND)
            again.restore(lives[stop][2])
            assert again.snapshot() == lives[stop][2]
            kept = {r.key: r.value for said in steps[:ahead] for r in said}  # what compaction leaves
            again.load(kept.values())
            for (pane, said), (told_pane, told_said, state) in zip(
                fed(again, rows, lives[stop + 1][0]), lives[stop + 1 :], strict=True
            ):
                assert (pane, said, again.snapshot()) == (told_pane, told_said, state)


def test_a_step_that_was_lost_is_told_by_from_when_on_windows_are_covered():
    config = TalkersConfig(((8, 2),), by=("protocol",))
    rows = [Row(pane, (6,), 1) for pane in range(FIRST, FIRST + 20)]
    operator, states, steps = TopTalkers(config, SECOND), {}, []
    for pane, said in fed(operator, rows):
        states[pane] = operator.snapshot()
        steps += [(pane, r.value) for r in said if r.stream == "talker-steps"]
    again = TopTalkers(config, SECOND)
    again.restore(states[FIRST + 11])
    again.load(value for pane, value in steps if pane != FIRST + 7)  # the step of panes 6 and 7
    said = [r.value for _, said in fed(again, rows, FIRST + 12) for r in said if r.stream == "talkers"]
    assert [v["covered_from_ns"] // SECOND - FIRST for v in said if v["ranked_by"] == "bytes"] == [8, 8, 10, 12]
    assert [v["bytes"] for v in said if v["ranked_by"] == "bytes"] == [6, 8, 8, 8]


def test_a_window_that_reaches_back_before_the_first_row_says_from_when_on_it_is_covered():
    rows = [Row(pane, (6,), 1) for pane in range(FIRST + 3, FIRST + 20)]
    covered = [
        r.value["covered_from_ns"] // SECOND - FIRST for r in run(TalkersConfig(((8, 2),), rank=("bytes",)), rows)
    ]
    assert covered == [3, 3, 3, 3, 4, 6, 8, 10, 12]


def test_keys_are_read_as_what_they_are():
    source, destination = address_words("10.0.0.1"), address_words("2001:db8::2")
    keys = {
        "source": source, "destination": destination, "pair": source + destination, "protocol": (17,),
        "conversation": (*source, *destination, 40_000 << 32 | 443 << 8 | 6), "port": (17 << 16 | 53,),
        "as": (64_512 << 32 | 4_200_000_000,), "interface": (*source, 7),
    }  # fmt: skip
    rows = [Row(FIRST, key, 100, by=by) for by, key in keys.items()]
    results = run(TalkersConfig(((1, 1),), rank=("bytes",)), rows)
    fields = {r.value["by"]: {k: v for k, v in r.value["top"][0].items() if v is not None} for r in results}
    figures = {"bytes", "bytes_low", "bytes_high", "is_sure", "packets", "records", "share"}
    assert {by: {k: v for k, v in found.items() if k not in figures} for by, found in fields.items()} == {
        "source": {"src_addr": "10.0.0.1"},
        "destination": {"dst_addr": "2001:db8::2"},
        "pair": {"src_addr": "10.0.0.1", "dst_addr": "2001:db8::2"},
        "conversation": {
            "src_addr": "10.0.0.1", "dst_addr": "2001:db8::2", "src_port": 40_000, "dst_port": 443, "proto": 6,
        },
        "port": {"proto": 17, "port": 53},
        "protocol": {"proto": 17},
        "as": {"src_as": 64_512, "dst_as": 4_200_000_000},
        "interface": {"exporter": "10.0.0.1", "in_if": 7},
    }  # fmt: skip


def test_what_was_said_fits_its_schema():
    operator = TopTalkers(CONFIG, SECOND)
    for _, said in fed(operator, traffic(3)):
        for result in said:
            schema = result.stream.replace("-", "_")
            assert schemas.decode_body(schema, schemas.encode_body(schema, result.value)) == result.value


@given(ROWS)
def test_bounds_hold_the_estimate_and_shares_add_up_to_one_at_the_most(rows):
    for result in run(CONFIG, rows):
        for entry in result.value["top"]:
            assert entry["bytes_low"] <= entry["bytes"] <= entry["bytes_high"]
        assert sum(entry["share"] for entry in result.value["top"]) <= 1 + 1e-9


@given(st.lists(st.dictionaries(st.integers(0, 30), st.integers(1, 50), max_size=20), max_size=8), st.integers(3, 20))
def test_beyond_the_cap_counts_are_too_small_by_no_more_than_is_said(steps, keys_max):
    tables = [
        Table.of_rows(pane_of(0, [Row(0, (k,), sent, sent // 2, 1) for k, sent in step.items()]).rows, 1).cut(keys_max)
        for step in steps
    ]
    total, was_cut = folded(tables, Table.empty(1, 0), keys_max)
    true = summed(Row(0, (k,), sent, sent // 2, 1) for step in steps for k, sent in step.items())
    assert len(total) <= keys_max
    counters = keys_max // 3
    found = {int(key): sums for key, sums in zip(total.keys[:, 0], total.sums.tolist(), strict=True)}
    for m in range(3):
        assert total.totals[m] == sum(sums[m] for sums in true.values())
        assert total.errors[m] * (counters + 1) <= total.totals[m]
        for (key,), sums in true.items():
            assert sums[m] - total.errors[m] <= found.get(key, [0, 0, 0])[m] <= sums[m]
    if len(true) <= keys_max:
        assert not was_cut
        assert total.errors == (0, 0, 0)


def test_windows_beyond_the_cap_say_their_error_and_name_what_is_large():
    config = TalkersConfig(((20, 5),), count=3, by=("protocol",), rank=("bytes",), keys_max=30)
    rows = traffic(4, panes=120, keys=4000) + [Row(p, (5000,), 40) for p in range(FIRST, FIRST + 120)]
    exact = {k: v for k, v in expected(config, rows).items() if v[0] > 30}
    results = {r.key: r.value for r in run(config, rows)}
    assert len(exact) > 10
    for key, (_, total, top) in exact.items():
        value = results[key]
        assert 0 < value["bytes_error_max"] <= total // 11
        assert value["keys"] <= 30
        assert value["bytes"] == total
        assert value["top"][0]["proto"] == 5000 & 0xFF
        assert value["top"][0]["bytes"] <= top[0][1] <= value["top"][0]["bytes_high"]
        assert top[0][1] - value["top"][0]["bytes"] <= value["bytes_error_max"]


def test_a_day_costs_memory_by_keys_and_not_by_rows():
    config = TalkersConfig(((6, 1), (360, 6), (8640, 90)), count=50, by=("protocol",))  # in panes of ten seconds
    rng = np.random.default_rng(5)
    panes = range(FIRST, FIRST + 13_000, 13)  # a day and a half
    rows = [Row(pane, (int(key),), int(rng.integers(1, 99))) for pane in panes for key in rng.integers(0, 25, 6)]
    operator, results, held = TopTalkers(config, SECOND), [], 0
    for _, said in fed(operator, rows):
        results += [r for r in said if r.stream == "talkers"]
        held = max(held, operator.keys_held)
    slots = sum(config.kept(step) // step for step in config.steps) + len(config.windows)
    assert held <= slots * 25  # keys times steps
    assert told(results) == expected(config, rows)
    assert sum("|8640|" in r.key for r in results) > 400


def test_more_keys_than_the_cap_are_not_held():
    config = TalkersConfig(((8, 2), (16, 4)), by=("protocol",), keys_max=9)
    operator = TopTalkers(config, SECOND)
    rows = [Row(pane, (key,), key + 1) for pane in range(FIRST, FIRST + 40) for key in range(pane % 5, 60)]
    for _ in fed(operator, rows):
        assert operator.keys_held <= 9 * (4 + 4 + 2)


def test_a_table_of_many_keys_is_said_in_parts_and_read_back():
    rng = np.random.default_rng(6)
    count = 2 * talker_steps.KEYS_PER_PART + 17
    keys = np.unique(rng.integers(0, 1 << 62, (count, 2)).astype(np.uint64), axis=0)
    table = Table(keys, rng.integers(1, 9, (len(keys), 3)), rng.random((len(keys), 2)), (1, 2, 3), (4, 5, 6))
    values = [r.value for r in talker_steps.said(table, "source", SECOND, 7 * SECOND, 60)]
    assert len(values) == 3
    for chosen, whole in ((values, True), (values[1:], False), (values[:2], False), ([], False)):
        parts = talker_steps.Parts()
        parts.add(reversed(chosen))
        read = parts.table("source", SECOND, 7 * SECOND, 2)
        assert (read is not None) == whole
        if read is not None:
            for name in ("keys", "sums", "spread"):
                assert np.array_equal(getattr(read, name), getattr(table, name))
            assert (read.totals, read.errors) == (table.totals, table.errors)


@pytest.mark.parametrize("broken", [{"keys": [b"x"]}, {"keys": []}, {"count": 1 << 40}, {"bytes": b""}, {"parts": "x"}])
def test_a_value_that_is_no_step_table_is_refused(broken):
    operator, steps = TopTalkers(CONFIG, SECOND), []
    for _, said in fed(operator, [Row(FIRST, (6,), 1), Row(FIRST + 1, (7,), 1)]):
        steps += [r.value | broken for r in said if r.stream == "talker-steps"]
    again = TopTalkers(CONFIG, SECOND)
    again.restore(operator.snapshot())

    def load_and_go_on() -> None:
        again.load(steps)
        again.process([pane_of(FIRST + 50, [])])

    with pytest.raises(StateError):
        load_and_go_on()


def test_sums_of_absurd_rows_stop_at_the_limit_and_leave_no_trace_when_they_leave():
    config = TalkersConfig(((4, 1),), by=("protocol",), rank=("bytes",))
    rows = [Row(FIRST, (6,), (1 << 63) - 1), Row(FIRST, (6,), 5), Row(FIRST, (7,), -9)]
    rows += [Row(pane, (6,), 10) for pane in range(FIRST, FIRST + 9)]
    sums = [r.value["bytes"] for r in run(config, rows)]
    assert sums == [SUM_MAX, SUM_MAX + 10, SUM_MAX + 20, SUM_MAX + 30, 40, 40, 40, 40, 40]


def test_a_state_of_other_windows_begins_anew():
    rows = traffic(7)
    operator = TopTalkers(CONFIG, SECOND)
    for _ in fed(operator, rows):
        pass
    again = TopTalkers(TalkersConfig(((6, 3),), by=("protocol",)), SECOND)
    again.restore(operator.snapshot())
    fresh = TopTalkers(again.config, SECOND)
    assert list(fed(again, rows)) == list(fed(fresh, rows))
    for broken in (b"", b"\xc1", operator.snapshot()[:-3]):
        with pytest.raises(StateError):
            again.restore(broken)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"windows": ((10, 3),)}, "10 panes that slides by 3"),
        ({"windows": ((2, 4),)}, "2 panes that slides by 4"),
        ({"windows": ((100_000, 1),)}, "100000 panes that slides by 1"),
        ({"windows": ((10, 2), (15, 3))}, "slide by 2 and by 3"),
        ({"windows": ()}, "one or more"),
        ({"by": ("source", "colour")}, "'colour'"),
        ({"rank": ("flows",)}, "'flows'"),
        ({"keys_max": 2}, "talkers.keys_max 2"),
        ({"count": 0}, "talkers.count is 0"),
    ],
)
def test_windows_that_cannot_be_are_refused(options, said):
    with pytest.raises(SettingsError, match=said):
        TalkersConfig(**options)


def test_every_way_to_group_has_a_cube_of_its_own():
    cubes: Mapping[str, Cube] = {by: way.cube for by, way in WAYS.items()}
    assert len(set(cubes.values())) == len(WAYS) == 8
