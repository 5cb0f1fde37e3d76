"""What a wrong clock may do: the log's own clock, the timestamps of Kafka's records, bounds it both ways."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import FlowBatch, Quality
from flowstream.blocks import SourcePartition
from flowstream.decode import Payloads
from flowstream.errors import Reason
from flowstream.ingest import Ingest, IngestConfig, Ingested
from flowstream.normalise import Normalisation
from tests.builders import T0_NS, goflow2_v2

S = 1_000_000_000
ALLOWED_NS = 2 * S
AHEAD_NS = 3600 * S
DAY_S = 86_400


def config(behind_max_s: float | None = None) -> IngestConfig:
    behind_ns = None if behind_max_s is None else int(behind_max_s * S)
    return IngestConfig((("raw", 1),), 2, ALLOWED_NS, behind_ns, Normalisation(ahead_max_ns=AHEAD_NS))


def message(time_ns: int) -> bytes:
    return goflow2_v2(time_received_ns=time_ns, time_flow_start_ns=None, time_flow_end_ns=None)


def receive(ingest: Ingest, records: list[tuple[int, int]], first: int = 0) -> Ingested:
    """Take in records of (event time, the log's time), both in ns."""
    payloads = Payloads.from_values([message(time_ns) for time_ns, _ in records])
    return ingest.receive(
        payloads,
        np.arange(first, first + len(records), dtype=np.int64),
        np.array([log for _, log in records], np.int64),
    )


def late(got: Ingested) -> set[int]:
    rows = FlowBatch.concat(block.rows for block in got.blocks)
    return set(rows.origin_offset[(rows.quality & Quality.LATE) != 0].tolist())


clocks = st.integers(-7200, 7200).map(lambda s: T0_NS + s * S)
logs = st.one_of(st.integers(-600, 600).map(lambda s: T0_NS + s * S), st.just(-1))


@given(
    st.lists(st.tuples(clocks, logs), min_size=1, max_size=30),
    st.lists(st.integers(1, 30), max_size=4),
    st.sampled_from([None, 1.0, 60.0, 3600.0]),
)
def test_a_row_moves_the_watermark_no_further_than_its_records_timestamp(
    records: list[tuple[int, int]], cuts: list[int], behind_max_s: float | None
) -> None:
    ingest = Ingest(config(behind_max_s), SourcePartition("raw", 0), "goflow")
    found: set[int] = set()
    rejected: set[int] = set()
    for start, end in pairwise(sorted({0, len(records), *(c for c in cuts if c < len(records))})):
        got = receive(ingest, records[start:end], start)
        found |= late(got)
        rejected |= {r.offset for r in got.rejected}
    watermark_ns = None
    expected: set[int] = set()
    for offset, (time_ns, log_ns) in enumerate(records):
        if log_ns >= 0 and time_ns - log_ns > AHEAD_NS:
            assert offset in rejected
            continue
        own_ns = (time_ns if log_ns < 0 else min(time_ns, log_ns)) - ALLOWED_NS
        if log_ns >= 0 and behind_max_s is not None:
            own_ns = max(own_ns, log_ns - int(behind_max_s * S))
        watermark_ns = own_ns if watermark_ns is None else max(watermark_ns, own_ns)
        if time_ns < watermark_ns:
            expected.add(offset)
    assert found == expected
    assert ingest.watermark_ns == watermark_ns


def test_an_exporter_whose_clock_runs_ahead_makes_nobody_elses_row_late() -> None:
    ingest = Ingest(config(), SourcePartition("raw", 0), "goflow")
    now = [T0_NS + i * S for i in range(20)]
    records = [(t + (1800 * S if i % 2 else 0), t) for i, t in enumerate(now)]
    got = receive(ingest, records)
    assert (got.rejected, late(got)) == ([], set())
    assert ingest.watermark_ns == now[-1] - ALLOWED_NS


@pytest.mark.parametrize("shift_s", [DAY_S, 20 * 365 * DAY_S, 10**9])
def test_the_first_record_of_a_partition_cannot_carry_time_away(shift_s: int) -> None:
    ingest = Ingest(config(), SourcePartition("raw", 0), "goflow")
    got = receive(ingest, [(T0_NS + shift_s * S, T0_NS)])
    assert [r.reason for r in got.rejected] == [Reason.TIME_OUT_OF_RANGE]
    assert ingest.watermark_ns is None
    got = receive(ingest, [(T0_NS, T0_NS)], 1)
    assert (late(got), ingest.watermark_ns) == (set(), T0_NS - ALLOWED_NS)


def test_rows_years_behind_the_log_are_late_and_hold_nothing_open_where_that_is_set() -> None:
    ingest = Ingest(config(3600), SourcePartition("raw", 0), "goflow")
    got = receive(ingest, [(T0_NS - 10 * 365 * DAY_S * S, T0_NS), (T0_NS - 3601 * S, T0_NS), (T0_NS - S, T0_NS)])
    assert late(got) == {0, 1}
    assert ingest.watermark_ns == T0_NS - 3 * S


def test_a_partition_without_a_row_on_time_stays_idle_until_there_is_one() -> None:
    ingest = Ingest(config(), SourcePartition("raw", 0), "goflow")
    receive(ingest, [(T0_NS, T0_NS)])
    assert not ingest.is_idle
    said = ingest.idle(0)
    assert {(b.idle, b.watermark_ns, len(b.rows)) for b in said.blocks} == {(True, T0_NS - ALLOWED_NS, 0)}
    stepped_back = receive(ingest, [(T0_NS - 7200 * S, T0_NS + S)], 1)
    assert stepped_back.rows == stepped_back.rows_late == 1
    assert all(b.idle for b in stepped_back.blocks)
    nothing = ingest.receive(Payloads.from_values([b"\xff", None]), np.arange(2, 4, dtype=np.int64), np.full(2, T0_NS))
    assert all(b.idle for b in nothing.blocks)
    assert not any(b.idle for b in receive(ingest, [(T0_NS + 3 * S, T0_NS + 3 * S)], 4).blocks)
