"""Links over the threshold: an event begins and ends after enough intervals, with hysteresis, on enough samples."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream.link_use import LinkUse, LinkUseConfig
from flowstream.links import LinkTable
from tests.builders import T0_NS
from tests.link_rows import SECOND, loads, merged, said, sample

FIRST = T0_NS // SECOND
CONFIG = LinkUseConfig(spread_max_s=60.0)
LINKS = LinkTable.from_csv("exporter,if_index,name,speed_bps\n192.0.2.1,1,port1,100000000\n")


def link_use(config: LinkUseConfig = CONFIG) -> LinkUse:
    return LinkUse(config, SECOND, LINKS)


def happened(levels: list[float], config: LinkUseConfig = CONFIG) -> list[tuple[str, int, int]]:
    results = said(link_use(config), merged(loads(levels), config, FIRST, 10 * len(levels)))
    return [
        (r.value["event"], (r.value["onset_ns"] - T0_NS) // SECOND, (r.value["time_ns"] - T0_NS) // SECOND)
        for r in results
        if r.stream == "link-events"
    ]


@pytest.mark.parametrize(
    ("levels", "events"),
    [
        ([0.9, 0.9, 0.9, 0.9], [("onset", 30, 30)]),
        ([0.9, 0.9, 0.75, 0.9, 0.9], []),  # not long enough
        ([0.8, 0.8, 0.8, 0.75, 0.75, 0.75, 0.75], [("onset", 30, 30)]),  # between the levels nothing changes
        ([1.2, 1.2, 1.2, 0.69, 0.69, 0.75, 0.69, 0.69, 0.69], [("onset", 30, 30), ("offset", 30, 90)]),
        ([0.9, 0.9, 0.9, 0.0, 0.0, 0.0, 0.0], [("onset", 30, 30), ("offset", 30, 60)]),
        ([0.9] * 3 + [0.1] * 3 + [0.9] * 3, [("onset", 30, 30), ("offset", 30, 60), ("onset", 90, 90)]),
    ],
)
def test_a_link_over_the_threshold_has_a_beginning_and_an_end(levels, events):
    assert happened(levels) == events


def test_a_load_from_too_few_samples_begins_nothing_and_ends_where_its_bound_is_low():
    few = said(link_use(), merged(loads([0.9] * 6, per_interval=3), CONFIG, FIRST, 60))
    assert not [r for r in few if r.stream == "link-events"]
    rows = loads([0.9] * 3)
    rows += [sample(T0_NS + n * 10 * SECOND, 1500, 1000, out_if=0x3FFF_FFFF) for n in range(3, 7)]
    events = [r.value["event"] for r in said(link_use(), merged(rows, CONFIG, FIRST, 70)) if r.stream == "link-events"]
    assert events == ["onset", "offset"]


@settings(max_examples=30)
@given(st.lists(st.sampled_from([0.0, 0.5, 0.75, 0.85, 1.1]), min_size=4, max_size=16), st.integers(1, 3))
def test_a_record_says_since_when_a_link_is_over_the_threshold(levels: list[float], for_intervals: int) -> None:
    config = LinkUseConfig(for_intervals=for_intervals)
    results = said(link_use(config), merged(loads(levels), config, FIRST, 10 * len(levels)))
    events = [r.value for r in results if r.stream == "link-events"]
    for result in results:
        if result.stream == "link-use" and len(result.value["interfaces"]) > 0:
            (port,) = result.value["interfaces"]
            before = [e for e in events if e["time_ns"] <= result.value["window_end_ns"]]
            is_over = bool(before) and before[-1]["event"] == "onset"
            assert port["onset_ns"] == (before[-1]["onset_ns"] if is_over else None)
