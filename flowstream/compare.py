"""Back-testing: two topics of one result stream, key by key.

    records -> last value per key (Fold) -> appeared, vanished, changed, unchanged (Difference) -> by how much

What counts is the last value of each key in its partition, as in a compacted topic; a record without a value takes
its key away. A fold keeps a digest of the value and where it is, so that a million keys fit in memory and equal bytes
are never decoded. Whatever is said holds for a span of event time, which keys of result streams begin with.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

from flowstream.errors import FlowstreamError
from flowstream.field_changes import FieldChanges

_DIGEST_BYTES = 16
_OFFSET_BYTES = 8
_TIME_DIGITS_MAX = 20


class CompareError(FlowstreamError):
    """The two topics cannot be compared."""


class Span(NamedTuple):
    """A span of event time, ``[start_ns, end_ns)``."""

    start_ns: int
    end_ns: int


class Subject(NamedTuple):
    """A key of a partition: what has one value at a time."""

    key: bytes
    partition: int

    @property
    def text(self) -> str:
        """The key as text."""
        return self.key.decode("utf-8", "replace")


class Found(NamedTuple):
    """A subject with a value in both topics, and the offsets of the two."""

    subject: Subject
    offset_a: int
    offset_b: int


class Fold:
    """The last value of each key of a topic, as a digest and an offset."""

    def __init__(self, topic: str, partitions: int) -> None:
        self.topic = topic
        self.records = 0
        self._last: list[dict[bytes, bytes]] = [{} for _ in range(partitions)]

    @property
    def partitions(self) -> int:
        """Return how many partitions the topic has."""
        return len(self._last)

    def __len__(self) -> int:
        return sum(map(len, self._last))

    def take(self, partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:
        """Take in the next record of a partition; CompareError where its key does not begin with an event time."""
        self.records += 1
        head = b"" if key is None else key.partition(b"|")[0]
        if key is None or not (head.isdigit() and len(head) < _TIME_DIGITS_MAX):
            raise CompareError(
                f"{self.topic}: the record at offset {offset} of partition {partition} is no result (its key "
                f"{key!r:.60} does not begin with a time); compare two result topics"
            )
        if value is None:
            self._last[partition].pop(key, None)
        else:
            digest = blake2b(value, digest_size=_DIGEST_BYTES).digest()
            self._last[partition][key] = digest + offset.to_bytes(_OFFSET_BYTES, "big")

    @property
    def covers(self) -> Span | None:
        """The span from the first time of a key to just behind the last; None without a key."""
        times = [time_ns(key) for last in self._last for key in last]
        return Span(min(times), max(times) + 1) if times else None

    def last(self, partition: int) -> Mapping[bytes, bytes]:
        """Return, for each key of a partition, the digest of its value followed by the offset."""
        return self._last[partition]


def time_ns(key: bytes) -> int:
    """Return the event time that the key of a result begins with: the start of its window, or its own."""
    return int(key.partition(b"|")[0])


def overlap(a: Fold, b: Fold) -> Span:
    """Return the span of event time that both folds cover; CompareError where there is none."""
    one, other = a.covers, b.covers
    if one is None and other is None:
        return Span(0, 0)
    if one is not None and other is not None:
        span = Span(max(one.start_ns, other.start_ns), min(one.end_ns, other.end_ns))
        if span.start_ns < span.end_ns:
            return span
    said = [f"{f.topic} has {'no results' if c is None else f'{c[0]} to {c[1]}'}" for f, c in ((a, one), (b, other))]
    raise CompareError(f"no event time that both topics cover ({'; '.join(said)}); name one with --from and --to")


@dataclass(slots=True)
class Difference:
    """What became of each key from topic A to topic B, within a span; in the order of the keys."""

    span: Span
    appeared: list[tuple[Subject, int]] = field(default_factory=list)  # with the offset of its value
    vanished: list[tuple[Subject, int]] = field(default_factory=list)
    changed: list[Found] = field(default_factory=list)  # other bytes
    unchanged: int = 0
    outside_a: int = 0  # keys beyond the span, which are not looked at
    outside_b: int = 0


def require_comparable(a: Fold, b: Fold) -> None:
    """Raise CompareError where the partitions of two topics cannot be put side by side."""
    if a.partitions != b.partitions:
        raise CompareError(
            f"{a.topic} has {a.partitions} partitions and {b.topic} {b.partitions}: results belong to the partition of "
            f"their source, so only topics with equally many can be compared"
        )


def difference(a: Fold, b: Fold, span: Span) -> Difference:
    """Compare two folds with equally many partitions within a span."""
    found = Difference(span)
    for partition in range(a.partitions):
        before, after = a.last(partition), b.last(partition)
        for key, was in before.items():
            now = after.get(key)
            if not span.start_ns <= time_ns(key) < span.end_ns:
                found.outside_a += 1
            elif now is None:
                found.vanished.append((Subject(key, partition), _offset(was)))
            elif was[:_DIGEST_BYTES] == now[:_DIGEST_BYTES]:
                found.unchanged += 1
            else:
                found.changed.append(Found(Subject(key, partition), _offset(was), _offset(now)))
        for key, now in after.items():
            if not span.start_ns <= time_ns(key) < span.end_ns:
                found.outside_b += 1
            elif key not in before:
                found.appeared.append((Subject(key, partition), _offset(now)))
    for part in (found.appeared, found.vanished, found.changed):
        part.sort()
    return found


def _offset(last: bytes) -> int:
    return int.from_bytes(last[_DIGEST_BYTES:], "big")


class Example(NamedTuple):
    """A key that differs, with what the two topics say of it (None: nothing, or deleted since)."""

    kind: str  # appeared, vanished or changed
    subject: Subject
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    fields: dict[str, float | None]  # that changed, with their relative changes


class Comparison:
    """What ``flowstream compare`` found; complete once ``take`` has seen every key whose bytes changed."""

    def __init__(self, a: Fold, b: Fold, found: Difference, limit: int) -> None:
        self.a = a
        self.b = b
        self.difference = found
        self.limit = limit  # examples of each kind
        self.fields = FieldChanges()
        self.changed = 0
        self.unchanged = found.unchanged  # those that say the same in other bytes will be added
        self.gone = 0  # of those that changed: a value was deleted before it was read again
        self._examples: dict[str, list[Example]] = {}

    def to_decode(self, partition: int) -> tuple[list[Found], dict[Subject, int], dict[Subject, int]]:
        """Return of a partition what changed, and the examples of what vanished and appeared with their offsets."""
        vanished, appeared = (
            {subject: at for subject, at in part[: self.limit] if subject.partition == partition}
            for part in (self.difference.vanished, self.difference.appeared)
        )
        return [f for f in self.difference.changed if f.subject.partition == partition], vanished, appeared

    def take(self, subject: Subject, before: dict[str, Any] | None, after: dict[str, Any] | None) -> None:
        """Take in the decoded values of a key whose bytes changed; None for one that is gone."""
        fields: dict[str, float | None] = {}
        if before is None or after is None:
            self.gone += 1
        else:
            fields = self.fields.add(before, after)
            if not fields:
                self.unchanged += 1
                return
        self.changed += 1
        self.show("changed", subject, before, after, fields)

    def show(
        self, kind: str, subject: Subject, before: dict[str, Any] | None, after: dict[str, Any] | None,
        fields: dict[str, float | None] | None = None,
    ) -> None:  # fmt: skip
        """Keep an example, if it is among the first ``limit`` of its kind."""
        kept = self._examples.setdefault(kind, [])
        insort(kept, Example(kind, subject, before, after, fields or {}), key=lambda e: e.subject)
        del kept[self.limit :]

    @property
    def examples(self) -> list[Example]:
        """The first keys of each kind, in order."""
        return [example for kind in sorted(self._examples) for example in self._examples[kind]]

    @property
    def equal(self) -> bool:
        """Whether both topics say the same within the span."""
        return not (self.changed or self.difference.appeared or self.difference.vanished)

    def summary(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON (where inf becomes null)."""
        found = self.difference
        return {
            "topic_a": self.a.topic, "topic_b": self.b.topic, "keys_a": len(self.a), "keys_b": len(self.b),
            "from_ns": found.span.start_ns, "to_ns": found.span.end_ns,
            "outside_a": found.outside_a, "outside_b": found.outside_b,
            "appeared": len(found.appeared), "vanished": len(found.vanished), "changed": self.changed,
            "unchanged": self.unchanged, "gone": self.gone, "fields": [f._asdict() for f in self.fields],
            "examples": [
                {**e._asdict(), "subject": e.subject.text, "partition": e.subject.partition} for e in self.examples
            ],
        }  # fmt: skip
