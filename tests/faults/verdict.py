"""The verdict on a run: everything that lies in the topics, held against the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flowstream.settings import Settings
from flowstream.topics import STREAMS
from tests.faults import checker, client, pure
from tests.faults.checker import Rules, Truth
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.faults.rig import Rig

#: How long what is on its way may take to arrive.
ARRIVED_S = 20


def streams(settings: Settings) -> list[str]:
    """Return the result streams that the enabled analyses may say something in."""
    return [stream for stream, analysis in STREAMS.items() if analysis in settings.analyses]


def rules(settings: Settings, silent: Iterable[int] = ()) -> Rules:
    """Return what the truth depends on: settings, and the raw partitions that are idle."""
    time, behind_max_s = settings.time, settings.time.behind_max_s
    return Rules(
        round(settings.sources.size_s * 1e9), round(time.pane_s * 1e9), round(time.out_of_orderness_s * 1e9),
        round(time.ahead_max_s * 1e9), None if behind_max_s is None else round(behind_max_s * 1e9), frozenset(silent),
    )  # fmt: skip


#: The end of the log by (topic, partition) when an app was reset in place.
Ends = Mapping[tuple[str, int], int]


def said_twice(records: Iterable[client.Record], resets: Sequence[Ends] = ()) -> list[tuple[int, bytes]]:
    """Return the (partition, key) that come more than once between two resets, or with other bytes than before.

    A reset says again by intent what it computes again: once, and the same.
    """
    before: dict[tuple[int, bytes], bytes | None] = {}
    said: set[tuple[int, int, bytes]] = set()
    twice: set[tuple[int, bytes]] = set()
    for one in records:
        at = one.partition, checker.key_of(one.topic, one.key, one.value)
        since = sum(one.offset >= ends[one.topic, one.partition] for ends in resets)
        if (since, *at) in said or before.setdefault(at, one.value) != one.value:
            twice.add(at)
        said.add((since, *at))
    return sorted(twice)


class Told:
    """Which windows and sources are out; a value that was looked at once is not looked at again."""

    def __init__(self) -> None:
        self._keys: set[checker.Key] = set()
        self._looked_at: set[tuple[int, bytes]] = set()

    def holds(self, wanted: Mapping[checker.Key, Any], values: Mapping[tuple[int, bytes], bytes]) -> bool:
        """Whether all that is wanted is among the values, by (partition, key)."""
        for at in values.keys() - self._looked_at:
            self._keys.update(checker.windows_of_sources(values[at]))
            self._looked_at.add(at)
        return wanted.keys() <= self._keys


class Verdict:
    """Reads what a rig's run left behind and fills its line of the report."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def verify(self, *, ledger: bool, pipeline: bool) -> None:
        """See ``Rig.verify``."""
        rig = self._rig
        raw = client.read(rig.address, rig.lab.raw)
        rig.truth = expected = checker.truth(raw, rig.partitions, rules(rig.lab.settings(), rig.sender.silent))
        there = {(r.partition, r.offset) for r in raw}
        missing = [number for number, partition, offset in rig.sent if (partition, offset) not in there]
        assert not missing, f"Kafka lost {len(missing)} flows it had acknowledged, {missing[:5]} among them"
        found = self.compare()
        assert not found.details, f"{len(found.details)} differences, the first: {found.details[:5]}"
        self._check_ledger(len(raw))
        self._check_chains()
        if pipeline:
            self._check_pipeline(raw)
        if rig.lab.settings().delivery == "transactional":
            self._check_each_once()
        again = [n for figure, n in rig.row.figures.items() if figure.endswith("said again")]
        rig.row.said_again = round(sum(map(float, again)))
        if ledger:
            self._check_counters(expected)
        assert not rig.watch.seen.violations, f"while it ran: {rig.watch.seen.violations[:5]}"

    def _results(self, stream: str) -> tuple[dict[tuple[int, bytes], bytes], list[str]]:
        """Return a stream's last values by (partition, key), and which keys were said with two values."""
        rig = self._rig
        records = client.read(rig.address, rig.lab.topic(stream))
        values, changed = checker.last_values(records)
        rig.row.figures[stream] = len(values)
        rig.row.figures[f"{stream} said again"] = len(records) - len(values)
        return values, changed

    def compare(self) -> checker.Difference:
        """Compare the topic of sources with the truth known last."""
        rig = self._rig
        values, changed = self._results("sources")
        found = checker.difference(rig.truth, values)
        found.details.extend(changed)
        rig.row.records, rig.row.lost, rig.row.duplicated = rig.truth.messages, found.lost, found.duplicated
        rig.row.figures["windows"] = len({start for start, _ in rig.truth.closed()})
        return found

    def _check_ledger(self, messages: int) -> None:
        """Every raw message is in exactly one place."""
        rig = self._rig
        expected = rig.truth
        late = checker.late_rows(client.read(rig.address, rig.lab.topic("late")))
        letters = checker.dead_letters(client.read(rig.address, rig.lab.topic("dead-letters")), rig.lab.raw)
        rig.row.late, rig.row.dead_letters = late.total(), letters.total()
        assert set(late) == expected.late, f"late by the log: {_some(expected.late ^ set(late))}"
        assert set(letters) == expected.rejected, f"dead letters: {_some(expected.rejected ^ set(letters))}"
        assert late.total() == len(late), "a row is late twice"
        assert letters.total() == len(letters), "a message is a dead letter twice"
        applied = sum(sums[0] for sums in expected.closed().values()) + expected.open_flows()
        assert messages == applied + len(late) + len(letters) + expected.skipped, "the ledger does not add up"
        doubled = [number for number, count in expected.numbers.items() if count > 1]
        assert not doubled, f"the generator sent flows twice: {doubled[:5]}"

    def _check_each_once(self) -> None:
        """Committed records have no key twice. Dead letters of raw messages are ingest's, in no transaction."""
        rig = self._rig
        for stream in (*streams(rig.lab.settings()), "late", "dead-letters"):
            records = client.read(rig.address, rig.lab.topic(stream))
            twice = [at for at in said_twice(records, rig.resets) if not at[1].startswith(rig.lab.raw.encode())]
            assert not twice, f"{stream}: committed more than once: {_some(twice)}"

    def _check_chains(self) -> None:
        rig = self._rig
        flows = client.read(rig.address, rig.lab.topic("flows"))
        reached, rig.row.sent_again, gaps = checker.chains(flows)
        assert not gaps, f"{len(gaps)} gaps in the flows topic: {gaps[:3]}"
        for (topic, partition), offset in rig.watch.seen.committed.items():
            if topic == rig.lab.raw:
                least = min(end for (_, t, p), end in reached.items() if (t, p) == (topic, partition))
                assert offset <= least, f"{topic}-{partition}: {offset} is committed, blocks go to {least}"

    def _check_pipeline(self, raw: list[client.Record]) -> None:
        rig = self._rig
        told = pure.said(rig.lab.settings(), rig.lab.raw, rig.partitions, raw)
        for stream in streams(rig.lab.settings()):
            wanted = told.get(stream, {})
            # The streams of a batch are on their way together; the last one may still be.
            with suppress(AssertionError):
                wait_for(
                    lambda stream=stream, wanted=wanted: wanted.keys() <= self._results(stream)[0].keys(),
                    stream,
                    ARRIVED_S,
                )
            values, changed = self._results(stream)
            assert not changed, f"{len(changed)} closed windows changed: {changed[:3]}"
            assert values.keys() == wanted.keys(), f"{stream}: {_some(values.keys() ^ wanted.keys())}"
            other = [key for key, value in values.items() if value != wanted[key]]
            assert not other, f"{stream}: other bytes than the pure pipeline says: {other[:3]}"

    def _check_counters(self, expected: Truth) -> None:
        rig = self._rig

        def total(name: str) -> int:
            return round(sum(worker.metric(f"{name}_total") for worker in rig.lab.workers))

        places = ("rows_applied", "rows_late", "records_rejected", "records_skipped", "rows_duplicate")
        with suppress(AssertionError):
            wait_for(lambda: sum(map(total, places)) >= expected.messages, "the counters", ARRIVED_S)
        placed = {name: total(name) for name in places}
        consumed = total("records_consumed")
        assert consumed == sum(placed.values()), f"{consumed} consumed, placed: {placed}"
        assert consumed == expected.messages, f"{consumed} consumed of {expected.messages}"
        assert total("block_gaps") == 0, "gaps between blocks"


def _some(found: Any, most: int = 5) -> str:
    return f"{len(found)} differ: {sorted(found)[:most]}"
