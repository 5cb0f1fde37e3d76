"""Commands that compute results again: beside the live app, in its place, and the change from one to the other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.table import Column, Table

from flowstream.app_state import lines_of_settings, replay_app, settings_of_replay
from flowstream.console import out, progress_bar, run, settings_option
from flowstream.errors import SettingsError
from flowstream.positions import Position, length_ns, time_text
from flowstream.settings import Settings, load


class PositionType(click.ParamType):
    """A place in the log."""

    name = "position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Position:
        """Return the position."""
        if isinstance(value, Position):
            return value
        try:
            return Position.parse(value)
        except SettingsError as error:
            self.fail(str(error), param, ctx)


class LengthType(click.ParamType):
    """A length of time."""

    name = "length"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return it in ns."""
        if isinstance(value, int):
            return value
        try:
            return length_ns(value)
        except SettingsError as error:
            self.fail(str(error), param, ctx)


class ReplayName(click.ParamType):
    """What is fit to be the end of a topic's name."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        if not 1 <= len(value) <= 40 or set(value) - set("abcdefghijklmnopqrstuvwxyz0123456789_-"):
            self.fail(f"{value!r}: give up to 40 of a-z, 0-9, - and _", param, ctx)
        return value


@click.command()
@click.option("--name", "replay_name", type=ReplayName(), help="Name of the replay: the end of its topics' names.")
@click.option("--from", "start", type=PositionType(), help="Where to begin: see docs/replay.md for the forms.")
@click.option("--to", "end", type=PositionType(), help="Event time to stop at (default: goes on live).")
@click.option("--analysis", "analyses", multiple=True, help="Only this analysis; may be given again.")
@click.option(
    "--set", "assignments", multiple=True, help="section.key=value, other than the live app's; again for more."
)
@click.option("--from-raw", is_flag=True, help="Read the raw topics again, not the flows topic.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(0, 64), help="Workers to run it with here."
)
@click.option(
    "--warm-up", "warm_up", type=LengthType(), help="How long before --from to read, as 90 or 24h (docs/replay.md)."
)
@click.option("--in-place", is_flag=True, help="Reset the app itself: offsets and tables together.")
@click.option("--discard", "discarded", type=ReplayName(), help="Remove this replay: topics, group, tables.")
@click.option("--dry-run", is_flag=True, help="Show the plan and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_option
def replay(
    replay_name: str | None,
    start: Position | None,
    end: Position | None,
    analyses: tuple[str, ...],
    assignments: tuple[str, ...],
    from_raw: bool,
    workers: int,
    warm_up: int | None,
    in_place: bool,
    discarded: str | None,
    dry_run: bool,
    yes: bool,
    settings_file: Path | None,
) -> None:
    """Compute results again: into topics of their own, side by side with the live app, or in place.

    \b
    Example: flowstream replay --from 2026-11-01T10:00Z --to 2026-11-01T11:00Z --name tuned --set distances.scaling=log
    """
    live = load(settings_file)
    if discarded is not None:
        _discard(live, discarded)
        return
    if start is None:
        raise click.UsageError("Missing option '--from'.")
    if in_place:
        if replay_name or end or analyses or assignments or from_raw:
            raise click.UsageError(
                "--in-place takes --from, --warm-up, --dry-run and --yes; for the rest replay beside it."
            )
        _in_place(live, start, warm_up, dry_run=dry_run, yes=yes)
        return
    if replay_name is None:
        raise click.UsageError("Missing option '--name' (or --in-place).")
    if analyses:
        listed = ",".join(f'"{analysis}"' for analysis in analyses)
        assignments = (*assignments, f"analyses=[{listed}]")
    replayed = settings_of_replay(settings_file, replay_name, assignments, from_raw=from_raw)
    _side_by_side(live, replayed, (start, end, warm_up), assignments, from_raw, workers, dry_run, settings_file)


def _side_by_side(
    live: Settings,
    replayed: Settings,
    span: tuple[Position, Position | None, int | None],
    assignments: tuple[str, ...],
    from_raw: bool,
    count: int,
    dry_run: bool,
    settings_file: Path | None,
) -> None:
    from agents.replay import definition, require_new, run_replay, set_up
    from agents.replay_plan import plan

    start, end, warm_up = span
    replay_name = replayed.topics.suffix
    run(require_new(live, replay_name))
    made = run(plan(replayed, start, end, from_raw=from_raw, live=live, asked_ns=warm_up))
    _print_plan(made)
    if dry_run:
        out.print("Nothing was changed.")
        return
    state = definition(live, replayed, made, assignments, from_raw=from_raw)
    run(set_up(replayed, state))
    go_on = (
        f"flowstream worker --replay {replay_name} goes on with it, flowstream promote {replay_name} makes it live, "
    )
    go_on += f"flowstream replay --discard {replay_name} removes it."
    if not count:
        out.print(f"The replay is set up. {go_on}", highlight=False)
        return
    if end is None:
        out.print("It has no end: it goes on live, until Ctrl-C.")
    with progress_bar() as bar:
        total = None if from_raw else made.records  # how many blocks raw records become is not known
        task = bar.add_task("waiting for the workers", total=total)

        def report(read: int, closed_ns: int, rate: float) -> None:
            reached = f", {time_text(closed_ns - closed_ns % 10**9)}" if closed_ns else ""
            read = read if total is None else min(read, total)  # workers read on until they are told to stop
            bar.update(task, completed=read, description=f"{read:,} blocks, {rate:,.0f}/s{reached}")

        ended = run_replay(replayed, state, _settings_arguments(settings_file), count, report)
    read = ended.blocks if total is None else min(total, ended.blocks)
    reached = f"up to {time_text(ended.closed_ns)}" if ended.closed_ns else "none yet"
    out.print(
        f"{'Finished' if ended.finished else 'Stopped'}: {read:,} blocks in {ended.seconds:.1f} s, "
        f"results {reached} in the topics {replayed.topics.prefix}.*.v1.{replay_name}",
        highlight=False,
    )
    out.print(go_on, highlight=False)


def _in_place(live: Settings, start: Position, warm_up: int | None, *, dry_run: bool, yes: bool) -> None:
    from agents.groups import require_empty
    from agents.in_place import move, plan_in_place

    run(require_empty(live, live.app))
    made = run(plan_in_place(live, start, warm_up))
    _print_plan(made)
    if dry_run:
        out.print("Nothing was changed.")
        return
    if not yes and not click.confirm(f"Move app {live.app} there, and its tables with it?"):
        sys.exit(1)
    run(move(live, made))
    out.print(f"App {live.app} was moved: flowstream worker computes from there.", highlight=False)


def _discard(live: Settings, replay_name: str) -> None:
    from agents.replay import discard

    for removed in run(discard(live, replay_name)):
        out.print(f"removed {removed}", highlight=False)


@click.command()
@click.argument("replay_name", type=ReplayName(), metavar="NAME")
@click.option("--write", "target", type=click.Path(path_type=Path), help="Write the settings lines to this file, too.")
@settings_option
def promote(replay_name: str, target: Path | None, settings_file: Path | None) -> None:
    """Make a replay the live app: from one cut of event time on, it goes on in the main topics.

    \b
    Example: flowstream promote tuned
    """
    from agents.promote import Apps
    from agents.promote import promote as promote_apps
    from agents.replay import load_replay

    live = load(settings_file)
    replayed, _ = run(load_replay(settings_file, replay_name))
    apps = Apps(live, replayed, _settings_arguments(settings_file))
    state = run(promote_apps(apps, lambda line: out.print(line, highlight=False)))
    lines = lines_of_settings(state)
    out.print(
        f"{replay_app(live.app, replay_name)} is the live app now. Set this and start its workers:", highlight=False
    )
    out.print(f"\n{lines}\n", highlight=False, markup=False)
    if target is not None:
        target.write_text(f"{lines}\n", "utf-8")


def _settings_arguments(settings_file: Path | None) -> tuple[str, ...]:
    return () if settings_file is None else ("--settings", str(settings_file))


def _print_plan(made: Any) -> None:
    in_place = any(p.before is not None for p in made.partitions)
    right = [Column(c, justify="right") for c in (*(["stands at"] if in_place else []), "from", "to", "records")]
    table = Table(Column("topic", no_wrap=True), Column("partition", justify="right"), *right, "results from")
    for p in made.partitions:
        stands = ["-" if p.before is None else f"{p.before:,}"] if in_place else []
        to = p.log_end if p.last is None else p.last + 1
        said = "the beginning" if p.silent_before_ns is None else time_text(p.silent_before_ns)
        table.add_row(p.topic, str(p.partition), *stands, f"{p.start:,}", f"{to:,}", f"{p.records:,}", said)
    out.print(table)
    if made.until_ns is not None:
        out.print(f"up to {time_text(made.until_ns)}", highlight=False)
    for remark in made.remarks:
        out.print(remark, highlight=False, markup=False)
