"""The batch transport against a real broker: no offset is skipped, whatever dies, holds or joins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.faust_app import BATCHES_BUFFERED
from tests.integration.kafka import committed, create_topic, write
from tests.waiting import wait_for

RECORDS = 12_000
PARTITIONS = 2


@dataclass
class Rig:
    broker: str
    topic: str
    folder: Path
    processes: list[subprocess.Popen[bytes]]

    def start(self, name: str, **environment: str) -> subprocess.Popen[bytes]:
        own = {
            "BROKER": self.broker, "TOPIC": self.topic, "GROUP": f"{self.topic}-group",
            "JOURNAL": str(self.journal(name)), "DATADIR": str(self.folder / f"{name}-data"),
        }  # fmt: skip
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.batch_app", "worker"], env=os.environ | own | environment,
                stdout=log, stderr=log,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def journal(self, name: str) -> Path:
        return self.folder / f"{name}.journal"

    def batches(self, name: str) -> list[tuple[int, int, int, str]]:
        if not self.journal(name).exists():
            return []
        words = [line.split() for line in self.journal(name).read_text().splitlines()]
        return [(int(w[1]), int(w[2]), int(w[3]), w[4]) for w in words if len(w) == 5 and w[0] == "batch"]

    def seen(self, *names: str) -> set[tuple[int, int]]:
        return {(p, o) for n in names for p, first, end, _ in self.batches(n) for o in range(first, end)}

    def committed(self) -> dict[int, tuple[int, str]]:
        return {p: c for (_, p), c in committed(self.broker, f"{self.topic}-group").items()}

    def at_end(self) -> bool:
        return {p: c[0] for p, c in self.committed().items()} == dict.fromkeys(range(PARTITIONS), RECORDS // PARTITIONS)


@pytest.fixture
def rig(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Rig]:
    topic = f"{topic_prefix}raw"
    create_topic(broker, topic, PARTITIONS)
    write(broker, topic, [b"%060d" % i for i in range(RECORDS)], PARTITIONS, batch_bytes=1 << 14)
    made = Rig(broker, topic, tmp_path, [])
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


ALL = {(p, o) for p in range(PARTITIONS) for o in range(RECORDS // PARTITIONS)}


def test_three_kills_in_mid_run_lose_no_offset_and_the_last_commit_is_the_end(rig: Rig) -> None:
    for life in range(3):
        process = rig.start(f"life{life}")
        wait_for(lambda life=life: len(rig.seen(f"life{life}")) > 1_500, "some progress")
        process.kill()
        process.wait()
        done = rig.seen(*(f"life{i}" for i in range(life + 1)))
        for partition, (offset, state) in rig.committed().items():
            assert {(partition, o) for o in range(offset)} <= done, "a commit ran ahead of what was processed"
            assert state == f"s{offset}", "the state beside the offset is not the one of that offset"
    rig.start("last")
    wait_for(rig.at_end, "everything to be committed", 90)
    assert rig.seen("life0", "life1", "life2", "last") == ALL
    for life in ("life1", "life2", "last"):
        for partition in range(PARTITIONS):
            mine = [b for b in rig.batches(life) if b[0] == partition]
            assert [b[1] for b in mine] == sorted(b[1] for b in mine), "out of order within a life"
            # What a life starts from is the state that was committed with its first offset.
            assert not mine or mine[0][3] in {"-", f"s{mine[0][1]}"}


def test_a_held_batch_is_never_committed_past_and_comes_again(rig: Rig) -> None:
    process = rig.start("holding", HOLD="0")
    wait_for(lambda: rig.committed().get(1, (0, ""))[0] == RECORDS // PARTITIONS, "partition 1 to be committed", 90)
    wait_for(
        lambda: len({o for p, o in rig.seen("holding") if p == 0}) == RECORDS // PARTITIONS, "partition 0 to be read"
    )
    process.kill()
    process.wait()
    assert 0 not in rig.committed(), "later acks must not commit past the batch that is held"
    rig.start("after")
    wait_for(rig.at_end, "everything to be committed", 90)
    assert min(b[1] for b in rig.batches("after") if b[0] == 0) == 0


def test_a_slow_worker_holds_a_bounded_number_of_batches(rig: Rig) -> None:
    gate = rig.folder / "gate"
    rig.start("slow", GATE=str(gate))

    def noted() -> list[int]:
        lines = rig.journal("slow").read_text().splitlines() if rig.journal("slow").exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith("noted")]

    wait_for(lambda: len(noted()) > 15 and len(set(noted()[-10:])) == 1 and noted()[-1] > 0, "reading to stand still")
    assert noted()[-1] <= BATCHES_BUFFERED + 2 * PARTITIONS
    gate.touch()
    wait_for(rig.at_end, "everything to be committed", 90)
    assert rig.seen("slow") == ALL


def test_a_second_worker_takes_over_partitions_without_losing_an_offset(rig: Rig) -> None:
    rig.start("one")
    wait_for(lambda: len(rig.seen("one")) > 1_000, "some progress")
    second = rig.start("two")
    wait_for(lambda: rig.at_end() or rig.seen("two"), "the second worker to get a partition", 90)
    wait_for(rig.at_end, "everything to be committed", 90)
    assert rig.seen("one", "two") == ALL
    assert second.poll() is None
