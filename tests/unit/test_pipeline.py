"""The pipeline over the recorded fabric: bytes that no batch boundary changes, sums that hold, and the truth."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import decoder as upb_varint
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowstream.batch import address_text
from flowstream.decode import Payloads
from flowstream.links import LinkTable
from flowstream.operators import Result, one_by_one
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.results import to_json
from flowstream.settings import Settings
from flowstream.source_blocks import SourceBlock
from tests.builders import delimited, goflow2_v2

DATA = Path(__file__).resolve().parents[1] / "data"
LINKS = LinkTable.from_path(DATA / "clos_links.csv")
SECOND = 10**9
START_NS = 1_795_224_797_000_000_000
BAD = [b"", b"\xff" * 7, b"\x05abc", delimited(goflow2_v2())[:-9], b"{}", delimited(goflow2_v2(src_addr=b""))]
LATE = delimited(goflow2_v2(time_received_ns=START_NS - 60 * SECOND))
ABSURD = delimited(goflow2_v2(time_received_ns=1))


@cache
def recorded() -> tuple[bytes, ...]:
    """The messages of the run, split by protobuf's own varint reader."""
    raw = gzip.decompress((DATA / "clos_60s_goflow2_v2.bin.gz").read_bytes())
    found, at = [], 0
    while at < len(raw):
        length, body = upb_varint._DecodeVarint32(raw, at)
        found.append(raw[at : body + length])
        at = body + length
    return tuple(found)


@cache
def flow_samples() -> list[dict[str, Any]]:
    """Every message of the run as protobuf's own runtime reads it."""
    field = descriptor_pb2.FieldDescriptorProto
    numbers = {
        "sampling_rate": 3, "src_addr": 6, "bytes": 9, "packets": 10, "sampler_address": 11, "in_if": 18,
        "proto": 20, "src_port": 21, "dst_port": 22, "time_received_ns": 110,
    }  # fmt: skip
    file = descriptor_pb2.FileDescriptorProto(name="clos.proto", package="clos", syntax="proto3")
    message = file.message_type.add(name="Flow")
    for name, number in numbers.items():
        kind = field.TYPE_BYTES if "addr" in name else field.TYPE_UINT64
        message.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    flow = message_factory.GetMessageClass(pool.FindMessageTypeByName("clos.Flow"))
    read = []
    for delimited_message in recorded():
        _, body = upb_varint._DecodeVarint32(delimited_message, 0)
        one = flow.FromString(delimited_message[body:])
        read.append({name: getattr(one, name) for name in numbers})
    return read


def text(packed: bytes) -> str:
    mapped = packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed
    return address_text(int.from_bytes(mapped[:8], "big"), int.from_bytes(mapped[8:], "big"))


def over(batches: Sequence[Sequence[bytes]], chosen: Settings | None = None) -> tuple[list[Result], FilePipeline]:
    pipeline = FilePipeline(chosen or Settings(), LINKS, "raw", "goflow")
    said = [r for batch in batches for r in pipeline.feed(Payloads.from_values(batch))]
    return list(one_by_one([*said, *pipeline.finish()])), pipeline


def in_parts(messages: Sequence[bytes], cuts: Sequence[int]) -> list[Sequence[bytes]]:
    bounds = sorted({0, len(messages), *(c for c in cuts if 0 < c < len(messages))})
    return [messages[a:b] for a, b in pairwise(bounds)]


def as_bytes(results: Sequence[Result]) -> Counter[tuple[str, str, int, bytes]]:
    """Results as they would be published; files and topics interleave partitions, so order is not compared."""
    return Counter((r.stream, r.key, r.time_ns, to_json(r.stream, r.value)) for r in results)


@cache
def mixed() -> tuple[bytes, ...]:
    """A slice of the run with bad, late and absurd messages between, some late by 1 ns only."""
    messages: list[bytes] = []
    reached_ns = 0
    for index, (message, sample) in enumerate(zip(recorded()[4000:9000], flow_samples()[4000:9000], strict=True)):
        if index % 200 == 150:
            messages.append(([*BAD, LATE, ABSURD])[index // 200 % 8])
        if index % 250 == 249:
            messages.append(delimited(goflow2_v2(time_received_ns=reached_ns - 2 * SECOND - 1)))
        messages.append(message)
        reached_ns = max(reached_ns, sample["time_received_ns"])
    return tuple(messages)


@cache
def late() -> list[int]:
    """Where the late messages lie: those that are neither of the run nor bad."""
    others = {*recorded(), *BAD, ABSURD}
    return [i for i, m in enumerate(mixed()) if m not in others]


@cache
def undivided(pane_s: float) -> Counter[tuple[str, str, int, bytes]]:
    return as_bytes(over([mixed()], Settings(time={"pane_s": pane_s}))[0])


@settings(max_examples=12)
@given(
    cuts=st.lists(st.integers(1, 5044), max_size=12)
    | st.integers(1, 60).map(lambda n: range(n, 5044, 97 * n))
    | st.lists(st.sampled_from(range(20)), max_size=8).map(lambda chosen: [late()[i] for i in chosen]),
    pane_s=st.sampled_from([1.0, 0.5]),
)
@example(cuts=None, pane_s=1.0)  # just before every late message
def test_batch_boundaries_do_not_change_a_byte_of_the_results(cuts, pane_s):
    cuts = late() if cuts is None else cuts
    results, _ = over(in_parts(mixed(), cuts), Settings(time={"pane_s": pane_s}))
    assert as_bytes(results) == undivided(pane_s)
    assert len(results) > 100


@settings(max_examples=12)
@given(st.lists(st.integers(1, 5044), max_size=12))
@example(None)
def test_every_message_and_row_is_accounted_for_and_bad_ones_are_kept(cuts):
    _, pipeline = over(in_parts(mixed(), late() if cuts is None else cuts))
    ledger = pipeline.ledger
    assert ledger.messages == len(mixed())
    bad = [(i, m) for i, m in enumerate(mixed()) if m in {*BAD, ABSURD}]
    assert len(late()) == 23  # 20 of them by 1 ns
    assert ledger.rejected == len(bad) > 20
    assert ledger.messages == ledger.rejected + ledger.skipped + ledger.rows  # one row each
    assert ledger.rows == ledger.applied + ledger.late + ledger.duplicate
    assert (ledger.late, ledger.duplicate, ledger.skipped) == (len(late()), 0, 0)
    assert [(r.offset, r.payload) for r in pipeline.rejected] == bad
    assert {r.reason.label for r in pipeline.rejected} >= {
        "empty", "malformed", "truncated", "no_address", "time_out_of_range",
    }  # fmt: skip


def test_messages_without_a_value_are_skipped_and_counted():
    pipeline = FilePipeline(Settings(), LINKS, "raw", "goflow")
    pipeline.feed(Payloads.from_values([None, recorded()[0], None]))
    assert (pipeline.ledger.messages, pipeline.ledger.skipped, pipeline.ledger.rows) == (3, 2, 1)


@given(st.lists(st.binary(max_size=3), max_size=40), st.integers(1, 10))
def test_batches_are_the_stream_in_its_order_none_larger_than_asked(values, size):
    batches = list(in_batches(iter(values), size))
    assert [v for batch in batches for v in batch.values()] == values
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(0 < len(batch) <= size for batch in batches)


def test_each_row_is_in_one_partition_so_that_sources_are_counted_once():
    results, _ = over(list(in_parts(recorded(), range(0, 20_198, 8192))))
    seen = Counter(
        (value["window_start_ns"], row["src_addr"])
        for value in (json.loads(to_json("sources", r.value)) for r in results if r.stream == "sources")
        for row in value["sources"]
    )
    assert set(seen.values()) == {1}
    expected = {
        (sample["time_received_ns"] // (10 * SECOND) * 10 * SECOND, text(sample["src_addr"]))
        for sample in flow_samples()
    }
    assert set(seen) == expected


def test_bytes_of_each_source_are_what_the_oracle_says_to_the_byte_and_each_packet_counts_once():
    """Every switch on the way samples; the table of links says which samples are of a source's own leaf."""
    results, pipeline = over(list(in_parts(recorded(), range(0, 20_198, 8192))), Settings(analyses=("sources",)))
    assert pipeline.ledger.applied == 20_198 == pipeline.ledger.messages
    records: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for result in results:
        block = SourceBlock.from_value(result.value)
        for row, total in zip(block.rows(), block.columns["estimated_bytes"].tolist(), strict=True):
            totals[row["src_addr"]] += total
            records[row["src_addr"]] += row["records"]
    assert records == Counter(text(sample["src_addr"]) for sample in flow_samples())
    oracle = json.loads((DATA / "clos_60s_oracle.json").read_text())["sources"]
    expected = {s["src"]: s["sflow_bytes"] + 4 * s["sflow_packets"] for s in oracle}
    assert {a: totals[a] for a in expected} == expected
    assert {a for a, total in totals.items() if total} == {a for a, b in expected.items() if b}
    assert len(expected) > 20


def test_the_three_elephants_and_nothing_else_with_the_spines_they_took():
    results, _ = over(list(in_parts(recorded(), range(0, 20_198, 8192))))
    oracle = json.loads((DATA / "clos_60s_oracle.json").read_text())
    agents = {n: s["agent"] for n, s in json.loads((DATA / "clos_60s_topology.json").read_text())["switches"].items()}
    elephants = {e["sport"] for e in oracle["elephants"]}
    paths = {
        f["sport"]: [agents[hop["switch"]] for hop in f["path"]] for f in oracle["flows"] if f["sport"] in elephants
    }
    events: dict[int, list[str]] = defaultdict(list)
    seen: dict[int, Counter[str]] = defaultdict(Counter)
    for result in (r for r in results if r.stream == "elephants"):
        port = result.value["flow"]["src_port"]
        events[port].append(result.value["event"])
        seen[port].update(s["exporter"] for s in result.value["sightings"])
        assert result.value["exporter"] == paths[port][0]
    assert set(events) == elephants == {40001, 40012, 40053}
    for told in events.values():
        assert (told[0], told[-1], told.count("onset"), told.count("offset")) == ("onset", "offset", 1, 1)
    assert {port: set(counts) for port, counts in seen.items()} == {port: set(path) for port, path in paths.items()}


def test_distances_are_those_of_every_pair_computed_one_by_one():
    chosen = Settings(analyses=("distances",), distances={"top_k": 1000})
    results, _ = over([recorded()], chosen)
    told = {(r.value["window_start_ns"], r.value["src_addr"]): r.value for r in results}
    rows: dict[tuple[int, str], list[tuple[float, ...]]] = defaultdict(list)
    for sample in flow_samples():
        window = sample["time_received_ns"] // (3 * SECOND) * 3 * SECOND
        # Duration, bytes and packets back, bytes and packets sent: sFlow knows the latter two only.
        point = (0.0, 0.0, 0.0, float(sample["bytes"]), float(sample["packets"]))
        rows[window, text(sample["src_addr"])].append(point)
    assert {key: len(points) for key, points in rows.items()} == {k: v["flows"] for k, v in told.items()}
    chosen_windows = sorted((k for k, v in rows.items() if 2 <= len(v) <= 400), key=lambda k: (-len(rows[k]), k))
    for key in chosen_windows[:3] + chosen_windows[40:44] + chosen_windows[-3:]:
        points, value = rows[key], told[key]
        distances = sorted(
            sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) ** 0.5 for p, q in combinations(points, 2)
        )
        assert value["pairs"] == len(distances)
        assert (value["min"], value["max"]) == pytest.approx((distances[0], distances[-1]), rel=1e-12)
        assert value["mean"] == pytest.approx(sum(distances) / len(distances), rel=1e-12)
        for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
            assert value[name] == pytest.approx(float(np.quantile(distances, q)), rel=1e-9, abs=1e-9)
        top = [pair["distance"] for pair in value["top"]]
        assert top == pytest.approx(distances[::-1][: len(top)], rel=1e-12)
        threshold = float(np.quantile(distances, 0.999))
        assert abs(value["tail_pairs"] - sum(d > threshold for d in distances)) <= 1
