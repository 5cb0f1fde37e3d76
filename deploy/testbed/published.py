"""What the worker published of a run, in the shapes in which it is held against the truth.

A stream that the worker does not have gives nothing, and then the samples themselves are looked at instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.testbed.estimates import SourceEstimate
from deploy.testbed.truth import Flow
from deploy.testbed.verdicts import Place, flow_of

Hops = list[tuple[str, int, int]]


def source_bytes(talkers: Iterable[Mapping[str, Any]], window_ns: int) -> dict[tuple[int, str], SourceEstimate]:
    """Return the bytes of sources by (window start, address), of the windows of one length."""
    return {
        (value["window_start_ns"], row["src_addr"]): SourceEstimate(
            row["bytes"] or 0, row["bytes_low"], row["bytes_high"], row["records"], row["bytes"] is not None
        )
        for value in talkers
        if (value["by"], value["ranked_by"]) == ("source", "bytes")
        and value["window_end_ns"] - value["window_start_ns"] == window_ns
        for row in value["top"]
    }


def whole_paths(paths: Iterable[Mapping[str, Any]]) -> list[tuple[Flow, Hops]]:
    """Return the paths that are told as one and whole, all hops of them reported, as (exporter, in_if, out_if)."""
    return [
        (flow_of(value), [(hop["exporter"], hop["in_if"], hop["out_if"]) for hop in value["paths"][0]["hops"]])
        for value in paths
        if not value["ambiguous"] and len(value["paths"]) == 1 and value["paths"][0]["complete"]
        if not any(hop["inferred"] for hop in value["paths"][0]["hops"])
    ]


def inbound_rates(link_use: Iterable[Mapping[str, Any]]) -> dict[tuple[int, Place], tuple[float, float]]:
    """Return (low, high) of each interface's load inbound, bits/s on the wire, by (start, (exporter, if_index))."""
    return {
        (value["window_start_ns"], (value["exporter"], port["if_index"])): (port["low_bps"], port["high_bps"])
        for value in link_use
        for port in value["interfaces"]
        if port["direction"] == "in" and port["rate_bps"] is not None
    }
