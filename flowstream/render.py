"""One readable line per record, for people at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}


def time_text(time_ns: int) -> str:
    """Return ``HH:MM:SS.mmm`` in UTC."""
    return datetime.fromtimestamp(time_ns // 1_000_000 / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]


def moment_text(time_ns: int | None) -> str:
    """Return ``2026-11-21T01:33:17.750Z``, to the millisecond below; ``-`` for none, digits where no calendar goes."""
    if time_ns is None:
        return "-"
    try:
        moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    except (OverflowError, OSError, ValueError):
        return f"{time_ns} ns"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns // 1_000_000 % 1000:03d}Z"


def duration_text(duration_ns: int | None) -> str:
    """Return ``12.5 s``, ``3 min 20 s`` or ``26 h 05 min``; ``-`` for none."""
    if duration_ns is None:
        return "-"
    seconds = duration_ns // 1_000_000_000
    if seconds < 100:
        return f"{duration_ns / 1e9:.1f} s"
    if seconds < 6000:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds // 60 % 60:02d} min"


def rate_text(bits: float) -> str:
    """Return a rate with a decimal prefix: ``31.4 Mb/s``."""
    for unit in ("", "k", "M", "G"):
        if abs(bits) < 999.95:  # one digit behind the point makes 1000.0 of anything above
            return f"{bits:.1f} {unit}b/s"
        bits /= 1000
    return f"{bits:.1f} Tb/s"


def number_text(number: float | None) -> str:
    """Return a number with four digits that count, ``-`` for none."""
    return "-" if number is None else f"{number:,.4g}" if abs(number) < 9999.5 else f"{number:,.0f}"


def flow_text(flow: Mapping[str, Any]) -> str:
    """Return ``tcp 10.0.1.10:40001 > 10.0.3.10:5201``."""
    ends = []
    for address, port in ((flow["src_addr"], flow["src_port"]), (flow["dst_addr"], flow["dst_port"])):
        ends.append(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
    return f"{PROTOCOLS.get(flow['proto'], flow['proto'])} {ends[0]} > {ends[1]}"


def _elephant(value: Mapping[str, Any]) -> str:
    share = "" if value["share"] is None else f", {value['share']:.0%} of {rate_text(value['link_bps'])}"
    path = " > ".join(s["exporter"] for s in value["sightings"])
    return (
        f"{time_text(value['time_ns'])} {value['event']:6} {flow_text(value['flow'])}  {_interval(value)}"
        f"{share}, {value['samples']} samples, seen {path}"
    )


def path_text(path: Mapping[str, Any], flow: Mapping[str, Any]) -> str:
    """Return ``hA > leaf1[l1h>l1s1] > (spine1[s1l1>s1l3]) > leaf3[l3s1>l3h] > hC``.

    In parentheses is what was inferred, ``?`` is a hop or an interface that is not known, ``...`` an end that is not.
    """
    hops = path["hops"]
    parts = [path["entered_from"] or (flow["src_addr"] if path.get("first_known") else "...")]
    for hop in hops:
        ways = (_way(hop[f"{way}_port"], hop[f"{way}_if"]) for way in ("in", "out"))
        text = f"{hop['node']}[{'>'.join(ways)}]"
        parts.append(f"({text})" if hop.get("inferred") else text)
        parts += ["?"] * (hop.get("missing_after") or 0)
    parts.append(path["left_to"] or (flow["dst_addr"] if path.get("last_known") else "..."))
    return " > ".join(parts)


def _way(port: str | None, if_index: int | None) -> str:
    return port or ("?" if if_index is None else str(if_index))


def _path(value: Mapping[str, Any]) -> str:
    flow = value["flow"]
    told = " | ".join(path_text(path, flow) for path in value["paths"])
    marks = "".join(f", {mark}" for mark in ("elephant", "ambiguous") if value[mark])
    rules = ", ".join(sorted({path["ordered_by"] for path in value["paths"]}))
    when = time_text(value["window_end_ns"])
    return f"{when} {flow_text(flow)}  {told}  {bytes_text(value)}, by {rules}{marks}"


def _path_event(value: Mapping[str, Any]) -> str:
    flow = value["flow"]
    whole = {"first_known": True, "last_known": True}
    before, after = (path_text({**value[side], **whole}, flow) for side in ("before", "after"))
    return f"{time_text(value['window_end_ns'])} {flow_text(flow)}  was {before}  is {after}"


def _elephant_link(value: Mapping[str, Any]) -> str:
    link = f"{value['node'] or value['exporter']}[{_way(value['port'], value['out_if'])}]"
    share = "" if value["share"] is None else f", {value['share']:.0%} of {rate_text(value['link_bps'])}"
    idle = ", ".join(f"{one['port']} to {one['peer']}" for one in value["idle_links"]) or "none"
    told = ", ".join(f"{flow_text(one['flow'])} {_interval(one)}" for one in value["elephants"])
    head = f"{time_text(value['window_end_ns'])} {link} {_interval(value)}{share}"
    return f"{head}: {told}; idle beside it: {idle}{_lost(value)}"


def _path_window(value: Mapping[str, Any]) -> str:
    part = f" ({value['bytes_told'] / value['bytes']:.0%} of bytes)" if value["bytes"] else ""
    return (
        f"{time_text(value['window_end_ns'])} {value['flows']:,} flows, {bytes_text(value)}, "
        f"of {value['flows_told']:,} the path is told{part}: "
        f"{value['complete']:,} known whole, {value['ambiguous']:,} in doubt"
    )


def _interval(value: Mapping[str, Any]) -> str:
    """Return a rate with its bounds; bounds alone where there are not enough samples."""
    rate = "not enough samples" if value["rate_bps"] is None else rate_text(value["rate_bps"])
    return f"{rate} [{rate_text(value['low_bps'])} to {rate_text(value['high_bps'])}]"


def _distances(value: Mapping[str, Any]) -> str:
    source = f"{time_text(value['window_start_ns'])} {value['src_addr']}"
    head = f"{source}: {value['flows']} flows, {value['pairs']:,} pairs"
    if not value["pairs"]:
        return head
    named = ", ".join(f"{k} {number_text(value[k])}" for k in ("min", "p50", "p99", "p999", "max"))
    return f"{head}, {named}"


def _sources(value: Mapping[str, Any]) -> str:
    rows = sorted(
        value["sources"], key=lambda r: (r["estimated_bytes"] is None, -(r["estimated_bytes"] or 0), r["src_addr"])
    )
    named = ", ".join(f"{row['src_addr']} {bytes_text(row, 'estimated_bytes')}" for row in rows[:3])
    return f"{time_text(value['window_start_ns'])} {len(rows)} sources: {named}"


def bytes_text(value: Mapping[str, Any], name: str = "bytes") -> str:
    """Return an estimate: with its bounds where it was sampled, ``not enough samples`` for too few."""
    sent, low, high = (value[f"{name}{bound}"] for bound in ("", "_low", "_high"))
    if sent is None:
        return f"{low:,} to {high:,} B, not enough samples"
    return f"{sent:,} B" if low == high else f"{sent:,} B [{low:,} to {high:,}]"


def talker_text(by: str, entry: Mapping[str, Any]) -> str:
    """Return what a key of top talkers is: ``10.0.1.10 > 10.0.3.10``, ``tcp/443``, ``AS64512 > AS64513``."""
    proto = PROTOCOLS.get(entry["proto"], entry["proto"])
    if by == "conversation":
        return flow_text(entry)
    if by == "pair":
        return f"{entry['src_addr']} > {entry['dst_addr']}"
    if by == "port":
        return f"{proto}/{entry['port']}"
    if by == "as":
        return f"AS{entry['src_as']} > AS{entry['dst_as']}"
    if by == "interface":
        return f"{entry['exporter']} if {entry['in_if']}"
    return str({"source": entry["src_addr"], "destination": entry["dst_addr"], "protocol": proto}[by])


def _sent(entry: Mapping[str, Any], ranked_by: str) -> str:
    """Return what a key or all keys together sent, with its share of the whole if it has one, and its bounds."""
    bounds = f"{entry['bytes_low']:,} to {entry['bytes_high']:,}"
    if entry[ranked_by] is None:
        return f"{bounds} bytes, not enough samples"
    share = "" if entry.get("share") is None else f" {entry['share']:.0%}"
    return f"{entry[ranked_by]:,} {ranked_by}{share}" + (f" [{bounds}]" if ranked_by == "bytes" else "")


def _talkers(value: Mapping[str, Any]) -> str:
    ranked_by, length_ns = value["ranked_by"], value["window_end_ns"] - value["window_start_ns"]
    shown = [f"{talker_text(value['by'], entry)} {_sent(entry, ranked_by)}" for entry in value["top"][:5]]
    cut = max(0, value["covered_from_ns"] - value["window_start_ns"])
    rules = ", ".join(value["counted_by"]).lower()
    return (
        f"{time_text(value['window_end_ns'])} {duration_text(length_ns)}{' (the log began within it)' if cut else ''}, "
        f"{_sent(value, ranked_by)}, {value['keys']:,} by {value['by']}, counted by {rules}: "
        f"{'; '.join(shown)}{_lost(value)}"
    )


def _lost(value: Mapping[str, Any]) -> str:
    """Return which share was lost on the way: nothing where nothing was, or an older record does not say."""
    share, known = value.get("lost_share", 0.0), value.get("correction", 1.0) > 1.0
    return f"; {share:.1%} lost at most{', made up for where known' if known else ''}" if share else ""


def _load(port: Mapping[str, Any]) -> str:
    """Return an interface, its direction and its load, bounds alone where there are not enough samples."""
    name = port["name"] or f"if {port['if_index']}"
    share = "" if port["share"] is None else f", {port['share']:.0%} of {rate_text(port['link_bps'])}"
    return f"{name} {port['direction']} {_interval(port)}{share}"


def _fullest(ports: Sequence[Mapping[str, Any]], rate: str) -> list[Mapping[str, Any]]:
    """Return the three interfaces with most of their capacity in use, then with the highest rates."""
    return sorted(ports, key=lambda p: (-(p["share"] or 0.0), -(p[rate] or 0)))[:3]


def _link_use(value: Mapping[str, Any]) -> str:
    ports, late = value["interfaces"], value["late_bytes"]
    head = f"{time_text(value['window_start_ns'])} {value['node'] or value['exporter']}: {len(ports)} interfaces"
    told = "; ".join(_load(port) for port in _fullest(ports, "rate_bps"))
    return f"{head}, {told}" + (f"; {late:,} B too late" if late else "") + _lost(value)


def _link_percentiles(value: Mapping[str, Any]) -> str:
    parts = []
    for port in _fullest(value["interfaces"], "p95_bps"):
        share = "" if port["share"] is None else f", {port['share']:.0%} of {rate_text(port['link_bps'])}"
        name = port["name"] or f"if {port['if_index']}"
        p95, low, high = (rate_text(port[figure]) for figure in ("p95_bps", "p95_low_bps", "p95_high_bps"))
        parts.append(f"{name} {port['direction']} p95 {p95} [{low} to {high}]{share}")
    where = f"{value['node'] or value['exporter']}: {len(value['interfaces'])} interfaces"
    return f"{moment_text(value['window_start_ns'])} {value['period']} {where}, {'; '.join(parts)}"


def _link_event(value: Mapping[str, Any]) -> str:
    where = value["node"] or value["exporter"]
    return f"{time_text(value['time_ns'])} {value['event']:6} {where} {_load(value)}, {value['samples']} samples"


def _counting(value: Mapping[str, Any]) -> str:
    told = []
    for rule in value["rules"]:
        removed = f", removed {bytes_text(rule, 'bytes_removed')}" if rule["records_removed"] else ""
        told.append(f"{rule['rule'].lower()} {bytes_text(rule, 'bytes_counted')}{removed}")
    times = value["sum_over_exporters"]
    summed = "" if times is None else f"; summed over exporters {times:.2f} times as much"
    return f"{time_text(value['window_start_ns'])} counted once: {'; '.join(told)}{summed}"


def _export_loss(value: Mapping[str, Any]) -> str:
    unit, at_most = value["counts"].lower().replace("_", " "), "" if value["exact"] else " at most"
    return (
        f"{time_text(value['window_start_ns'])} {value['exporter']} {value['flow_type']}: {value['received']:,} {unit} "
        f"received, {value['lost']:,} lost{at_most} ({value['lost_share']:.1%})"
    )


def _dead_letter(value: Mapping[str, Any]) -> str:
    place = f"{value['topic']}-{value['partition']} offset {value['offset']}"
    return f"{place}: {value['reason']} ({value['payload_bytes']} bytes)"


_RENDERERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "elephants": _elephant,
    "paths": _path,
    "path-events": _path_event,
    "path-windows": _path_window,
    "elephant-links": _elephant_link,
    "distances": _distances,
    "sources": _sources,
    "counting": _counting,
    "export-loss": _export_loss,
    "talkers": _talkers,
    "link-use": _link_use,
    "link-use-percentiles": _link_percentiles,
    "link-events": _link_event,
    "dead-letters": _dead_letter,
}


#: Streams with a form of their own.
RENDERED = frozenset(_RENDERERS)


def render_line(stream: str, key: str, value: Mapping[str, Any]) -> str:
    """Return a record as a line: in its stream's form, else (or if it does not fit) as ``key name=value ...``.

    What does not print is escaped, so that no record can end the line or speak to the terminal.
    """
    line = f"{key}  " + " ".join(f"{name}={_short(part)}" for name, part in value.items())
    if stream in _RENDERERS:
        with suppress(LookupError, TypeError, ValueError, OverflowError, OSError):
            line = _RENDERERS[stream](value)
    return line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def _short(part: Any) -> str:
    if isinstance(part, bytes):
        return f"<{len(part)} bytes>"
    text = str(part)
    return text if len(text) <= 200 else text[:197] + "..."
