"""Fetched record batches as they came over the wire, for topics that are read in columns.

aiokafka makes an object of every record. For the topics named by ``ColumnTopics`` its ``PartitionRecords``
gives one ``WireBatch`` per record batch instead: bytes that were checked (CRC), with control batches and
aborted transactions left out by aiokafka's own rules. ``flowstream/record_batches.py`` turns them into columns.

This file is the only one that reaches into aiokafka's fetcher (pinned; tests/agents/test_pins.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBase as Format
from aiokafka.record.memory_records import MemoryRecords
from crc32c import crc32c

from flowstream.record_batches import LegacyBatch, WireBatch, batch_bytes


class ColumnTopics:
    """Says which topics are read in columns. Stands where aiokafka carries a deserializer of values."""

    def __init__(self, reads: Callable[[str], bool]) -> None:
        self.reads = reads

    def __call__(self, value: bytes | None) -> bytes | None:
        """Return a value as it is: what is asked of a deserializer for the other topics."""
        return value


class KeptRecords(MemoryRecords):  # type: ignore[misc]
    """The records of a fetch, which keep the bytes they are read from."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


class PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """aiokafka's records of one fetch and partition, or for ``ColumnTopics`` its record batches."""

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        topics = self._value_deserializer
        if not (isinstance(topics, ColumnTopics) and topics.reads(self._tp.topic)):
            yield from super()._unpack_records()
            return
        raw, at = memoryview(self._records.raw), 0
        while self._records.has_next():
            batch = self._records.next_batch()
            size = batch_bytes(raw, at)
            wire, at = raw[at : at + size], at + size
            is_legacy = getattr(batch, "producer_id", None) is None
            if self._check_crcs and not (batch.validate_crc() if is_legacy else _is_intact(wire)):
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            if is_legacy:
                yield from self._legacy(batch, wire)
                continue
            first = self.next_fetch_offset
            self.next_fetch_offset = batch.next_offset
            if not self._is_passed_over(batch):
                yield WireBatch(wire, max(first, batch.base_offset), batch.next_offset)

    def _is_passed_over(self, batch: Any) -> bool:
        if self._isolation_level == fetcher.READ_COMMITTED:
            self._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and self._contains_abort_marker(batch):
                self._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in self._aborted_producers:
                return True
        return bool(batch.is_control_batch)

    def _legacy(self, batch: Any, wire: memoryview) -> Iterator[LegacyBatch | WireBatch]:
        """Give a batch of the formats before Kafka 0.11, which old segments may still hold, record by record."""
        first = self.next_fetch_offset
        try:
            records = [r for r in batch if r.offset >= first]
        except CorruptRecordException:
            # As it came, which is of no format that is read: whoever takes the batches refuses it.
            self.next_fetch_offset = batch.next_offset
            yield WireBatch(wire, first, batch.next_offset)
            return
        if records:
            self.next_fetch_offset = records[-1].offset + 1
            yield LegacyBatch([(r.offset, -1 if r.timestamp is None else r.timestamp, r.value) for r in records])


def _is_intact(wire: memoryview) -> bool:
    """Say whether a record batch has the checksum it names, by the processor's instruction: aiokafka goes by tables."""
    named = int.from_bytes(wire[Format.CRC_OFFSET : Format.ATTRIBUTES_OFFSET], "big")
    return bool(crc32c(wire[Format.ATTRIBUTES_OFFSET :]) == named)


def install() -> None:
    """Have every consumer made from now on use these classes."""
    fetcher.MemoryRecords = KeptRecords
    fetcher.PartitionRecords = PartitionRecords
