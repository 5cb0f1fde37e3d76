"""How the command line speaks: the two consoles, one line for what is wrong, progress bars."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from flowstream.errors import FlowstreamError

T = TypeVar("T")
#: Where there is no terminal, lines are not cut to the width of one.
out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 1000)
err = Console(stderr=True, soft_wrap=True)


class FlowstreamGroup(click.Group):
    """Prints what was wrong as one line, and exits with 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except FlowstreamError as error:
            for line in str(error).splitlines():
                err.print(f"flowstream: {line}", markup=False, highlight=False)
            sys.exit(2)
        except click.UsageError as error:
            if isinstance(error, click.exceptions.NoArgsIsHelpError):
                raise  # its message is the help
            where = ctx.command_path if error.ctx is None else error.ctx.command_path
            said = " ".join(error.format_message().split())
            err.print(f"flowstream: {said} See {where} --help.", markup=False, highlight=False)
            sys.exit(2)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)


def settings_option(command: Callable[..., T]) -> Callable[..., T]:
    """Add --settings."""
    return click.option(
        "--settings",
        "settings_file",
        type=click.Path(path_type=Path),
        help="TOML file (default: flowstream.toml).",
    )(command)


def run(task: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; an interrupt from the keyboard ends it quietly."""
    try:
        return asyncio.run(task)
    except KeyboardInterrupt:
        sys.exit(130)


def progress_bar() -> Progress:
    """Return a progress bar for the terminal; it shows nothing where there is none."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=err,
        disable=not err.is_terminal, transient=True,
    )  # fmt: skip
