"""Comparing result topics, against dictionaries; and in which fields values differ."""

from __future__ import annotations

import json
import math
import random
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.compare import CompareError, Comparison, Fold, Span, difference, overlap, require_comparable
from flowstream.field_changes import FieldChanges, changes

PARTITIONS = 3
Record = tuple[int, bytes, bytes | None]  # partition, key, value

keys = st.builds(lambda at, who: f"{at}|{who}".encode(), st.integers(0, 12), st.sampled_from("ab")) | st.just(b"7")
values = st.none() | st.sampled_from([b"", b"x", b"y", b"xy"])
topics = st.lists(st.tuples(st.integers(0, PARTITIONS - 1), keys, values), max_size=40)
spans = st.tuples(st.integers(0, 13), st.integers(0, 13)).map(lambda s: Span(*sorted(s)))


def fold(records: list[Record], topic: str = "t") -> Fold:
    made = Fold(topic, PARTITIONS)
    offsets = [0] * PARTITIONS
    for partition, key, value in records:
        made.take(partition, offsets[partition], key, value)
        offsets[partition] += 2  # as where markers lie between records
    return made


def held(records: list[Record]) -> dict[tuple[bytes, int], bytes]:
    """What a compacted topic holds in the end, by brute force."""
    last: dict[tuple[bytes, int], bytes | None] = {}
    for partition, key, value in records:
        last[key, partition] = value
    return {subject: value for subject, value in last.items() if value is not None}


def at(key: bytes) -> int:
    return int(key.decode().split("|")[0])


@given(topics, topics, spans)
def test_what_became_of_each_key_is_what_two_dictionaries_say(one: list[Record], two: list[Record], span: Span):
    found = difference(fold(one), fold(two), span)
    a, b = held(one), held(two)
    inside_a = {s: v for s, v in a.items() if span.start_ns <= at(s[0]) < span.end_ns}
    inside_b = {s: v for s, v in b.items() if span.start_ns <= at(s[0]) < span.end_ns}
    both = inside_a.keys() & inside_b.keys()
    assert [tuple(s) for s, _ in found.appeared] == sorted(inside_b.keys() - inside_a.keys())
    assert [tuple(s) for s, _ in found.vanished] == sorted(inside_a.keys() - inside_b.keys())
    assert [tuple(f.subject) for f in found.changed] == sorted(s for s in both if a[s] != b[s])
    assert found.unchanged == sum(a[s] == b[s] for s in both)
    assert (found.outside_a, found.outside_b) == (len(a) - len(inside_a), len(b) - len(inside_b))


@given(topics, topics, st.randoms(use_true_random=False))
def test_the_order_of_records_counts_within_a_key_alone(one: list[Record], two: list[Record], chance: random.Random):
    """Records of other keys may come in between: what two runs of a worker do."""
    queues: dict[tuple[int, bytes], list[Record]] = {}
    for record in one:
        queues.setdefault(record[:2], []).append(record)
    mixed = []
    while queues:
        chosen = chance.choice(sorted(queues))
        mixed.append(queues[chosen].pop(0))
        if not queues[chosen]:
            del queues[chosen]
    span = Span(0, 100)
    expected, found = difference(fold(one), fold(two), span), difference(fold(mixed), fold(two), span)
    assert [s for s, _ in found.appeared] == [s for s, _ in expected.appeared]
    assert [s for s, _ in found.vanished] == [s for s, _ in expected.vanished]
    assert [f.subject for f in found.changed] == [f.subject for f in expected.changed]
    same = difference(fold(mixed), fold(one), span)
    assert (same.appeared, same.vanished, same.changed, same.unchanged) == ([], [], [], len(held(one)))


@given(topics, topics, spans)
def test_from_b_to_a_what_appeared_has_vanished(one: list[Record], two: list[Record], span: Span):
    there, back = difference(fold(one), fold(two), span), difference(fold(two), fold(one), span)
    assert (there.appeared, there.vanished) == (back.vanished, back.appeared)
    assert [(s, b, a) for s, a, b in there.changed] == [tuple(f) for f in back.changed]


@given(topics, topics)
def test_offsets_lead_to_the_values_that_differ(one: list[Record], two: list[Record]):
    logs = []
    for records in (one, two):
        log: dict[tuple[int, int], bytes | None] = {}
        for partition, _, value in records:
            log[partition, 2 * sum(p == partition for p, _ in log)] = value
        logs.append(log)
    for subject, offset_a, offset_b in difference(fold(one), fold(two), Span(0, 100)).changed:
        assert logs[0][subject.partition, offset_a] == held(one)[subject]
        assert logs[1][subject.partition, offset_b] == held(two)[subject]


@given(topics, topics)
def test_the_overlap_is_what_both_cover(one: list[Record], two: list[Record]):
    times = [{at(key) for key, _ in held(records)} for records in (one, two)]
    within = [t for t in range(14) if all(s and min(s) <= t <= max(s) for s in times)]
    if within:
        assert overlap(fold(one), fold(two)) == Span(min(within), max(within) + 1)
    elif not any(times):
        assert overlap(fold(one), fold(two)) == Span(0, 0)
    else:
        with pytest.raises(CompareError, match="no event time that both topics cover"):
            overlap(fold(one), fold(two))


@pytest.mark.parametrize("key", [None, b"", b"10.0.0.1|9", b"|5", b"-5|x", b"9" * 5000, "²|x".encode()])
def test_a_key_without_a_time_is_refused(key: bytes | None):
    with pytest.raises(CompareError, match="does not begin with a time"):
        Fold("t", 1).take(0, 0, key, b"")


def test_topics_of_other_partitions_are_refused():
    with pytest.raises(CompareError, match="a has 2 partitions and b 3"):
        require_comparable(Fold("a", 2), Fold("b", 3))


# -- fields

numbers = st.integers(-(1 << 62), 1 << 62) | st.floats(allow_nan=True)
leaf = st.none() | st.booleans() | numbers | st.text(max_size=3)
tree = st.recursive(
    leaf,
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "undecided"]), inner) | st.lists(inner, max_size=3),
    max_leaves=12,
)
record = st.dictionaries(st.sampled_from(["rate", "name", "rows", "count"]), tree)


def plain(value: Any) -> Any:
    """A value with NaN as null, which is what JSON makes of it."""
    if isinstance(value, dict):
        return {k: p for k, p in ((k, plain(v)) for k, v in value.items()) if p is not None}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@given(record)
def test_a_value_has_no_difference_to_itself(value: dict[str, Any]):
    assert FieldChanges().add(value, json.loads(json.dumps(value))) == {}


@given(record, record)
def test_values_that_are_not_equal_differ_in_a_field(one: dict[str, Any], two: dict[str, Any]):
    def ordered(value: Any) -> Any:  # rows of a list have no order: they are put side by side by name
        if isinstance(value, dict):
            return {k: ordered(v) for k, v in value.items()}
        rows = isinstance(value, list) and all(isinstance(v, dict) for v in value)
        return sorted(map(ordered, value), key=repr) if rows else value

    if ordered(plain(one)) != ordered(plain(two)):
        assert list(changes(one, two)) != []


@given(st.lists(st.tuples(*[st.floats(-1e9, 1e9)] * 2), min_size=1, max_size=9))
def test_median_and_largest_are_those_of_the_relative_changes(pairs: list[tuple[float, float]]):
    gathered = FieldChanges()
    for before, after in pairs:
        gathered.add({"rate": before, "name": "x"}, {"rate": after, "name": "x"})
    expected = [math.inf if b == 0 else abs(a - b) / abs(b) for b, a in pairs if a != b]
    found = list(gathered)
    assert len(found) == bool(expected)
    for change in found:
        assert (change.name, change.keys, change.largest) == ("rate", len(expected), max(expected))
        assert change.median == pytest.approx(statistics.median(expected))


@given(st.permutations(["10.0.0.1", "10.0.0.2", "::1"]))
def test_rows_are_put_side_by_side_by_the_texts_in_them(order: list[str]):
    rows = [{"src_addr": address, "bytes": 100} for address in ("10.0.0.1", "10.0.0.2", "::1")]
    other = [{"src_addr": address, "bytes": 150 if address == "::1" else 100} for address in order]
    assert FieldChanges().add({"sources": rows}, {"sources": other}) == {"sources.bytes": 0.5}
    assert FieldChanges().add({"sources": rows}, {"sources": other[:2]}).keys() >= {"sources"}


def test_a_key_counts_once_with_its_largest_change():
    gathered = FieldChanges()
    fields = gathered.add(
        {"rows": [{"id": "a", "n": 10}, {"id": "b", "n": 10}]}, {"rows": [{"id": "a", "n": 11}, {"id": "b", "n": 30}]}
    )
    assert fields == {"rows.n": 2.0}
    assert [tuple(f) for f in gathered] == [("rows.n", 1, 2.0, 2.0)]


@pytest.mark.parametrize(
    ("before", "after", "relative"),
    [(0, 1, math.inf), (1.0, math.inf, math.inf), (math.inf, 1.0, math.inf), (10**400, 1.5, math.inf), (-2, 2, 2.0),
     (None, 1, None), (1, math.nan, None), (True, False, None), ("a", 1, None), ([1, 2], [1, 4], 1.0),
     ([1, 2], [1], None)],
)  # fmt: skip
def test_the_relative_change_of_odd_values(before: Any, after: Any, relative: float | None):
    assert list(changes({"x": before}, {"x": after})) == [("x", relative)]


def test_what_cannot_be_decoded_is_never_called_equal():
    broken = {"undecodable": "not a single-object encoding", "bytes": 7}
    assert FieldChanges().add(broken, dict(broken)) == {"undecodable": None}


# -- the whole


def test_values_that_say_the_same_in_other_bytes_are_unchanged_and_examples_are_the_first():
    one = [(0, f"{t}|a".encode(), b"1") for t in range(9)]
    two = [(0, f"{t}|a".encode(), b"2") for t in range(9)]
    a, b = fold(one), fold(two)
    found = Comparison(a, b, difference(a, b, Span(0, 100)), limit=2)
    for subject, _, _ in reversed(found.to_decode(0)[0]):
        same = subject.text.startswith("3")
        found.take(subject, {"rate": 1.0}, {"rate": 1 if same else 2})
    assert (found.changed, found.unchanged, found.equal) == (8, 1, False)
    assert [e.subject.text for e in found.examples] == ["0|a", "1|a"]
    found.take(found.difference.changed[0].subject, None, {"rate": 1})
    assert (found.changed, found.gone) == (9, 1)
