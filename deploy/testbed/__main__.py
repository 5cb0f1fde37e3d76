"""The test bed's commands: python -m deploy.testbed up | down | demo | check | top-sources."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from deploy.testbed.plan import Run
from deploy.testbed.processes import TestbedError
from flowstream.errors import FlowstreamError
from tests.goflow2 import Goflow2Error

RUNS = Path(".flowstream/testbed")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.testbed", description="a real CLOS fabric on this machine")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="build the fabric, with collector, broker and worker")
    commands.add_parser("down", help="end and remove it all; no harm where there is nothing")
    demo = commands.add_parser("demo", help="build it, send a run's traffic, show and judge what comes out, remove it")
    for command in up, demo:
        command.add_argument("--link-mbps", type=int, default=100, help="speed of every link")
        command.add_argument("--sampling", type=int, default=64, help="N of 1-in-N")
        command.add_argument("--seed", type=int, default=1, help="of traffic and of ECMP")
    demo.add_argument("--duration", type=int, default=40, help="seconds of traffic")
    check = commands.add_parser("check", help="hold the results of a run against its truth")
    check.add_argument("folder", type=Path, nargs="?", help="of the run; without one: the recorded minute")
    top = commands.add_parser("top-sources", help="hold the top sources of NetFlow and IPFIX against nfdump's")
    top.add_argument("--seed", type=int, default=1, help="of the packets")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 if all is well, 1 where a check failed, 2 where it could not be made."""
    chosen = _arguments(sys.argv[1:] if argv is None else argv)
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    try:
        return _run(chosen, out)
    except (TestbedError, FlowstreamError, Goflow2Error, ValueError) as error:
        Console(stderr=True, highlight=False).print(f"testbed: {error}", markup=False)
        return 2


def _run(chosen: argparse.Namespace, out: Console) -> int:
    from deploy.testbed import check, demo, fabric, top_sources

    match chosen.command:
        case "up":
            demo.up(out, Run(chosen.link_mbps, chosen.sampling, chosen.seed), RUNS / "up")
        case "down":
            gone = fabric.down()
            out.print(f"removed: {', '.join(gone)}" if gone else "there was nothing to remove")
        case "demo":
            run = Run(chosen.link_mbps, chosen.sampling, chosen.seed, chosen.duration)
            return demo.demo(out, run, RUNS / f"seed-{run.seed}")
        case "check":
            return check.check(out, chosen.folder)
        case "top-sources":
            return top_sources.compare(out, chosen.seed, RUNS / "top-sources")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
