"""What is done to state: local folders deleted, changelogs compacted."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.faults import client
from tests.faults.rig import Rig
from tests.faults.scenario import scenario
from tests.faults.workers import crew, each_owned_once, tables_of
from tests.integration.lab import Worker
from tests.waiting import wait_for

TABLES = ("progress", "sources")


def configure(address: str, topic: str, **configs: float | str) -> None:
    """Set configurations of a topic."""
    entries = [
        ConfigEntry(key.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
        for key, value in configs.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": address})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(20)


def bereave(rig: Rig) -> list[Path]:
    """Kill every worker and delete all that it had on disk."""
    folders = []
    for worker in rig.lab.workers:
        worker.kill()
        folder = worker.folder / f"worker{worker.number}"
        assert folder.is_dir(), f"{folder}: the worker should have had a folder"
        shutil.rmtree(folder)
        folders.append(folder)
    return folders


def restored(rig: Rig, before: dict[int, object], deadline_s: float = 120) -> None:
    """Start the workers again and wait until the table is as before; the time it took is reported."""
    began = time.monotonic()
    workers: list[Worker] = [rig.lab.again(worker) for worker in list(rig.lab.workers)]
    for worker in workers:
        rig.lab.joined(worker)
    wait_for(lambda: each_owned_once(rig), "every partition to have an owner", deadline_s)
    for worker in workers:
        wait_for(lambda worker=worker: tables_of(rig, worker) == before, "the table as it was before", deadline_s)
    took_s = round(time.monotonic() - began, 1)
    rig.row.recovery_s = max(took_s, rig.row.recovery_s or 0.0)
    rig.row.figures["from start to the state before, s"] = took_s


@scenario(12, "lost local state", fault="kill -9 of all workers, their folders deleted, started again", quick=True)
def lost_local_state(rig: Rig) -> None:
    rig.prepare(raw_partitions=2)
    crew(rig, 1 if rig.quick else 2)
    rig.produce(5_000 if rig.quick else 50_000, sources=48 if rig.quick else 5_000, seconds_of_event_time=120)
    rig.drain()
    before = tables_of(rig, rig.lab.workers[0])
    assert len(before) > 8, "there should be windows to compare"
    rig.fault("kill -9 of all workers, folders deleted")
    bereave(rig)
    restored(rig, before)
    rig.produce(2_000)
    rig.drain()
    rig.verify()


@scenario(13, "compacted changelog", fault="changelogs compacted, folders deleted, started again")
def compacted_changelog(rig: Rig) -> None:
    rig.prepare(raw_partitions=2, sources={"windows_kept": 8})
    topics = [f"{rig.lab.app}-{table}-changelog" for table in TABLES]
    worker = rig.lab.worker()
    for topic in topics:
        # Segments of a mebibyte at least is what Kafka takes, so they are cut by time: each write after a while
        # begins a new one, and all before it may be compacted. Markers of deletion go at once.
        configure(
            rig.address, topic, segment_ms=100, min_cleanable_dirty_ratio=0.001,
            delete_retention_ms=0, max_compaction_lag_ms=100,
        )  # fmt: skip
    with rig.producing(1_000, speed=20):
        for topic in topics:
            wait_for(lambda topic=topic: _compacted(rig, topic), f"{topic} to be compacted", 180)
    rig.drain()
    before = tables_of(rig, worker)
    for topic in topics:
        written = sum(client.ends(rig.address, [topic]).values())
        left = client.read(rig.address, topic)
        rig.row.figures[f"records of {topic.removeprefix(rig.lab.app + '-')}"] = f"{len(left)} of {written}"
        assert len(left) < written, f"{topic}: {written} records, none of which is gone"
    rig.fault("changelogs compacted, kill -9, folder deleted")
    bereave(rig)
    restored(rig, before)
    rig.produce(2_000)
    rig.drain()
    rig.verify()


def _compacted(rig: Rig, topic: str) -> bool:
    """Whether of every partition that was written to the beginning is gone, and records within have been taken out."""
    there = client.read(rig.address, topic)
    ends = {p: end for (_, p), end in client.ends(rig.address, [topic]).items() if end}
    firsts = {p: min((r.offset for r in there if r.partition == p), default=0) for p in ends}
    return len(ends) > 1 and all(firsts[p] > 0 for p in ends) and len(there) < sum(ends.values()) // 2
