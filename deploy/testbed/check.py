"""Hold the results of a run against its truth; the run just made, an older one, or the recorded minute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.testbed import verdicts
from deploy.testbed.pipeline import ANALYSED, read_results
from deploy.testbed.processes import TestbedError
from deploy.testbed.published import inbound_rates, source_bytes, whole_paths
from deploy.testbed.samples import read_rows, sampled_paths, summed_over_agents
from deploy.testbed.truth import Truth, recorded
from deploy.testbed.verdicts import Names, Verdict
from flowstream.analyze import analyze_files
from flowstream.console import progress_bar
from flowstream.links import LinkTable
from flowstream.settings import load
from flowstream.topics import STREAMS

RECORDED = Path(__file__).resolve().parents[2] / "tests" / "data"


def check(out: Console, folder: Path | None) -> int:
    """Print the verdicts on a run's folder, or without one on the recorded minute; return 1 where one is bad.

    Of a run the results are those that its worker wrote; of the recording they are computed anew.
    """
    if folder is None:
        truth, links_file, messages = (
            recorded(RECORDED),
            RECORDED / "clos_links.csv",
            RECORDED / "clos_60s_goflow2_v2.bin.gz",
        )
        results = Path(".flowstream/testbed/recorded")
        with progress_bar() as bar:
            analyze_files(load(**ANALYSED), [messages], None, links_file, RECORDED / "clos_topology.csv", results, bar)
    else:
        try:
            truth = Truth.from_json((folder / "truth.json").read_text())
        except (OSError, KeyError, ValueError) as error:
            raise TestbedError(f"{folder} is not the folder of a run that came to its end ({error!r})") from error
        links_file, messages, results = folder / "links.csv", folder / "results" / "messages.bin", folder / "results"
    found = judge(
        truth,
        LinkTable.from_path(links_file),
        messages,
        {stream: read_results(results, stream) for stream in STREAMS},
    )
    out.print(as_table(found))
    return status(found)


def port_names(links: LinkTable) -> Names:
    """Return switch and port of every interface."""
    return {(row["exporter"], row["if_index"]): (row["node"], row["name"]) for row in links.to_rows()}


def judge(
    truth: Truth, links: LinkTable, messages: Path, published: Mapping[str, Sequence[dict[str, Any]]]
) -> list[Verdict]:
    """Return the verdicts on what came of a run's messages; ``published`` are the results by stream."""
    rows, events = read_rows(messages), published["elephants"]
    names = port_names(links)
    whole = whole_paths(published["paths"])
    found = [
        verdicts.delivery(truth),
        *verdicts.coverage(truth, source_bytes(published["talkers"], truth.window_ns)),
        verdicts.overcounting(truth, summed_over_agents(rows)),
        *verdicts.elephants(truth, events),
        verdicts.elephant_paths(truth, events, names),
        verdicts.paths("paths as published", truth, whole, names),
        verdicts.paths("paths as sampled in all the run", truth, list(sampled_paths(rows).items()), names),
    ]
    if truth.window_ns:  # the recorded minute has other traffic, and no bytes by port
        found += [
            verdicts.hundred(truth, whole, names),
            verdicts.shared_links(truth, published["elephant-links"], names),
            verdicts.link_coverage(truth, inbound_rates(published["link-use"]), names),
        ]
    return found


def as_table(found: Sequence[Verdict]) -> Table:
    """Return the verdicts as a table."""
    table = Table("", "found", "wanted", "verdict", title="Against the truth")
    for verdict in found:
        mark = "[green]good" if verdict.good else "[red]bad" if verdict.decides else "[yellow]below"
        table.add_row(escape(verdict.subject), escape(verdict.found), escape(verdict.wanted), mark)
    return table


def status(found: Sequence[Verdict]) -> int:
    """Return 1 where a verdict is bad that decides, else 0."""
    return 0 if all(verdict.good for verdict in found if verdict.decides) else 1
