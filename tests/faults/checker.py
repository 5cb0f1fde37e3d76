"""What should have come out, worked out again from the raw topic; and what did come out, read with a plain client.

Nothing of flowstream's own code is used here: messages are read by protobuf, results by fastavro and the few
lines below. The rules are those of docs/architecture.md: a row belongs to the window its event time lies in;
it is late if it lies before the largest event time before it in its raw partition minus the out-of-orderness,
where an event time beyond the timestamp of its record counts as that; if it is set, also if it lies further behind it;
a window must be out once the least of the partitions' watermarks has passed its end, and not before. A flow that
was seen at several places in a pane counts at one of them, as docs/counting.md says.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from tests.faults.avro import read, unpacked
from tests.faults.client import Record
from tests.faults.flows import SECOND_NS, Flow
from tests.sightings import Sighting, counting_places

YEAR_2000_NS, YEAR_2100_NS = 946_684_800 * SECOND_NS, 4_102_444_800 * SECOND_NS
#: The first is of every record of the source, the others of those that count.
STEP_TABLES = "talker-steps"
SUMS = ("records", "flows", "packets", "bytes", "estimated_packets", "estimated_bytes")

#: Start of a window and the 16 bytes of a source address.
Key = tuple[int, bytes]
Sums = tuple[int, ...]


@dataclass(slots=True)
class Truth:
    """What the raw topic says."""

    messages: int = 0
    flows: dict[Key, Sums] = field(default_factory=dict)  # of every window, open ones too
    watermark_ns: int = 0  # the least of the raw partitions'
    late: set[tuple[int, int]] = field(default_factory=set)  # (partition, offset)
    rejected: set[tuple[int, int]] = field(default_factory=set)
    skipped: int = 0
    numbers: Counter[int] = field(default_factory=Counter)
    size_ns: int = 0

    def closed(self) -> dict[Key, Sums]:
        """Return the sums of the windows that must be out."""
        return {k: v for k, v in self.flows.items() if k[0] + self.size_ns <= self.watermark_ns}

    def open_flows(self) -> int:
        """Return how many flows lie in windows that are not to be out yet."""
        return sum(v[0] for k, v in self.flows.items() if k[0] + self.size_ns > self.watermark_ns)


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that the truth depends on."""

    size_ns: int = 10 * SECOND_NS
    pane_ns: int = SECOND_NS
    out_of_orderness_ns: int = 2 * SECOND_NS
    ahead_max_ns: int = 3600 * SECOND_NS
    behind_max_ns: int | None = None
    silent: frozenset[int] = frozenset()  # raw partitions that are idle, and hold nobody back


def truth(raw: Iterable[Record], partitions: int, rules: Rules) -> Truth:
    """Work out what should come of the raw topic's records, which are ordered by partition and offset."""
    found = Truth(size_ns=rules.size_ns)
    sightings = Sightings(rules)
    reached: dict[int, int] = {}
    for one in raw:
        found.messages += 1
        if one.value is None:
            found.skipped += 1
            continue
        flow = _flow(one, rules)
        if flow is None:
            found.rejected.add((one.partition, one.offset))
            continue
        time_ns, log_ns = flow.time_received_ns, one.timestamp_ms * 1_000_000
        told = [reached.get(one.partition, 0), min(time_ns, log_ns) - rules.out_of_orderness_ns]
        if rules.behind_max_ns is not None:
            told.append(log_ns - rules.behind_max_ns)
        reached[one.partition] = max(told)
        if time_ns < reached[one.partition]:
            found.late.add((one.partition, one.offset))
            continue
        found.numbers[flow.sequence_num] += 1
        sightings.add(flow)
    holding = set(range(partitions)) - rules.silent
    if holding <= reached.keys():
        watermark_ns = min(reached[p] for p in holding)
        found.watermark_ns = watermark_ns // rules.pane_ns * rules.pane_ns
    found.flows = sightings.sums()
    return found


class Sightings:
    """Sums of each flow of each pane by the place where it was seen, an interface of an exporter."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._seen: dict[tuple[Any, ...], dict[tuple[bytes, int], list[int]]] = defaultdict(dict)

    def add(self, flow: Any) -> None:
        """Take in a record that is on time."""
        pane_ns, place = self._rules.pane_ns, (_sixteen(flow.sampler_address), flow.in_if)
        of = (
            flow.time_received_ns // pane_ns * pane_ns, _sixteen(flow.src_addr), _sixteen(flow.dst_addr), flow.proto,
            flow.src_port, flow.dst_port,
        )  # fmt: skip
        rate = flow.sampling_rate or 1
        told = self._seen[of].setdefault(place, [0] * (len(SUMS) + 1))
        told[-1] = max(told[-1], flow.ip_ttl)
        for at, value in enumerate((1, 1, flow.packets, flow.bytes, flow.packets * rate, flow.bytes * rate)):
            told[at] += value

    def sums(self) -> dict[Key, Sums]:
        """Return what counts, by window and source; no interface is known to be an edge."""
        found: dict[Key, list[int]] = defaultdict(lambda: [0] * len(SUMS))
        for (time_ns, source, *_), places in self._seen.items():
            own = found[time_ns // self._rules.size_ns * self._rules.size_ns, source]
            seen = {place: Sighting(ip_ttl=told[-1], estimated_bytes=told[-2]) for place, told in places.items()}
            counting, _ = counting_places(seen, {})
            for place, told in places.items():
                own[0] += told[0]
                for at in range(1, len(SUMS)) if place in counting else ():
                    own[at] += told[at]
        return {key: tuple(values) for key, values in found.items()}


def _flow(one: Record, rules: Rules) -> Any:
    """Return protobuf's reading of a delimited message, None where it can be no flow record."""
    raw = one.value or b""
    length, at, shift = 0, 0, 0
    while at < len(raw):
        length |= (raw[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if raw[at - 1] < 0x80:
            break
    if not length or len(raw) - at != length:
        return None
    try:
        flow = Flow.FromString(raw[at:])
    except DecodeError:
        return None
    if len(flow.src_addr) not in {4, 16} or not YEAR_2000_NS <= flow.time_received_ns < YEAR_2100_NS:
        return None
    ahead_ns = flow.time_received_ns - one.timestamp_ms * 1_000_000
    return None if ahead_ns > rules.ahead_max_ns else flow


def _sixteen(address: bytes) -> bytes:
    """Return an address in sixteen bytes; one that is not there is zeros."""
    return bytes(10) + b"\xff\xff" + address if len(address) == 4 else address.ljust(16, b"\0")


def windows_of_sources(value: bytes) -> dict[Key, Sums]:
    """Return the sums of a record of the topic of sources."""
    told = read("sources", value)
    count, raw = told["count"], told["src_addr"]
    half = 9 + raw[0] * count if count else 0
    words = zip(unpacked(raw[:half], count), unpacked(raw[half:], count), strict=True)
    addresses = [b"".join((w % 2**64).to_bytes(8, "big") for w in pair) for pair in words]
    columns = [unpacked(told[name], count) for name in SUMS]
    return {(told["window_start_ns"], a): sums for a, *sums in zip(addresses, *columns, strict=True)}  # type: ignore[misc]


def key_of(stream: str, key: bytes | None, value: bytes | None) -> bytes:
    """Return what tells a record of a stream, or of its topic, from others: its key.

    Keys of step tables of talkers are used in turn, so with those it is their step, too.
    """
    own = key or b""
    if value is not None and STEP_TABLES in stream:
        own += b" of step %d" % read("talker_steps", value)["start_ns"]
    return own


def last_values(records: Iterable[Record]) -> tuple[dict[tuple[int, bytes], bytes], list[str]]:
    """Return the last value by (partition, key), and what was said twice with other bytes."""
    last: dict[tuple[int, bytes], bytes] = {}
    changed: list[str] = []
    for one in records:
        if one.value is None:
            continue
        at = one.partition, key_of(one.topic, one.key, one.value)
        if last.setdefault(at, one.value) != one.value:
            changed.append(f"{one.topic}-{one.partition} offset {one.offset}: key {at[1]!r} has other bytes now")
        last[at] = one.value
    return last, changed


@dataclass(slots=True)
class Difference:
    """How results differ from the truth."""

    lost: int = 0
    duplicated: int = 0
    details: list[str] = field(default_factory=list)


def difference(expected: Truth, values: Mapping[tuple[int, bytes], bytes]) -> Difference:
    """Compare the last values of the topic of sources with the truth: every key, every sum."""
    told: dict[Key, Sums] = {}
    found = Difference()
    for (partition, key), value in values.items():
        for at, sums in windows_of_sources(value).items():
            if at in told:
                found.details.append(f"{_text(at)} is in two partitions, {partition} and another ({key!r})")
            told[at] = tuple(sums)
    closed = expected.closed()
    for at in sorted(closed.keys() | told.keys()):
        wanted, got = closed.get(at), told.get(at)
        if wanted == got:
            continue
        if wanted is None and at in expected.flows:
            found.details.append(f"{_text(at)}: out before its time: {got}")
            continue
        more = (got or (0,))[0] - (wanted or (0,))[0]
        found.lost += max(0, -more)
        found.duplicated += max(0, more)
        found.details.append(f"{_text(at)}: {got}, the truth is {wanted}")
    return found


def _text(at: Key) -> str:
    return f"window {at[0] // SECOND_NS} source {'.'.join(map(str, at[1][12:]))}"


def late_rows(records: Iterable[Record]) -> Counter[tuple[int, int]]:
    """Return how often each (raw partition, offset) is in the late topic, a key said twice counting once."""
    found: Counter[tuple[int, int]] = Counter()
    for value in last_values(records)[0].values():
        block = read("flow_block", value)
        found.update((block["partition"], o) for o in unpacked(block["origin_offset"], block["rows"]))
    return found


def dead_letters(records: Iterable[Record], topic: str) -> Counter[tuple[int, int]]:
    """Return how often each (partition, offset) of a topic is a dead letter, a key said twice counting once."""
    letters = (read("dead_letter", value) for value in last_values(records)[0].values())
    return Counter((letter["partition"], letter["offset"]) for letter in letters if letter["topic"] == topic)


def chains(flows: Iterable[Record]) -> tuple[dict[tuple[int, str, int], int], int, list[str]]:
    """Follow the offset ranges of blocks in the flows topic, per flows partition and source partition.

    Returns how far each chain reaches, how many source offsets were covered again, and the gaps.
    """
    reached: dict[tuple[int, str, int], int] = {}
    again, gaps = 0, []
    for one in flows:
        block = read("flow_block", one.value or b"")
        at = one.partition, block["topic"], block["partition"]
        start = reached.get(at, 0)
        if block["from_offset"] > start:
            gaps.append(f"flows-{one.partition} offset {one.offset}: {at[1]}-{at[2]} goes from {start} to "
                        f"{block['from_offset']}")  # fmt: skip
        if at[0] == 0:  # each range goes to every flows partition: count it once
            again += max(0, min(start, block["to_offset"]) - block["from_offset"])
        reached[at] = max(start, block["to_offset"])
    return reached, again, gaps
