"""Commands that look into the log: its records, where groups stand, and how two result topics differ."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Column, Table

from flowstream.compare import Comparison, Example
from flowstream.console import out, progress_bar, run, settings_option
from flowstream.positions import moment_ns
from flowstream.render import duration_text, moment_text, render_line
from flowstream.settings import Settings, load
from flowstream.topics import name, specs, stream_of

_SIGNS = {"appeared": "+", "vanished": "-", "changed": "~"}


class Moment(click.ParamType):
    """A point in time: ISO 8601 with its zone, or nanoseconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return nanoseconds since the epoch."""
        if isinstance(value, int) or str(value).isdecimal():
            return int(value)
        try:
            return moment_ns(value)
        except ValueError as error:
            self.fail(f"{error}, or in ns since the epoch", param, ctx)


@click.command()
@click.argument("topic")
@click.option("--from-beginning", is_flag=True, help="Begin with the oldest record.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many records.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line: {key, value}.")
@settings_option
def tail(topic: str, from_beginning: bool, limit: int | None, as_json: bool, settings_file: Path | None) -> None:
    """Print a topic's records, decoded, one line each. A stream's short name will do.

    \b
    Example: flowstream tail elephants --from-beginning --limit 10
    """
    settings = load(settings_file)
    full = _full(settings, topic)

    async def follow() -> None:
        from agents.tail import read_topic

        stream, count = stream_of(settings, full) or "", 0
        async for record, value in read_topic(settings, full, from_beginning=from_beginning):
            key = (record.key or b"").decode(errors="replace")
            as_text = msgspec.json.encode({"key": key, "value": value}).decode() if as_json else None
            click.echo(as_text or render_line(stream, key, value))
            count += 1
            if count == limit:
                return

    run(follow())


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@settings_option
def offsets(as_json: bool, settings_file: Path | None) -> None:
    """Show where the app and its replays stand: positions, ends, lag in records and in event time.

    \b
    Example: flowstream offsets --json
    """
    from agents.offsets import group_states

    states = run(group_states(load(settings_file)))
    if as_json:
        click.echo(msgspec.json.encode({"groups": [_group(state) for state in states]}).decode())
        return
    for state in states:
        out.print(_offsets_table(state))


def _group(state: Any) -> dict[str, Any]:
    partitions = [
        {
            "topic": p.topic, "partition": p.partition, "position": p.position, "start": p.start, "end": p.end,
            "lag": p.lag, "event_time_ns": p.event_time_ns, "log_event_time_ns": p.log_event_time_ns,
            "event_time_lag_ns": p.event_time_lag_ns,
        }
        for p in state.partitions
    ]  # fmt: skip
    return {"group": state.group, "members": state.members, "partitions": partitions}


def _offsets_table(state: Any) -> Table:
    who = "never started" if state.members is None else f"{state.members} member{'s' * (state.members != 1)}"
    table = Table(
        Column("topic", no_wrap=True), *(Column(c, justify="right") for c in ("partition", "position", "end", "lag")),
        "event time", Column("behind the log", justify="right"),
        title=f"{state.group}: {who}", title_justify="left",
    )  # fmt: skip
    for p in state.partitions:
        position = "-" if p.position is None else f"{p.position:,}"
        table.add_row(
            p.topic, str(p.partition), position, f"{p.end:,}", f"{p.lag:,}", moment_text(p.event_time_ns),
            duration_text(p.event_time_lag_ns),
        )  # fmt: skip
    return table


@click.command()
@click.argument("topic_a")
@click.argument("topic_b")
@click.option("--from", "start_ns", type=Moment(), help="Event time from which on (default: both have results).")
@click.option("--to", "end_ns", type=Moment(), help="Event time before which (default: both have results).")
@click.option("--limit", default=5, show_default=True, type=click.IntRange(min=0), help="Examples of each kind.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@settings_option
def compare(
    topic_a: str,
    topic_b: str,
    start_ns: int | None,
    end_ns: int | None,
    limit: int,
    as_json: bool,
    settings_file: Path | None,
) -> None:
    """Compare two result topics: which keys appeared, vanished or changed from A to B, and by how much.

    A stream's short name will do. Exit code 0: equal, 1: different, 2: they cannot be compared.

    \b
    Example: flowstream compare elephants flowstream.elephants.v1.tuned --from 2026-11-01T10:00Z --limit 3
    """
    from agents.compare import compare_topics, stream_of_either

    settings = load(settings_file)
    topics = [_full(settings, topic) for topic in (topic_a, topic_b)]
    with progress_bar() as bar:
        task = bar.add_task("read", total=None)
        found = run(
            compare_topics(
                settings, topics[0], topics[1], start_ns, end_ns, limit,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        )  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode(found.summary()).decode())
    else:
        _print_comparison(found, stream_of_either(topics))
    sys.exit(0 if found.equal else 1)


def _full(settings: Settings, topic: str) -> str:
    return name(settings, topic) if topic in {stream_of(settings, s.name) for s in specs(settings)} else topic


def _print_comparison(found: Comparison, stream: str) -> None:
    span = found.difference.span
    appeared, vanished = len(found.difference.appeared), len(found.difference.vanished)
    say = [
        f"A {found.a.topic}: {len(found.a):,} keys, {found.difference.outside_a:,} of them outside",
        f"B {found.b.topic}: {len(found.b):,} keys, {found.difference.outside_b:,} of them outside",
        f"of event time {moment_text(span.start_ns)} to before {moment_text(span.end_ns)}",
        f"{found.unchanged:,} unchanged, {found.changed:,} changed, {appeared:,} only in B, {vanished:,} only in A",
    ]
    if found.gone:
        say.append(f"{found.gone:,} of the changed were deleted before they could be read again")
    for line in say:
        out.print(line, highlight=False, markup=False)
    fields = list(found.fields)
    if fields:
        table = Table("field", *(Column(c, justify="right") for c in ("keys", "median change", "largest change")))
        for field in fields:
            table.add_row(field.name, f"{field.keys:,}", _percent(field.median), _percent(field.largest))
        out.print(table)
    for example in found.examples:
        for line in _example_lines(example, stream):
            out.print(line, highlight=False, markup=False)


def _example_lines(example: Example, stream: str) -> list[str]:
    """Return a key that differs as ``diff`` would show it."""
    key = example.subject.text
    fields = ", ".join(n if c is None else f"{n} {_percent(c)}" for n, c in example.fields.items())
    lines = [f"{_SIGNS[example.kind]} {key}  {fields}".rstrip()]
    sides = (("A", example.before), ("B", example.after))
    lines += [f"    {side} {render_line(stream, key, value)}" for side, value in sides if value is not None]
    return [line if line.isprintable() else repr(line)[1:-1] for line in lines]


def _percent(change: float | None) -> str:
    if change is None:
        return "-"
    return "from 0" if change == float("inf") else f"{change:.2%}"
