"""Real workers and commands on a secured broker: they get in by every way, and no secret of theirs comes out.

Two workers of one group, one in by SASL and one by TLS with a client certificate, both asking for a token, both
logging all they can.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from flowstream import schemas
from flowstream.cli import main
from flowstream.record_batches import UNPACKED_BYTES_MAX
from flowstream.recordings import Recording
from tests.integration.kafka import read_all
from tests.integration.lab import Lab, Worker
from tests.integration.secured import KEY_PASSWORD, PASSWORD, SCRAM_PASSWORD, SecuredBroker
from tests.registry_stub import RegistryStub
from tests.waiting import wait_for

CLOS = Path(__file__).parent.parent / "data" / "clos_60s_goflow2_v2.bin.gz"
TOKEN = "web-token-d09f21e4c7"
REGISTRY_PASSWORD = "registry-password-3be871"
SECRETS = (PASSWORD, SCRAM_PASSWORD, KEY_PASSWORD, TOKEN, REGISTRY_PASSWORD)
WAYS = [
    ("SASL_PLAINTEXT", "PLAIN"),
    ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
    ("SSL", "PLAIN"),
    ("SASL_SSL", "SCRAM-SHA-512"),
]
DEBUG = [sys.executable, "-m", "flowstream.cli", "worker", "--log-level", "debug"]

# What aiokafka leaves open where a login is refused, and a command that ends in the middle of a topic, is found later.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def secured(kafka_jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on the PATH: it makes the certificates")
    broker = SecuredBroker(tmp_path_factory.mktemp("secured"))
    with broker:
        broker.add_scram_user()
        yield broker


@pytest.fixture(scope="module")
def lab(secured: SecuredBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(secured.bootstrap, f"t{uuid.uuid4().hex[:12]}-", tmp_path_factory.mktemp("exposure")) as made:
        made.prepare(raw_partitions=2)
        yield made


class Pair(NamedTuple):
    lab: Lab
    workers: list[Worker]
    environments: list[dict[str, str]]


@pytest.fixture(scope="module")
def pair(secured: SecuredBroker, lab: Lab) -> Iterator[Pair]:
    """Two workers that share the partitions and have a window to show."""
    (lab.folder / "token").write_text(TOKEN + "\n")
    with RegistryStub() as registry:
        url = registry.url.replace("//", f"//collector:{REGISTRY_PASSWORD}@")
        common = {"FLOWSTREAM_OUTPUT__SCHEMA_REGISTRY_URL": url}
        environments = [
            common | secured.client("SASL_PLAINTEXT") | {"FLOWSTREAM_WEB__TOKEN": TOKEN},
            common | secured.client("SSL") | {"FLOWSTREAM_WEB__TOKEN_FILE": str(lab.folder / "token")},
        ]
        workers = [lab.worker(command=DEBUG, **environment) for environment in environments]
        changelog = f"{lab.app}-sources-changelog"

        def shared() -> bool:
            held = [w.get("/health").get("assigned", {}).get(changelog, []) for w in workers]
            return all(held) and sorted(chain(*held)) == [0, 1, 2, 3] and all(w.ready() for w in workers)

        wait_for(shared, "the partitions to be shared")
        send_bomb(lab)
        lab.send(list(Recording(CLOS).messages())[:6000], partitions=2)
        wait_for(
            lambda: all(ask(w, "/sources?local=1")[1].get("sources") for w in workers),
            "a window to close on either worker",
        )
        yield Pair(lab, workers, environments)


def send_bomb(lab: Lab) -> None:
    """Put a batch of a few kilobytes on the raw topic that a broker takes, and that unpacks to over 32 MiB."""

    async def go() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=lab.broker, compression_type="zstd", max_request_size=1 << 26, max_batch_size=1 << 26
        )
        await producer.start()
        try:
            await producer.send_and_wait(lab.raw, bytes(UNPACKED_BYTES_MAX), partition=0)
        finally:
            await producer.stop()

    asyncio.run(go())


def ask(worker: Worker, path: str, token: str = TOKEN) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{worker.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        is_ours = error.headers.get_content_type() == "application/json"
        return error.code, json.loads(error.read()) if is_ours else {}


def same(answers: list[Any]) -> Any:
    """Return what all answers are, None where they differ."""
    return answers[0] if all(answer == answers[0] for answer in answers) else None


def command(lab: Lab, environment: dict[str, str], *args: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code and all that it printed."""
    done = CliRunner(env=lab.environment | environment).invoke(main, args)
    return done.exit_code, done.output


@pytest.mark.parametrize(("protocol", "mechanism"), WAYS)
def test_every_command_gets_in_and_says_no_secret(lab, secured, tmp_path, protocol, mechanism) -> None:
    environment = secured.client(protocol, mechanism)
    flows = tmp_path / "flows.bin"
    flows.write_bytes(b"\x02\x08\x01" * 3)
    sent = len(read_all(lab.broker, lab.raw))
    for args, said in (
        (("topics",), "ok"), (("check",), "topics     ok"),
        (("send", str(flows), "--format", "goflow", "--topic", lab.raw), "3 messages"),
    ):  # fmt: skip
        code, output = command(lab, environment, *args)
        assert (code, said in output) == (0, True), output
        assert [secret for secret in SECRETS if secret in output] == []
    assert len(read_all(lab.broker, lab.raw)) == sent + 3
    code, output = command(lab, environment, "tail", lab.raw, "--from-beginning", "--limit", "1")
    assert (code, output.count("\n")) == (0, 1)


@pytest.mark.parametrize(
    ("protocol", "changed", "said"),
    [
        ("SASL_PLAINTEXT", {"SASL_PASSWORD": "another-password-9e1c"}, "kafka.sasl_"),
        ("SASL_SSL", {"SASL_PASSWORD": "another-password-9e1c"}, "kafka.ssl_* and kafka.sasl_*"),
        ("SSL", {"SSL_KEY_PASSWORD": "another-password-9e1c"}, "kafka.ssl_key_password does not open it"),
        ("SSL", {"SSL_CERTFILE": "", "SSL_KEYFILE": ""}, "kafka.ssl_*"),
        ("SSL", {"SSL_CERTFILE": ""}, "kafka.ssl_keyfile"),
        ("SSL", {"SSL_CAFILE": ""}, "kafka.ssl_*"),
        ("SSL", {"SSL_CAFILE": "gone.pem"}, "setting kafka.ssl_cafile = 'gone.pem': no such file"),
        ("SSL", {"SSL_CAFILE": os.devnull}, "setting kafka.ssl_cafile"),
        ("SSL", {"SASL_PASSWORD": "x", "HEARTBEAT_S": "another-password-9e1c"}, "kafka.heartbeat_s"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_without_a_secret(lab, secured, protocol, changed, said) -> None:
    environment = secured.client(protocol) | {f"FLOWSTREAM_KAFKA__{name}": value for name, value in changed.items()}
    code, output = command(lab, environment, "check")
    (line,) = [line for line in output.splitlines() if line.startswith("flowstream: ")]
    assert (code, said in line) == (2, True), output
    told = "another-password-9e1c" if "HEARTBEAT_S" not in changed else "none"
    assert [secret for secret in (*SECRETS, told) if secret in output] == []


def test_a_bomb_is_a_dead_letter_with_its_offsets_and_the_workers_live(pair) -> None:
    lab = pair.lab
    letters = [
        (schemas.decode_body("dead_letter", record.value[5:]), dict(record.headers))
        for record in read_all(lab.broker, lab.topic("dead-letters"))
    ]
    ((letter, headers),) = [found for found in letters if found[0]["format"] == "record-batch"]
    assert (letter["topic"], letter["partition"], letter["reason"]) == (lab.raw, 0, "too_large")
    assert headers["source"] == f"{lab.raw}-0:{letter['offset']}-{letter['offset']}".encode()
    assert letter["payload_bytes"] == len(letter["payload"]) < 10_000
    assert all(worker.ready() for worker in pair.workers)
    assert sum(worker.metric("block_gaps_total") for worker in pair.workers) == 0


def test_sources_are_told_to_the_token_alone_and_through_either_worker(pair) -> None:
    window = ask(pair.workers[0], "/sources")[1]["window_start_ns"]
    status, answer = wait_for(
        lambda: same([ask(worker, f"/sources?top=1000&window={window}") for worker in pair.workers]),
        "the workers to tell the same",
    )
    assert (status, answer["missing_partitions"]) == (200, [])
    for row in answer["sources"]:
        for worker in pair.workers:
            assert ask(worker, f"/sources/{row['src_addr']}")[0] == 200
    for worker in pair.workers:
        for path in ("/sources", f"/sources/{answer['sources'][0]['src_addr']}", "/sources?local=1", "/table", "/"):
            assert [ask(worker, path, token)[0] for token in ("", "web-token-d09f21e4c8")] == [401, 401]
        assert {ask(worker, path)[0] for path in ("/", "/table/", "/router/", "/stats/", "/graph/")} == {404}
        assert worker.get("/health")["status"] == "ok"


def test_an_answer_says_which_partitions_are_missing_from_it(pair) -> None:
    asked, silent = pair.workers
    changelog = f"{pair.lab.app}-sources-changelog"
    theirs = silent.get("/health")["assigned"][changelog]
    silent.process.send_signal(signal.SIGSTOP)
    try:
        status, answer = ask(asked, "/sources?top=1000")
    finally:
        silent.process.send_signal(signal.SIGCONT)
    assert (status, answer["missing_partitions"]) == (200, theirs)


def test_the_entries_of_tables_are_counted_where_they_are_held(pair) -> None:
    def entries(worker: Worker, table: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        (line,) = [x for x in lines if x.startswith("flowstream_table_entries{") and f'"{table}"' in x]
        return int(float(line.rsplit(" ", 1)[1]))

    flows = pair.lab.topic("flows")

    def agree() -> bool:
        held = [len(w.get("/health").get("assigned", {}).get(flows, [])) for w in pair.workers]
        return sum(held) == 4 and all(held) and [entries(w, "progress") for w in pair.workers] == held

    wait_for(agree, "the workers to count what they hold")
    wait_for(lambda: all(entries(worker, "sources") for worker in pair.workers), "a window on either worker")


def test_no_secret_is_in_any_log_page_record_or_file(pair) -> None:
    lab = pair.lab
    told = {f"log {worker.log}": worker.log.read_text() for worker in pair.workers}
    assert all("DEBUG" in text and "aiokafka" in text for text in told.values())
    for worker in pair.workers:
        for path in ("/metrics", "/health", "/sources", "/nowhere"):
            for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}):
                request = urllib.request.Request(f"http://127.0.0.1:{worker.port}{path}", headers=headers)
                try:
                    with urllib.request.urlopen(request, timeout=20) as answer:
                        told[f"page {path}"] = f"{answer.headers}\n{answer.read().decode()}"
                except urllib.error.HTTPError as error:
                    told[f"page {path}"] = f"{error.headers}\n{error.read().decode()}"
    for stream in ("sources", "distances", "flows", "dead-letters"):
        records = read_all(lab.broker, lab.topic(stream))
        told[f"topic {stream}"] = "\n".join(repr((r.key, r.value, r.headers)) for r in records)
    assert told["topic sources"]
    for environment in pair.environments:
        told["check"] = command(lab, environment, "check")[1]
        code = "from flowstream.settings import load; s = load(); print(repr(s), s, s.model_dump_json())"
        shown = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | lab.environment | environment, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        told["settings"] = shown.stdout + shown.stderr
        assert "registry   ok" in told["check"]
    for path in lab.folder.rglob("*"):
        if path.is_file() and path.name != "token" and path.suffix != ".log":
            told[str(path)] = path.read_bytes().decode("latin-1")
    # As bytes are shown, a password after a zero byte is still the same letters.
    assert [(where, secret) for where, text in told.items() for secret in SECRETS if secret in text] == []
