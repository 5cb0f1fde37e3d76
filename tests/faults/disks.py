"""A full disk, under a worker and under the broker: small file systems in memory, which take a root to mount."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.brokers import acknowledged_is_there, back
from tests.faults.rig import Rig
from tests.faults.scenario import NotRunError, scenario
from tests.faults.workers import crew, some_way_on
from tests.waiting import wait_for

#: Enough for a broker with our topics, and soon full.
BROKER_DISK_MB = 256


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """Mount a file system of its own on a folder; NotRunError where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    run = _mount(folder, options)
    if run.returncode:
        raise NotRunError(f"no file system can be mounted here ({run.stderr.strip()}): run it as root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(folder: Path, options: str) -> subprocess.CompletedProcess[str]:
    command = ["mount", "-t", "tmpfs", "-o", options, "flowstream-faults", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def fill(folder: Path) -> Path:
    """Write a file until the disk has no byte left, and return it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in 1 << 20, 1 << 12, 1:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return ballast


@scenario(21, "disk full", fault="no space in a worker's folder; none in the broker's", own_broker=True)
def disk_full(rig: Rig) -> None:
    rig.broker.stop()
    with small_disk(rig.broker.folder, f"size={BROKER_DISK_MB}m"):
        rig.start_broker()
        try:
            _full_under_a_worker(rig)
            _full_under_the_broker(rig)
        finally:
            rig.broker.kill()


def _full_under_a_worker(rig: Rig) -> None:
    """The worker says what is wrong, ends with a code that is not 0, and starts once there is space."""
    rig.prepare(raw_partitions=2)
    folder = rig.folder / "worker0"
    with small_disk(folder, "size=64k,nr_inodes=1"):  # the one is the folder itself
        rig.fault("no space in a worker's folder")
        worker = rig.lab.worker(wait=False)
        code = worker.process.wait(90)
        said = worker.log.read_text()
        assert code not in {0, None}, f"the exit code is {code}"
        assert "flowstream: " in said.splitlines()[-1], said[-2000:]
        assert str(folder) in said.splitlines()[-1], said[-2000:]
        assert "Traceback" not in said, said[-2000:]
        subprocess.run(["mount", "-o", "remount,size=4m,nr_inodes=1000", str(folder)], check=True)
        with rig.supervised():
            wait_for(lambda: rig.lab.workers[0].alive, "the supervisor to start it again", 30)
            rig.lab.joined(rig.lab.workers[0])
        assert rig.lab.workers[0].stop() == 0
    rig.lab.workers.clear()


def _full_under_the_broker(rig: Rig) -> None:
    """What the broker could not write it did not acknowledge; when there is space again everything goes on."""
    crew(rig, 2)
    with rig.supervised(), rig.producing(2000):
        some_way_on(rig, 3_000)
        rig.fault("no space under the broker until it ends, and for 10 s more")
        began = time.monotonic()
        ballast = fill(rig.broker.folder)
        wait_for(lambda: not rig.broker.status().running, "the broker to end for want of space", 120)
        time.sleep(10)  # the length is the fault
        ballast.unlink()
        rig.start_broker()
        back(rig, time.monotonic() - began)
    rig.drain()
    rig.verify()
    if not rig.row.restarts:
        acknowledged_is_there(rig)
