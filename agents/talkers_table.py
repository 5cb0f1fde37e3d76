"""The Faust table of top talkers: the newest record of each way to group, ranking and window length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flowstream import schemas, talker_results
from flowstream.operators import Result, Said
from flowstream.settings import Settings
from flowstream.topics import BLOCK_BYTES_MAX

STREAM = talker_results.STREAM


class TalkersTable:
    """Keeps what the stage of merges says of talkers; a way to group is in the partition of its cube."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self.table = app.Table(
            STREAM, partitions=settings.topics.partitions, key_type=bytes, value_type=bytes,
            extra_topic_configs={"max.message.bytes": BLOCK_BYTES_MAX},
        )  # fmt: skip
        # A table takes its serializers from its types alone, and for bytes that would be JSON.
        self.table.key_serializer = self.table.value_serializer = "raw"
        self._app = app

    async def keep_results(self, partition: int, said: Iterable[Said]) -> None:
        """Put the newest records into the table: while the partition's event is being processed.

        Returns when the brokers have them: what progress says is done will not be said again.
        """
        newest = {
            _place(result.key): result for result in said if isinstance(result, Result) and result.stream == STREAM
        }
        for place, result in newest.items():
            self.table[_key(partition, place)] = schemas.single_object_encode(STREAM, result.value)
        if newest:
            await self._app.producer.flush()

    def record(self, partition: int, size_ns: int, by: str, rank: str) -> dict[str, Any] | None:
        """Return the newest record; None where none has been said."""
        place = f"{talker_results.seconds_text(size_ns)}|{by}|{rank}"
        raw = self.table.get(_key(partition, place))
        return None if raw is None else schemas.single_object_decode(raw)[1]


def _place(key: str) -> str:
    """Return what a result is of, without the start of its window."""
    return key.partition("|")[2]


def _key(partition: int, place: str) -> bytes:
    return f"{partition:05d}|{place}".encode()
