"""Statistics of all pairs, against brute force over every pair and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from flowstream import distance_kernels, summaries
from flowstream.distance_kernels import GREATEST, LEAST, MEAN, QUANTILES, THRESHOLD
from flowstream.histogram import LogLinearHistogram
from flowstream.pair_kernels import pair_at
from flowstream.pairs import distances_of_groups
from flowstream.selection_kernels import select, square_not_above
from flowstream.summaries import Summaries, Wanted, summarise

LEVELS = (0.5, 0.9, 0.99, 0.999)
WANTED = Wanted(LEVELS, tail_at=3, farthest=10, busiest=5)


def brute(features: np.ndarray) -> np.ndarray:
    """Return every squared distance in condensed order by direct differences, one flow at a time."""
    columns = []
    for i in range(features.shape[1] - 1):
        square = np.zeros(features.shape[1] - 1 - i)
        for row in features:
            square = square + (row[i + 1 :] - row[i]) ** 2
        columns.append(square)
    return np.concatenate([np.zeros(0), *columns])


def mean_of(distances: np.ndarray) -> float:
    """Return the mean as it is defined: blocks of 2,048 folded by halves, their sums added with compensation."""
    total = lost = 0.0
    for first in range(0, len(distances), 2048):
        part = distances[first : first + 2048]
        while len(part) > 1:
            half = (len(part) + 1) // 2
            part = part[:half] + np.append(part[half:], np.zeros(2 * half - len(part)))
        after = total + part[0]
        large, small = max(total, part[0]), min(total, part[0])
        lost += (large - after) + small
        total = after
    return float((total + lost) / len(distances))


def one(features: np.ndarray, wanted: Wanted = WANTED) -> Summaries:
    (part,) = summarise(features, np.array([0, features.shape[1]]), wanted)
    return part


def check_group(part: Summaries, g: int, features: np.ndarray, wanted: Wanted) -> None:
    """Compare everything said of a group with brute force."""
    n, squares = features.shape[1], brute(features)
    distances, out = np.sqrt(squares), part.columns
    assert part.pairs[g] == len(squares) == n * (n - 1) // 2
    bins = slice(part.bin_bounds[g], part.bin_bounds[g + 1])
    assert LogLinearHistogram(out.bins[bins], out.counts[bins].astype(np.int64)) == LogLinearHistogram.of_squares(
        squares
    )
    far = slice(out.far_bounds[g], out.far_bounds[g + 1])
    busy = slice(out.busy_bounds[g], out.busy_bounds[g] + out.busy_used[g])
    figures = out.statistics[g]
    if n < 2:
        assert np.isnan(figures).all()
        assert (far.start, busy.start) == (far.stop, busy.stop)
        return
    assert figures[LEAST] == distances.min()
    assert figures[GREATEST] == distances.max()
    assert figures[MEAN] == pytest.approx(math.fsum(distances) / len(distances), rel=1e-14)
    assert figures[MEAN] == mean_of(distances)
    assert figures[QUANTILES:].tolist() == [np.quantile(distances, q) for q in wanted.quantiles]
    threshold = wanted.threshold if wanted.tail_at < 0 else np.quantile(distances, wanted.quantiles[wanted.tail_at])
    assert figures[THRESHOLD] == threshold

    i, j = np.triu_indices(n, 1)
    order = np.lexsort((j, i, -squares))[: far.stop - far.start]
    assert out.far_first[far].tolist() == i[order].tolist()
    assert out.far_second[far].tolist() == j[order].tolist()
    assert out.far_distance[far].tolist() == distances[order].tolist()

    tail = distances > threshold
    assert out.above[g] == tail.sum()
    per_flow = np.bincount(np.concatenate([i[tail], j[tail]]), minlength=n)
    most = np.lexsort((np.arange(n), -per_flow))[: wanted.busiest]
    most = most[per_flow[most] > 0]
    assert out.busy_flow[busy].tolist() == most.tolist()
    assert out.busy_pairs[busy].tolist() == per_flow[most].tolist()


def make(kind: str, n: int, dims: int, scale: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made = {
        "spread": lambda: rng.lognormal(0.0, 2.0, (dims, n)),
        "copies": lambda: rng.integers(0, 3, (dims, n)).astype(np.float64),
        "equal": lambda: np.ones((dims, n)),
        "near": lambda: 1.0 + rng.integers(0, 2000, (dims, n)) * 2.0**-30,
        "twins": lambda: np.repeat(rng.random((dims, (n + 1) // 2)), 2, axis=1)[:, :n],
    }[kind]()
    return made * scale


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e9, 2.0**127])
@pytest.mark.parametrize("kind", ["spread", "copies", "equal", "near", "twins"])
@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 66, 256, 257, 300, 1000])
def test_every_figure_of_a_group_equals_brute_force_to_the_last_bit(n, kind, scale):
    features = make(kind, n, 5, scale, n)
    check_group(one(features), 0, features, WANTED)


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 5, 6, 9])
def test_any_number_of_features_equals_scipy(dims):
    features = make("spread", 400, dims, 1e9, dims)
    expected, figures = pdist(features.T), one(features).columns.statistics[0]
    assert figures[LEAST] == pytest.approx(expected.min(), rel=1e-12)
    assert figures[GREATEST] == pytest.approx(expected.max(), rel=1e-12)
    assert figures[MEAN] == pytest.approx(expected.mean(), rel=1e-12)
    assert figures[QUANTILES:] == pytest.approx(np.quantile(expected, LEVELS), rel=1e-12)
    ((_, listed),) = distances_of_groups(np.array([0, features.shape[1]]), features)
    assert listed == pytest.approx(expected, rel=1e-12)


def test_near_pairs_of_large_values_keep_their_digits():
    rng = np.random.default_rng(4)
    features = 1e9 + rng.integers(0, 2000, (3, 200)).astype(np.float64)
    features[:, 100:] = rng.lognormal(4, 2, (3, 100))
    exact = min(
        math.sqrt(sum((int(a) - int(b)) ** 2 for a, b in zip(features[:, i], features[:, j], strict=True)))
        for i in range(100)
        for j in range(i + 1, 100)
    )
    near = one(features[:, :100]).columns.statistics[0, LEAST]
    assert near == pytest.approx(exact, rel=1e-15)
    check_group(one(features), 0, features, WANTED)


group_sizes = st.lists(st.sampled_from([1, 1, 2, 3, 5, 17, 64, 65, 90]), min_size=1, max_size=8)


@settings(max_examples=40)
@given(
    group_sizes,
    st.integers(0, 2**32 - 1),
    st.sampled_from(["spread", "copies", "equal", "near", "twins"]),
    st.integers(1, 5),
    st.sampled_from([0, 1, 7, 3000]),
    st.sampled_from([0, 1, 4, 200]),
    st.sampled_from([1, 100, 1 << 20]),
)
def test_groups_do_not_see_each_other(sizes, seed, kind, dims, farthest, busiest, chunk):
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    features = make(kind, int(bounds[-1]), dims, 1e3, seed)
    wanted = Wanted(LEVELS, tail_at=1, farthest=farthest, busiest=busiest)
    seen = 0
    for part in summarise(features, bounds, wanted, chunk):
        assert part.first_group == seen
        for g in range(len(part.pairs)):
            if farthest == busiest == 0:
                assert part.columns.above[g] == 0  # not asked for, hence not counted
                continue
            a, b = bounds[seen + g], bounds[seen + g + 1]
            check_group(part, g, features[:, a:b], wanted)
        seen += len(part.pairs)
    assert seen == len(sizes)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0, 2.0, math.sqrt(3.0), 1e9])
def test_a_fixed_threshold_counts_the_pairs_strictly_above_it(threshold):
    features = make("copies", 400, 4, 1.0, 9)
    wanted = Wanted((0.5,), threshold=threshold, farthest=3, busiest=400)
    check_group(one(features, wanted), 0, features, wanted)


@pytest.mark.parametrize("kind", ["spread", "copies", "equal", "near", "twins"])
def test_bins_too_full_to_gather_are_split_until_they_are_not(kind, monkeypatch):
    gathered = distance_kernels.GATHER_MAX
    features = make(kind, 2500, 3, 1.0, 5)
    if kind == "near":
        features = 1e6 + features  # every square falls in a few bins
    features[:, :2] = 0.0  # and one pair of zero, far from the rest
    check_group(one(features), 0, features, WANTED)
    assert features.shape[1] * (features.shape[1] - 1) // 2 > gathered


def test_all_squares_in_one_bin_are_told_apart():
    rng = np.random.default_rng(6)
    # On a circle about a far point no two pairs at a right angle agree, yet all lie within one bin of 0.8 %.
    features = np.zeros((2, 2200))
    features[0, :1100] = 1e6
    features[1] = rng.random(2200) * 10.0
    wanted = Wanted((0.25, 0.75, 0.9), tail_at=2, farthest=20, busiest=5)
    check_group(one(features, wanted), 0, features, wanted)


def test_more_tail_pairs_than_wanted_are_the_farthest_of_them():
    features = make("spread", 500, 3, 1.0, 11)
    wanted = Wanted(LEVELS, tail_at=2, farthest=4, tail_pairs=50, busiest=3)
    part = one(features, wanted)
    assert part.columns.far_bounds[1] == 50 < part.columns.above[0]
    check_group(part, 0, features, wanted)


@pytest.mark.parametrize("farthest", [31, 32, 33, 34, 100, 1000])
@pytest.mark.parametrize("kind", ["copies", "equal", "twins", "spread"])
def test_of_equal_distances_the_first_in_flow_order_are_listed_however_many(kind, farthest):
    features = make(kind, 120, 2, 1.0, 3)
    wanted = Wanted((0.5,), tail_at=0, farthest=farthest, busiest=7)
    check_group(one(features, wanted), 0, features, wanted)


def test_a_group_beyond_the_limit_is_refused():
    size = summaries.FLOWS_MAX + 1
    with pytest.raises(ValueError, match="above the limit"):
        next(summarise(np.zeros((1, size)), np.array([0, size]), WANTED))


def test_no_groups_give_no_summaries():
    assert list(summarise(np.zeros((5, 0)), np.zeros(1, np.int64), WANTED)) == []


@given(st.integers(2, 3000), st.data())
def test_places_in_condensed_order_turn_back_into_pairs(n, data):
    i = data.draw(st.integers(0, n - 2))
    j = data.draw(st.integers(i + 1, n - 1))
    assert pair_at(i * n - i * (i + 1) // 2 + j - i - 1, n) == (i, j)


@given(st.lists(st.integers(0, 2**62) | st.integers(0, 50), min_size=1, max_size=200), st.data())
def test_selection_gives_the_value_of_the_rank(values, data):
    rank = data.draw(st.integers(0, len(values) - 1))
    bits, digits = np.array(values, np.int64), np.zeros(2048, np.int64)
    assert select(bits, 0, len(bits), rank, digits) == sorted(values)[rank]


@pytest.mark.parametrize("count", [2047, 2048, 2049, 20_000])
@pytest.mark.parametrize("spread", [1, 3, 2**20, 2**62])
@pytest.mark.parametrize("ranks", [(0, 1, 2), (1000, 1500, 2000)])
def test_few_values_and_many_are_selected_alike(count, spread, ranks):
    values = np.random.default_rng(count).integers(0, spread, count + 5)
    values[4] = 2**62  # one far from the rest, so that the first digits tell nothing
    inside, digits = np.sort(values[3 : count + 3]), np.zeros(2048, np.int64)
    for rank in (*ranks, count - 1):
        assert select(values, 3, count + 3, rank, digits) == inside[rank]


@given(st.floats(0.0, 1e154))
def test_a_square_above_the_cut_has_a_root_above_the_distance_and_no_other_has(distance):
    cut = square_not_above(distance)
    assert math.sqrt(cut) <= distance < math.sqrt(math.nextafter(cut, math.inf))
