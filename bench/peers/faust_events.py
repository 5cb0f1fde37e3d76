"""Faust, one event per record: an agent, and a tumbling windowed table by the records' own time.

As Faust's guide writes one. There is no ``group_by``: with one worker the table is right without it, and it
would cost a message more per record. Pairs need windows that close by event time, which Faust has not (its
``on_window_close`` goes by the wall clock), so the agent keeps the flows and closes the windows itself.
"""

from __future__ import annotations

import sys
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver

from bench.peers.flow_message import body, flow_message
from bench.peers.jobs import PARTITIONS, WINDOW_MS
from bench.peers.pairing import Windows

PARSE = flow_message().FromString


class Flow(faust.Codec):
    """The messages of the input."""

    def _loads(self, s: bytes) -> Any:
        return PARSE(body(s))


class CommittedOnly(driver.AIOKafkaConsumerThread):
    """Faust's consumer, reading committed records only: Faust has a setting for that only with more."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        client = super()._create_worker_consumer(transport)
        client._isolation_level = "read_committed"
        return client


driver.Consumer._new_consumer_thread = lambda self: CommittedOnly(self, loop=self.loop, beacon=self.beacon)


def make_app(bootstrap: str, group: str) -> faust.App:
    """Return the app; its files are in the working folder."""
    return faust.App(
        group, broker=f"kafka://{bootstrap}", store="memory://", datadir=group, web_enabled=False, autodiscover=False,
        topic_partitions=PARTITIONS, topic_replication_factor=1, topic_disable_leader=True,
    )  # fmt: skip


def make_table(app: faust.App, **options: Any) -> Any:
    """Return the table of [bytes, packets, flows] by source; its changelog is the topic of results."""
    table = app.Table("sums", default=lambda: [0, 0, 0], partitions=PARTITIONS, **options)
    return table.tumbling(WINDOW_MS / 1000).relative_to(lambda event: event.value.time_received_ns / 1e9)


def plus(left: list[int], right: list[int]) -> list[int]:
    """Add up [bytes, packets, flows]."""
    return [a + b for a, b in zip(left, right, strict=True)]


def agent_of_pairs(app: faust.App, topic: Any, job: str, output: str) -> None:
    """Add the agent of jobs b and c."""
    results = app.topic(output, value_serializer="json")
    windows = Windows(job)

    @app.agent(topic)
    async def compare(stream: Any) -> None:
        async for event in stream.events():
            for result in windows.add(event.value, event.message.partition, event.message.offset):
                await results.send(value=result)


def main(job: str, bootstrap: str, source: str, output: str, group: str) -> None:
    """Run until SIGTERM."""
    app = make_app(bootstrap, group)
    topic = app.topic(source, value_serializer=Flow())
    if job == "a":
        table = make_table(app)

        @app.agent(topic)
        async def add_up(stream: Any) -> None:
            async for flow in stream:
                table[flow.src_addr.hex()].apply(plus, [flow.bytes, flow.packets, 1])
    else:
        agent_of_pairs(app, topic, job, output)
    run(app)


def run(app: faust.App) -> None:
    """Run a worker as the command line does."""
    sys.argv[1:] = []
    faust.Worker(app, loglevel="error", quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main(*sys.argv[1:])
