"""Replays of the recording on a real broker: the same bytes again, beside the live app, in its place and after it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner

import agents.in_place
from agents.admin import list_topics
from agents.changelogs import read_changelog
from agents.in_place import move, plan_in_place
from agents.tail import decode_value
from flowstream.cli import main
from flowstream.errors import BrokerError
from flowstream.positions import Position, time_text
from flowstream.topics import name
from tests.integration.kafka import committed, read_all
from tests.integration.lab import Lab, Worker
from tests.integration.test_pipeline import LINKS, STREAMS, from_file, from_kafka, recorded
from tests.waiting import wait_for

S = 1_000_000_000
FIRST = 1_795_224_795 * S  # the recording's first second
SIZES_S = {"distances": 3, "sources": 10}


def command(lab: Lab, *words: str, code: int = 0) -> str:
    """Run a flowstream command with the lab's settings and return what it says."""
    environment = lab.environment | {"FLOWSTREAM_DATA_DIR": str(lab.folder / "cli")}
    done = CliRunner().invoke(main, words, env=environment)
    assert done.exit_code == code, done.output
    return done.output


def last_values(lab: Lab, stream: str, suffix: str = "") -> dict[tuple[bytes, int], bytes]:
    topic = lab.topic(stream) + (f".{suffix}" if suffix else "")
    return {(r.key, r.partition): r.value for r in read_all(lab.broker, topic)}


def end_ns(stream: str, key: bytes) -> int:
    """Event time at which a result is said: the end of its window, or its own."""
    return int(key.split(b"|")[0]) + SIZES_S.get(stream, 0) * S


def between(said: dict[tuple[bytes, int], bytes], stream: str, start: int, end: int) -> dict[tuple[bytes, int], bytes]:
    return {k: v for k, v in said.items() if start < end_ns(stream, k[0]) <= end}


@pytest.fixture(scope="module")
def done(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, dict]]:
    """A live app that has computed the whole recording and was stopped, and what it said."""
    with Lab(broker, f"t{uuid4().hex[:12]}-", tmp_path_factory.mktemp("replay")) as lab:
        values = recorded()
        expected = from_file(lab, values)
        lab.prepare(LINKS, raw_partitions=1)
        lab.send(values)
        worker = lab.worker(FLOWSTREAM_KAFKA__FETCH_BYTES_MAX="20000")
        wait_for(lambda: from_kafka(lab) == expected or None, "the live results", 90)
        assert worker.stop() == 0
        yield lab, expected


def test_a_replay_of_a_span_says_the_same_bytes_and_nothing_else(done: tuple[Lab, dict]) -> None:
    lab, _ = done
    start, end = FIRST + 35 * S, FIRST + 50 * S
    words = ("--name", "span", "--from", time_text(start), "--to", time_text(end), "--warm-up", "15")
    shown = command(lab, "replay", *words, "--dry-run")
    assert "Nothing was changed" in shown
    assert not [t for t in asyncio.run(list_topics(lab.settings())) if t.endswith(".span")]
    said = command(lab, "replay", *words)
    assert "Finished" in said
    for stream in SIZES_S:
        wanted = between(last_values(lab, stream), stream, start, end)
        assert len(wanted) > 5 or stream == "sources"
        assert last_values(lab, stream, "span") == wanted
    # An elephant that began within the warm-up or after is the same; older ones are told from another moment on.
    third = {
        kind: {k: v for k, v in last_values(lab, "elephants", kind).items() if b"10.0.2.10" in k[0]}
        for kind in ("", "span")
    }
    assert third["span"]
    assert third["span"] == between(third[""], "elephants", start, end)
    read = committed(lab.broker, f"{lab.app}-span")
    assert min(offset for (topic, _), (offset, _) in read.items() if topic == lab.topic("flows")) > 0
    assert "there is already" in command(lab, "replay", *words, code=2).replace("there already", "there is already")
    removed = command(lab, "replay", "--discard", "span")
    assert f"group {lab.app}-span" in removed
    left = [t for t in asyncio.run(list_topics(lab.settings())) if "span" in t]
    assert left == []
    assert "no replay span" in command(lab, "replay", "--discard", "span", code=2)


def test_a_replay_from_raw_says_the_same(done: tuple[Lab, dict]) -> None:
    lab, expected = done
    end = FIRST + 50 * S
    said = command(lab, "replay", "--name", "raw", "--from", "earliest", "--to", time_text(end), "--from-raw")
    assert "Finished" in said
    for stream in STREAMS:
        assert last_values(lab, stream, "raw") == between(last_values(lab, stream), stream, 0, end)
    command(lab, "replay", "--discard", "raw")
    assert {s: set(from_kafka(lab)[s]) for s in STREAMS} == {s: set(expected[s]) for s in STREAMS}


def test_in_place_everything_is_computed_again_and_nothing_of_before_is_left(
    done: tuple[Lab, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, expected = done
    settings = lab.settings()
    tables = [f"{lab.app}-{table}-changelog" for table in ("progress", "sources")]

    def held() -> list[dict]:
        return [asyncio.run(read_changelog(settings, topic)) for topic in tables]

    before, stood = held(), committed(lab.broker, lab.app)
    assert all(any(part.values()) for part in before)
    shown = command(lab, "replay", "--in-place", "--from", "earliest", "--dry-run")
    assert "Nothing was changed" in shown
    assert (held(), committed(lab.broker, lab.app)) == (before, stood)

    async def cut_off(*_: object) -> None:
        raise BrokerError("the plug was pulled")

    with monkeypatch.context() as patched:
        patched.setattr(agents.in_place, "commit_positions", cut_off)
        made = asyncio.run(plan_in_place(settings, Position.parse("earliest")))
        with pytest.raises(BrokerError, match="plug"):
            asyncio.run(move(settings, made))
    assert "was not finished" in command(lab, "worker", code=2)
    command(lab, "replay", "--in-place", "--from", "earliest", "--yes")
    assert [[v for v in part.values() if v] for part in held()] == [[], []]
    counts = {stream: len(read_all(lab.broker, lab.topic(stream))) for stream in STREAMS}
    worker = lab.worker()
    wait_for(
        lambda: all(len(read_all(lab.broker, lab.topic(s))) >= 2 * counts[s] for s in STREAMS), "all of it again", 60
    )  # fmt: skip
    assert from_kafka(lab) == expected
    assert "1 member" in command(lab, "replay", "--in-place", "--from", "earliest", "--yes", code=2)
    assert worker.stop() == 0
    assert held()[1] == before[1]

    start = FIRST + 45 * S
    counts = {stream: len(read_all(lab.broker, lab.topic(stream))) for stream in SIZES_S}
    again = {stream: len(between(last_values(lab, stream), stream, start, 2**63)) for stream in SIZES_S}
    command(lab, "replay", "--in-place", "--from", time_text(start), "--warm-up", "15", "--yes")
    kept = {key for part in held()[1].values() for key in part}
    assert kept == {key for part in before[1].values() for key in part if end_ns("sources", key[6:]) <= start}
    assert min(o for (topic, _), (o, _) in committed(lab.broker, lab.app).items() if topic == lab.topic("flows")) > 0
    worker = lab.worker()
    wait_for(lambda: held()[1] == before[1], "the table of sources as it was", 60)
    assert worker.stop() == 0
    assert {s: len(read_all(lab.broker, lab.topic(s))) - counts[s] for s in SIZES_S} == again
    assert {s: from_kafka(lab)[s] for s in SIZES_S} == {s: expected[s] for s in SIZES_S}


@pytest.mark.parametrize("ahead", ["live", "replay"])
def test_after_a_promotion_in_mid_stream_every_window_is_in_the_main_topics_once(
    broker: str, topic_prefix: str, tmp_path: Path, ahead: str
) -> None:
    values = recorded()
    values[9_000:9_000] = values[:2]  # these are late
    with Lab(broker, topic_prefix, tmp_path) as lab:
        lab.environment |= {"FLOWSTREAM_TIME__IDLE_AFTER_S": "60", "FLOWSTREAM_KAFKA__FETCH_BYTES_MAX": "20000"}
        expected = from_file(lab, values)
        lab.prepare(LINKS, raw_partitions=1)
        ours = [sys.executable, "-m", "flowstream.cli", "worker"]

        def run(worker: Worker, sent: int) -> None:
            """Let a worker read everything, and stop it."""
            wait_for(lambda: committed(broker, lab.app).get((lab.raw, 0), (0, ""))[0] == sent, "the raw commit")
            wait_for(lambda: worker.metric("panes_closed_total") and not worker.metric("offset_lag"), "no lag")
            assert worker.stop() == 0

        lab.send(values[:8_000])
        run(lab.worker(), 8_000)
        command(lab, "replay", "--name", "next", "--from", "earliest", "--workers", "0")
        replayed = lab.worker(command=[*ours, "--replay", "next"])
        lab.send(values[8_000:10_000])
        if ahead == "live":
            wait_for(lambda: len(last_values(lab, "distances", "next")) > 20, "results of the replay")
            assert "stop its workers" in command(lab, "promote", "next", code=2)
            assert replayed.stop() == 0
            run(lab.worker(), 10_000)
        else:
            ingest = lab.worker("ingest")
            wait_for(lambda: committed(broker, lab.app)[lab.raw, 0][0] == 10_000, "the raw commit")
            assert ingest.stop() == 0
            run(replayed, 10_000)
        said = command(lab, "promote", "next")
        assert "cut at" in said
        assert f"app {lab.app}{'-next' if ahead == 'live' else ''} is behind" in said
        assert f'app = "{lab.app}-next"' in said
        assert "was replaced by" in command(lab, "worker", code=2)
        assert "was promoted" in command(lab, "worker", "--replay", "next", code=2)
        lab.send(values[10_000:])
        lab.environment["FLOWSTREAM_APP"] = f"{lab.app}-next"
        lab.worker(FLOWSTREAM_TIME__IDLE_AFTER_S="2")
        wait_for(lambda: from_kafka(lab) == expected or None, "the results of one run that nothing cut", 90)
        for stream in STREAMS:
            keys = [(r.partition, r.key) for r in read_all(broker, lab.topic(stream))]
            assert len(keys) == len(set(keys)), stream
        late = {r.key: decode_value(r.value)["rows"] for r in read_all(broker, lab.topic("late"))}
        assert sum(late.values()) == 2
        lab.environment["FLOWSTREAM_APP"] = lab.app
        assert "removed topic" in command(lab, "replay", "--discard", "next")
        states = {r.key.decode(): decode_value(r.value) for r in read_all(broker, name(lab.settings(), "replays"))}
        assert {app: state["state"] for app, state in states.items()} == {
            lab.app: "replaced", f"{lab.app}-next": "promoted",
        }  # fmt: skip
