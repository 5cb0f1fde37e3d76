"""Results against the truth: coverage of intervals, elephants missed or false, links, paths. Arithmetic only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.testbed.schedule import HUNDRED_PORTS
from deploy.testbed.truth import Flow, SentFlow, Truth

Place = tuple[str, int]  # exporter and number of an interface
Names = Mapping[Place, tuple[str, str]]  # switch and port by place
Hops = Sequence[tuple[str, int, int]]  # exporter, in_if, out_if

COVERAGE_MIN = 0.93
LOST_MAX = 0.001  # of the frames sent
MISSED_FROM, FALSE_BELOW = 0.15, 0.05  # shares of the link
HUNDRED = 100  # flows between two servers


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table: what was looked at, what came of it, whether that is good enough.

    ``decides`` is false of what is told beside: a run is none the worse for it.
    """

    subject: str
    found: str
    wanted: str
    good: bool
    decides: bool = True


@dataclass(frozen=True, slots=True)
class SourceEstimate:
    """Bytes that a source sent in a window: estimate, 95 % interval, samples; ``stated`` where they are enough."""

    bytes: float
    low: float
    high: float
    samples: int
    stated: bool


def delivery(truth: Truth) -> Verdict:
    """Judge whether the switches took what they were given: where they did not, the truth is none."""
    sent = sum(flow.packets for flow in truth.flows.values())
    share = truth.frames_lost / max(1, sent)
    found = f"{truth.frames_lost:,} of {sent:,} ({share:.3%})"
    return Verdict("frames lost at switches", found, f"{LOST_MAX:.1%} at most", share <= LOST_MAX)


def coverage(truth: Truth, estimates: Mapping[tuple[int, str], SourceEstimate]) -> list[Verdict]:
    """Judge whether stated intervals hold the true bytes of their source and window.

    A sample is stamped up to a second after its packet, so a window's bytes are known up to what passed its ends in
    that second: an interval holds the truth if it holds a number between. That decides; how many hold the bytes of
    the very window, as if samples had been stamped in time, is told beside.
    """
    stated = {key: estimate for key, estimate in estimates.items() if estimate.stated}
    bounds = {key: truth.bounds(*key) for key in stated}
    allowed = sum(e.low <= bounds[key][1] and bounds[key][0] <= e.high for key, e in stated.items())
    strictly = sum(e.low <= truth.sources.get(key, 0) <= e.high for key, e in stated.items())
    return [
        _coverage("intervals of talkers by source", allowed, len(stated), decides=True),
        _coverage("the same, to the very second", strictly, len(stated), decides=False),
    ]


def _coverage(subject: str, held: int, stated: int, *, decides: bool) -> Verdict:
    share = held / stated if stated else 0.0
    found = f"{held} of {stated} source-windows hold the truth ({share:.1%})"
    return Verdict(subject, found, f"{COVERAGE_MIN:.0%}", share >= COVERAGE_MIN, decides)


def link_coverage(truth: Truth, rates: Mapping[tuple[int, Place], tuple[float, float, float]], names: Names) -> Verdict:
    """Judge whether the intervals of inbound loads hold what came in by the port, over all of its windows.

    ``truth.links`` has the run's total by port, so bounds of the windows are added up: that is wider than the bounds of
    a sum, and finds a wrong capacity, unit or direction, not a wrong interval.
    """
    sums: dict[tuple[str, str], list[float]] = {}
    for (_, place), (low, _, high) in rates.items():
        both = sums.setdefault(names.get(place, (place[0], "?")), [0.0, 0.0])
        both[0], both[1] = both[0] + low, both[1] + high
    span_s = truth.window_ns / 1e9
    known = {port: wire for port, wire in truth.links.items() if port in sums}
    held = sum(sums[port][0] * span_s <= 8 * wire <= sums[port][1] * span_s for port, wire in known.items())
    return Verdict("loads of links", f"{held} of {len(known)} ports", "all", 0 < held == len(known))


def overcounting(truth: Truth, summed: Mapping[str, int]) -> Verdict:
    """Show what summing over agents makes of the total: three switches are on every way."""
    times = sum(summed.values()) / max(1, sum(truth.sources.values()))
    return Verdict(
        "summed over agents instead", f"{times:.2f} times what was sent", "the mistake: 3", 2.5 < times < 3.5
    )


def flow_of(value: Mapping[str, Any]) -> Flow:
    """Return the five-tuple of a result."""
    return Flow(*(value["flow"][name] for name in Flow._fields))


def elephants(truth: Truth, events: Iterable[Mapping[str, Any]]) -> list[Verdict]:
    """Judge onsets: none missing of flows that kept up 15 % of the link, none of flows that never reached 5 %."""
    told = {flow_of(value) for value in events if value["event"] == "onset"}
    large = {f for f, sent in truth.flows.items() if sent.steady_bps >= MISSED_FROM * truth.link_bps}
    small = {f for f in told if f not in truth.flows or truth.flows[f].peak_bps < FALSE_BELOW * truth.link_bps}
    missed = f"{len(large & told)} of {len(large)} found" + _names(large - told)
    false = f"{len(small)} of {len(told)} reported" + _names(small)
    return [
        Verdict("elephants of 15 % or more", missed, "all", bool(large) and large <= told),
        Verdict("elephants under 5 %", false, "none", not small),
    ]


def _names(flows: Iterable[Flow]) -> str:
    listed = [f"{f.src_addr}:{f.src_port} > {f.dst_addr}:{f.dst_port}" for f in sorted(flows)[:3]]
    return "".join(f"; {name}" for name in listed)


def elephant_paths(truth: Truth, events: Iterable[Mapping[str, Any]], names: Names) -> Verdict:
    """Judge the path that every update of an elephant saw."""
    updates = [value for value in events if value["event"] == "update"]
    seen = [(flow_of(v), [(s["exporter"], s["in_if"], s["out_if"]) for s in v["sightings"]]) for v in updates]
    return paths("paths in updates of elephants", truth, seen, names)


def shared_links(truth: Truth, told: Iterable[Mapping[str, Any]], names: Names) -> Verdict:
    """Judge which elephants are said to share a link: all that did and kept up 15 %, none that never went by it."""
    reported: dict[tuple[str, str], set[Flow]] = {}
    for value in told:
        port = names.get((value["exporter"], value["out_if"]), (value["exporter"], "?"))
        reported.setdefault(port, set()).update(map(flow_of, value["elephants"]))
    by_port: dict[tuple[str, str], set[Flow]] = {}
    for flow, sent in truth.flows.items():
        for node, _, out_port in sent.path if sent.steady_bps >= MISSED_FROM * truth.link_bps else ():
            by_port.setdefault((node, out_port), set()).add(flow)
    shared = {port: flows for port, flows in by_port.items() if len(flows) > 1}
    found = sum(flows <= reported.get(port, set()) for port, flows in shared.items())
    false = sum(port not in _ways_out(truth, flow) for port, flows in reported.items() for flow in flows)
    said = f"{found} of {len(shared)} links; {false} elephants on a link that they were not on"
    return Verdict("elephants that share a link", said, "all, none", 0 < found == len(shared) and not false)


def _ways_out(truth: Truth, flow: Flow) -> set[tuple[str, str]]:
    return {(node, out_port) for node, _, out_port in truth.flows[flow].path} if flow in truth.flows else set()


def hundred_flows(truth: Truth) -> dict[Flow, SentFlow]:
    """Return the hundred flows between two servers; iperf3's own connections, which say little, are not among them."""
    between = [(flow, sent) for flow, sent in truth.flows.items() if flow.dst_port in HUNDRED_PORTS]
    return dict(sorted(between, key=lambda pair: (-pair[1].bytes, pair[0]))[:HUNDRED])


def hundred(truth: Truth, seen: Iterable[tuple[Flow, Hops]], names: Names) -> Verdict:
    """Judge the hundred flows that one ECMP group spreads over the spines: wherever all of a path is seen, it is equal.

    ``seen`` are whole paths; those of other flows are passed over.
    """
    sent = hundred_flows(truth)
    own = [(flow, hops) for flow, hops in seen if flow in sent]
    wrong = _wrong(truth, own, names)
    spines = Counter(flow.path[1][0] for flow in sent.values() if flow.path)
    split = " and ".join(f"{flows} by {spine}" for spine, flows in sorted(spines.items()))
    known = len({flow for flow, _ in own})
    found = f"{split}; {len(own) - sum(f in wrong for f, _ in own)} of {len(own)} paths of {known} flows equal"
    good = len(sent) == HUNDRED and len(spines) == 2 and known > HUNDRED // 2 and not wrong
    return Verdict("a hundred flows between two servers", found + _names(wrong), "by both spines, all equal", good)


def _wrong(truth: Truth, whole: Iterable[tuple[Flow, Hops]], names: Names) -> set[Flow]:
    return {flow for flow, hops in whole if not equal_path(truth, flow, hops, names)}


def equal_path(truth: Truth, flow: Flow, hops: Hops, names: Names) -> bool:
    """Return whether a flow went by these hops, switches and both ports."""
    return flow in truth.flows and [_hop(*hop, names) for hop in hops] == list(truth.flows[flow].path)


def paths(subject: str, truth: Truth, seen: Sequence[tuple[Flow, Hops]], names: Names) -> Verdict:
    """Judge paths as hops (exporter, in_if, out_if), of the flows of which as many hops were seen as there are."""
    whole = [(f, hops) for f, hops in seen if f in truth.flows and 0 < len(truth.flows[f].path) <= len(hops)]
    wrong = _wrong(truth, whole, names)
    right = sum(f not in wrong for f, _ in whole)
    found = f"{right} of {len(whole)} equal; of {len(seen) - len(whole)} more not all hops were sampled"
    return Verdict(subject, found + _names(wrong), "all equal", bool(whole) and not wrong)


def _hop(exporter: str, in_if: int, out_if: int, names: Names) -> tuple[str, str, str]:
    unknown = (exporter, "?")
    return (*names.get((exporter, in_if), unknown), names.get((exporter, out_if), unknown)[1])
