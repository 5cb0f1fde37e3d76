"""A worker that never acknowledges one batch: the third of partition 0 of each topic in ``HELD_TOPICS``.

It stands for a batch that takes for ever while later ones are done. What is held is written to ``HELD_FILE``,
a line each: topic, first offset.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from agents.batches import FetchedBatch
from agents.transport import BatchConsumer
from flowstream import cli

HELD_BATCH = 3


def main() -> None:
    """Run ``flowstream worker`` with the arguments given."""
    topics = os.environ["HELD_TOPICS"].split(",")
    journal = Path(os.environ["HELD_FILE"])
    acknowledge = BatchConsumer.ack_batch
    seen: Counter[str] = Counter()

    def ack_batch(self: BatchConsumer, batch: FetchedBatch, state: str = "") -> None:
        topic = batch.tp.topic
        if topic in topics and batch.tp.partition == 0:
            seen[topic] += 1
            if seen[topic] == HELD_BATCH:
                with journal.open("a", encoding="utf-8") as lines:
                    lines.write(f"{topic} {batch.first_offset}\n")
                return
        acknowledge(self, batch, state)

    BatchConsumer.ack_batch = ack_batch  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    main()
