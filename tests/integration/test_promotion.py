"""What a promotion carries over, and replays that have no end, on a real broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from agents.tail import decode_value
from tests.integration.kafka import committed, read_all
from tests.integration.lab import Lab, Worker
from tests.integration.test_pipeline import LINKS, STREAMS, from_file, from_kafka, recorded
from tests.integration.test_replay import command, last_values
from tests.waiting import wait_for

FLOWSTREAM = [sys.executable, "-m", "flowstream.cli"]


def run_to(lab: Lab, worker: Worker, sent: int) -> None:
    """Let a worker read everything, and stop it."""
    wait_for(lambda: committed(lab.broker, lab.app).get((lab.raw, 0), (0, ""))[0] == sent, "the raw commit")
    wait_for(lambda: worker.metric("panes_closed_total") and not worker.metric("offset_lag"), "no lag")
    assert worker.stop() == 0


def rows_late(lab: Lab, suffix: str = "") -> dict[bytes, int]:
    """Rows of every record of the late topic, by key."""
    return {key: decode_value(value)["rows"] for (key, _), value in last_values(lab, "late", suffix).items()}


def make_ready(lab: Lab, values: list[bytes]) -> None:
    lab.environment |= {"FLOWSTREAM_TIME__IDLE_AFTER_S": "60", "FLOWSTREAM_KAFKA__FETCH_BYTES_MAX": "20000"}
    lab.prepare(LINKS, raw_partitions=1)
    lab.send(values)


def test_late_rows_that_only_the_replay_has_read_are_in_the_main_topic_after_the_promotion(
    broker: str, topic_prefix: str, tmp_path: Path
) -> None:
    values = recorded()[:4_000]
    with Lab(broker, topic_prefix, tmp_path) as lab:
        make_ready(lab, values)
        run_to(lab, lab.worker(), len(values))
        command(lab, "replay", "--name", "next", "--from", "earliest", "--workers", "0")
        replayed = lab.worker(command=[*FLOWSTREAM, "worker", "--replay", "next"])
        wait_for(lambda: last_values(lab, "distances", "next") == last_values(lab, "distances"), "the same results")
        ingest = lab.worker("ingest")
        lab.send(values[:2])  # long since past: they close no pane, so the cut is where the live app stands
        wait_for(lambda: sum(rows_late(lab, "next").values()) == 2, "late rows of the replay")
        wait_for(lambda: committed(broker, lab.app)[lab.raw, 0][0] == len(values) + 2, "the raw commit")
        assert (ingest.stop(), replayed.stop()) == (0, 0)
        assert rows_late(lab) == {}, "nobody of the live app has read them"
        assert "is behind" not in command(lab, "promote", "next")
        assert rows_late(lab) == rows_late(lab, "next")


def test_a_replay_from_raw_without_an_end_is_interrupted_goes_on_and_is_promoted(
    broker: str, topic_prefix: str, tmp_path: Path
) -> None:
    values = recorded()
    with Lab(broker, topic_prefix, tmp_path) as lab:
        expected = from_file(lab, values)
        make_ready(lab, values[:8_000])
        run_to(lab, lab.worker(), 8_000)
        said = tmp_path / "said"
        with said.open("wb") as output:
            replaying = subprocess.Popen(
                [*FLOWSTREAM, "replay", "--name", "next", "--from", "earliest", "--from-raw"],
                env=os.environ | lab.environment | {"FLOWSTREAM_DATA_DIR": str(tmp_path / "cli")},
                stdout=output, stderr=output,
            )  # fmt: skip
        try:
            wait_for(lambda: last_values(lab, "distances", "next") == last_values(lab, "distances"), "its results", 60)
            replaying.send_signal(signal.SIGINT)
            assert replaying.wait(60) == 0, said.read_text()
        finally:
            replaying.kill()
        assert "Stopped" in said.read_text()
        lab.send(values[8_000:10_000])
        run_to(lab, lab.worker(), 10_000)
        promoted = command(lab, "promote", "next")  # at once: whoever was interrupted has left its group
        assert f"app {lab.app}-next is behind" in promoted
        assert "flows_suffix" in promoted
        lab.send(values[10_000:])
        lab.environment["FLOWSTREAM_APP"] = f"{lab.app}-next"
        lab.worker(FLOWSTREAM_TIME__IDLE_AFTER_S="2", FLOWSTREAM_TOPICS__FLOWS_SUFFIX="next")
        wait_for(lambda: from_kafka(lab) == expected or None, "the results of one run that nothing cut", 90)
        for stream in STREAMS:
            keys = [(r.partition, r.key) for r in read_all(broker, lab.topic(stream))]
            assert len(keys) == len(set(keys)), stream
