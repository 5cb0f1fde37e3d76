"""A run from beginning to end: the fabric, its traffic, what flowstream says meanwhile, and how true that was."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from agents.tail import read_topic
from deploy.testbed import fabric, pipeline, plan, traffic
from deploy.testbed.check import as_table, judge, port_names, status
from deploy.testbed.packets import read_pcap
from deploy.testbed.pipeline import WINDOW_S, Pipeline, read_results
from deploy.testbed.plan import Run
from deploy.testbed.processes import TestbedError
from deploy.testbed.show import tables
from deploy.testbed.truth import SECOND_NS, Truth, measured
from flowstream.links import LinkTable
from flowstream.render import render_line
from flowstream.topics import STREAMS, name

#: What is printed while it happens: which results of a stream.
FOLLOWED: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "elephants": lambda value: value["event"] != "update",
    "talkers": lambda value: (
        (value["by"], value["ranked_by"]) == ("source", "bytes")
        and value["window_end_ns"] - value["window_start_ns"] == WINDOW_S * SECOND_NS
    ),
    "link-events": lambda _: True,
    "path-events": lambda _: True,
    "elephant-links": lambda _: True,
}


def up(out: Console, run: Run, folder: Path) -> Pipeline:
    """Build the fabric and the way of its telemetry, or nothing; the inventory is left in ``folder``."""
    fabric.claim()
    try:
        return _built(out, run, folder)
    except BaseException:
        fabric.down()
        raise


def _built(out: Console, run: Run, folder: Path) -> Pipeline:
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.fetch()
    fabric.up(run)
    links, topology = folder / "links.csv", folder / "topology.csv"
    links.write_text(plan.links_csv(fabric.if_indices(), run.link_bps))
    topology.write_text(plan.topology_csv())
    out.print(
        f"[bold]Fabric[/] 2 spines, 4 leaves, 4 hosts; links of {run.link_mbps} Mb/s, sFlow 1-in-{run.sampling}, "
        f"seed {run.seed}"
    )
    listen = f"sflow://127.0.0.1:{plan.SFLOW_PORT}?count=1&workers=1"
    running = pipeline.begin(fabric.FOLDER, listen, links, topology)
    out.print(f"[bold]Kafka[/] at {running.settings.kafka.bootstrap}, [bold]worker[/] at {running.web}, both in there:")
    out.print(
        f"         ip netns exec {plan.FABRIC} env FLOWSTREAM_KAFKA__BOOTSTRAP={running.settings.kafka.bootstrap} "
        ".venv/bin/flowstream tail elephants"
    )
    return running


def demo(out: Console, run: Run, folder: Path) -> int:
    """Build it, send, show, judge, and remove it whatever happens; return 1 where a verdict is bad."""
    folder = folder.resolve()
    running = up(out, run, folder)
    try:
        with _followed(out, running):
            out.print(f"[bold]Traffic[/] for {run.duration_s} s: a hundred flows between two servers, mice, a scan\n")
            lost_before = fabric.frames_lost()
            with traffic.captured(folder / "captures"):
                traffic.send(run)
            lost = fabric.frames_lost() - lost_before
            health = pipeline.until_analysed(running)
        results = folder / "results"
        pipeline.save(running, results)
        read = {path.stem: read_pcap(path) for path in (folder / "captures").glob("*.pcap")}
        truth = replace(measured(read, run.link_bps, WINDOW_S * SECOND_NS), frames_lost=lost)
        (folder / "truth.json").write_text(truth.to_json())
        out.print(
            f"\n{running.datagrams():,.0f} datagrams, {health.get('records_consumed', 0):,.0f} flow samples, "
            f"{health.get('rows_late', 0):,.0f} late\n"
        )
        return _summary(out, run, truth, folder)
    finally:
        gone = fabric.down()
        out.print(f"\nremoved again: {len(gone)} processes and namespaces; the run is in {folder}")


def _summary(out: Console, run: Run, truth: Truth, folder: Path) -> int:
    links, results = LinkTable.from_path(folder / "links.csv"), folder / "results"
    published = {stream: read_results(results, stream) for stream in STREAMS}
    for table in tables(truth, run, published, port_names(links)):
        out.print(table)
    found = judge(truth, links, results / "messages.bin", published)
    out.print(as_table(found))
    return status(found)


@contextlib.contextmanager
def _followed(out: Console, running: Pipeline) -> Iterator[None]:
    """Print results as they come, in a thread of its own, for as long as the block lasts."""
    loop = asyncio.new_event_loop()
    failed: list[Exception] = []

    async def follow(stream: str) -> None:
        async for _, value in read_topic(running.settings, name(running.settings, stream), from_beginning=True):
            if FOLLOWED[stream](value):
                out.print(f"[cyan]{stream:14}[/] {escape(render_line(stream, '', value))}")

    def work() -> None:
        asyncio.set_event_loop(loop)
        with contextlib.suppress(asyncio.CancelledError):
            try:
                loop.run_until_complete(asyncio.gather(*map(follow, FOLLOWED)))
            except Exception as error:  # noqa: BLE001 - said when the block ends
                failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        thread.join()
        loop.close()
    if failed:
        raise TestbedError(f"results could not be followed: {failed[0]}")
