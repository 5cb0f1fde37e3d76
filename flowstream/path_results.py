"""What is said of paths: where a flow went and how much of it there was, what changed, and how much was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowstream.cube_sums import COUNTS, Sums
from flowstream.estimate import enough_counted, estimates
from flowstream.flow_keys import Words, flow_fields, flow_key
from flowstream.operators import Result
from flowstream.path_changes import WholePath
from flowstream.path_shapes import Hop, Path
from flowstream.path_sightings import Sighting, Sightings
from flowstream.saturation import COUNT_MAX, whole_bounds
from flowstream.windows import Window

STREAM, EVENTS, WINDOWS = "paths", "path-events", "path-windows"


@dataclass(frozen=True, slots=True)
class Way:
    """What is said of all flows whose sightings are alike; the counts are each flow's own."""

    paths: tuple[Path, ...]
    ambiguous: bool
    told: tuple[dict[str, Any], ...]
    route: dict[str, Any]  # of the first path

    @classmethod
    def of(cls, paths: tuple[Path, ...], *, ambiguous: bool) -> Way:
        """Return it of the paths that sightings make."""
        fields = tuple(map(_path_fields, paths))
        return cls(paths, ambiguous, fields, _route(fields[0]))

    @property
    def whole(self) -> bool:
        """Whether it is one path, known whole."""
        return not self.ambiguous and self.paths[0].complete


def bytes_fields(sums: Sums, samples_min: float) -> list[dict[str, Any]]:
    """Return of each sum ``bytes``, their 95 % gamma interval and ``samples``, the flow records behind them.

    ``bytes`` is None where there are not enough samples, or none at all though something was sampled elsewhere: then
    it is 0 to what one more sample may stand for.
    """
    total, samples = (sums.counts[:, COUNTS.index(name)] for name in ("bytes", "records"))
    variance, weight_max = sums.spread.T
    sure = estimates(samples, total, variance, weight_max, samples_min)
    named = enough_counted(samples, total.astype(np.float64), variance, weight_max, samples_min)
    fields = []
    columns = (total, named, sure.low, sure.high, samples)
    for sent, known, least, most, count in zip(*(column.tolist() for column in columns), strict=True):
        low, high = whole_bounds(least, most, sent)
        fields.append({"bytes": sent if known else None, "bytes_low": low, "bytes_high": high, "samples": count})
    return fields


def head_of(window: Window, flow: Words, figures: Mapping[str, Any], *, elephant: bool) -> dict[str, Any]:
    """Return what is said of a flow, whatever way it went; ``figures`` are its ``bytes_fields``."""
    return {
        "window_start_ns": window.start_ns,
        "window_end_ns": window.end_ns,
        "flow": flow_fields(flow),
        "elephant": elephant,
        **figures,
    }


def told(window: Window, head: Mapping[str, Any], sightings: Sequence[Sighting], way: Way) -> Result:
    """Return where a flow went."""
    value = {
        **head,
        "ambiguous": way.ambiguous,
        "paths": [
            {
                **fields,
                "hops": [
                    {
                        **hop_fields,
                        "samples": sum(sightings[part].samples for part in hop.parts),
                        "ip_ttl": max((sightings[part].ip_ttl for part in hop.parts), default=0),
                    }
                    for hop, hop_fields in zip(path.hops, fields["hops"], strict=True)
                ],
            }
            for path, fields in zip(way.paths, way.told, strict=True)
        ],
    }
    return Result(STREAM, f"{window.start_ns}|{flow_key(head['flow'])}", window.end_ns, value)


def changed(window: Window, head: Mapping[str, Any], before: WholePath, after: WholePath) -> Result:
    """Return that a flow went another way than before."""
    value = {
        **head,
        "before_window_start_ns": before.window_start_ns,
        "before": dict(before.path),
        "after": dict(after.path),
    }
    return Result(EVENTS, f"{window.start_ns}|{flow_key(head['flow'])}", window.end_ns, value)


def summary(
    window: Window, seen: Sightings, chosen: NDArray[np.bool_], ways: Sequence[Way], samples_min: float
) -> Result:
    """Return how much of a window the records of its paths tell: of the flows chosen, by the ``ways`` they took."""
    (figures,) = bytes_fields(seen.sums.by(np.zeros(len(seen), np.int64), 1), samples_min)
    bytes_told = min(sum(seen.bytes[chosen].tolist()), COUNT_MAX)
    value = {
        "window_start_ns": window.start_ns,
        "window_end_ns": window.end_ns,
        "flows": len(seen),
        "flows_told": int(np.count_nonzero(chosen)),
        **figures,
        "bytes_told": None if figures["bytes"] is None else bytes_told,
        "complete": sum(way.whole for way in ways),
        "ambiguous": sum(way.ambiguous for way in ways),
    }
    return Result(WINDOWS, f"{window.start_ns}", window.end_ns, value)


def _path_fields(path: Path) -> dict[str, Any]:
    return {
        "ordered_by": path.ordered_by.value,
        "complete": path.complete,
        "first_known": path.first_known,
        "last_known": path.last_known,
        "hops_seen": path.hops_seen,
        "hops_expected": path.hops_expected,
        "entered_from": path.entered_from,
        "left_to": path.left_to,
        "hops": [_hop_fields(hop) for hop in path.hops],
    }


def _hop_fields(hop: Hop) -> dict[str, Any]:
    exporters = [hop.exporter, *(way.exporter for way in (hop.into, hop.out) if way)]
    return {
        "node": hop.node,
        "exporter": next(filter(None, exporters), None),
        "in_if": (hop.into and hop.into.if_index) or None,
        "out_if": (hop.out and hop.out.if_index) or None,
        "in_port": (hop.into and hop.into.port) or None,
        "out_port": (hop.out and hop.out.port) or None,
        "inferred": not hop.parts,
        "missing_after": hop.missing_after,
    }


def _route(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a path what makes it another one: its nodes and interfaces."""
    names = ("node", "in_if", "out_if", "in_port", "out_port")
    return {
        "entered_from": told["entered_from"],
        "left_to": told["left_to"],
        "hops": [{name: hop[name] for name in names} for hop in told["hops"]],
    }
