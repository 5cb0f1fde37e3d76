"""What top talkers keep: restarts, step tables, and windows that cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from flowstream import talker_steps
from flowstream.errors import SettingsError, StateError
from flowstream.talker_results import WAYS, Wanted
from flowstream.talker_tables import Lost, Table, Whole
from flowstream.talkers import TalkersConfig, TopTalkers
from tests.talkers import CONFIG, FIRST, SECOND, Row, exported, fed, pane_of, traffic

STEPS = talker_steps.STREAM


@pytest.mark.parametrize("keys_max", [1_000_000, 12])
def test_a_restart_after_any_pane_says_what_never_stopping_says(keys_max):
    config = TalkersConfig(
        ((4, 2), (12, 4), (48, 16)), ("protocol", "port"), keys_max, Wanted(count=4, samples_min=0.0)
    )
    rows = [r._replace(by=by) for r in traffic(2) for by in ("protocol", "port")]
    rows += exported(sorted({r.pane for r in rows}), range(FIRST + 3, FIRST + 60, 5))
    through, lives = TopTalkers(config, SECOND), []
    for pane, said in fed(through, rows):
        lives.append((pane, said, through.snapshot()))
    assert (keys_max == 12) == any(
        r.value["bytes_error_max"] for _, said, _ in lives for r in said if r.stream == "talkers"
    )
    factors = {r.value["correction"] for _, said, _ in lives for r in said if r.stream == "talkers"}
    assert len(factors) > 10
    steps = [[r for r in said if r.stream == "talker-steps"] for _, said, _ in lives]
    for stop in range(len(lives) - 1):
        ahead = (stop + 1, min(stop + 5, len(lives)), len(lives))[stop % 3]
        again = TopTalkers(config, SECOND)
        again.restore(lives[stop][2])
        assert again.snapshot() == lives[stop][2]
        kept = {r.key: r.value for said in steps[:ahead] for r in said}  # what compaction leaves
        again.load(kept.values())
        for (pane, said), (told_pane, told_said, state) in zip(
            fed(again, rows, lives[stop + 1][0]), lives[stop + 1 :], strict=True
        ):
            assert (pane, said, again.snapshot()) == (told_pane, told_said, state)


def test_steps_kept_before_a_reset_count_for_nothing_after_it_whatever_they_say():
    """Progress is gone, what was kept is still there: of other rows, of more ways to group, and of later steps."""
    config = TalkersConfig(((4, 2), (12, 4), (48, 16)), ("protocol", "port"), wanted=Wanted(count=4, samples_min=0.0))
    before = [r._replace(by=by, sent=77) for r in traffic(5) for by in ("protocol", "port")]
    before += [r._replace(pane=r.pane + 60) for r in before]
    kept = {r.key: r.value for _, said in fed(TopTalkers(config, SECOND), before) for r in said if r.stream == STEPS}
    rows = [r for r in traffic(2) if r.pane % 9 > 3]  # steps that had rows have none now
    through, lives = TopTalkers(config, SECOND), []
    through.load(kept.values())
    for pane, said in fed(through, rows):
        lives.append((pane, said, through.snapshot()))
    assert [said for _, said, _ in lives] == [said for _, said in fed(TopTalkers(config, SECOND), rows)]
    for stop in range(len(lives) - 1):
        for result in lives[stop][1]:
            if result.stream == STEPS:
                kept.pop(result.key, None)
                kept[result.key] = result.value
        again = TopTalkers(config, SECOND)
        again.restore(lives[stop][2])
        again.load(kept.values())
        assert list(fed(again, rows, lives[stop + 1][0])) == [(pane, said) for pane, said, _ in lives[stop + 1 :]]


@pytest.mark.parametrize("sparse", [1, 7])
def test_a_replay_that_reads_a_window_before_says_the_windows_of_an_app_that_never_stopped(sparse):
    """Also where nothing came in the first part of a window; before it had read everything, it says so."""
    config = TalkersConfig(((4, 2), (12, 4), (48, 16)), ("protocol", "port"), wanted=Wanted(count=4, samples_min=0.0))
    rows = [r._replace(by=by) for r in traffic(2) for by in ("protocol", "port") if r.pane % sparse == 0]
    rows += [r._replace(pane=r.pane + 100) for r in rows]
    said = [r for _, of in fed(TopTalkers(config, SECOND), rows) for r in of if r.stream == "talkers"]
    for whole in range(FIRST + 20, FIRST + 100, 3):
        replayed = TopTalkers(config, SECOND, whole * SECOND - 1)
        read = [r for r in rows if r.pane >= whole or (r.pane == whole - 2 and r.key[0] % 2)]
        again = [r for _, of in fed(replayed, read) for r in of if r.stream == "talkers"]
        for size in (4, 12, 48):
            from_ns = (whole + size) * SECOND
            wanted = [r for r in said if r.time_ns >= from_ns and r.key.split("|")[1] == str(size)]
            assert wanted
            assert [r for r in again if r.time_ns >= from_ns and r.key.split("|")[1] == str(size)] == wanted
        cut = [r.value for r in again if r.value["window_start_ns"] < whole * SECOND]
        assert all(v["covered_from_ns"] == whole * SECOND for v in cut)


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


def test_a_table_of_many_keys_is_said_in_parts_and_read_back():
    rng = np.random.default_rng(6)
    count = 2 * talker_steps.KEYS_PER_PART + 17
    keys = np.unique(rng.integers(0, 1 << 62, (count, 2)).astype(np.uint64), axis=0)
    table = Table(
        keys,
        rng.integers(1, 9, (len(keys), 3)),
        rng.random((len(keys), 2)),
        (1, 2, 3),
        (4, 5, 6),
        Lost(7, 8),
        Whole(9, 0.1, 0.7),
    )
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
            assert (read.totals, read.errors, read.lost, read.whole) == (
                table.totals,
                table.errors,
                table.lost,
                table.whole,
            )


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
        ({"wanted": Wanted(("flows",))}, "'flows'"),
        ({"keys_max": 2}, "talkers.keys_max 2"),
        ({"wanted": Wanted(count=0)}, "talkers.count is 0"),
    ],
)
def test_windows_that_cannot_be_are_refused(options, said):
    with pytest.raises(SettingsError, match=said):
        TalkersConfig(**options)


def test_every_way_to_group_has_a_cube_of_its_own():
    assert len({way.cube for way in WAYS.values()}) == len(WAYS) == 8
