"""From an event time to offsets of the flows topic, and back: the pure half of a replay.

Within a flows partition the blocks of one source partition come in order, each with the watermark of its source
partition after it. A *crossing* is a place between two neighbouring blocks of a source partition of which the first
has a watermark below the time sought and the second has not. All rows of source offsets up to the first block are at
most out-of-orderness ahead of its watermark, and the second goes on where the first ended: so no row at or after
(time sought + out-of-orderness) is read before the crossing and not after it. That holds for any crossing, and where
a worker that had been replaced sent blocks again (watermarks go back then), bisection finds one of several.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from flowstream.analysis import Bounds
from flowstream.blocks import SourcePartition
from flowstream.replay_warmup import WarmUp

#: So many blocks in a row, of one source partition, may a worker send that does not know it has been replaced.
STRAGGLERS = 4


class Probe(NamedTuple):
    """A question to the log: read forward from ``offset`` to the next block of ``source``."""

    source: SourcePartition
    offset: int


class Mark(NamedTuple):
    """A block's header: where it is, whose it is, the source offsets it covers, and the watermark after it."""

    offset: int
    source: SourcePartition
    from_offset: int
    to_offset: int
    watermark_ns: int | None


#: The answer to a probe: every block from its offset up to and with the one sought, and as many more as came along;
#: up to the end of the log where there is none.
Marks = Sequence[Mark]
Probing = Generator[Probe, Marks, "Crossings"]


@dataclass(frozen=True, slots=True)
class Crossings:
    """Of each source partition the first block at or after its crossing; of one that has none there, nothing."""

    start: int  # of the log
    end: int
    found: Mapping[SourcePartition, Mark]
    unbounded: frozenset[SourcePartition]  # those with nothing before the crossing: rows wanted may be gone

    @property
    def first(self) -> int:
        """Where to begin to read so that no row is missed."""
        return min((mark.offset for mark in self.found.values()), default=self.end)

    @property
    def last(self) -> int | None:
        """The block with which the last source partition reaches the time sought; None where one does not."""
        return max((mark.offset for mark in self.found.values()), default=None)


class _Answers:
    """What is known of the log, so that no stretch is read twice: stretches, and the blocks in them."""

    def __init__(self, end: int) -> None:
        self._end = end
        self._stretches: list[tuple[int, int, Marks]] = []  # [from, to) was read whole

    def add(self, probe: Probe, marks: Marks) -> Mark | None:
        """Take in an answer and return the mark that was sought."""
        found = next((mark for mark in marks if mark.source == probe.source), None)
        self._stretches.append((probe.offset, self._end if found is None else marks[-1].offset + 1, marks))
        return found

    def known(self, probe: Probe) -> tuple[bool, Mark | None]:
        """Return whether the answer is known, and it."""
        for start, stop, marks in self._stretches:
            if start <= probe.offset < stop:
                for mark in marks:
                    if mark.offset >= probe.offset and mark.source == probe.source:
                        return True, mark
                if stop == self._end:
                    return True, None
        return False, None


def _next_mark(answers: _Answers, probe: Probe) -> Generator[Probe, Marks, Mark | None]:
    is_known, mark = answers.known(probe)
    if is_known:
        return mark
    return answers.add(probe, (yield probe))


def crossings(start: int, end: int, sources: Iterable[SourcePartition], time_ns: int) -> Probing:
    """Ask for what is needed to find the crossings of a time in ``[start, end)``, and return them.

    About log2(end - start) probes, and a few more per source partition: they cross at much the same place. More where a
    worker that had been replaced has sent blocks there.
    """
    answers = _Answers(end)
    found: dict[SourcePartition, Mark] = {}
    unbounded: set[SourcePartition] = set()
    for source in sorted(sources):
        before, mark = yield from _crossing(answers, source, start, end, time_ns)
        if mark is not None:
            found[source] = mark
            if before is None:
                unbounded.add(source)
    return Crossings(start, end, found, frozenset(unbounded))


def _crossing(
    answers: _Answers, source: SourcePartition, start: int, end: int, time_ns: int
) -> Generator[Probe, Marks, tuple[Mark | None, Mark | None]]:
    """Find the block with which a source reaches the time, and the last one before it that does not."""
    reaching, limit, left_out = None, end, 0
    while True:
        # Invariant: the last block of the source before low is below the time; the next one from high on is not.
        low, high, before = start, limit, None
        while low < high:
            middle = (low + high) // 2
            mark = yield from _next_mark(answers, Probe(source, middle))
            if mark is not None and mark.offset < limit and (mark.watermark_ns is None or mark.watermark_ns < time_ns):
                low, before = mark.offset + 1, mark
            else:
                high = middle
        mark = (yield from _next_mark(answers, Probe(source, low))) if low < limit else None
        if mark is not None and mark.offset < limit:
            reaching = mark
        if before is None or (reaching is None and left_out == STRAGGLERS):
            return before, reaching
        continues = reaching is not None and before.to_offset >= reaching.from_offset
        if reaching is not None and continues and not (yield from _is_followed_by_a_gap(answers, reaching)):
            return before, reaching
        # These are stragglers, sent by a worker that had been replaced: the time may be reached before them. So may be
        # the last blocks of all.
        limit, left_out = before.offset, left_out + 1


def _is_followed_by_a_gap(answers: _Answers, mark: Mark) -> Generator[Probe, Marks, bool]:
    """Whether the source goes on beyond what a block and its like have covered: others had covered that before them."""
    for _ in range(STRAGGLERS):
        following = yield from _next_mark(answers, Probe(mark.source, mark.offset + 1))
        if following is None:
            return False
        if following.from_offset > mark.to_offset:
            return True
        mark = following
    return False


def heads(start: int, end: int, sources: Iterable[SourcePartition]) -> Probing:
    """Ask for the first block of each source partition at or after an offset, and return them."""
    answers = _Answers(end)
    found: dict[SourcePartition, Mark] = {}
    for source in sorted(sources) if start < end else ():
        mark = yield from _next_mark(answers, Probe(source, start))
        if mark is not None:
            found[source] = mark
    return Crossings(start, end, found, frozenset(found))


def sources_of(listed: Iterable[tuple[str, int]]) -> set[SourcePartition]:
    """Return the source partitions of topics with their numbers of partitions."""
    return {SourcePartition(topic, partition) for topic, count in listed for partition in range(count)}


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """What a replay reads of a partition, and from which event time on its results are right."""

    topic: str
    partition: int
    start: int  # the first offset read
    log_start: int
    log_end: int
    #: Results of windows that end at or before it are not said; None: everything is, there is nothing before.
    silent_before_ns: int | None = None
    #: Of a time that retention has overtaken: the event time from which the log is whole.
    gone_before_ns: int | None = None
    #: The event time from which every row is read; None: from the beginning of the log, before which there was nothing.
    whole_from_ns: int | None = None
    before: int | None = None  # in place: where the group stands now
    #: The block with which the end is reached, for the progress bar; None: not in the log yet.
    last: int | None = None

    @property
    def records(self) -> int:
        """Records to be read, as far as they are there."""
        return max(0, (self.log_end if self.last is None else self.last + 1) - self.start)

    def bounds(self, until_ns: int | None = None) -> Bounds:
        """Return what is wanted of the partition, up to an event time."""
        return Bounds(self.silent_before_ns, until_ns, self.whole_from_ns)


def whole_from_ns(found: Crossings, out_of_orderness_ns: int) -> int | None:
    """Return the event time from which the log has every row from ``found.start`` on; None where nothing was before.

    Rows of a source partition that came before its first block are at most out-of-orderness ahead of its watermark.
    """
    marks = [found.found[source].watermark_ns for source in found.unbounded]
    known = [mark for mark in marks if mark is not None]
    return max(known) + out_of_orderness_ns + 1 if known and found.start > 0 else None


def plan_time(
    place: tuple[str, int], found: Crossings, time_ns: int, warm_up: WarmUp, out_of_orderness_ns: int
) -> PartitionPlan:
    """Plan a partition from the crossings of the time wanted minus what is read before it minus out-of-orderness."""
    whole_ns = whole_from_ns(found, out_of_orderness_ns)
    wanted_ns = time_ns - warm_up.read_ns
    plan = PartitionPlan(*place, found.first, found.start, found.end, silent_before_ns=time_ns)
    if whole_ns is None or whole_ns <= wanted_ns:
        return replace(plan, whole_from_ns=wanted_ns if found.first > 0 else None)
    plan = replace(plan, whole_from_ns=whole_ns)
    if whole_ns <= time_ns - warm_up.needed_ns:
        return plan
    return replace(plan, silent_before_ns=max(time_ns, whole_ns + warm_up.needed_ns), gone_before_ns=whole_ns)


def plan_offset(
    place: tuple[str, int], found: Crossings, log_start: int, warm_up: WarmUp, out_of_orderness_ns: int
) -> PartitionPlan:
    """Plan a partition that begins at ``found.start``, from the heads there: what is cut by it is not said."""
    whole_ns = whole_from_ns(found, out_of_orderness_ns)
    silent_ns = None if whole_ns is None else whole_ns + warm_up.needed_ns
    return PartitionPlan(*place, found.start, log_start, found.end, silent_before_ns=silent_ns, whole_from_ns=whole_ns)
