"""The commands of the inventory: ``flowstream links`` and ``flowstream topology``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from flowstream.console import out, run, settings_option
from flowstream.csv_rows import to_text
from flowstream.links import LinkTable
from flowstream.settings import load
from flowstream.topics import name
from flowstream.topology import COLUMNS, Topology
from flowstream.topology_json import read_topology

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


@click.group()
def links() -> None:
    """Interfaces: whose they are, how fast, and which share of them a flow takes."""


@links.command("load")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Remove the links that are not in the file.")
@settings_option
def links_load(path: Path, settings_file: Path | None, *, replace: bool) -> None:
    """Publish a CSV (exporter,if_index,name,speed_bps[,edge,node,lag]) to the compacted links topic.

    \b
    Example: flowstream links load links.csv
    """
    from agents.send import send_links

    settings = load(settings_file)
    table = LinkTable.from_path(path)
    removed = run(send_links(settings, table, replace=replace))
    _say_published(len(table), "links", name(settings, "links"), removed)


@links.command("show")
@json_option
@settings_option
def links_show(settings_file: Path | None, *, as_json: bool) -> None:
    """Print the links that are published, as the workers know them.

    \b
    Example: flowstream links show
    """
    rows = LinkTable.from_rows(_published(settings_file, "links")).to_rows()
    _print_rows(rows, as_json=as_json)


@click.group()
def topology() -> None:
    """Which port is joined to which: what packet paths are put together with."""


@topology.command("load")
@click.argument("path", type=click.Path(path_type=Path))
@settings_option
def topology_load(path: Path, settings_file: Path | None) -> None:
    """Publish a CSV (node,port,peer,peer_port) or the JSON of sFlow-RT or containerlab; what was there goes.

    \b
    Example: flowstream topology load topology.csv
    """
    from agents.send import send_topology

    settings = load(settings_file)
    cables = read_topology(path)
    removed = run(send_topology(settings, cables))
    _say_published(len(cables), "cables", name(settings, "topology"), removed)


@topology.command("show")
@json_option
@settings_option
def topology_show(settings_file: Path | None, *, as_json: bool) -> None:
    """Print the topology that is published, as the workers know it.

    \b
    Example: flowstream topology show
    """
    rows = Topology.from_rows(_published(settings_file, "topology")).to_rows()
    _print_rows(rows, as_json=as_json)


@topology.command("convert")
@click.argument("path", type=click.Path(path_type=Path))
def topology_convert(path: Path) -> None:
    """Print the JSON topology of sFlow-RT or containerlab as the CSV that is loaded.

    \b
    Example: flowstream topology convert topology-data.json
    """
    click.echo(to_text(COLUMNS, read_topology(path).to_rows()), nl=False)


def _published(settings_file: Path | None, stream: str) -> list[dict[str, Any]]:
    from agents.send import read_rows

    return list(run(read_rows(load(settings_file), stream)).values())


def _say_published(count: int, what: str, topic: str, removed: int) -> None:
    out.print(f"{count:,} {what} published to {topic}" + (f", {removed:,} removed" if removed else ""), highlight=False)


def _print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(row))
        return
    table = Table(*(rows[0] if rows else ("nothing is published",)))
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    out.print(table)
