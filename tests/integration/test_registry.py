"""With a schema registry the schemas are registered, and values carry its ids; without one, nothing starts."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pytest

from agents.registry import register_schemas
from agents.tail import decode_value
from flowstream import schemas
from flowstream.errors import BrokerError
from flowstream.recordings import Recording
from flowstream.settings import Settings, load
from flowstream.topics import specs
from tests.integration.kafka import read_all
from tests.integration.lab import Lab
from tests.registry_stub import FIRST_ID, RegistryStub
from tests.waiting import wait_for

DATA = Path(__file__).parent.parent / "data"
CLOS, LINKS = DATA / "clos_60s_goflow2_v2.bin.gz", DATA / "clos_links.csv"
OURS_ALONE = {"flow_block", "links", "topology", "replays"}  # no consumer of results reads them: always single-object


@pytest.fixture
def registry() -> Iterator[RegistryStub]:
    with RegistryStub() as stub:
        yield stub


@pytest.fixture
def lab(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    with Lab(broker, topic_prefix, tmp_path) as made:
        yield made


def with_registry(url: str, **changes: Any) -> Settings:
    return load(output={"schema_registry_url": url, **changes})


def own_name(schema: str) -> Any:
    file = DATA.parents[1] / "avro_schemas" / f"{schema}.v1.avsc"
    return json.loads(file.read_text())["name"]


def schema_by_id(registry: RegistryStub, number: int) -> Any:
    with urllib.request.urlopen(f"{registry.url}/schemas/ids/{number}", timeout=5) as answer:
        return json.loads(json.loads(answer.read())["schema"])


def unframed(registry: RegistryStub, value: bytes) -> tuple[str, dict[str, Any]]:
    """Decode a value as any consumer of a registry does: by the id in it."""
    assert value[0] == 0
    schema = schema_by_id(registry, int.from_bytes(value[1:5], "big"))
    body = io.BytesIO(value[5:])
    record: Any = fastavro.schemaless_reader(body, fastavro.parse_schema(schema))
    assert body.read() == b""
    return schema["name"], record


def test_every_schema_of_a_result_topic_is_registered_under_its_subject_once(registry):
    settings = with_registry(registry.url + "/")
    ids = asyncio.run(register_schemas(settings))
    assert asyncio.run(register_schemas(settings)) == ids
    chosen = [spec for spec in specs(settings) if spec.schema not in OURS_ALONE]
    assert registry.subjects == {f"{spec.name}-value": [ids[spec.schema]] for spec in chosen}
    assert set(ids.values()) == set(registry.schemas)
    for name, number in ids.items():
        assert schemas.fingerprint_of(schema_by_id(registry, number)) == schemas.fingerprint(name)


def test_nothing_is_registered_without_a_registry_or_for_json(registry):
    assert asyncio.run(register_schemas(with_registry(""))) == {}
    assert asyncio.run(register_schemas(with_registry(registry.url, format="json"))) == {}
    assert registry.subjects == {}


def test_a_refusal_names_the_subject_and_says_why_in_one_line(registry):
    registry.refused.add("flowstream.elephants.v1-value")
    with pytest.raises(BrokerError) as raised:
        asyncio.run(register_schemas(with_registry(registry.url)))
    assert str(raised.value) == (
        f"schema registry {registry.url} refuses flowstream.elephants.v1-value: "
        "Schema being registered is incompatible for subject 'flowstream.elephants.v1-value'"
    )


@pytest.mark.parametrize("path", ["/nothing/here", "/schemas"])
def test_an_address_that_is_no_registry_is_said_so(registry, path):
    with pytest.raises(BrokerError, match=r"^schema registry http.*output\.schema_registry_url$"):
        asyncio.run(register_schemas(with_registry(registry.url + path)))


@pytest.mark.parametrize("url", ["http://user:secret@127.0.0.1:1", "http://", "127.0.0.1:1", "ftp://127.0.0.1:1"])
def test_an_address_that_does_not_answer_is_one_line_without_the_password(url):
    with pytest.raises(BrokerError) as raised:
        asyncio.run(register_schemas(with_registry(url)))
    assert str(raised.value).startswith("schema registry ")
    assert str(raised.value).endswith("check output.schema_registry_url")
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def command(lab: Lab, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowstream.cli", *args], env=os.environ | lab.environment | environment, text=True,
        capture_output=True, cwd=lab.folder, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("args", [["worker"], ["check"]], ids=" ".join)
def test_without_the_registry_it_is_told_to_use_nothing_starts(lab, args):
    lab.prepare()
    done = command(lab, *args, FLOWSTREAM_OUTPUT__SCHEMA_REGISTRY_URL="http://127.0.0.1:1")
    assert done.returncode == 2
    assert done.stderr == (
        "flowstream: schema registry http://127.0.0.1:1 cannot be reached (ClientConnectorError); "
        "check output.schema_registry_url\n"
    )


def test_results_are_framed_with_the_registry_s_ids_and_decode_by_them(lab, registry):
    lab.prepare(LINKS)
    chosen = {"FLOWSTREAM_OUTPUT__SCHEMA_REGISTRY_URL": registry.url}
    worker = lab.worker(**chosen)
    messages = list(Recording(CLOS).messages())[:9000]
    lab.send([*messages, b"bad"])
    wait_for(lambda: worker.metric("rows_applied_total") == 9000, "all rows to be applied")
    wait_for(lambda: worker.metric("rows_open") == 0, "the last pane to close")
    names = {}
    for stream in ("distances", "elephants", "sources", "dead-letters"):
        records = read_all(lab.broker, lab.topic(stream))
        assert records, stream
        for record in records:
            names[stream], value = unframed(registry, record.value)
            assert int.from_bytes(record.value[1:5], "big") >= FIRST_ID
            assert list(decode_value(record.value, stream))[:2] == list(value)[:2]
    chosen_schemas = {"distances": "distances", "elephants": "elephants", "sources": "sources"}
    chosen_schemas |= {"dead-letters": "dead_letter"}
    assert names == {stream: own_name(schema) for stream, schema in chosen_schemas.items()}
    assert all(r.value[:2] == b"\xc3\x01" for r in read_all(lab.broker, lab.topic("flows")))
    tailed = command(lab, "tail", "dead-letters", "--from-beginning", "--limit", "1", "--json", **chosen)
    assert json.loads(tailed.stdout)["value"]["offset"] == 9000
    checked = command(lab, "check", **chosen)
    assert checked.returncode == 0, checked.stderr
    assert f"registry   ok ({len(registry.schemas)} schemas)" in checked.stdout
