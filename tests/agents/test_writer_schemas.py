"""Framed Avro input: the writer's schema comes from the registry, once, and an unknown id is a dead letter."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pytest

from agents.ingest import IngestAgent
from agents.registry import WriterSchemas
from flowstream import schemas
from flowstream.blocks import decode_block
from flowstream.decode import Payloads, decode
from flowstream.errors import BrokerError, Reason, SettingsError
from flowstream.pipeline import decode_context
from flowstream.settings import load
from tests.agents.fakes import Stage
from tests.builders import T0_NS
from tests.registry_stub import FIRST_ID, RegistryStub

FOREIGN = {
    "type": "record", "name": "Sample", "namespace": "elsewhere",
    "fields": [
        {"name": "src_addr", "type": "string"}, {"name": "dst_addr", "type": "string"},
        {"name": "bytes", "type": "int"}, {"name": "packets", "type": "int"},
        {"name": "colour", "type": "string"},
        {"name": "time_received_ns", "type": "long"},
    ],
}  # fmt: skip
RECORD = {
    "src_addr": "10.0.0.7", "dst_addr": "10.0.0.8", "bytes": 99, "packets": 1, "colour": "blue",
    "time_received_ns": T0_NS,
}  # fmt: skip


def body(record: dict[str, Any] = RECORD) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(FOREIGN), record)
    return buffer.getvalue()


@pytest.fixture
def registry() -> Iterator[RegistryStub]:
    with RegistryStub() as stub:
        stub.schemas[FIRST_ID] = json.dumps(FOREIGN)
        yield stub


def stage(url: str) -> Stage:
    return Stage(
        load(
            topics={"partitions": 1}, inputs=({"topic": "avro-flows", "format": "avro"},),
            output={"schema_registry_url": url},
        )
    )  # fmt: skip


async def test_messages_are_read_with_the_schema_their_producer_registered(registry: RegistryStub) -> None:
    made = stage(registry.url)
    framed = [schemas.confluent_frame(FIRST_ID, body()), schemas.confluent_frame(FIRST_ID + 77, body())]
    agent = IngestAgent(made.context)
    await agent.take(made.batch("avro-flows", framed, at_ms=T0_NS // 10**6))
    await agent.settle()
    rows = decode_block(made.publisher.sent[0].value).rows
    assert rows.bytes.tolist() == [99]
    assert made.value("rows_decoded_total") == 1
    letter = schemas.single_object_decode(made.publisher.sent[-1].value)[1]
    assert (letter["offset"], letter["reason"]) == (1, Reason.UNKNOWN_SCHEMA.label)


async def test_a_schema_is_fetched_once_and_an_absent_one_asked_for_once(registry: RegistryStub) -> None:
    writers = WriterSchemas(stage(registry.url).settings)
    await writers.fetch({FIRST_ID, 5})
    assert set(writers.known) == {FIRST_ID}
    registry.schemas[5] = json.dumps(FOREIGN)
    await writers.fetch({FIRST_ID, 5})
    assert set(writers.known) == {FIRST_ID}


async def test_a_registry_that_does_not_answer_rejects_nothing() -> None:
    writers = WriterSchemas(stage("http://127.0.0.1:9").settings)
    with pytest.raises(BrokerError, match="does not answer"):
        await writers.fetch({1})
    assert writers.known == {}


async def test_without_a_registry_nothing_is_asked() -> None:
    await WriterSchemas(stage("").settings).fetch({1})


def test_unframed_messages_are_read_with_the_schema_file_of_their_input(tmp_path: Path) -> None:
    file = tmp_path / "sample.avsc"
    file.write_text(json.dumps(FOREIGN))
    settings = load(inputs=({"topic": "t", "format": "avro", "schema_file": str(file)},))
    decoded = decode("avro", Payloads.from_values([body()]), decode_context(settings.inputs[0]))
    assert decoded.flows.bytes.tolist() == [99]


@pytest.mark.parametrize("content", [None, "no json", '{"type": "nonsense"}'])
def test_a_schema_file_that_is_none_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "sample.avsc"
    if content is not None:
        file.write_text(content)
    settings = load(inputs=({"topic": "t", "format": "avro", "schema_file": str(file)},))
    with pytest.raises(SettingsError, match=r"schema_file = .*sample\.avsc"):
        decode_context(settings.inputs[0])
