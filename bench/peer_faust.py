"""The peer: a plain Faust agent on the same topic, one event per record, as Faust's own guide writes one.

It parses the protobuf with Google's compiled parser and, unless told not to, adds the bytes to a tumbling
windowed table keyed by source address. That is less than any of our analyses does: one sum, in the window of
the message's time, without putting records in their order or partitioning them by source first.

Run as a process of its own, it leaves its figures as JSON in ``--folder`` after ``--records`` records.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import psutil

from bench.calibrate import ONE_THREAD
from bench.peers.flow_message import body, flow_message
from bench.pipeline import RAW_TOPIC, Bed, busy_s
from bench.report import BenchError, Run

WARM_UP = 1000  # records before the clock starts


@click.command()
@click.option("--bootstrap", required=True)
@click.option("--app", "name", required=True)
@click.option("--records", type=int, required=True)
@click.option("--window-s", type=float, default=3.0, help="0: no table, parse only.")
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--port", type=int, required=True)
def main(bootstrap: str, name: str, records: int, window_s: float, folder: Path, port: int) -> None:
    """Consume that many records, write what it took to a file named for the app, and leave."""
    import faust

    app = faust.App(
        name, broker=f"kafka://{bootstrap}", store="memory://", value_serializer="raw", datadir=str(folder / name),
        web_port=port, web_bind="127.0.0.1", topic_partitions=4, topic_replication_factor=1, autodiscover=False,
    )  # fmt: skip
    flow = flow_message()
    window = timedelta(seconds=window_s)
    table: Any = app.Table("bytes_by_source", default=int).tumbling(window, expires=window * 20) if window_s else None
    seen = 0
    at_start: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @app.agent(app.topic(RAW_TOPIC, value_type=bytes, value_serializer="raw"))
    async def add_up(stream: Any) -> None:
        nonlocal seen, at_start
        async for value in stream:
            record = flow.FromString(body(value))
            if table is not None:
                table[record.src_addr.hex()] += record.bytes
            seen += 1
            if seen == WARM_UP:
                at_start = time.perf_counter(), time.process_time(), busy_s()
            elif seen == WARM_UP + records:
                _leave(folder / f"{name}.json", at_start, records)

    faust.Worker(app, loglevel="error", quiet=True).execute_from_commandline()


def _leave(path: Path, at_start: tuple[float, float, float], records: int) -> None:
    wall_s, cpu_s = time.perf_counter() - at_start[0], time.process_time() - at_start[1]
    rss = psutil.Process().memory_info().rss
    others_s = max(0.0, busy_s() - at_start[2] - cpu_s)
    told = {"records": records, "wall_s": wall_s, "cpu_s": cpu_s, "others_cpu_s": others_s, "rss": rss}
    path.write_text(json.dumps(told))
    os._exit(0)  # what is left in the buffers of a benchmark's peer is nobody's loss


def run_peer(bed: Bed, name: str, records: int, window_s: float, port: int, timeout_s: float = 180.0) -> Run:
    """Run the peer on the worker's core; BenchError where it does not end in time."""
    app = f"peer-{port}"
    command = [
        sys.executable, "-m", "bench.peer_faust", "--bootstrap", bed.bootstrap, "--app", app,
        "--records", str(records), "--window-s", str(window_s), "--folder", str(bed.folder), "--port", str(port),
    ]  # fmt: skip
    log_path = bed.folder / f"{app}.log"
    broker = psutil.Process(bed.broker_pid)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **ONE_THREAD}, cwd=Path(__file__).parents[1], stdout=log, stderr=log
        )
    if bed.core is not None:
        os.sched_setaffinity(process.pid, {bed.core})
    before_s = sum(broker.cpu_times()[:2])
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{name}: not {records} records within {timeout_s:g} s") from None
    finally:
        process.kill()
        process.wait()
    broker_s = sum(broker.cpu_times()[:2]) - before_s
    figures = bed.folder / f"{app}.json"
    if not figures.exists():
        raise BenchError(f"{name} ended early: {log_path.read_bytes()[-600:].decode(errors='replace')}")
    told = json.loads(figures.read_text())
    return Run(
        name=name, records=told["records"], wall_s=told["wall_s"], cpu_s=told["cpu_s"], consumed_s=told["wall_s"],
        broker_cpu_s=broker_s, others_cpu_s=max(0.0, told["others_cpu_s"] - broker_s), peak_rss_bytes=told["rss"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
