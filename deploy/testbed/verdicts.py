"""Results against the truth: coverage of intervals, elephants missed or false, paths. Arithmetic only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.testbed.estimates import SourceEstimate
from deploy.testbed.truth import Flow, Truth

Place = tuple[str, int]  # exporter and number of an interface
Names = Mapping[Place, tuple[str, str]]  # switch and port by place

COVERAGE_MIN = 0.93
LOST_MAX = 0.001  # of the frames sent
MISSED_FROM, FALSE_BELOW = 0.15, 0.05  # shares of the link


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table: what was looked at, what came of it, whether that is good enough."""

    subject: str
    found: str
    wanted: str
    good: bool


def delivery(truth: Truth) -> Verdict:
    """Judge whether the switches took what they were given: where they did not, the truth is none."""
    sent = sum(flow.packets for flow in truth.flows.values())
    share = truth.frames_lost / max(1, sent)
    found = f"{truth.frames_lost:,} of {sent:,} ({share:.3%})"
    return Verdict("frames lost at switches", found, f"{LOST_MAX:.1%} at most", share <= LOST_MAX)


def coverage(subject: str, truth: Truth, estimates: Mapping[tuple[int, str], SourceEstimate]) -> Verdict:
    """Judge whether stated intervals hold the true bytes of their source and window.

    A sample is stamped up to a second after its packet, so a window's bytes are known up to what passed its ends in
    that second: an interval holds the truth if it holds a number between. How many hold the very window is said, too.
    """
    stated = {key: estimate for key, estimate in estimates.items() if estimate.stated}
    bounds = {key: truth.bounds(*key) for key in stated}
    held = sum(e.low <= bounds[key][1] and bounds[key][0] <= e.high for key, e in stated.items())
    strictly = sum(e.low <= truth.sources.get(key, 0) <= e.high for key, e in stated.items())
    share = held / len(stated) if stated else 0.0
    found = f"{held} of {len(stated)} ({share:.1%}) source-windows; {strictly} to the very second"
    return Verdict(subject, found, f"{COVERAGE_MIN:.0%}", share >= COVERAGE_MIN)


def link_coverage(truth: Truth, rates: Mapping[tuple[int, Place], tuple[float, float]], names: Names) -> Verdict:
    """Judge whether the intervals of inbound loads hold what came in by the port, over all of its windows.

    ``truth.links`` has the run's total by port, so bounds of the windows are added up: that is wider than the bounds of
    a sum, and finds a wrong capacity, unit or direction, not a wrong interval.
    """
    sums: dict[tuple[str, str], list[float]] = {}
    for (_, place), (low, high) in rates.items():
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


def paths(
    subject: str, truth: Truth, seen: Sequence[tuple[Flow, Sequence[tuple[str, int, int]]]], names: Names
) -> Verdict:
    """Judge paths as hops (exporter, in_if, out_if), of the flows of which as many hops were seen as there are."""
    whole = [(f, hops) for f, hops in seen if f in truth.flows and 0 < len(truth.flows[f].path) <= len(hops)]
    wrong = {f for f, hops in whole if [_hop(*hop, names) for hop in hops] != list(truth.flows[f].path)}
    right = sum(f not in wrong for f, _ in whole)
    found = f"{right} of {len(whole)} equal; of {len(seen) - len(whole)} more not all hops were sampled"
    return Verdict(subject, found + _names(wrong), "all equal", bool(whole) and not wrong)


def _hop(exporter: str, in_if: int, out_if: int, names: Names) -> tuple[str, str, str]:
    unknown = (exporter, "?")
    return (*names.get((exporter, in_if), unknown), names.get((exporter, out_if), unknown)[1])
