"""Verdicts follow from what was measured, and growth worse than linear is told from noise."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench.ground import environment, limited_by
from bench.growth import WORSE, axes, growth_markdown, ratios
from bench.report import markdown_table
from bench.rows import ROWS
from bench.verdict import Outcome, Target, amount, lines, markdown, show

FOUND: dict[str, Any] = {
    "machine": {
        "cpu": "cpu", "cores": 2, "memory_gb": 25.0, "system": "Linux", "python": "3.11", "versions": {"numpy": "2"},
    },
    "calibration": {"gemm_gflops": 40.0, "fill_gb_per_s": 19.0},
    "load_before": (0.1, 0, 0), "load_after": (0.2, 0, 0),
}  # fmt: skip
RATE, TIME = Target("rate", 1000, "records/s", at_least=True), Target("time", 0.1, "s")


@given(st.floats(1, 1e9), st.floats(1, 1e9))
def test_a_rate_must_reach_its_bound_and_a_time_must_not_pass_it(bound: float, value: float) -> None:
    assert Target("", bound, "x", at_least=True).met_by(value) == (value >= bound)
    assert Target("", bound, "s").met_by(value) == (value <= bound)


def test_a_run_that_does_not_count_fails_its_row_whatever_it_measured() -> None:
    verdicts = [line.verdict for line in lines("row", (RATE, TIME), Outcome((2000.0, 0.2)))]
    assert verdicts == ["met", "missed"]
    assert {line.verdict for line in lines("row", (RATE, TIME), Outcome((2000.0, 0.05), failed="late rows"))} == {
        "failed"
    }
    assert {line.verdict for line in lines("row", (RATE, TIME), Outcome((), failed="it ended"))} == {"failed"}
    assert lines("row", (TIME,), Outcome((float("nan"),)))[0].verdict == "missed"


def test_an_outcome_must_have_a_value_for_every_target() -> None:
    with pytest.raises(ValueError, match="zip"):
        lines("row", (RATE, TIME), Outcome((1.0,)))


def test_amounts_are_in_the_unit_that_a_reader_wants() -> None:
    assert [amount(0.0421, "s"), amount(4.2, "s"), amount(1.83, "x")] == ["42.1 ms", "4.2 s", "1.83x"]


def test_the_tables_say_what_was_measured_against_what_and_why_not_more() -> None:
    told = lines("ingest", (RATE,), Outcome((987.0,), "the worker's core"))
    told += lines("late", (TIME,), Outcome((0.05,), failed="7 late | rows"))
    console = Console(record=True, width=200, file=StringIO())
    show(console, FOUND, told)
    for text in console.export_text(), markdown(FOUND, told):
        for expected in "ingest", "987", ">= 1,000 records/s", "missed", "the worker's core", "failed", "40.0 GFLOP/s":
            assert expected in text
    assert "7 late \\| rows" in markdown(FOUND, told)


def test_a_table_in_markdown_has_as_many_cells_in_every_line() -> None:
    table = markdown_table(("a", "b"), [("1", "2|3"), ("", "4")])
    assert {line.replace("\\|", "").count("|") for line in table.splitlines()} == {3}


def test_every_row_has_a_name_of_its_own_and_a_target() -> None:
    assert all(name == row.name and row.targets for name, row in ROWS.items())


def test_settings_become_variables_as_the_settings_read_them() -> None:
    given_options = {"analyses": ["sources"], "app": "a", "sources": {"size_s": 3.0, "distances": False}}
    variables = environment(given_options)
    assert variables["FLOWSTREAM_APP"] == "a"
    assert json.loads(variables["FLOWSTREAM_ANALYSES"]) == ["sources"]
    assert (variables["FLOWSTREAM_SOURCES__SIZE_S"], variables["FLOWSTREAM_SOURCES__DISTANCES"]) == ("3.0", "false")


@pytest.mark.parametrize(
    ("busy", "expected"),
    [((0.95, 0.2, 0.1), "the worker's core"), ((0.5, 0.9, 0.1), "the broker"), ((0.6, 0.3, 1.0), "shared"),
     ((0.4, 0.3, 0.1), "waiting")],
)  # fmt: skip
def test_what_limits_a_run_is_told_from_who_was_busy(busy: tuple[float, float, float], expected: str) -> None:
    assert expected in limited_by(dict(zip(("worker_busy", "broker_busy", "others_busy"), busy, strict=True)))


PLACES = st.lists(st.integers(1, 10**6), min_size=2, max_size=7, unique=True).map(sorted)


@given(PLACES, st.floats(0.01, 100))
def test_linear_growth_has_a_ratio_of_one(places: list[int], cost: float) -> None:
    assert ratios(places, [cost] * len(places), by_size=False) == [1.0] * len(places)
    assert ratios(places, [cost * p for p in places], by_size=True) == pytest.approx([1.0] * len(places))


@given(PLACES)
def test_growth_with_the_square_is_flagged_and_with_the_root_is_not(places: list[int]) -> None:
    steep = [place for at, place in enumerate(places) if not at or place > 2 * places[0]]
    squares = ratios(steep, [float(p) for p in steep], by_size=False)
    assert all(ratio > WORSE for ratio in squares[1:])
    roots = ratios(places, [p**0.5 for p in places], by_size=True)
    assert all(ratio <= 1.0 for ratio in roots)


def test_a_point_after_a_dear_one_is_compared_with_the_cheapest_before_it() -> None:
    assert ratios([1, 2, 3], [2.0, 1.0, 3.0], by_size=False) == [1.0, 0.5, 3.0]


def test_the_growth_tables_name_each_axis_its_points_and_what_failed() -> None:
    told = [{
        "axis": "sources", "by_size": False, "failed": [{"at": 1000, "why": "it ended"}],
        "points": [{"at": 10, "us_per_record": 1.5, "ratio": 1.0, "worse": False},
                   {"at": 100, "us_per_record": 3.0, "ratio": 2.0, "worse": True}],
    }]  # fmt: skip
    text = growth_markdown(told)
    for expected in "sources", "1.5", "2.00", "worse than linear", "failed: it ended":
        assert expected in text


@pytest.mark.parametrize("quick", [True, False])
def test_the_places_of_every_axis_ascend(quick: bool) -> None:
    for axis in axes(quick=quick):
        places = [point.at for point in axis.points]
        assert places == sorted(set(places))
