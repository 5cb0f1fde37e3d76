"""``flowstream paths``: where flows went, as lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from flowstream.console import run, settings_option
from flowstream.flow_filter import FlowFilter, one_address
from flowstream.render import render_line
from flowstream.settings import load
from flowstream.topics import name


class FlowType(click.ParamType):
    """A flow: source[:port]>destination[:port][/protocol]."""

    name = "flow"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> FlowFilter:
        """Return what matches it."""
        try:
            return value if isinstance(value, FlowFilter) else FlowFilter.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class AddressType(click.ParamType):
    """An IP address."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as results spell it."""
        try:
            return one_address(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.option("--flow", type=FlowType(), help="Only this flow; ports and protocol may be left out.")
@click.option("--source", type=AddressType(), help="Only flows from this address.")
@click.option("--switch", help="Only flows that went through this switch.")
@click.option("--elephants", is_flag=True, help="Only elephants.")
@click.option("--changes", is_flag=True, help="Changes of path instead of paths.")
@click.option("--follow", is_flag=True, help="Go on with what comes instead of ending with what is there.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many lines.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line: {key, value}.")
@settings_option
def paths(
    flow: FlowFilter | None,
    source: str | None,
    switch: str | None,
    elephants: bool,
    changes: bool,
    follow: bool,
    limit: int | None,
    as_json: bool,
    settings_file: Path | None,
) -> None:
    """Print through which switches flows went, by which interface in and by which out.

    \b
    Example: flowstream paths --flow '10.0.1.10:5001>10.0.3.10:5201/tcp'
    """
    settings = load(settings_file)
    stream = "path-events" if changes else "paths"

    def wanted(value: Mapping[str, Any]) -> bool:
        return (
            "flow" in value
            and (flow is None or flow.matches(value["flow"]))
            and (source is None or value["flow"]["src_addr"] == source)
            and (switch is None or switch in _switches(value))
            and (not elephants or value["elephant"])
        )

    async def read() -> None:
        from agents.tail import read_topic

        count = 0
        async for record, value in read_topic(settings, name(settings, stream), from_beginning=True, to_end=not follow):
            if not wanted(value):
                continue
            key = (record.key or b"").decode(errors="replace")
            as_text = msgspec.json.encode({"key": key, "value": value}).decode() if as_json else None
            click.echo(as_text or render_line(stream, key, value))
            count += 1
            if count == limit:
                return

    run(read())


def _switches(value: Mapping[str, Any]) -> set[str]:
    told = value["paths"] if "paths" in value else [value["before"], value["after"]]
    return {hop["node"] for path in told for hop in path["hops"]}
