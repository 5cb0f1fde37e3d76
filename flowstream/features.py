"""Flows as points: the feature matrix, its scaling per group, the sampling of groups that are too large."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowstream.batch import V4_MAPPED, Array, FlowBatch
from flowstream.grouping import Groups
from flowstream.log_kernel import log1p_in_place

Scaling = Literal["none", "standard", "log"]
Matrix = NDArray[np.float64]


def _address_number(words: Array) -> Matrix:
    """Return IPv4 addresses as their 32-bit number, IPv6 ones as the float nearest to their 128 bits."""
    high, low = words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)
    mapped = (high == 0) & (low >> np.uint64(32) == np.uint64(V4_MAPPED >> 32))
    v4 = (low & np.uint64(0xFFFF_FFFF)).astype(np.float64)
    return np.where(mapped, v4, high.astype(np.float64) * 2.0**64 + low.astype(np.float64))


def _duration_s(rows: FlowBatch) -> Matrix:
    """Return how long flows lasted, in seconds; one that ends before it starts lasted none."""
    lasted_ns = rows.time_flow_end_ns.astype(np.int64) - rows.time_flow_start_ns.astype(np.int64)
    return np.maximum(lasted_ns, 0).astype(np.float64) / 1e9


def _column(name: str) -> Callable[[FlowBatch], Matrix]:
    return lambda rows: rows.column(name).astype(np.float64)


FEATURES: Mapping[str, Callable[[FlowBatch], Matrix]] = {
    "src_addr": lambda rows: _address_number(rows.src_addr),
    "dst_addr": lambda rows: _address_number(rows.dst_addr),
    "src_port": _column("src_port"),
    "dst_port": _column("dst_port"),
    "duration": _duration_s,
    "in_bytes": _column("in_bytes"),
    "in_packets": _column("in_packets"),
    "out_bytes": _column("bytes"),
    "out_packets": _column("packets"),
}
DEFAULT_FEATURES = ("duration", "in_bytes", "in_packets", "out_bytes", "out_packets")


def feature_names(features: Sequence[str] | str) -> tuple[str, ...]:
    """Return the features by name, "all" being the nine; ValueError where one is unknown or named twice."""
    names = tuple(FEATURES) if features in ("all", ("all",), ["all"]) else features
    if isinstance(names, str) or not names:
        raise ValueError(f"features {features!r} must be 'all' or names out of {', '.join(FEATURES)}")
    unknown = [name for name in names if name not in FEATURES]
    if unknown:
        raise ValueError(f"unknown features {unknown}; there are {', '.join(FEATURES)}")
    if len(set(names)) < len(names):
        raise ValueError(f"a feature is named twice in {list(names)}")
    return tuple(names)


def check_scaling(scaling: str) -> None:
    """Raise ValueError where there is no such scaling."""
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling {scaling!r} is not one of {', '.join(get_args(Scaling))}")


def feature_matrix(rows: FlowBatch, groups: Groups, names: Sequence[str], scaling: Scaling) -> Matrix:
    """Return the features (len(names), grouped rows) float64 in group order, scaled within each group.

    ``none``: as they are. ``standard``: z-scores over the group's rows (population standard deviation), 0
    where they are all equal. ``log``: ``log1p`` first, negative values counting as 0.
    """
    matrix = np.empty((len(names), len(groups.order)))
    for q, name in enumerate(names):
        # Clipping changes no index of a group; numpy's default would write to a copy first, lest one be wrong.
        np.take(FEATURES[name](rows), groups.order, out=matrix[q], mode="clip")
    if scaling == "log":
        log1p_in_place(matrix)
    if scaling != "none":
        _standardise(matrix, groups.bounds)
    return matrix


@njit(nogil=True, cache=True, error_model="numpy")
def _mean_from(column, origin, power):  # type: ignore[no-untyped-def]
    """Return the mean of ``(column - origin) ** power``, summed in row order with Neumaier's compensation."""
    total = 0.0
    lost = 0.0
    for value in column:
        part = value - origin
        if power == 2:
            part *= part
        after = total + part
        lost += (total - after) + part if abs(total) >= abs(part) else (part - after) + total
        total = after
    return (total + lost) / len(column)


@njit(nogil=True, cache=True, error_model="numpy")
def _standardise(matrix, bounds):  # type: ignore[no-untyped-def]
    for g in range(len(bounds) - 1):
        for q in range(len(matrix)):
            column = matrix[q, bounds[g] : bounds[g + 1]]
            # Equal values are asked for directly: their computed deviation may be a rounding error, not zero.
            equal = True
            for value in column:
                equal &= value == column[0]
            if equal:
                column[:] = 0.0
                continue
            mean = _mean_from(column, 0.0, 1)
            deviation = np.sqrt(_mean_from(column, mean, 2))
            for t in range(len(column)):
                column[t] = (column[t] - mean) / deviation


def _mixed(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalise as splitmix64 does (Steele, Lea, Flood, OOPSLA 2014)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def origin_hash(rows: FlowBatch) -> NDArray[np.uint64]:
    """Hash where each row came from: the same row hashes the same in any batch, window or replay."""
    step = np.uint64(0x9E3779B97F4A7C15)
    hashed = _mixed(rows.origin_id.astype(np.uint64) + step)
    hashed = _mixed(hashed ^ (rows.origin_offset.astype(np.int64).view(np.uint64) + step))
    return _mixed(hashed ^ (rows.origin_row.astype(np.uint64) + step))


def sample_groups(rows: FlowBatch, groups: Groups, flows_max: int) -> Groups:
    """Reduce groups of more than ``flows_max`` rows to those of the least origin hashes, in their order."""
    sizes = groups.sizes
    large = np.flatnonzero(sizes > flows_max)
    if not len(large):
        return groups
    keep = np.ones(len(groups.order), np.bool_)
    for g in large.tolist():  # each has over flows_max rows, so there are few
        a, b = int(groups.bounds[g]), int(groups.bounds[g + 1])
        hashed = origin_hash(rows.take(groups.order[a:b]))
        keep[a + np.argsort(hashed, kind="stable")[flows_max:]] = False
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.minimum(sizes, flows_max))])
    return Groups(groups.order[keep], bounds)
