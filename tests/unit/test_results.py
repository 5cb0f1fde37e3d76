"""What goes out is what was said: both Avro framings read back, JSON has the schema's keys and plain numbers."""

from __future__ import annotations

import base64
import io
import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

from flowstream import schemas
from flowstream.batch import address_text
from flowstream.distances import DistancesConfig, DistancesOperator
from flowstream.operators import Pane, Result
from flowstream.results import KEPT, ResultEncoder, schema_name, to_json, unpack
from flowstream.settings import Settings
from flowstream.topics import STREAMS, specs, stream_of
from tests import golden
from tests.builders import T0_NS, delimited, flows, goflow2_v2

DATA = Path(__file__).resolve().parents[1] / "data"
SCHEMA_FILES = Path(__file__).resolve().parents[2] / "avro_schemas"
COLUMNS_OF_SOURCES = (
    "records", "flows", "packets", "bytes", "estimated_packets", "estimated_bytes", "variance", "weight_max",
    "counted_by", "in_bytes", "in_packets", "dst_addrs", "distance_p999",
)  # fmt: skip
RULES = ("ONLY", "EDGE", "TTL", "LARGEST")
BOUNDS_OF_SOURCES = ["estimated_bytes_low", "estimated_bytes_high"]  # in JSON, in the place of the two
RESULTS = sorted(set(STREAMS) - KEPT)
PAIR_KEYS = ["eventid_1", "ts_flow1", "eventid_2", "ts_flow2", "distance", "ts_output"]


@cache
def said() -> dict[str, list[Result]]:
    """Some results of every stream: real ones, of the recorded fabric made doubtful by a rate of 0."""
    streams: dict[str, list[Result]] = {}
    messages = list(golden.messages(doubtful=False))
    time_ns = 1_795_224_797_500_000_000
    messages.insert(10, delimited(goflow2_v2(sampling_rate=0, time_received_ns=time_ns, bytes=0)))
    for chosen, fed in (
        (Settings(distances={"pairs": "tail", "pair_form": "records"}), messages[:6000]),
        (Settings(distances={"pairs": "all", "pair_form": "blocks"}), messages[:6000]),
        (Settings(analyses=("counting",)), messages[:6000]),
        (Settings(**golden.RUNS["the network"]), [*messages, *golden.moved()]),
    ):
        for result in golden.results(chosen, fed):
            streams.setdefault(result.stream, []).append(result)
    return streams


def independent_schema(stream: str) -> Any:
    return json.loads((SCHEMA_FILES / f"{stream.replace('-', '_')}.v1.avsc").read_text())


def test_every_stream_is_said_by_the_recording():
    assert set(said()) == set(STREAMS)


@pytest.mark.parametrize("stream", RESULTS)
def test_both_avro_framings_read_back_as_what_was_said(stream):
    parsed = fastavro.parse_schema(independent_schema(stream))
    for result in said()[stream][:50]:
        alone = ResultEncoder().encode(result)
        framed = ResultEncoder("avro", {schema_name(stream): 0x01020304}).encode(result)
        assert alone[:2] == b"\xc3\x01"
        assert framed[:5] == b"\x00\x01\x02\x03\x04"
        assert alone[10:] == framed[5:]
        assert fastavro.schemaless_reader(io.BytesIO(framed[5:]), parsed) == result.value
        assert schemas.single_object_decode(alone) == (schema_name(stream), result.value)


@pytest.mark.parametrize("stream", sorted(KEPT))
@pytest.mark.parametrize("form", ["avro", "json"])
def test_what_an_operator_keeps_is_the_same_avro_whatever_form_results_have(stream, form):
    encoder = ResultEncoder(form, {schema_name(stream): 7})
    for result in said()[stream]:
        assert schemas.single_object_decode(encoder.encode(result)) == (schema_name(stream), result.value)


COLUMNS = [
    DistancesConfig(1, 1, pairs="tail", tail_quantile=0.5, tails_max=3),
    DistancesConfig(1, 1, pairs="all", pair_form="records", flows_max=50, scaling="log"),
    DistancesConfig(1, 1, pairs="all", top_k=0),
]


@pytest.mark.parametrize("config", COLUMNS)
@pytest.mark.parametrize("encoder", [ResultEncoder(), ResultEncoder("avro", {"distances": 7}), ResultEncoder("json")])
def test_a_column_is_encoded_as_its_results_one_by_one(config, encoder):
    rng = np.random.default_rng(1)
    rows = flows(
        300, time_ns=T0_NS + np.arange(300), bytes=rng.lognormal(8, 4, 300).astype(np.int64), origin_id=1,
        src_addr=[f"10.0.0.{i % 9 if i % 3 else i % 250}" for i in range(300)],
    ).in_time_order()  # fmt: skip
    operator = DistancesOperator(config, 10**9, {1: 'gr"öße\\\n流'})
    columns = operator.process([Pane(T0_NS // 10**9, T0_NS, T0_NS + 10**9, rows)])
    assert sum(map(len, columns)) > 100
    for results in columns:
        encoded = encoder.encode_column(results)
        assert len(results) == len(list(results)) == len(encoded.values)
        assert [encoded.prefix + v for v in encoded.values.values()] == [encoder.encode(r) for r in results]


def test_dead_letters_are_json_where_json_is_chosen():
    letter = {
        "topic": "raw", "partition": 3, "offset": 17, "format": "goflow", "reason": "malformed",
        "payload": b"\xff\x00", "payload_bytes": 2,
    }  # fmt: skip
    assert json.loads(ResultEncoder("json").encode_value("dead-letters", letter)) == {**letter, "payload": "/wA="}
    assert schemas.single_object_decode(ResultEncoder().encode_value("dead-letters", letter)) == ("dead_letter", letter)


def test_a_schema_without_a_registry_id_goes_out_as_single_object():
    encoder = ResultEncoder("avro", {"sources": 7})
    assert encoder.encode(said()["sources"][0])[:5] == b"\x00\x00\x00\x00\x07"
    assert encoder.encode(said()["elephants"][0])[:2] == b"\xc3\x01"


@pytest.mark.parametrize("stream", RESULTS)
def test_json_has_the_keys_of_the_schema_in_their_order(stream):
    fields = [f["name"] for f in independent_schema(stream)["fields"]]
    packed = {"src_addr", *COLUMNS_OF_SOURCES} if stream == "sources" else set()
    expected = [name for name in fields if name not in packed] + (["sources"] if packed else [])
    for result in said()[stream][:50]:
        shuffled = {name: result.value[name] for name in sorted(result.value, reverse=True)}
        encoded = ResultEncoder("json").encode(Result(stream, result.key, result.time_ns, shuffled))
        assert list(json.loads(encoded)) == expected
        assert encoded == to_json(stream, result.value)


@pytest.mark.parametrize("stream", sorted({*RESULTS} - {"sources"}))
def test_json_says_what_the_value_says_but_for_packed_columns(stream):
    for result in said()[stream][:50]:
        read = json.loads(to_json(stream, result.value))
        plain = {name: v for name, v in result.value.items() if not isinstance(v, bytes) and name != "histogram"}
        assert {name: read[name] for name in plain} == plain
        assert not any(isinstance(v, bytes) for v in unpack(stream, result.value).values())


def test_the_pair_of_flows_has_exactly_six_keys():
    for result in said()["distance-pairs"]:
        assert list(json.loads(to_json("distance-pairs", result.value))) == PAIR_KEYS


def test_the_histogram_of_distances_is_lists_of_bins_and_counts():
    compared = 0
    for result in said()["distances"]:
        read = json.loads(to_json("distances", result.value))["histogram"]
        packed = result.value["histogram"]
        assert list(read) == ["bins", "counts"]
        assert read["bins"] == [
            int.from_bytes(packed["bins"][i : i + 2], "little") for i in range(0, len(packed["bins"]), 2)
        ]
        assert read["counts"] == [
            int.from_bytes(packed["counts"][i : i + 8], "little") for i in range(0, len(packed["counts"]), 8)
        ]
        assert sum(read["counts"]) == result.value["pairs"]
        compared += len(read["bins"])
    assert compared > 50


def test_blocks_of_pairs_list_their_distances():
    blocks = [r.value for r in said()["distance-pair-blocks"]]
    read = [json.loads(to_json("distance-pair-blocks", value)) for value in blocks]
    assert [r["distances"] for r in read] == [np.frombuffer(b["distances"], "<f8").tolist() for b in blocks]
    assert sum(len(r["distances"]) for r in read) > 1000
    whole = [r for r in read if r["distances"] and len(r["distances"]) == r["pairs"]]
    assert whole


def unpacked(raw, count):
    """Read a packed column as its schema describes it."""
    width, least = raw[0], int.from_bytes(raw[1:9], "little")
    differences = [int.from_bytes(raw[9 + width * i : 9 + width * (i + 1)], "little") for i in range(count)]
    return [(least + difference) % 2**64 for difference in differences]


def test_sources_are_rows_and_a_distance_that_is_not_there_is_null():
    nulls = unsure = 0
    for result in said()["sources"]:
        value = result.value
        read = json.loads(to_json("sources", value))
        assert len(read["sources"]) == read["count"] == value["count"]
        count, packed = value["count"], value["src_addr"]
        high, low = unpacked(packed, count), unpacked(packed[9 + packed[0] * count :], count)
        columns = {name: unpacked(value[name], count) for name in COLUMNS_OF_SOURCES}
        for i, row in enumerate(read["sources"]):
            assert list(row) == ["src_addr", *COLUMNS_OF_SOURCES[:6], *BOUNDS_OF_SOURCES, *COLUMNS_OF_SOURCES[8:]]
            assert row["src_addr"] == address_text(high[i], low[i])
            distance, variance, _ = (
                struct.unpack("<d", struct.pack("<Q", columns[name][i]))[0]
                for name in ("distance_p999", "variance", "weight_max")
            )
            is_sure = columns["estimated_bytes"][i] ** 2 >= value["samples_min"] * variance and columns["flows"][i] > 0
            unsure += not is_sure
            assert (
                row["counted_by"] == [rule for n, rule in enumerate(RULES) if columns["counted_by"][i] >> n & 1] != []
            )
            for name in {*row} & {*COLUMNS_OF_SOURCES} - {"distance_p999", "counted_by"}:
                known = is_sure or not name.startswith("estimated")
                assert row[name] == (columns[name][i] if known else None)
            assert row["distance_p999"] == (None if np.isnan(distance) else distance)
            assert np.isnan(distance) == (row["records"] < 2)
            nulls += row["distance_p999"] is None
    assert nulls
    assert unsure


def test_nan_becomes_null_anywhere():
    value = said()["elephants"][0].value | {"share": float("nan"), "rate_bps": float("inf")}
    read = json.loads(to_json("elephants", value))
    assert (read["share"], read["rate_bps"]) == (None, None)


def test_a_payload_is_written_as_base64():
    letter = {
        "topic": "raw", "partition": 0, "offset": 1, "format": "goflow", "reason": "malformed",
        "payload": b"\x00\xff\x80", "payload_bytes": 3,
    }  # fmt: skip
    assert json.loads(to_json("dead-letters", letter))["payload"] == base64.b64encode(b"\x00\xff\x80").decode()


def test_a_value_without_a_field_of_its_schema_is_an_error():
    value = dict(said()["elephants"][0].value)
    del value["share"]
    with pytest.raises(KeyError, match="share"):
        to_json("elephants", value)


def test_every_topic_of_ours_has_the_schema_that_its_stream_is_decoded_with():
    settings = Settings()
    for spec in specs(settings):
        assert schema_name(stream_of(settings, spec.name)) == spec.schema
