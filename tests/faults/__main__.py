"""``python -m tests.faults``: run the scenarios, print the table, write the report; exit code 1 if one failed."""

from __future__ import annotations

import argparse
import faulthandler
import shutil
import sys
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from agents.broker import LocalBroker
from flowstream.errors import BrokerError
from tests.faults.report import Row, table, write_json
from tests.faults.rig import run
from tests.faults.scenario import Scenario, scenarios

FOLDER = Path(".flowstream/faults")


def main() -> int:
    """Run what was asked for."""
    faulthandler.enable()  # where librdkafka ends the process, it is said in which call
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", metavar="2,5", help="numbers of the scenarios to run")
    parser.add_argument("--quick", action="store_true", help="the quick scenarios, in their short form")
    parser.add_argument(
        "--delivery", default="at-least-once", choices=["at-least-once", "transactional"],
        help="of the results; transactional: a reader of committed records must see each key once",
    )  # fmt: skip
    parser.add_argument("--every-analysis", action="store_true", help="not those alone that are on by default")
    parser.add_argument("--seed", type=int, default=1, help="of flows and of the moments of faults")
    parser.add_argument("--minutes", type=float, default=30, help="how long the soak takes")
    parser.add_argument("--json", type=Path, default=FOLDER / "report.json", metavar="FILE", help="the report")
    parser.add_argument("--keep", action="store_true", help="keep logs and broker folders of what passed, too")
    chosen = parser.parse_args()
    wanted = [int(number) for number in chosen.only.split(",") if number]
    known = scenarios()
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        parser.error(f"--only {chosen.only}: there is {', '.join(map(str, known))}")
    console = Console(width=200 if not sys.stdout.isatty() else None)
    rows: list[Row] = []
    with ExitStack() as stack:
        shared: list[LocalBroker] = []
        for one in known.values():
            if (wanted and one.number not in wanted) or (chosen.quick and not one.quick):
                continue
            console.print(f"{one.number} {one.name}: {one.fault}", highlight=False)
            if not one.own_broker and not shared:
                shared.append(stack.enter_context(_broker(FOLDER / "broker")))
            options = {
                "seed": chosen.seed, "quick": chosen.quick, "minutes": chosen.minutes, "delivery": chosen.delivery,
                "every_analysis": chosen.every_analysis,
            }  # fmt: skip
            rows.append(_run(one, shared, keep=chosen.keep, **options))
            console.print(f"  {rows[-1].verdict} {rows[-1].detail}", highlight=False, markup=False)
            write_json(chosen.json, rows)
    console.print(table(rows))
    console.print(f"report: {chosen.json}", highlight=False)
    return 0 if all(row.passed for row in rows) else 1


def _broker(folder: Path) -> LocalBroker:
    shutil.rmtree(folder, ignore_errors=True)
    return LocalBroker(folder, port=0, controller_port=0)


def _run(one: Scenario, shared: list[LocalBroker], *, keep: bool, **options: Any) -> Row:
    folder = FOLDER / f"{one.number:02d}"
    shutil.rmtree(folder, ignore_errors=True)
    options["prefix"] = f"f{one.number}-{uuid.uuid4().hex[:8]}-"
    if one.own_broker:
        with _broker(folder / "broker") as own:
            row = run(one, own.bootstrap, folder, broker=own, **options)
            if own.status().running:
                own.resume()
    else:
        row = run(one, shared[0].bootstrap, folder, **options)
    if row.passed and not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return row


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokerError as error:
        sys.exit(f"flowstream: {error}")
