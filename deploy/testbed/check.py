"""Hold the results of a run against its truth; the run just made, an older one, or the recorded minute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.testbed import verdicts
from deploy.testbed.estimates import read_rows, sampled_paths, source_estimates, summed_over_agents
from deploy.testbed.pipeline import read_results
from deploy.testbed.processes import TestbedError
from deploy.testbed.published import inbound_rates, source_bytes, whole_paths
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
            analyze_files(load(), [messages], None, links_file, RECORDED / "clos_topology.csv", results, bar)
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
    return 0 if all(verdict.good for verdict in found) else 1


def judge(
    truth: Truth, links: LinkTable, messages: Path, published: Mapping[str, Sequence[dict[str, Any]]]
) -> list[Verdict]:
    """Return the verdicts on what came of a run's messages; ``published`` are the results by stream."""
    rows, events = read_rows(messages), published["elephants"]
    names: Names = {(row["exporter"], row["if_index"]): (row["node"], row["name"]) for row in links.to_rows()}
    found = [
        verdicts.delivery(truth),
        verdicts.coverage("intervals of samples", truth, source_estimates(rows, links, truth.window_ns)),
        verdicts.overcounting(truth, summed_over_agents(rows)),
        *verdicts.elephants(truth, events),
        verdicts.elephant_paths(truth, events, names),
        verdicts.paths("paths as sampled", truth, list(sampled_paths(rows).items()), names),
    ]
    if told := source_bytes(published.get("talkers", ()), truth.window_ns):
        found.append(verdicts.coverage("intervals of talkers", truth, told))
    if whole := whole_paths(published.get("paths", ())):
        found.append(verdicts.paths("paths as published", truth, whole, names))
    if rates := inbound_rates(published.get("link-use", ())):
        found.append(verdicts.link_coverage(truth, rates, names))
    return found


def as_table(found: Sequence[Verdict]) -> Table:
    """Return the verdicts as a table."""
    table = Table("", "found", "wanted", "verdict", title="Against the truth")
    for verdict in found:
        table.add_row(verdict.subject, verdict.found, verdict.wanted, "[green]good" if verdict.good else "[red]bad")
    return table
