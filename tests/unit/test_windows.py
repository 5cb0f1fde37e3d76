"""Every boundary of tumbling and hopping windows, each with its picture.

In the pictures a digit is a pane by its index, ``.`` an empty pane, ``[ )`` a window, time running right.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.operators import Pane
from flowstream.windows import Window, Windowing
from tests.builders import flows

PANE_NS = 1_000_000_000


def pane(index: int, rows: int = 1, length_ns: int = PANE_NS) -> Pane:
    start_ns = index * length_ns
    times = [start_ns + k for k in range(rows)]
    return Pane(index, start_ns, start_ns + length_ns, flows(rows, time_ns=times, src_port=index % 65536))


def panes(first: int, picture: str) -> list[Pane]:
    """One pane for each character from ``first`` on; ``.`` is a pane without rows."""
    return [pane(first + k, rows=0 if mark == "." else 1) for k, mark in enumerate(picture)]


def closed(windowing: Windowing, run: list[Pane]) -> tuple[int, int, list[int]] | None:
    """Return (start, end, indices of the panes whose rows are in it), in panes."""
    window = windowing.closing(run)
    if window is None:
        return None
    indices = (window.rows.time_ns // PANE_NS).tolist()
    return window.start_ns // PANE_NS, window.end_ns // PANE_NS, indices


TUMBLING = Windowing(size=3, step=3)
HOPPING = Windowing(size=4, step=2)


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        (0, None),  # [0
        (1, None),  # [0 1
        (2, (0, 3, [0, 1, 2])),  # [0 1 2)
        (3, None),  # [0 1 2)[3
        (5, (3, 6, [3, 4, 5])),  # [0 1 2)[3 4 5)
    ],
)
def test_a_tumbling_window_closes_with_its_last_pane_and_begins_where_the_one_before_ended(last, wanted):
    run = panes(0, "012345"[: last + 1])
    assert closed(TUMBLING, run[-3:]) == wanted


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        (4, None),
        (5, (2, 6, [2, 3, 4, 5])),  #     [2 3 4 5)
        (6, None),
        (7, (4, 8, [4, 5, 6, 7])),  #         [4 5 6 7)
        (9, (6, 10, [6, 7, 8, 9])),  #            [6 7 8 9)
    ],
)
def test_hopping_windows_share_panes_and_one_closes_at_every_step(last, wanted):
    run = [pane(k) for k in range(last - HOPPING.lookback, last + 1)]
    assert closed(HOPPING, run) == wanted


def test_a_row_at_the_end_of_a_window_belongs_to_the_next():
    #   0   1   2 | 3        the row at exactly 3 s is in pane 3
    first = TUMBLING.closing(panes(0, "012"))
    second = TUMBLING.closing(panes(3, "345"))
    assert first is not None
    assert second is not None
    assert first.end_ns == second.start_ns == 3 * PANE_NS
    assert first.rows.time_ns.max() < first.end_ns
    assert second.rows.time_ns.min() == second.start_ns


@pytest.mark.parametrize(
    ("picture", "wanted"),
    [
        ("345", [3, 4, 5]),  # [3 4 5)
        (".4.", [4]),  #       [. 4 .)
        ("3..", [3]),  #       [3 . .)   closes with an empty pane all the same
        ("..5", [5]),  #       [. . 5)
    ],
)
def test_empty_panes_are_part_of_a_window(picture, wanted):
    assert closed(TUMBLING, panes(3, picture)) == (3, 6, wanted)


def test_a_window_without_a_row_says_nothing():
    assert TUMBLING.closing(panes(3, "...")) is None  # [. . .)
    assert HOPPING.closing(panes(2, "....")) is None


def test_panes_before_the_window_are_left_out_even_if_given():
    assert closed(TUMBLING, panes(0, "012345")) == (3, 6, [3, 4, 5])  # 0 1 2[3 4 5)


@pytest.mark.parametrize(
    ("given_panes", "wanted"),
    [
        ([pane(5)], (3, 6, [5])),  #              [    5)  the first panes ever seen are 5
        ([pane(3), pane(5)], (3, 6, [3, 5])),  #  [3   5)  pane 4 is missing
        ([pane(1), pane(5)], (3, 6, [5])),  #   1 [    5)  the gap began before the window
    ],
)
def test_a_gap_leaves_the_bounds_of_a_window_where_they_are(given_panes, wanted):
    assert closed(TUMBLING, given_panes) == wanted


def test_windows_are_aligned_to_the_epoch_on_both_sides_of_it():
    assert closed(TUMBLING, [pane(-3), pane(-2), pane(-1)]) == (-3, 0, [-3, -2, -1])  # [-3 -2 -1)
    assert closed(TUMBLING, [pane(-4), pane(-3), pane(-2)]) is None


def test_sub_second_panes_give_sub_second_windows():
    tenth = 100_000_000
    window = Windowing(size=5, step=5).closing([pane(k, length_ns=tenth) for k in range(5, 10)])
    assert isinstance(window, Window)
    assert (window.start_ns, window.end_ns) == (500_000_000, 1_000_000_000)


def test_a_window_of_one_pane_is_that_pane():
    single = Windowing(size=1, step=1)
    assert single.lookback == 0
    assert closed(single, [pane(7)]) == (7, 8, [7])


@pytest.mark.parametrize(("size", "step"), [(3, 4), (3, 0), (0, 0), (3, -1), (-2, -2)])
def test_a_step_that_would_leave_rows_in_no_window_or_not_advance_is_refused(size, step):
    with pytest.raises(ValueError, match="cannot step"):
        Windowing(size, step)


@given(
    size=st.integers(1, 7),
    step=st.integers(1, 7),
    first=st.integers(-20, 20),
    picture=st.text("x.", max_size=25),
)
def test_every_row_is_in_size_over_step_windows_and_in_each_that_covers_it(size, step, first, picture):
    step = min(step, size)
    windowing = Windowing(size, step)
    # Panes enough on both sides for every window that covers the picture to close.
    run = panes(first - 2 * size, "." * 2 * size + picture + "." * 2 * size)
    found: dict[tuple[int, int], list[int]] = {}
    for last in range(windowing.lookback, len(run)):
        window = closed(windowing, run[last - windowing.lookback : last + 1])
        if window is not None:
            found[window[:2]] = window[2]
    occupied = [first + k for k, mark in enumerate(picture) if mark == "x"]
    wanted: dict[tuple[int, int], list[int]] = {}
    for k in range((first - size) // step - 1, (first + len(picture)) // step + 2):
        inside = [index for index in occupied if k * step <= index < k * step + size]
        if inside:
            wanted[k * step, k * step + size] = inside
    assert found == wanted
