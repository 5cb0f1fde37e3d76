"""A worker with nothing but the batch transport: ``python -m tests.integration.batch_app`` in a process of its own.

It appends a line per event to a file, so that a test can account for every offset after a kill -9:
``batch <partition> <first> <next> <state it started from>`` before the ack; ``noted <batches>`` now and then.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import faust

from agents.batches import BatchSchema, FetchedBatch
from agents.faust_app import BATCHES_BUFFERED, FlowstreamApp


def main() -> None:
    topic = os.environ["TOPIC"]
    journal = Path(os.environ["JOURNAL"]).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115
    hold = os.environ.get("HOLD")  # "partition": its first batch is never acked
    gate = os.environ.get("GATE")  # a path: nothing is processed until it exists
    app = FlowstreamApp(
        os.environ["GROUP"], broker=f"kafka://{os.environ['BROKER']}", store="memory://", web_enabled=False,
        broker_session_timeout=6.0, broker_heartbeat_interval=1.0, broker_commit_interval=0.3,
        consumer_max_fetch_size=1 << 14, consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=BATCHES_BUFFERED, stream_wait_empty=False, topic_disable_leader=True,
        autodiscover=False, datadir=os.environ["DATADIR"], reply_create_topic=False,
    )  # fmt: skip
    app.batched_topics = frozenset({topic})

    async def nothing() -> None: ...

    app.connect = app.disconnect = nothing
    schema = BatchSchema(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    held: set[int] = set()

    async def consume(stream: object) -> None:
        async for event in stream.noack().events():  # type: ignore[attr-defined]
            batch: FetchedBatch = event.value
            while gate and not Path(gate).exists():
                await asyncio.sleep(0.05)
            if batch.void:
                continue
            partition = batch.tp.partition
            found = app.consumer.committed.get(batch.tp)
            journal.write(
                f"batch {partition} {batch.first_offset} {batch.next_offset} {found.state if found else '-'}\n"
            )
            if hold == str(partition) and partition not in held:
                held.add(partition)
                continue
            app.consumer.ack_batch(batch, f"s{batch.next_offset}")
            await asyncio.sleep(0.002)

    app.agent(app.topic(topic, schema=schema), name="consume")(consume)

    async def report() -> None:
        journal.write(f"noted {sum(map(len, app.consumer._noted.values()))}\n")

    app.timer(interval=0.2)(report)
    faust.Worker(app, loglevel="WARNING", quiet=True, redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    sys.exit(main())
