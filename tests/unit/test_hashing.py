"""Groups found by hashing are those found by sorting, whoever chose the addresses."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream import hashing
from flowstream.hashing import count_distinct, number_groups

word = st.integers(0, 3) | st.integers(0, 2**64 - 1)
rows = st.lists(st.tuples(word, word), max_size=60)


def words(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, np.uint64).reshape(-1, 2)


@pytest.fixture(params=["hashed", "sorted"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways: with probes to spare, and with none at all, as under addresses chosen to collide."""
    if request.param == "sorted":
        monkeypatch.setattr(hashing, "_number", lambda *_: -1)
        monkeypatch.setattr(hashing, "_count", lambda *_: False)
    return str(request.param)


@pytest.mark.usefixtures("way")
class TestBothWays:
    @given(pairs=rows)
    def test_groups_are_numbered_in_the_order_of_their_keys(self, pairs: list[tuple[int, int]]) -> None:
        group, keys = number_groups(words(pairs))
        distinct = sorted(set(pairs))
        assert [tuple(k) for k in keys.tolist()] == distinct
        assert group.tolist() == [distinct.index(p) for p in pairs]

    @given(pairs=st.lists(st.tuples(st.integers(0, 4), word, word), max_size=60))
    def test_distinct_words_are_counted_per_group(self, pairs: list[tuple[int, int, int]]) -> None:
        seen: dict[int, set[tuple[int, int]]] = defaultdict(set)
        for group, high, low in pairs:
            seen[group].add((high, low))
        group = np.array([p[0] for p in pairs], np.int64)
        counts = count_distinct(group, 5, words([p[1:] for p in pairs]))
        assert counts.tolist() == [len(seen[g]) for g in range(5)]


def test_probes_that_run_out_end_the_hashing_and_not_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.random.default_rng(1).integers(0, 50, (2000, 2)).astype(np.uint64)
    one = np.zeros(2000, np.int64)
    (group, distinct), count = number_groups(keys), count_distinct(one, 1, keys)
    monkeypatch.setattr(hashing, "PROBES_PER_ROW", 0)  # 64 are left: not enough for 2,000 rows
    (group_again, distinct_again), count_again = number_groups(keys), count_distinct(one, 1, keys)
    assert group.tolist() == group_again.tolist()
    assert distinct.tolist() == distinct_again.tolist()
    assert count.tolist() == count_again.tolist() == [len({tuple(k) for k in keys.tolist()})]
