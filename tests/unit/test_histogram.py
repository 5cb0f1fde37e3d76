"""The log-linear histogram: a monoid with a guarantee."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.errors import StateError
from flowstream.histogram import BINS, EDGES, LogLinearHistogram, bins_of_squares

distances = st.lists(
    st.one_of(
        st.floats(0.0, 1e40),
        st.floats(0.0, 10.0),
        st.sampled_from([0.0, 1.0, 5e-324, 1e-30, 2.0**64, 1e300]),
    ),
    max_size=40,
)
histograms = distances.map(lambda values: LogLinearHistogram.of(np.array(values, np.float64)))


@given(histograms, histograms, histograms)
def test_merging_is_associative_and_commutative_with_the_empty_one_as_identity(a, b, c):
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(b) == b.merge(a)
    assert a.merge(LogLinearHistogram.empty()) == a == LogLinearHistogram.empty().merge(a)
    assert hash(a.merge(b)) == hash(b.merge(a))


@given(distances, distances)
def test_merging_counts_the_values_of_both(first, second):
    both = LogLinearHistogram.of(np.array(first + second, np.float64))
    apart = LogLinearHistogram.of(np.array(first, np.float64)).add(np.array(second, np.float64))
    assert apart == both
    assert apart.total == len(first) + len(second)


@given(st.lists(st.floats(0.0, 1e150), min_size=1, max_size=60), st.floats(0.0, 1.0))
def test_the_bracket_holds_the_quantile_of_the_values(values, quantile):
    array = np.array(values)
    low, high = LogLinearHistogram.of(array).bracket(quantile)
    # The quantile is computed from the values, the bracket from their squares: one rounding apart.
    exact = float(np.quantile(array, quantile))
    assert low * (1 - 1e-15) <= exact <= high * (1 + 1e-15)


@given(st.floats(1e-15, 1e15))
def test_a_bracket_of_one_value_is_at_most_four_thousandths_wide(value):
    low, high = LogLinearHistogram.of(np.array([value])).bracket(0.5)
    assert high / low <= 1.004


def test_bins_ascend_with_the_squares_and_begin_at_their_edges():
    inside = EDGES[1:-1]
    assert np.array_equal(bins_of_squares(inside), np.arange(1, BINS))
    assert np.array_equal(bins_of_squares(np.nextafter(inside, 0.0)), np.arange(BINS - 1))
    assert bins_of_squares(np.array([0.0, 1e308, math.inf])).tolist() == [0, BINS - 1, BINS - 1]
    assert np.all(np.diff(EDGES) > 0)


@given(histograms)
def test_the_avro_form_reads_back_as_it_was(histogram):
    value = histogram.to_value()
    assert LogLinearHistogram.from_value(value) == histogram
    assert len(value["bins"]) == 2 * len(histogram.bins)
    assert len(value["counts"]) == 8 * len(histogram.counts)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"bins": b"\1\0", "counts": b""},
        {"bins": b"\1", "counts": b""},
        {"bins": b"\1\0", "counts": bytes(8)},
        {"bins": b"\2\0\1\0", "counts": (1).to_bytes(8, "little") * 2},
        {"bins": b"\xff\xff", "counts": (1).to_bytes(8, "little")},
        {"bins": "text", "counts": b""},
    ],
)
def test_what_is_not_a_histogram_is_refused(value):
    with pytest.raises(StateError):
        LogLinearHistogram.from_value(value)


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_negative_and_undefined_distances_are_refused(bad):
    with pytest.raises(ValueError, match="negative or not a number"):
        LogLinearHistogram.of(np.array([1.0, bad]))
    with pytest.raises(ValueError, match="negative or not a number"):
        LogLinearHistogram.of_squares(np.array([bad]))


def test_an_empty_histogram_has_no_quantiles_and_quantiles_are_shares():
    with pytest.raises(ValueError, match="empty"):
        LogLinearHistogram.empty().bracket(0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        LogLinearHistogram.of(np.ones(3)).bracket(1.5)
