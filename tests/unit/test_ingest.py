"""Ingest: what becomes of a raw message depends on its source partition's order and on nothing else."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import FlowBatch, Quality
from flowstream.blocks import SourcePartition
from flowstream.decode import Payloads
from flowstream.errors import Reason
from flowstream.ingest import Ingest, IngestConfig, route
from flowstream.normalise import Normalisation
from tests.builders import T0_NS, delimited, goflow2_v2

SOURCE = SourcePartition("raw", 0)
CONFIG = IngestConfig((("raw", 1),), destinations=3, out_of_orderness_ns=2_000_000_000)
S = 1_000_000_000


def messages(times_s: list[float]) -> list[bytes]:
    return [
        goflow2_v2(
            time_received_ns=T0_NS + int(t * S), time_flow_start_ns=None, time_flow_end_ns=None, src_port=i % 65536,
            src_addr=bytes([10, 0, i % 5, i % 7]),
        )
        for i, t in enumerate(times_s)
    ]  # fmt: skip


def ingest_all(payloads: list[bytes | None], cuts: list[int], ingest: Ingest | None = None) -> tuple[FlowBatch, list]:
    ingest = ingest or Ingest(CONFIG, SOURCE, "goflow")
    bounds = sorted({0, len(payloads), *(c % (len(payloads) + 1) for c in cuts)})
    rows, outcomes = [], []
    for start, end in pairwise(bounds):
        got = ingest.receive(Payloads.from_values(payloads[start:end]), np.arange(start, end, dtype=np.int64))
        outcomes.append(got)
        rows.extend(b.rows for b in got.blocks)
    joined = FlowBatch.concat(rows)
    return joined.take(np.lexsort((joined.origin_row, joined.origin_offset))), outcomes


times = st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=40)


@given(times, st.lists(st.integers(0, 40), max_size=6))
def test_batch_boundaries_do_not_change_a_row_or_its_lateness(seconds: list[float], cuts: list[int]) -> None:
    whole, _ = ingest_all(messages(seconds), [])
    cut, _ = ingest_all(messages(seconds), cuts)
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(column, cut.columns[name], err_msg=name)


@given(times)
def test_a_row_is_late_iff_it_lies_behind_the_maximum_before_it_by_more_than_allowed(
    seconds: list[float],
) -> None:
    rows, outcomes = ingest_all(messages(seconds), [])
    reached = -np.inf
    for i, time_ns in enumerate(rows.time_ns.tolist()):
        assert bool(rows.quality[i] & Quality.LATE) == (time_ns < reached - 2 * S)
        reached = max(reached, time_ns)
    assert outcomes[0].rows_late == int(np.count_nonzero(rows.quality & Quality.LATE))


@given(times, st.lists(st.integers(0, 40), max_size=6))
def test_offset_ranges_chain_and_watermarks_never_go_back(seconds: list[float], cuts: list[int]) -> None:
    _, outcomes = ingest_all(messages(seconds), cuts)
    for destination in range(CONFIG.destinations):
        chain = [outcome.blocks[destination] for outcome in outcomes]
        assert chain[0].from_offset == 0
        assert chain[-1].to_offset == len(seconds)
        for before, after in pairwise(chain):
            assert before.to_offset == after.from_offset
            assert before.watermark_ns <= after.watermark_ns


def test_every_message_is_in_exactly_one_place() -> None:
    payloads = [*messages([0, 1]), None, b"", b"\xff\xff", *messages([2])]
    far = goflow2_v2(time_received_ns=4_200_000_000 * S)  # the year 2103
    rows, (outcome,) = ingest_all([*payloads, far], [])
    assert (outcome.messages, outcome.skipped, outcome.rows) == (7, 1, 3)
    assert outcome.rejected[0].reason is Reason.EMPTY
    assert [r.offset for r in outcome.rejected] == [3, 4, 6]
    assert outcome.rejected[2].reason is Reason.TIME_OUT_OF_RANGE
    assert outcome.rejected[2].payload == far
    assert sorted(rows.origin_offset.tolist()) == [0, 1, 5]


def test_a_row_far_ahead_of_the_logs_clock_moves_no_watermark() -> None:
    ingest = Ingest(
        IngestConfig((("raw", 1),), 1, 0, normalisation=Normalisation(ahead_max_ns=3600 * S)),
        SOURCE,
        "goflow",
    )
    payloads = Payloads.from_values(messages([0, 7200]))
    clock = np.full(2, T0_NS, np.int64)
    got = ingest.receive(payloads, np.arange(2, dtype=np.int64), clock)
    assert [r.reason for r in got.rejected] == [Reason.TIME_OUT_OF_RANGE]
    assert ingest.watermark_ns == T0_NS


def test_silence_moves_the_watermark_and_covers_no_offsets() -> None:
    ingest = Ingest(CONFIG, SOURCE, "goflow")
    ingest_all(messages([5]), [], ingest)
    block = ingest.idle(10 * S).blocks[0]
    assert block.idle
    assert block.watermark_ns == T0_NS + (5 - 2 + 10) * S
    assert (block.from_offset, block.to_offset, len(block.rows)) == (1, 1, 0)


def test_a_partition_that_never_held_a_row_is_idle_without_a_watermark() -> None:
    block = Ingest(CONFIG, SOURCE, "goflow").idle(10 * S).blocks[0]
    assert (block.idle, block.watermark_ns) == (True, None)


def test_going_on_from_a_committed_watermark_judges_as_if_never_stopped() -> None:
    seconds = [0, 9, 3, 8, 6.5, 12, 9.5, 10]
    whole, _ = ingest_all(messages(seconds), [])
    first = Ingest(CONFIG, SOURCE, "goflow")
    first.receive(Payloads.from_values(messages(seconds)[:4]), np.arange(4, dtype=np.int64))
    second = Ingest(CONFIG, SOURCE, "goflow", first.watermark_ns, next_offset=4)
    got = second.receive(Payloads.from_values(messages(seconds)[4:]), np.arange(4, 8, dtype=np.int64))
    late = {int(o) for b in got.blocks for o in b.rows.origin_offset[(b.rows.quality & Quality.LATE) != 0]}
    assert late == {int(o) for o in whole.origin_offset[(whole.quality & Quality.LATE) != 0] if o >= 4}
    assert got.blocks[0].from_offset == 4


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=50), st.integers(1, 64))
def test_a_source_address_has_one_destination(pairs: list[tuple[int, int]], destinations: int) -> None:
    words = np.array(pairs, np.uint64).reshape(-1, 2)
    routed = route(words, destinations)
    assert ((routed >= 0) & (routed < destinations)).all()
    np.testing.assert_array_equal(routed, [route(words[i : i + 1], destinations)[0] for i in range(len(pairs))])


def test_neighbouring_addresses_spread_evenly() -> None:
    words = np.zeros((40_000, 2), np.uint64)
    words[:, 1] = 0xFFFF_0A00_0000 + np.arange(40_000, dtype=np.uint64)
    counts = np.bincount(route(words, 8), minlength=8)
    assert counts.min() > 4_500
    assert counts.max() < 5_500


def test_a_message_with_more_rows_than_a_block_may_hold_is_rejected_alone() -> None:
    crowded = delimited(*[goflow2_v2(bytes=1)] * 70_000)
    rows, (outcome,) = ingest_all([*messages([0]), crowded, *messages([1])], [])
    assert [(r.offset, r.reason) for r in outcome.rejected] == [(1, Reason.TOO_LARGE)]
    assert rows.origin_offset.tolist() == [0, 2]


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 20), st.integers(1, 120))
def test_cuts_cover_every_message_once_within_the_limits(sizes: list[int], most: int, most_bytes: int) -> None:
    payloads = Payloads.from_values([b"x" * size for size in sizes])
    runs = payloads.cuts(most, most_bytes)
    assert [i for start, stop in runs for i in range(start, stop)] == list(range(len(sizes)))
    for start, stop in runs:
        assert 1 <= stop - start <= most
        assert sum(sizes[start:stop]) <= most_bytes or stop - start == 1
