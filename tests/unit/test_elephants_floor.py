"""Below the floor of samples an elephant has bounds and no number, wherever it is seen; an onset always has one."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import gamma

from flowstream.batch import FlowBatch, address_text
from flowstream.counting import CountOnce
from flowstream.links import LinkTable
from flowstream.pipeline import build_operators
from flowstream.render import rate_text, render_line
from flowstream.settings import Settings
from tests.elephant_rows import (
    LEAF_IN,
    LEAF_OUT,
    LINKS,
    SECOND,
    SPINE,
    events,
    fabric,
    operator,
    path,
    record,
    run,
    steady,
)
from tests.unit.test_elephants_clos import LINKS as CLOS_LINKS
from tests.unit.test_elephants_clos import recording, told

FIGURES = ("rate_bps", "low_bps", "high_bps", "samples")


def recorded_rows() -> dict[tuple[str, int, int], list[tuple[int, int]]]:
    """Return (time, bytes) of the recorded samples by exporter, in_if and source port, in time order."""
    rows, found = recording(), {}
    for n in range(len(rows)):
        place = address_text(*map(int, rows.exporter[n])), int(rows.in_if[n]), int(rows.src_port[n])
        found.setdefault(place, []).append((int(rows.time_ns[n]), int(rows.bytes[n])))
    return found


def interval(weights: list[float], seconds: float) -> tuple[float, float]:
    """Return the bounds of Fay and Feuer by scipy, one more sample being as large as the largest."""
    total, variance, largest = sum(weights), sum(w * w * (1 - 1 / 64) for w in weights), max(weights)
    bounds = []
    for part, y, v in ((0.025, total, variance), (0.975, total + largest, variance + largest**2)):
        bounds.append(gamma.ppf(part, y * y / v, scale=v / y) * 8 / seconds)
    return bounds[0], bounds[1]


def test_a_rate_is_named_where_it_rests_on_four_samples_of_equal_weight_or_more():
    """The oracle takes the newest samples of each place from the rows themselves."""
    rows, named = recorded_rows(), []
    for event in told(CLOS_LINKS):
        for one in (event, *event["sightings"]):
            every = rows[one["exporter"], one["in_if"], event["flow"]["src_port"]]
            before = [size for at, size in every if at < event["time_ns"]]
            weights = [64.0 * size for size in before[len(before) - one["samples"] :]]
            is_enough = bool(weights) and sum(weights) ** 2 >= 4 * sum(w * w * (1 - 1 / 64) for w in weights)
            assert (one["rate_bps"] is not None) == is_enough
            assert one["low_bps"] < one["high_bps"]
            named.append(is_enough)
            if is_enough:
                seconds = sum(weights) * 8 / one["rate_bps"]
                assert seconds == pytest.approx(round(seconds * 4) / 4)  # ticks of a quarter of a second
                low_bps, high_bps = interval(weights, seconds)
                assert one["low_bps"] == pytest.approx(low_bps, rel=1e-5)
                assert one["high_bps"] >= high_bps * (1 - 1e-5)  # an earlier sample may have been larger
                assert one["low_bps"] < one["rate_bps"] < one["high_bps"]
        assert event["event"] != "onset" or event["rate_bps"] is not None
    assert 0.5 < np.mean(named) < 1.0  # both were seen


@pytest.mark.parametrize("floor", [0.0, 20.0, 1e6])
def test_the_floor_takes_numbers_away_and_changes_nothing_else(floor: float):
    batch = path(LEAF_IN, SPINE, LEAF_OUT)
    free, bound = (events(run(operator(fabric(), named_min=n), batch)) for n in (0.0, floor))
    assert [list(e) for e in bound] == [list(e) for e in free]
    for event, same in zip(bound, free, strict=True):
        hidden = {"rate_bps": None, "share": None}
        assert event | hidden | {"sightings": 0} == same | hidden | {"sightings": 0}
        for one, other in zip(event["sightings"], same["sightings"], strict=True):
            assert one | hidden == other | hidden
            assert one["rate_bps"] in (None, other["rate_bps"])
        assert (event["rate_bps"] is None) == (event["share"] is None)
        assert event["rate_bps"] in (None, same["rate_bps"])
        assert event["rate_bps"] is not None or event["event"] != "onset"
    missing = [e["rate_bps"] is None for e in bound if e["event"] == "update"]
    assert (any(missing), all(missing)) == {0.0: (False, False), 20.0: (True, False), 1e6: (True, True)}[floor]


def test_where_a_flow_is_reported_it_has_one_figure():
    for event in events(run(operator(fabric()), path(LEAF_IN, SPINE, LEAF_OUT))):
        (own,) = [s for s in event["sightings"] if (s["exporter"], s["in_if"]) == (event["exporter"], event["in_if"])]
        assert [own[name] for name in FIGURES] == [event[name] for name in FIGURES]


def offset_of(batch: FlowBatch, links: LinkTable = LINKS) -> dict[str, Any]:
    (event,) = events(run(operator(links), batch), "offset")
    return event


def test_of_a_sampled_flow_that_is_seen_no_more_there_is_an_upper_bound_alone():
    event = offset_of(steady(0.3, 5))
    assert (event["rate_bps"], event["share"], event["samples"], event["low_bps"]) == (None, None, 0, 0.0)
    assert 0 < event["high_bps"] < 0.08 * 10**9
    assert f"not enough samples [0.0 b/s to {rate_text(event['high_bps'])}], 0 samples" in render_line(
        "elephants", "", event
    )


def test_what_was_counted_and_not_sampled_is_always_named():
    event = offset_of(steady(0.3, 5, rate=1, bytes_each=1_500_000))
    assert (event["rate_bps"], event["share"], event["low_bps"], event["high_bps"]) == (0.0, 0.0, 0.0, 0.0)
    for value in events(run(operator(named_min=1e6), record(0.3, 0, 30)), "onset", "offset"):
        assert value["low_bps"] == value["rate_bps"] == value["high_bps"]


def test_the_floor_is_the_setting_of_all_results():
    for floor in (0.0, 1e6):
        chosen = Settings(analyses=("elephants",), sampling={"samples_min": floor}, time={"pane_s": 1.0})
        (built,) = build_operators(chosen, CountOnce(LINKS), {})
        updates = events(run(built, steady(0.3, 5)), "update")
        assert updates
        assert {v["rate_bps"] is None for v in updates} == {floor > 0}
        assert chosen.pane_ns == SECOND
