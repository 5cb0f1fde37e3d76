"""How sure a sampled row is: what it adds to the variance of a sum, and how large one more sample could have been.

What ``flowstream/estimate.py`` makes intervals of.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import inline_njit
from flowstream.batch import FlowBatch, FlowType

FULL_FRAME_BYTES: Final = 1518  # Ethernet, without tags, with FCS


def by_packets(rows: FlowBatch) -> NDArray[np.bool_]:
    """Return which rows stand for as many samples as packets were counted: flow records; a packet sample is one."""
    kinds = rows.flow_type
    return np.asarray((kinds != FlowType.SFLOW_5) & (kinds != FlowType.UNKNOWN))


@inline_njit
def samples_of(packets, by_packet):  # type: ignore[no-untyped-def]
    """Return how many samples a row is, as float."""
    return float(max(packets, np.int64(1))) if by_packet else 1.0


@inline_njit
def variance_of(weight, samples, times):  # type: ignore[no-untyped-def]
    """Return the variance of the bytes of c samples that weigh w together: w^2 / c x (1 - 1 / N), none where N = 1."""
    return weight * weight / samples * (1.0 - 1.0 / float(times))


@inline_njit
def weight_max_of(weight, samples, times):  # type: ignore[no-untyped-def]
    """Return the largest weight that one more sample could have had, 0 of what was not sampled.

    It could have been of a full frame, whatever the few that were seen are of.
    """
    return max(weight / samples, FULL_FRAME_BYTES * float(times)) if times > 1 else 0.0
