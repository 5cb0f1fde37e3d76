"""The elephants of a flows partition by the links that they leave switches on: partials of cube ``ELEPHANT_HOP``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from flowstream.batch import Array
from flowstream.cube_sums import weights
from flowstream.flow_keys import FLOW_WORDS, ElephantFlows, flow_words, rows_among
from flowstream.grouping import group_rows
from flowstream.normalise import PSEUDO_IF_MIN
from flowstream.operators import Pane
from flowstream.partials import KEYS


def elephant_hops(elephants: ElephantFlows) -> Callable[[Pane], Mapping[str, Array]]:
    """Return what makes the cube's columns of a pane: (exporter, out_if, flow), in the order of these.

    Every sighting counts where it was made: a flow is on each link of its way.
    """

    def make(pane: Pane) -> Mapping[str, Array]:
        rows = rows_among(pane.rows, np.concatenate([elephants.active, elephants.begun]))
        known = (rows.exporter != 0).any(axis=1) & (rows.out_if > 0) & (rows.out_if < PSEUDO_IF_MIN)
        rows = rows.take(known)
        words = np.empty((len(rows), 3 + FLOW_WORDS), np.uint64)
        words[:, :2], words[:, 2], words[:, 3:] = rows.exporter, rows.out_if, flow_words(rows)
        groups = group_rows(*words.T)
        group = np.empty(len(rows), np.int64)
        group[groups.order] = np.repeat(np.arange(len(groups)), groups.sizes)
        keys = dict(zip(KEYS, np.ascontiguousarray(words[groups.firsts].T), strict=True))
        return {**keys, **weights(rows).by(group, len(groups)).columns()}

    return make
