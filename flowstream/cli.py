"""The ``flowstream`` command. What needs Kafka is imported where it is used."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.table import Column, Table

from flowstream import __version__
from flowstream.app_state import Role
from flowstream.console import FlowstreamGroup, err, out, progress_bar, run, settings_option
from flowstream.decode import DECODERS
from flowstream.errors import SettingsError
from flowstream.inventory_commands import links, topology
from flowstream.log_commands import compare, offsets, tail
from flowstream.replay_commands import promote, replay
from flowstream.settings import load
from flowstream.topics import specs

FORMATS = click.Choice(sorted(DECODERS))


@click.group(cls=FlowstreamGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="flowstream")
def main() -> None:
    """Exact, replayable stream processing of network flow telemetry on Kafka."""
    # The client libraries log what our own one-line errors say better; the worker sets up its own logging.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())


for command in (tail, offsets, compare, replay, promote):
    main.add_command(command)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "wire_format", type=FORMATS, help="Wire format (default: recognised from the file).")
@click.option("--links", "links_file", type=click.Path(path_type=Path), help="CSV of link capacities.")
@click.option("--only", help="Analyses to run, separated by commas (default: those of the settings).")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for one JSON Lines file per result topic.")
@settings_option
def analyze(
    paths: tuple[Path, ...],
    wire_format: str | None,
    links_file: Path | None,
    only: str | None,
    output: Path | None,
    settings_file: Path | None,
) -> None:
    """Run the analyses over recorded files, without a broker.

    \b
    Example: flowstream analyze flows.bin.gz --links links.csv --only elephants
    """
    from flowstream.analyze import analyze_files

    overrides = {} if only is None else {"analyses": tuple(part.strip() for part in only.split(","))}
    settings = load(settings_file, **overrides)
    with progress_bar() as bar:
        ledger = analyze_files(settings, paths, wire_format, links_file, output, bar)
    err.print(
        f"{ledger.messages:,} messages: {ledger.rejected:,} rejected, {ledger.skipped:,} without a flow. "
        f"{ledger.rows:,} flow records: {ledger.applied:,} analysed, {ledger.late:,} late.",
        highlight=False,
    )


@main.group()
def broker() -> None:
    """Run a single-node Kafka on this machine, for trying things out."""


def _local_broker(folder: Path | None, port: int) -> Any:
    from agents.broker import LocalBroker

    return LocalBroker(folder or load().data_dir / "broker", port=port)


def broker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --folder and --port."""
    command = click.option("--port", default=19092, show_default=True, help="Port on 127.0.0.1.")(command)
    return click.option("--folder", type=click.Path(path_type=Path), help="Where data and logs go.")(command)


@broker.command("start")
@broker_options
@click.option("--wipe", is_flag=True, help="Begin with empty topics.")
def broker_start(folder: Path | None, port: int, wipe: bool) -> None:
    """Start it and return when it answers.

    \b
    Example: flowstream broker start --folder /tmp/kafka
    """
    local = _local_broker(folder, port)
    out.print(f"Kafka answers at {local.start(wipe=wipe)}; data and logs are in {local.folder}", highlight=False)


@broker.command("stop")
@broker_options
def broker_stop(folder: Path | None, port: int) -> None:
    """Stop it; the data stays.

    \b
    Example: flowstream broker stop
    """
    local = _local_broker(folder, port)
    was_running = local.status().running
    local.stop()
    out.print("stopped" if was_running else f"no broker of {local.folder} was running", highlight=False)


@broker.command("status")
@broker_options
def broker_status(folder: Path | None, port: int) -> None:
    """Say whether it runs; exit code 1 if not.

    \b
    Example: flowstream broker status
    """
    status = _local_broker(folder, port).status()
    out.print(str(status), highlight=False, markup=False)
    sys.exit(0 if status.running else 1)


@main.command()
@click.option("--check", "check_only", is_flag=True, help="Create nothing.")
@settings_option
def topics(settings_file: Path | None, check_only: bool) -> None:
    """Create the topics that are missing and show all of them.

    \b
    Example: flowstream topics
    """
    from agents.admin import check_topics, create_topics

    settings = load(settings_file)
    made = [] if check_only else run(create_topics(settings))
    table = Table(Column("topic", no_wrap=True), "holds", "partitions", "cleanup", "retention", "state")
    states = run(check_topics(settings))
    for state in states:
        hours = int(state.spec.config.get("retention.ms", 0)) / 3_600_000
        table.add_row(
            state.spec.name, state.spec.purpose, str(state.partitions or state.spec.partitions),
            state.spec.config.get("cleanup.policy", ""), f"{hours:g} h" if hours else "",
            "created" if state.spec.name in made else state.wrong or "ok",
        )  # fmt: skip
    out.print(table)
    sys.exit(2 if any(s.wrong for s in states) else 0)


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--topic", help="Raw topic (default: the first input).")
@click.option("--format", "wire_format", type=FORMATS, help="Wire format (default: recognised from the file).")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Messages a second at most.")
@settings_option
def send(
    path: Path, topic: str | None, wire_format: str | None, rate: float | None, settings_file: Path | None
) -> None:
    """Publish a recorded file to a raw topic.

    \b
    Example: flowstream send flows.bin.gz --topic flow-messages --format goflow --rate 5000
    """
    from agents.admin import topic_partitions
    from agents.send import send as send_messages
    from flowstream.recordings import Recording

    settings = load(settings_file)
    recording = Recording(path, wire_format)
    chosen = topic or settings.inputs[0].topic
    count = run(topic_partitions(settings, chosen))
    with progress_bar() as bar:
        task = bar.add_task(path.name, total=recording.bytes_total)
        sent = run(
            send_messages(
                settings, chosen, recording.messages(), count, rate=rate,
                progress=lambda _: bar.update(task, completed=recording.bytes_read),
            )
        )  # fmt: skip
    out.print(f"{sent:,} messages ({recording.wire_format}) sent to {chosen}", highlight=False)


@main.command()
@click.option("--agents", "chosen", help="Which agents to run (default: ingest,analyses,merges).")
@click.option("--port", type=click.IntRange(1, 65_535), help="Web port (default: web.port).")
@click.option("--log-level", default="warning", show_default=True, help="debug, info, warning or error.")
@click.option("--replay", "replay_name", help="Run a worker of this replay.")
@click.option("--to-cut", is_flag=True, hidden=True, help="Run up to the cut of a promotion, which starts this itself.")
@settings_option
def worker(
    chosen: str | None,
    port: int | None,
    log_level: str,
    replay_name: str | None,
    to_cut: bool,
    settings_file: Path | None,
) -> None:
    """Run the Faust worker until it is told to stop.

    \b
    Example: flowstream worker --agents ingest,analyses
    """
    from agents.worker import run_worker

    own: dict[str, Any] = {} if port is None else {"web": {"port": port}}
    if replay_name is None:
        settings, agents = load(settings_file, **own), "ingest,analyses,merges"
    else:
        from agents.replay import load_replay

        settings, state = run(load_replay(settings_file, replay_name, **own))
        agents = "ingest,analyses,merges" if state.from_raw else "analyses,merges"
    role: Role = "cut" if to_cut else "live" if replay_name is None else "replay"
    run_worker(settings, tuple(a.strip() for a in (chosen or agents).split(",")), log_level, role)


@main.command()
@settings_option
def check(settings_file: Path | None) -> None:
    """Validate the settings, reach the broker, compare topics and schemas; say what is wrong and how to mend it.

    \b
    Example: flowstream check --settings flowstream.toml
    """
    from agents.admin import check_topics
    from agents.registry import register_schemas
    from agents.web_guard import bearer_token
    from flowstream import schemas

    settings = load(settings_file)
    bearer_token(settings.web)
    out.print(f"settings   ok ({settings.digest()})", highlight=False)
    out.print(f"schemas    ok ({len([schemas.load(s.schema) for s in specs(settings)])})", highlight=False)
    states = run(check_topics(settings))
    out.print(f"broker     ok ({settings.kafka.bootstrap})", highlight=False)
    wrong = [s for s in states if s.wrong]
    for state in wrong:
        out.print(f"topic      {state.spec.name}: {state.wrong}", highlight=False, markup=False)
    if not wrong:
        out.print(f"topics     ok ({len(states)})", highlight=False)
    if ids := run(register_schemas(settings)):
        out.print(f"registry   ok ({len(ids)} schemas)", highlight=False)
    if wrong:
        raise SettingsError(f"{len(wrong)} of {len(states)} topics are not as they should be")


@main.command()
@click.option(
    "--seconds", default=75, show_default=True, type=click.IntRange(20, 600), help="Ends at the latest after."
)
def demo(seconds: int) -> None:
    """Show the main job on a recorded fabric: broker, worker, results as they come.

    \b
    Example: flowstream demo
    """
    from agents.demo import run_demo

    run_demo(out, seconds)


main.add_command(links)
main.add_command(topology)

if __name__ == "__main__":
    main()
