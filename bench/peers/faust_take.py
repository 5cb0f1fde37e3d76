"""Faust with ``stream.take``: sums of up to 1,000 records first, then one change of the table for each source."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any

from faust.windows import TumblingWindow

from bench.peers.faust_events import Flow, make_app, make_table, plus, run
from bench.peers.jobs import WINDOW_MS

TAKEN, WITHIN_S = 1000, 0.1


def main(_job: str, bootstrap: str, source: str, _output: str, group: str) -> None:
    """Run job a until SIGTERM."""
    app = make_app(bootstrap, group)
    # After ``take`` there is no event at hand to tell the changelog's partition.
    table = make_table(app, use_partitioner=True)
    window = TumblingWindow(WINDOW_MS / 1000)

    @app.agent(app.topic(source, value_serializer=Flow()))
    async def add_up(stream: Any) -> None:
        async for flows in stream.take(TAKEN, within=WITHIN_S):
            sums: dict[tuple[str, Any], list[int]] = defaultdict(lambda: [0, 0, 0])
            for flow in flows:
                of = sums[flow.src_addr.hex(), window.current(flow.time_received_ns / 1e9)]
                of[0] += flow.bytes
                of[1] += flow.packets
                of[2] += 1
            for (src_addr, span), of in sums.items():
                kept = table[src_addr]
                kept[span] = plus(kept[span], of)

    run(app)


if __name__ == "__main__":
    main(*sys.argv[1:])
