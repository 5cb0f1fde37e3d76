"""Results computed again: in place by an offset reset, and side by side while the live app goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping

from tests.faults import checker, client
from tests.faults.flows import SECOND_NS, T0_NS
from tests.faults.rig import Rig
from tests.faults.scenario import scenario
from tests.faults.verdict import streams
from tests.faults.workers import some_way_on
from tests.waiting import wait_for

#: By (partition, key).
Values = Mapping[tuple[int, bytes], bytes]


def flowstream(rig: Rig, *words: str, deadline_s: float = 180) -> str:
    """Run a flowstream command as a user would, and return what it says."""
    environment = os.environ | rig.lab.environment | {"FLOWSTREAM_DATA_DIR": str(rig.folder / "command")}
    command = [sys.executable, "-m", "flowstream.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=deadline_s, check=False)
    assert done.returncode == 0, f"flowstream {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def said(rig: Rig, stream: str, suffix: str = "") -> Values:
    """Return the last value of every key of a stream, of the live app or of a replay."""
    values, changed = checker.last_values(client.read(rig.address, rig.lab.topic(stream) + suffix))
    assert not changed, f"{stream}{suffix}: {changed[:3]}"
    return values


def _time(time_ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_ns // SECOND_NS))


def _from(values: Values, start_ns: int) -> Values:
    return {at: value for at, value in values.items() if int(at[1].split(b"|")[0]) >= start_ns}


@scenario(14, "replay by offset reset", fault="stopped, reset to a time, started again")
def replay_by_offset_reset(rig: Rig) -> None:
    rig.prepare(raw_partitions=2)
    worker = rig.lab.worker()
    rig.produce(20_000, seconds_of_event_time=200)
    rig.drain()
    before = {stream: said(rig, stream) for stream in streams(rig.lab.settings())}
    assert worker.stop() == 0
    from_ns = T0_NS + 100 * SECOND_NS
    ends = rig.reset(f"reset in place to {_time(from_ns)}")
    told = flowstream(rig, "replay", "--in-place", "--from", _time(from_ns), "--yes")
    (rig.folder / "replay.txt").write_text(told)
    rig.lab.workers.clear()
    worker = rig.lab.worker()

    def again(stream: str) -> Values:
        records = client.read(rig.address, rig.lab.topic(stream))
        return checker.last_values([r for r in records if r.offset >= ends[r.topic, r.partition]])[0]

    windows = {stream: _from(before[stream], from_ns) for stream in ("distances", "sources")}
    for stream, wanted in windows.items():
        assert len(wanted) > 5
        try:
            wait_for(lambda: wanted.keys() <= again(stream).keys(), f"{stream} again", 90)  # noqa: B023 - called here
        except AssertionError as error:
            missing = sorted(wanted.keys() - again(stream).keys())
            error.add_note(f"{len(missing)} of {len(wanted)} are missing: {missing[:3]} to {missing[-3:]}")
            raise
        differing = [at for at, value in _from(again(stream), from_ns).items() if wanted.get(at) != value]
        assert not differing, f"{stream}: other bytes, or windows that were not there: {differing[:3]}"
        rig.row.figures[f"{stream} said again"] = len(wanted)
    rig.produce(2_000)
    rig.drain()
    for stream in windows:
        assert before[stream].items() <= said(rig, stream).items(), f"{stream}: a closed window has other bytes"
    # That positions go back is what was asked for here, once in each flows partition.
    seen = rig.watch.seen
    moved = [line for line in seen.violations if f"{rig.lab.topic('flows')}-" in line and "went back" in line]
    assert len(moved) == rig.lab.settings().topics.partitions, moved
    seen.violations[:] = [line for line in seen.violations if line not in moved]
    rig.verify()
    assert worker.alive


@scenario(15, "blue/green replay while live", fault="a second app from the beginning while flows come in")
def replay_while_live(rig: Rig) -> None:
    rig.prepare(raw_partitions=2)
    worker = rig.lab.worker()
    with rig.producing(1_000):
        some_way_on(rig, 8_000)
        rig.fault("a replay from the beginning beside the live app")
        end = _time(T0_NS + 60 * SECOND_NS)
        flowstream(rig, "replay", "--name", "green", "--from", "earliest", "--to", end)
        assert worker.alive
    rig.drain()
    for stream in ("distances", "sources"):
        live, replayed = said(rig, stream), said(rig, stream, ".green")
        ended = T0_NS + 50 * SECOND_NS  # of the windows that had ended by then
        due = {at for at in live if int(at[1].split(b"|")[0]) < ended}
        assert len(due) > 5
        assert due <= replayed.keys(), f"{stream}: {len(due - replayed.keys())} windows are not in the replay"
        other = [at for at, value in replayed.items() if live.get(at) != value]
        assert not other, f"{stream}: the replay and the live app disagree: {other[:3]}"
        rig.row.figures[f"{stream} that agree"] = len(replayed)
    rig.verify()
