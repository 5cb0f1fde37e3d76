"""What flowstream found in a run, beside what was sent: elephants, sources, links, the scan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from deploy.testbed.estimates import read_rows, source_estimates
from deploy.testbed.plan import Run
from deploy.testbed.schedule import schedule
from deploy.testbed.truth import Truth
from deploy.testbed.verdicts import FALSE_BELOW, flow_of
from flowstream.batch import address_text
from flowstream.grouping import group_rows
from flowstream.links import LinkTable
from flowstream.render import flow_text, number_text, rate_text

TOP = 10


def elephants_table(truth: Truth, events: Sequence[Mapping[str, Any]], links: LinkTable) -> Table:
    """Return the flows of some 5 % of a link and more: as sent, and as reported."""
    node = {row["exporter"]: row["node"] for row in links.to_rows()}
    table = Table(
        "flow", "sent at up to", "share", "reported (median)", "path sent", "path seen", title="(a) Elephants"
    )
    told = {flow: [v for v in events if flow_of(v) == flow] for flow in map(flow_of, events)}
    large = {f for f, sent in truth.flows.items() if sent.steady_bps > 0.7 * FALSE_BELOW * truth.link_bps}
    for flow in sorted(large | set(told), key=lambda f: -truth.flows[f].steady_bps if f in truth.flows else 0.0):
        sent, updates = truth.flows.get(flow), [v for v in told.get(flow, []) if v["event"] == "update"]
        widest = max(updates, key=lambda v: (len(v["sightings"]), v["samples"]), default=None)
        table.add_row(
            flow_text(flow._asdict()),
            rate_text(sent.steady_bps) if sent else "-",
            f"{sent.steady_bps / truth.link_bps:.1%}" if sent else "-",
            rate_text(median(v["rate_bps"] for v in updates)) if updates else "no elephant",
            " > ".join(hop[0] for hop in sent.path) if sent else "-",
            " > ".join(node.get(s["exporter"], "?") for s in widest["sightings"]) if widest else "",
        )
    return table


def sources_table(truth: Truth, messages: Path, links: LinkTable) -> Table:
    """Return the sources that sent most: as sent, and as estimated over the whole run, each packet counted once."""
    table = Table("source", "sent, bytes", "estimate", "95 % interval", "samples", title="(b) Top talkers")
    found = source_estimates(read_rows(messages), links, 0)
    sent: dict[str, int] = {}
    for (_, src), bytes_sent in truth.sources.items():
        sent[src] = sent.get(src, 0) + bytes_sent
    for src in sorted(sent, key=lambda s: (-sent[s], s))[:TOP]:
        estimate = found.get((0, src))
        row = [src, f"{sent[src]:,}"]
        if estimate is not None:
            held = "" if estimate.low <= sent[src] <= estimate.high else " [red]missed"
            row += [f"{estimate.bytes:,.0f}", f"{estimate.low:,.0f} to {estimate.high:,.0f}{held}"]
            row.append(str(estimate.samples))
        table.add_row(*row)
    return table


def links_table(truth: Truth, messages: Path, links: LinkTable, duration_s: int) -> Table:
    """Return the busiest interfaces, inbound: mean rate as sent over a run of ``duration_s``, and as sampled."""
    rows = read_rows(messages)
    groups = group_rows(rows.exporter, rows.in_if)
    sums = groups.sum(rows.bytes * rows.sampling_rate.astype(np.int64)).tolist()
    place = {(row["exporter"], row["if_index"]): (row["node"], row["name"]) for row in links.to_rows()}
    found = {
        place.get((address_text(*map(int, rows.exporter[first])), int(rows.in_if[first])), ("?", "?")): total
        for first, total in zip(groups.firsts, sums, strict=True)
    }
    table = Table("switch", "port", "in, on the wire", "of the link", "in, as sampled", title="(b) Links in use")
    for node, port in sorted(truth.links, key=lambda key: (-truth.links[key], key))[:TOP]:
        sent_bps, found_bps = (8 * n / duration_s for n in (truth.links[node, port], found.get((node, port), 0)))
        table.add_row(node, port, rate_text(sent_bps), f"{sent_bps / truth.link_bps:.0%}", rate_text(found_bps))
    return table


def scan_table(
    truth: Truth, run: Run, sources: Iterable[Mapping[str, Any]], distances: Iterable[Mapping[str, Any]]
) -> Table:
    """Return what gives the scan away: very many flows of one small packet, all alike."""
    scan = schedule(run).scan
    sent = {f: s for f, s in truth.flows.items() if (f.src_addr, f.dst_addr) == (scan.src, scan.dst)}
    packets = sum(s.packets for s in sent.values())
    table = Table("", "sent", "found", title=f"(c) The scan, {scan.src} > {scan.dst}")
    seen = [row for value in sources for row in value["sources"] if row["src_addr"] == scan.src]
    samples = sum(row["flows"] for row in seen)
    table.add_row("flows", f"{len(sent):,}", f"{samples:,} samples at all switches")
    size = f"{sum(row['bytes'] for row in seen) / samples:.0f}" if samples else "-"
    table.add_row("bytes per packet", f"{sum(s.bytes for s in sent.values()) / max(1, packets):.0f}", size)
    own = max((v for v in distances if v["src_addr"] == scan.src), key=lambda v: v["pairs"], default=None)
    if own is not None:
        said = f"median {number_text(own['p50'])}, p99.9 {number_text(own['p999'])} of {own['pairs']:,} pairs"
        table.add_row("distances between its flows", "", said)
    return table
