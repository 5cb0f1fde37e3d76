"""Where progress is kept: in the last record of a compacted topic's partition, one partition for each of a stage's.

Not in a Faust table. A table's changelog is read to an end that a transaction's marker may hold for ever, from a
beginning that may be far; and it is restored before anybody can keep an owner that was replaced from writing to it.
"""

from __future__ import annotations

from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from agents.client import client_options
from agents.publisher import Outgoing
from flowstream.analysis import Progress
from flowstream.settings import Settings

#: Offsets looked at first, from the end; records of 1 MiB are possible, and every other one may be a marker.
LOOK_BACK = 8


def progress_topic(app: str, stage: str = "analyses") -> str:
    """Return the topic of an app's progress in a stage; of flows, the changelog of the Faust table there once was."""
    return f"{app}-progress-changelog" if stage == "analyses" else f"{app}-{stage}-progress-changelog"


def progress_key(partition: int) -> bytes:
    """Return the key of a partition's progress."""
    return str(partition).encode()


class ProgressLog:
    """Reads the progress of a stage's partition, and makes the records of it."""

    def __init__(self, settings: Settings, stage: str = "analyses") -> None:
        self._kafka = settings.kafka
        self.topic = progress_topic(settings.app, stage)

    def record(self, partition: int, progress: Progress) -> Outgoing:
        """Make the record that replaces the partition's progress."""
        return Outgoing(self.topic, partition, progress_key(partition), progress.encode())

    async def read(self, partition: int) -> Progress | None:
        """Return a partition's progress, None where nothing was stored; StateError if this version cannot read it.

        What belongs to an open transaction, or to one that was given up, was never stored.
        """
        consumer = AIOKafkaConsumer(
            **client_options(self._kafka), isolation_level="read_committed", enable_auto_commit=False,
            auto_offset_reset="earliest", fetch_max_wait_ms=100,
        )  # fmt: skip
        await consumer.start()
        try:
            tp = TopicPartition(self.topic, partition)
            # Asked for first: once it is assigned, answers come behind that to a fetch, which waits for records.
            begin = (await consumer.beginning_offsets([tp]))[tp]
            end = (await consumer.end_offsets([tp]))[tp]
            consumer.assign([tp])
            count = LOOK_BACK
            while True:
                first = max(begin, end - count)
                found, raw = await _last_value(consumer, tp, first, end)
                if found or first == begin:
                    return None if raw is None else Progress.decode(raw)
                count *= 8
        finally:
            await consumer.stop()


async def _last_value(consumer: Any, tp: TopicPartition, first: int, end: int) -> tuple[bool, bytes | None]:
    """Return whether there is a record between two offsets, and the value of the last."""
    consumer.seek(tp, first)
    found, raw = False, None
    while await consumer.position(tp) < end:
        for record in (await consumer.getmany(tp, timeout_ms=50)).get(tp, ()):
            if record.offset < end:
                found, raw = True, record.value
    return found, raw
