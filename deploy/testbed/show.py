"""What flowstream published of a run, beside what was sent: elephants, top talkers, links, the scan and the mice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from agents.demo_summary import best_path, fullest_links, top_talkers
from deploy.testbed.plan import Run
from deploy.testbed.published import inbound_rates, source_bytes, whole_paths
from deploy.testbed.schedule import SINK_PORT, schedule
from deploy.testbed.truth import Truth
from deploy.testbed.verdicts import FALSE_BELOW, Names, equal_path, flow_of
from flowstream.render import flow_text, number_text, rate_text

TOP = 10
MICE = 3  # hosts' addresses that send nothing else

Published = Mapping[str, Sequence[Mapping[str, Any]]]  # results by stream


def tables(truth: Truth, run: Run, published: Published, names: Names) -> list[Table]:
    """Return the three scenarios of a run."""
    talkers = [v for v in published["talkers"] if (v["by"], v["ranked_by"]) == ("conversation", "bytes")]
    whole = max(talkers, key=lambda v: (v["window_end_ns"] - v["window_start_ns"], v["window_end_ns"]), default=None)
    return [
        elephants_table(truth, published, names),
        shared_table(published["elephant-links"]),
        sources_table(truth, published["talkers"]),
        *([top_talkers(whole)] if whole else []),
        links_table(truth, published["link-use"], names, run.duration_s),
        fullest_links(published["link-use"]),
        scan_table(truth, run, published),
    ]


def elephants_table(truth: Truth, published: Published, names: Names) -> Table:
    """Return the flows of some 5 % of a link and more: as sent, and as reported with their path."""
    columns = ("flow", "sent at up to", "share", "reported, median of updates", "path", "true")
    table = Table(*columns, title="(a) Elephants")
    updates = [value for value in published["elephants"] if value["event"] == "update"]
    right = {flow for flow, hops in whole_paths(published["paths"]) if equal_path(truth, flow, hops, names)}
    large = {f for f, sent in truth.flows.items() if sent.steady_bps > 0.7 * FALSE_BELOW * truth.link_bps}
    told = set(map(flow_of, published["elephants"]))
    for flow in sorted(large | told, key=lambda f: -truth.flows[f].steady_bps if f in truth.flows else 0.0):
        sent = truth.flows.get(flow)
        own = sorted((v for v in updates if flow_of(v) == flow), key=lambda v: float(v["rate_bps"] or 0))
        table.add_row(
            escape(flow_text(flow._asdict())),
            rate_text(sent.steady_bps) if sent else "-",
            f"{sent.steady_bps / truth.link_bps:.1%}" if sent else "-",
            _rate(own[len(own) // 2]) if own else "no elephant",
            escape(best_path(published["paths"], flow._asdict())),
            "[green]yes" if flow in right else "[red]no",
        )
    return table


def _rate(value: Mapping[str, Any]) -> str:
    rate = "not enough samples" if value["rate_bps"] is None else rate_text(value["rate_bps"])
    return f"{rate} ({rate_text(value['low_bps'])} to {rate_text(value['high_bps'])})"


def shared_table(told: Iterable[Mapping[str, Any]]) -> Table:
    """Return the links that elephants share, each in the window in which these had the highest rate."""
    table = Table("link", "together", "share", "elephants", "free beside it", title="(a) Elephants that share a link")
    peaks: dict[tuple[str, int], Mapping[str, Any]] = {}
    for value in told:
        place = value["exporter"], value["out_if"]
        peaks[place] = max(peaks.get(place, value), value, key=lambda v: float(v["rate_bps"] or 0))
    for value in sorted(peaks.values(), key=lambda v: -(v["rate_bps"] or 0)):
        flows = (f"{flow_text(one['flow'])}, {_rate(one)}" for one in value["elephants"])
        free = ", ".join(f"{one['port']} to {one['peer']}" for one in value["idle_links"])
        table.add_row(
            escape(f"{value['node'] or value['exporter']}[{value['port'] or value['out_if']}]"),
            _rate(value),
            "-" if value["share"] is None else f"{value['share']:.0%}",
            escape("\n".join(flows)),
            escape(free or "none"),
        )
    return table


def sources_table(truth: Truth, talkers: Sequence[Mapping[str, Any]]) -> Table:
    """Return the sources that sent most over the whole run: as sent, and as published."""
    title = "(b) Top talkers, the whole run"
    table = Table("source", "sent, bytes", "estimate", "95 % interval", "samples", title=title)
    found = source_bytes(talkers, 0)
    sent: dict[str, int] = {}
    for (_, src), bytes_sent in truth.sources.items():
        sent[src] = sent.get(src, 0) + bytes_sent
    for src in sorted(sent, key=lambda s: (-sent[s], s))[:TOP]:
        row = [src, f"{sent[src]:,}"]
        estimate = found.get((0, src))
        if estimate is not None:
            held = "" if estimate.low <= sent[src] <= estimate.high else " [red]missed"
            row.append(f"{estimate.bytes:,.0f}" if estimate.stated else "not enough samples")
            row += [f"{estimate.low:,.0f} to {estimate.high:,.0f}{held}", str(estimate.samples)]
        table.add_row(*row)
    return table


def links_table(truth: Truth, link_use: Iterable[Mapping[str, Any]], names: Names, duration_s: int) -> Table:
    """Return the busiest ports, inbound: mean over a run of ``duration_s`` as sent, and by what was published."""
    columns = ("switch", "port", "in, on the wire", "of the link", "published", "bounds, all windows added up")
    table = Table(*columns, title="(b) Links in use, mean of the run")
    share = truth.window_ns / 1e9 / duration_s
    found: dict[tuple[str, str], list[float]] = {}
    for (_, place), rates in inbound_rates(link_use).items():
        sums = found.setdefault(names.get(place, (place[0], "?")), [0.0, 0.0, 0.0])
        sums[:] = [total + rate * share for total, rate in zip(sums, rates, strict=True)]
    for port in sorted(truth.links, key=lambda key: (-truth.links[key], key))[:TOP]:
        sent_bps = 8 * truth.links[port] / duration_s
        low, mean, high = map(rate_text, found.get(port, [0.0, 0.0, 0.0]))
        table.add_row(*port, rate_text(sent_bps), f"{sent_bps / truth.link_bps:.0%}", mean, f"{low} to {high}")
    return table


def scan_table(truth: Truth, run: Run, published: Published) -> Table:
    """Return the scan beside mice, by the sources that send it and nothing larger.

    Very many flows of one small packet to one address, all alike, are a scan; mice differ in size and go anywhere.
    """
    scan = schedule(run).scan
    title = f"(c) The scan, {scan.src} > {scan.dst}, beside mice"
    columns = ("source", "sends", "flows sent", "addresses", "flow samples, fullest window", "to addresses")
    table = Table(*columns, "distances: pairs", "median", "p99.9", title=title)
    sent = [flow for flow in truth.flows if flow.src_addr in _small_sources(truth, scan.src)]
    rows = [row for value in published["sources"] for row in value["sources"]]
    pairs = {src: _fullest(published["distances"], src, "pairs") for src in {flow.src_addr for flow in sent}}
    mice = sorted(set(pairs) - {scan.src}, key=lambda src: (-(pairs[src] or {"pairs": 0})["pairs"], src))[:MICE]
    for src in (scan.src, *mice):
        own, seen, apart = [f for f in sent if f.src_addr == src], _fullest(rows, src, "flows"), pairs.get(src)
        table.add_row(
            src,
            "the scan, and mice" if src == scan.src else "mice",
            f"{len(own):,}",
            str(len({flow.dst_addr for flow in own})),
            f"{seen['flows']:,}" if seen else "-",
            str(seen["dst_addrs"]) if seen else "-",
            *((f"{apart['pairs']:,}", number_text(apart["p50"]), number_text(apart["p999"])) if apart else ("-",) * 3),
        )
    return table


def _small_sources(truth: Truth, scanning: str) -> set[str]:
    """Return the source that scans, and those that send to the sinks of mice and nowhere else of their own accord."""
    begun = [flow for flow in truth.flows if flow.src_port != SINK_PORT]
    other = {flow.src_addr for flow in begun if flow.dst_port != SINK_PORT}
    return {scanning} | ({flow.src_addr for flow in begun} - other)


def _fullest(rows: Iterable[Mapping[str, Any]], src: str, measure: str) -> Mapping[str, Any] | None:
    return max((row for row in rows if row["src_addr"] == src), key=lambda row: int(row[measure]), default=None)
