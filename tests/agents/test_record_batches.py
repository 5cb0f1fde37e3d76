"""Batches written by the kernel: byte for byte those of aiokafka's own builder in Python, for each codec."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.record import default_records
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchBuilderPy
from hypothesis import given
from hypothesis import strategies as st

from agents import publisher
from agents.publisher import Outgoing, OutgoingRun, sealed_batches
from agents.record_batches import CODECS
from flowstream.byte_column import ByteColumn
from flowstream.record_kernel import Run

NOW_MS = 1_795_224_797_500
COMPRESSIONS = ["none", *CODECS]
HEADERS = [(), (("source", b"raw-0:1-2"),), (("größe", b""), ("settings", b"x" * 200))]
KEYS = st.one_of(st.none(), st.binary(max_size=20), st.integers(60, 70).map(bytes))
VALUES = st.one_of(st.binary(max_size=30), st.integers(50, 300).map(bytes))
SINGLES = st.builds(Outgoing, st.sampled_from(["a", "b"]), st.integers(0, 1), KEYS, VALUES, st.sampled_from(HEADERS))


@pytest.fixture(autouse=True, scope="module")
def _one_time_for_gzip():
    """Its header holds the time of compressing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gzip.time", SimpleNamespace(time=lambda: 0.0))
        yield


def column(values):
    """A column whose strings do not begin where its buffer does."""
    made = ByteColumn.of([b"before", *values])
    return ByteColumn(made.buffer, made.bounds[1:])


@st.composite
def runs(draw):
    values = draw(st.lists(VALUES, max_size=30))
    keys = draw(st.one_of(st.none(), st.lists(st.binary(max_size=9), min_size=len(values), max_size=len(values))))
    records = Run(
        None if keys is None else column(keys), column(values), draw(st.sampled_from([b"", b"\xc3\x01prefix"])),
        draw(st.sampled_from(HEADERS)),
    )  # fmt: skip
    return OutgoingRun(draw(st.sampled_from(["a", "b"])), draw(st.integers(0, 1)), records)


def singly(records):
    """The same records, one at a time."""
    return [r for record in records for r in (record if isinstance(record, OutgoingRun) else [record])]


def built(records, compression, bytes_max, producer=(7, 3)):
    """The bytes of aiokafka's batches of these records, by partition, sequence numbers running on."""
    attribute = 0 if compression == "none" else CODECS[compression][0]
    made: dict[tuple[str, int], list[bytes]] = {}
    sequences: dict[tuple[str, int], int] = {}
    builders = {}

    def finish(at):
        made.setdefault(at, []).append(bytes(builders[at].build()))

    for record in singly(records):
        at = record.topic, record.partition
        options = NOW_MS, record.key, record.value, list(record.headers)
        if at in builders and builders[at].append(builders[at].count, *options) is None:
            finish(at)
            del builders[at]
        if at not in builders:
            first = sequences.get(at, 0)
            builders[at] = _Counting(2, attribute, 0, *producer, first, bytes_max)
            assert builders[at].append(0, *options) is not None
        builders[at].count += 1
        sequences[at] = sequences.get(at, 0) + 1
    for at in builders:
        finish(at)
    return made


@pytest.fixture(autouse=True, scope="module")
def same_levels():
    """Have the client's builder compress as we do: its levels are others."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("lz4", "zstd"):
            patch.setattr(default_records, f"{name}_encode", CODECS[name][1])
        yield


class _Counting(_DefaultRecordBatchBuilderPy):
    count = 0


def ours(records, compression, bytes_max, producer=(7, 3)):
    made: dict[tuple[str, int], list[bytes]] = {}
    sequences: dict[tuple[str, int], int] = {}
    for topic, partition, batch in sealed_batches(iter(records), compression, NOW_MS, bytes_max):
        at = topic, partition
        assert batch.closed()
        assert batch.append(timestamp=None, key=None, value=b"", headers=[]) is None
        before = batch.size()
        batch._set_producer_state(*producer, sequences.get(at, 0))
        sequences[at] = sequences.get(at, 0) + batch.record_count()
        whole = bytes(batch._build())
        assert batch._build() is batch._build()
        assert len(whole) == before == batch.size()
        made.setdefault(at, []).append(whole)
    return made


@given(
    st.lists(st.one_of(SINGLES, runs()), max_size=25), st.sampled_from(COMPRESSIONS), st.sampled_from([80, 300, 9000])
)
def test_batches_are_those_of_the_clients_own_builder(records, compression, bytes_max):
    assert ours(records, compression, bytes_max) == built(records, compression, bytes_max)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_many_and_large_records_are_cut_where_the_client_cuts_them(compression):
    rng = np.random.default_rng(3)
    sizes = [*rng.integers(1, 400, 5000).tolist(), 1 << 20, 3 << 20, 5, 900_000, 200_000]
    packed = ByteColumn.of([rng.integers(0, 4, size, np.uint8).tobytes() for size in sizes])
    keys = ByteColumn.of([b"%d" % i for i in range(len(sizes))])
    run = OutgoingRun("a", 0, Run(keys, packed, b"\x00\x00\x00\x00\x07", HEADERS[1]))
    made = ours([run], compression, publisher.BATCH_BYTES_MAX)
    assert made == built([run], compression, publisher.BATCH_BYTES_MAX)
    assert len(made["a", 0]) > 3


def test_single_records_that_differ_share_a_batch():
    records = [Outgoing("a", 0, b"k" if i % 3 else None, b"v%d" % i, HEADERS[i % 2]) for i in range(300)]
    assert len(ours(records, "none", 1 << 20)["a", 0]) == 1


def test_a_batch_reads_back_as_its_records():
    run = Run(column([b"k%d" % i for i in range(70)]), column([b"v" * i for i in range(70)]), b"p", HEADERS[2])
    (whole,) = ours([OutgoingRun("a", 0, run)], "zstd", 1 << 20)["a", 0]
    batch = DefaultRecordBatch(whole)
    assert batch.validate_crc()
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (7, 3, 0)
    records = list(batch)
    assert [r.offset for r in records] == list(range(70))
    assert [(r.key, r.value, r.timestamp, tuple(r.headers)) for r in records] == [
        (b"k%d" % i, b"p" + b"v" * i, NOW_MS, HEADERS[2]) for i in range(70)
    ]


def test_a_record_beyond_the_limit_of_a_request_is_refused(monkeypatch):
    monkeypatch.setattr(publisher, "REQUEST_BYTES_MAX", 1000)
    noise = np.random.default_rng(1).bytes(1500)
    assert len(list(sealed_batches([Outgoing("a", 0, None, bytes(1500))], "zstd", NOW_MS, 1 << 20))) == 1
    for value, compression in ((noise, "zstd"), (bytes(1500), "none")):
        with pytest.raises(MessageSizeTooLargeError, match="1 records"):
            list(sealed_batches([Outgoing("a", 0, None, value)], compression, NOW_MS, 1 << 20))


def test_batches_are_made_as_they_are_taken():
    """A generator of very many results is not read ahead: what is held is a batch, not a window."""
    taken = []

    def records():
        for i in range(100):
            taken.append(i)
            yield OutgoingRun("a", 0, Run(None, ByteColumn.of([bytes(500)] * 10)))

    reached = [len(taken) for _ in sealed_batches(records(), "none", NOW_MS, 10_000)]
    assert len(reached) > 50
    assert all(b - a <= 3 for a, b in pairwise(reached))
