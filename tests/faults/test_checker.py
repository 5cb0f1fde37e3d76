"""The checker sees what it is there to see: it is given right results, and wrong ones of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest

from flowstream.batch import FlowBatch
from flowstream.blocks import Block, SourcePartition, encode_block
from flowstream.counting import Counted
from flowstream.decode import Payloads
from flowstream.links import LinkTable
from flowstream.operators import Result, one_by_one
from flowstream.pipeline import FilePipeline
from flowstream.results import ResultEncoder
from flowstream.setting_tables import Analysis
from flowstream.settings import Settings, load
from tests.builders import flows
from tests.faults import avro, checker, pure
from tests.faults.checker import Rules, Truth
from tests.faults.client import Record
from tests.faults.flows import SECOND_NS, T0_NS, Flow, Flows, encoded
from tests.faults.verdict import said_twice

PARTITIONS = 2
TOPIC = "raw"


_FLOWS = Flows(seed=3)
SOME_FLOWS = [*(_FLOWS.next(step_ns=100_000_000) for _ in range(700)), _FLOWS.closing()]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load(inputs=({"topic": TOPIC, "format": "goflow"},), elephants={"rate_bps_min": 5e7})


def log_of(values: list[bytes | None]) -> list[Record]:
    """The raw topic after the values were dealt out to its partitions in turn."""
    ended = T0_NS // 1_000_000 + 3_600_000
    records = [Record(TOPIC, i % PARTITIONS, i // PARTITIONS, ended, b"k", v) for i, v in enumerate(values)]
    return sorted(records, key=lambda r: (r.partition, r.offset))


@pytest.fixture(scope="module")
def raw() -> list[Record]:
    flows = Flows(seed=7)
    values = [flows.next(step_ns=30_000_000) for _ in range(2_000)]
    return log_of([*values, flows.closing(), flows.closing(0)])


@pytest.fixture(scope="module")
def right(settings: Settings, raw: list[Record]) -> pure.Said:
    return pure.said(settings, TOPIC, PARTITIONS, raw)


@pytest.fixture
def truth(raw: list[Record]) -> Truth:
    return checker.truth(raw, PARTITIONS, Rules())


def test_right_results_are_the_truth(truth: Truth, right: pure.Said) -> None:
    found = checker.difference(truth, right["sources"])
    assert (found.lost, found.duplicated, found.details) == (0, 0, [])
    assert sum(v[0] for v in truth.closed().values()) == 2_000
    assert truth.open_flows() == 2
    assert sum(v[1] for v in truth.closed().values()) < 1_900, "some flows should be seen at several places in a pane"
    assert len(right["elephants"]) > 1, "the second check should see the most demanding state, too"
    assert len(right["distances"]) > 100


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others() -> None:
    def made(seed: int) -> list[bytes]:
        flows = Flows(seed)
        return [flows.next(1_000) for _ in range(50)]

    assert made(1) == made(1) != made(2)
    assert Flow.FromString(made(1)[49][1:] if made(1)[49][0] < 128 else made(1)[49][2:]).sequence_num == 49


def without(raw: list[Record], number: int) -> list[Record]:
    return [r for at, r in enumerate(raw) if at != number]


def said_again(raw: list[Record], number: int) -> list[Record]:
    return [*raw[: number + 1], *raw[number:]]


@pytest.mark.parametrize(("harm", "lost", "duplicated"), [(without, 1, 0), (said_again, 0, 1)])
def test_one_flow_lost_or_counted_twice_is_seen(
    settings: Settings, raw: list[Record], truth: Truth, harm: Callable[..., list[Record]], lost: int, duplicated: int
) -> None:
    found = checker.difference(truth, pure.said(settings, TOPIC, PARTITIONS, harm(raw, 700))["sources"])
    assert (found.lost, found.duplicated) == (lost, duplicated)
    assert len(found.details) == 1


def test_a_sighting_that_counts_beside_another_is_seen(
    settings: Settings, raw: list[Record], truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything(rows: FlowBatch, *_: object) -> Counted:
        return Counted(np.ones(len(rows), np.bool_), np.zeros(len(rows), np.uint8))

    monkeypatch.setattr("flowstream.counting.count_once", everything)
    found = checker.difference(truth, pure.said(settings, TOPIC, PARTITIONS, raw)["sources"])
    assert (found.lost, found.duplicated) == (0, 0)
    assert len(found.details) > 10


def test_a_flow_in_place_of_another_is_seen_by_its_bytes(settings: Settings, raw: list[Record], truth: Truth) -> None:
    first = Flow.FromString(raw[100].value[raw[100].value[0] // 128 + 1 :])
    twin = next(
        at for at in range(101, 900)
        if Flow.FromString(raw[at].value[raw[at].value[0] // 128 + 1 :]).src_addr == first.src_addr
        and raw[at].value != raw[100].value
        and _window(raw[at]) == _window(raw[100])
    )  # fmt: skip
    harmed = [r._replace(value=raw[100].value) if at == twin else r for at, r in enumerate(raw)]
    found = checker.difference(truth, pure.said(settings, TOPIC, PARTITIONS, harmed)["sources"])
    assert (found.lost, found.duplicated) == (0, 0)
    assert len(found.details) == 1


def _window(record: Record) -> int:
    value = record.value or b""
    return int(Flow.FromString(value[value[0] // 128 + 1 :]).time_received_ns // (10 * SECOND_NS))


def test_a_window_that_is_out_too_early_and_one_that_is_missing_are_seen(truth: Truth, right: pure.Said) -> None:
    newest = max(key for _, key in right["sources"])
    missing = {at: value for at, value in right["sources"].items() if at[1] != newest}
    assert checker.difference(truth, missing).lost > 0
    truth.watermark_ns = int(newest)
    early = checker.difference(truth, right["sources"]).details
    assert early
    assert all("before its time" in line for line in early)


def test_another_value_under_the_same_key_is_seen() -> None:
    twice = [Record("t", 0, 0, 0, b"k", b"a"), Record("t", 0, 1, 0, b"k", b"a"), Record("t", 1, 0, 0, b"k", b"b")]
    assert checker.last_values(twice)[1] == []
    assert len(checker.last_values([*twice, Record("t", 0, 2, 0, b"k", b"c")])[1]) == 1


def of_a_file(settings: Settings) -> list[Result]:
    """What the analyses of a file say of some flows."""
    of_file = FilePipeline(settings, LinkTable(), TOPIC, "goflow").feed(Payloads.from_values(SOME_FLOWS))
    return list(one_by_one(of_file))


def test_step_tables_under_a_key_that_is_used_in_turn_are_told_apart_and_each_keeps_its_bytes() -> None:
    told = of_a_file(load(analyses=("talkers",), talkers={"by": ["source"], "windows": [{"size_s": 20, "step_s": 10}]}))
    tables = [ResultEncoder().encode(one) for one in told if one.stream == "talker-steps"]
    turns = [Record("fs.talker-steps.v1", 0, n, 0, b"k", tables[at]) for n, at in enumerate((0, 1, 0))]
    values, changed = checker.last_values(turns)
    assert (len(values), changed) == (2, [])
    assert said_twice(turns[:2]) == []
    assert len(said_twice(turns)) == 1
    other = avro.encoded("talker_steps", {**avro.read("talker_steps", tables[0]), "bytes_total": 1})
    assert len(checker.last_values([*turns, turns[0]._replace(value=other)])[1]) == 1


def test_the_second_check_says_of_every_analysis_and_what_is_merged_what_a_file_does() -> None:
    settings = load(inputs=({"topic": TOPIC, "format": "goflow"},), analyses=get_args(Analysis))
    raw = [Record(TOPIC, 0, i, T0_NS // 1_000_000 + 3_600_000, b"k", value) for i, value in enumerate(SOME_FLOWS)]
    wanted = {}
    for one in of_a_file(settings):
        value = ResultEncoder().encode(one)
        wanted[one.stream, checker.key_of(one.stream, one.key.encode(), value)] = value
    told = pure.said(settings, TOPIC, 1, raw)
    assert {"sources", "paths", "counting", "talkers", "link-use"} <= told.keys()
    assert {(stream, key): value for stream, by in told.items() for (_, key), value in by.items()} == wanted


def committed(*said: tuple[int, bytes, bytes]) -> list[Record]:
    """Records of a topic by (partition, key, value), the offsets of each partition with a gap for what was aborted."""
    return [Record("t", p, 2 * sum(q == p for q, *_ in said[:at]), 0, k, v) for at, (p, k, v) in enumerate(said)]


def test_a_key_is_committed_once_between_two_resets_and_with_the_same_bytes_after_them() -> None:
    once, again, other = (0, b"k", b"a"), (0, b"k", b"a"), (0, b"k", b"b")
    ends = {("t", 0): 2, ("t", 1): 0}
    assert said_twice(committed(once, (1, b"k", b"b"), (0, b"l", b"a"))) == []
    assert said_twice(committed(once, again)) == [(0, b"k")]
    assert said_twice(committed(once, again), [ends]) == []
    assert said_twice(committed(once, again, again), [ends]) == [(0, b"k")], "twice after the reset"
    assert said_twice(committed(once, again, again), [{("t", 0): 4}]) == [(0, b"k")], "twice before the reset"
    assert said_twice(committed(once, again, again), [ends, {("t", 0): 4}]) == []
    assert said_twice(committed(once, other), [ends]) == [(0, b"k")], "a reset changes no byte"
    assert said_twice(committed((1, b"k", b"a"), (1, b"k", b"a")), [ends]) == [(1, b"k")], (
        "a reset is that of a partition"
    )


def test_late_rejected_and_empty_messages_are_told_apart() -> None:
    def at(seconds: float) -> bytes:
        time_ns = T0_NS + int(seconds * SECOND_NS)
        return encoded(src_addr=bytes([10, 0, 0, 1]), time_received_ns=time_ns, bytes=1, packets=1)

    values = [at(10), b"\x05junk", at(8), None, at(7.999), encoded(bytes=1, time_received_ns=T0_NS), at(10_000), b""]
    records = [Record(TOPIC, 0, i, T0_NS // 1_000_000 + 20_000, b"k", v) for i, v in enumerate(values)]
    told = checker.truth(records, 1, Rules())
    assert told.late == {(0, 4)}
    assert told.rejected == {(0, 1), (0, 5), (0, 6), (0, 7)}
    assert told.skipped == 1
    assert told.messages == 8


def timed(*times_s: tuple[float, float]) -> list[Record]:
    """Records of one partition, each with its event time and its timestamp in the log."""
    ns = [(T0_NS + int(own * SECOND_NS), T0_NS + int(log * SECOND_NS)) for own, log in times_s]
    return [
        Record(TOPIC, 0, i, log // 1_000_000, b"k", encoded(src_addr=bytes([10, 0, 0, 1]), time_received_ns=own))
        for i, (own, log) in enumerate(ns)
    ]


def test_the_timestamp_of_a_record_bounds_what_its_event_time_says() -> None:
    records = timed((1000, 10), (9, 11), (8.9, 12), (-500, 13), (11, 13.5))
    told = checker.truth(records, 1, Rules())
    assert (told.late, told.watermark_ns) == ({(0, 3)}, T0_NS + 9 * SECOND_NS)
    told = checker.truth(timed((-500, 10), (-61, 11), (0, 12)), 1, Rules(behind_max_ns=60 * SECOND_NS))
    assert (told.late, told.watermark_ns) == ({(0, 0), (0, 1)}, T0_NS - 2 * SECOND_NS)
    assert checker.truth(records, 2, Rules()).watermark_ns == 0
    assert checker.truth(records, 2, Rules(silent=frozenset({1}))).watermark_ns == T0_NS + 9 * SECOND_NS


def block(first: int, end: int, offsets: list[int] | None = None) -> bytes:
    """A block of flows partition 0, with rows of the given source offsets."""
    rows = flows(len(offsets or []), origin_offset=np.array(offsets or [], np.int64))
    return encode_block(Block(SourcePartition(TOPIC, 1), first, end, None, False, ((TOPIC, 2),), rows))


def test_gaps_and_repeats_in_the_chain_of_blocks_are_seen() -> None:
    def followed(*ranges: tuple[int, int]) -> tuple[dict[tuple[int, str, int], int], int, list[str]]:
        return checker.chains([Record("flows", 0, at, 0, b"k", block(*ends)) for at, ends in enumerate(ranges)])

    assert followed((0, 5), (5, 5), (5, 9)) == ({(0, TOPIC, 1): 9}, 0, [])
    assert followed((0, 5), (3, 9))[1:] == (2, [])
    _, again, gaps = followed((0, 5), (6, 9))
    assert (again, len(gaps)) == (0, 1)
    assert len(followed((1, 5))[2]) == 1, "a chain begins with the first record there is"


def test_a_late_row_is_counted_by_its_origin_and_not_by_how_often_its_record_was_sent() -> None:
    once = Record("late", 0, 0, 0, b"flows-0-7", block(0, 9, [3, 8]))
    assert checker.late_rows([once, once._replace(offset=1)]) == {(1, 3): 1, (1, 8): 1}
    assert checker.late_rows([once, once._replace(offset=1, key=b"flows-0-8")])[1, 3] == 2
