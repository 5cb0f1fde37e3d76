"""What flowstream published of a run, in the shapes in which it is held against the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.testbed.truth import Flow
from deploy.testbed.verdicts import Hops, Place, SourceEstimate, flow_of


def source_bytes(talkers: Iterable[Mapping[str, Any]], window_ns: int) -> dict[tuple[int, str], SourceEstimate]:
    """Return the bytes of sources by (window start, address), of the windows of one length.

    A ``window_ns`` of 0 is the whole run, as in the truth: the last of the longest windows, with a start of 0.
    """
    ranked = [value for value in talkers if (value["by"], value["ranked_by"]) == ("source", "bytes")]
    if not window_ns:
        whole = max(ranked, key=lambda value: (_length_ns(value), value["window_end_ns"]), default=None)
        return {(0, row["src_addr"]): _estimate(row) for row in whole["top"]} if whole else {}
    return {
        (value["window_start_ns"], row["src_addr"]): _estimate(row)
        for value in ranked
        if _length_ns(value) == window_ns
        for row in value["top"]
    }


def _length_ns(value: Mapping[str, Any]) -> int:
    return int(value["window_end_ns"]) - int(value["window_start_ns"])


def _estimate(row: Mapping[str, Any]) -> SourceEstimate:
    stated = row["bytes"] is not None
    return SourceEstimate(row["bytes"] or 0, row["bytes_low"], row["bytes_high"], row["records"], stated)


def whole_paths(paths: Iterable[Mapping[str, Any]]) -> list[tuple[Flow, Hops]]:
    """Return the paths that are told as one and whole, all hops of them reported, as (exporter, in_if, out_if)."""
    return [
        (flow_of(value), [(hop["exporter"], hop["in_if"], hop["out_if"]) for hop in value["paths"][0]["hops"]])
        for value in paths
        if not value["ambiguous"] and len(value["paths"]) == 1 and value["paths"][0]["complete"]
        if not any(hop["inferred"] for hop in value["paths"][0]["hops"])
    ]


def inbound_rates(link_use: Iterable[Mapping[str, Any]]) -> dict[tuple[int, Place], tuple[float, float, float]]:
    """Return (low, estimate, high) of loads inbound, bits/s on the wire, by (start, (exporter, if_index))."""
    return {
        (value["window_start_ns"], (value["exporter"], port["if_index"])): (
            port["low_bps"],
            port["rate_bps"],
            port["high_bps"],
        )
        for value in link_use
        for port in value["interfaces"]
        if port["direction"] == "in" and port["rate_bps"] is not None
    }
