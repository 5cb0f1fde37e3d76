"""The least that can be said of partials: the sums of every pane and key. It is no analysis of flowstream's."""

from __future__ import annotations

import json
from collections.abc import Sequence

from flowstream.operators import Pane, Result, Said
from flowstream.partials import PartialBatch

#: The columns of a sum's key that the cubes of these tests fill.
KEYS = ("cube", "key_0", "key_1")


class MergedSums:
    """Says bytes, packets and records of every key in every pane, and how many panes with rows there were so far."""

    name = "merged-sums"
    lookback = 0
    quiet = True

    def __init__(self) -> None:
        self.panes = 0

    def process(self, panes: Sequence[Pane[PartialBatch]]) -> list[Said]:
        """Say the pane."""
        pane = panes[-1]
        self.panes += len(pane.rows) > 0
        sums: dict[tuple[int, ...], list[int]] = {}
        rows = pane.rows
        for at in range(len(rows)):
            own = sums.setdefault(tuple(int(rows.column(key)[at]) for key in KEYS), [0, 0, 0])
            for index, column in enumerate(("bytes", "packets", "records")):
                own[index] += int(rows.column(column)[at])
        said: list[Said] = []
        for key, own in sorted(sums.items()):
            value = {"sums": own, "panes": self.panes}
            # There is no schema of this: the body is what would be sent.
            said.append(Result("sources", f"{pane.start_ns}|{key}", pane.end_ns, value, json.dumps(value).encode()))
        return said

    def snapshot(self) -> bytes:
        """Return how many panes with rows there were."""
        return json.dumps(self.panes).encode()

    def restore(self, state: bytes) -> None:
        """Go on from there."""
        self.panes = json.loads(state)
