"""What the demo shows at its end: elephants and where they went, links, top talkers, sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowstream.render import flow_text, number_text, path_text, rate_text, talker_text, time_text

LISTED = 5


@dataclass(slots=True)
class Seen:
    """What came out, by key: results are said again under the same key, and count once."""

    values: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # by stream
    health: dict[str, float] = field(default_factory=dict)

    def of(self, stream: str) -> list[dict[str, Any]]:
        """Return what a stream has said."""
        return list(self.values.get(stream, {}).values())

    @property
    def onsets(self) -> list[dict[str, Any]]:
        """Return the onsets of elephants in the order of event time."""
        return sorted((v for v in self.of("elephants") if v["event"] == "onset"), key=lambda v: int(v["time_ns"]))


async def show_summary(out: Console, session: Any, url: str, seen: Seen) -> None:
    """Print the tables."""
    out.print()
    out.print(elephants(seen))
    out.print(fullest_links(seen.of("link-use")))
    out.print(shared_links(seen.of("elephant-links")))
    async with session.get(f"{url}/talkers?by=conversation") as response:
        if response.status == 200:
            out.print(top_talkers(await response.json()))
    async with session.get(f"{url}/sources?top={LISTED}") as response:
        out.print(_sources((await response.json()).get("sources", [])))
    factors = [v["sum_over_exporters"] for v in seen.of("counting") if v["sum_over_exporters"]]
    if factors:
        out.print(
            f"Each flow is counted once: summed over switches, totals would be {max(factors):.2f} times as large.",
            highlight=False,
        )


def elephants(seen: Seen) -> Table:
    """Return the elephants in the order of their onsets, each at its highest rate that rests on enough samples."""
    columns = ("elephant", "onset", "highest rate", "95 % interval", "share", "path")
    table = Table(*columns, title="Elephant flows: over 10 % of a link")
    updates = [v for v in seen.of("elephants") if v["event"] == "update"]
    paths = [v for v in seen.of("paths") if v["elephant"]]
    for onset in seen.onsets:
        flow = onset["flow"]
        named = [v for v in updates if v["flow"] == flow and v["rate_bps"] is not None]
        peak = max(named, key=lambda v: float(v["rate_bps"]), default=onset)
        table.add_row(
            escape(flow_text(flow)), time_text(onset["time_ns"]), rate_text(peak["rate_bps"]), _interval(peak),
            "" if peak["share"] is None else f"{peak['share']:.0%}", escape(best_path(paths, flow)),
        )  # fmt: skip
    return table


def _interval(value: Mapping[str, Any]) -> str:
    return f"{rate_text(value['low_bps'])} to {rate_text(value['high_bps'])}"


def shared_links(records: Iterable[Mapping[str, Any]]) -> Table:
    """Return the links that elephants share, each in the window in which these took most of it."""
    columns = ("link", "most in 10 s", "95 % interval", "share", "elephants", "idle beside it")
    table = Table(*columns, title="Links that elephants share")
    peaks: dict[tuple[str, int], Mapping[str, Any]] = {}
    for record in records:
        if record["share"] is not None:
            link = record["exporter"], record["out_if"]
            peaks[link] = max(peaks.get(link, record), record, key=lambda value: float(value["share"]))
    for peak in sorted(peaks.values(), key=lambda value: -value["share"])[:LISTED]:
        table.add_row(
            escape(f"{peak['node'] or peak['exporter']}[{peak['port'] or peak['out_if']}]"),
            rate_text(peak["rate_bps"]), _interval(peak), f"{peak['share']:.0%}",
            escape("\n".join(flow_text(one["flow"]) for one in peak["elephants"])),
            escape(", ".join(one["port"] for one in peak["idle_links"]) or "none"),
        )  # fmt: skip
    return table


def best_path(paths: Iterable[Mapping[str, Any]], flow: Mapping[str, Any]) -> str:
    """Return of a flow's paths in all windows the one that most is known of: one cut short would be a lie."""
    ways = [way for value in paths if value["flow"] == flow for way in value["paths"]]
    way = max(ways, key=lambda w: (bool(w["complete"]), int(w["hops_seen"])), default=None)
    return "not known" if way is None else path_text(way, flow)


def fullest_links(records: Sequence[Mapping[str, Any]]) -> Table:
    """Return the fullest ports of records of link use, each in its fullest interval."""
    table = Table("link", "most in 10 s", "95 % interval", "share", "at", title="Fullest links")
    peaks: dict[tuple[str, str], tuple[float, Mapping[str, Any], int]] = {}
    for record in records:
        for port in record["interfaces"]:
            name = (f"{record['node'] or record['exporter']}[{port['name'] or port['if_index']}]", port["direction"])
            if port["share"] is not None and port["share"] > peaks.get(name, (0.0,))[0]:
                peaks[name] = (port["share"], port, record["window_start_ns"])
    fullest = sorted(peaks.items(), key=lambda peak: -peak[1][0])[:LISTED]
    for (port_name, direction), (share, port, start_ns) in fullest:
        table.add_row(
            escape(f"{port_name} {direction}"),
            rate_text(port["rate_bps"]),
            _interval(port),
            f"{share:.0%}",
            time_text(start_ns),
        )
    return table


def top_talkers(record: Mapping[str, Any]) -> Table:
    """Return the first of a record of talkers; the title says of which time rows are known."""
    begin_ns = max(record["window_start_ns"], record["covered_from_ns"])
    span = f"{time_text(begin_ns)[:8]} to {time_text(record['window_end_ns'])[:8]}"
    table = Table("conversation", "bytes", "95 % interval", "share", title=f"Top talkers, {span}")
    for entry in record["top"][:LISTED]:
        names = dict.fromkeys(("src_addr", "dst_addr", "src_port", "dst_port", "proto", "port")) | entry
        share = "" if entry["share"] is None else f"{entry['share']:.0%}"
        table.add_row(escape(talker_text(record["by"], names)), *_estimated(entry, "bytes"), share)
    return table


def _estimated(row: Mapping[str, Any], figure: str) -> tuple[str, str]:
    """Return an estimate and its interval."""
    named = "not enough samples" if row[figure] is None else f"{row[figure]:,}"
    return named, f"{row[f'{figure}_low']:,} to {row[f'{figure}_high']:,}"


def _sources(rows: Sequence[dict[str, Any]]) -> Table:
    columns = ("source", "flows", "bytes (estimated)", "95 % interval", "destinations", "distance p99.9")
    table = Table(*columns, title="Top sources, last window (from the table)")
    for row in rows:
        cells = (str(row["flows"]), *_estimated(row, "estimated_bytes"), str(row["dst_addrs"]))
        table.add_row(row["src_addr"], *cells, number_text(row["distance_p999"]))
    return table
