"""Record batches made outside of aiokafka's builder, for its producer to send.

The producer is given batches whose records are written and compressed already; it sets its id, epoch and sequence
number when it takes one, and asks for the bytes. This file is the only one that knows what aiokafka (pinned) expects
of a ``BatchBuilder``, and its names for the header's fields and codecs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import partial

from aiokafka import codec
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.record.default_records import DefaultRecordBase as Format
from crc32c import crc32c

from flowstream.record_batches import UNPACKED_BYTES_MAX
from flowstream.record_kernel import Section

HEADER_BYTES: int = Format.HEADER_STRUCT.size

#: Compression by its name: the number in the batch's attributes, and what does it. Packed columns have little left to
#: find: over the fastest levels, those that clients use by default (3 and 9) save 5 % and take 2 and 40 times as long.
CODECS: Mapping[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip": (Format.CODEC_GZIP, codec.gzip_encode),
    "snappy": (Format.CODEC_SNAPPY, codec.snappy_encode),
    "lz4": (Format.CODEC_LZ4, partial(codec.lz4_encode, level=1)),
    "zstd": (Format.CODEC_ZSTD, partial(codec.zstd_encode, level=1)),
}


class SealedBatch:
    """A batch that nothing can be added to; in the producer's eyes, a ``BatchBuilder`` that is closed."""

    def __init__(
        self, section: Section, compression: str, timestamp_ms: int, bytes_max: int, *, in_transaction: bool = False
    ) -> None:
        """Compress a section, unless that makes it no smaller.

        MessageSizeTooLargeError beyond ``bytes_max``, or where nobody would unpack it.
        """
        self._records = section.records.tobytes()
        self._attributes = 0
        if compression != "none":
            number, encode = CODECS[compression]
            compressed = encode(self._records)
            if len(compressed) < len(self._records):
                self._records, self._attributes = compressed, number
        if in_transaction:
            self._attributes |= Format.TRANSACTIONAL_MASK
        self._count = section.count
        self._timestamp_ms = timestamp_ms
        self._producer = (-1, -1, 0)
        self._built: bytearray | None = None
        if self.size() > bytes_max or len(section.records) > UNPACKED_BYTES_MAX:
            raise MessageSizeTooLargeError(
                f"a batch of {self._count} records takes {len(section.records)} bytes, {self.size()} packed"
            )

    def append(self, **_record: object) -> None:
        """Return None, which says that there is no room."""

    def close(self) -> None:
        """Do nothing: it is closed."""

    def closed(self) -> bool:
        """Return that nothing can be added."""
        return True

    def record_count(self) -> int:
        """Return the number of records, by which the producer counts on its sequence numbers."""
        return self._count

    def size(self) -> int:
        """Return the bytes of the batch."""
        return HEADER_BYTES + len(self._records) if self._built is None else len(self._built)

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = (producer_id, producer_epoch, base_sequence)

    def _build(self) -> bytearray:
        """Return the batch's bytes, the same ones whenever they are asked for: a retry must be the same batch."""
        if self._built is None:
            built = bytearray(self.size())
            Format.HEADER_STRUCT.pack_into(
                built, 0,
                0,  # base offset, the broker's to set
                len(built) - Format.AFTER_LEN_OFFSET, Format.NO_PARTITION_LEADER_EPOCH,
                2,  # the message format
                0,  # the checksum, below
                self._attributes, self._count - 1, self._timestamp_ms, self._timestamp_ms, *self._producer, self._count,
            )  # fmt: skip
            built[HEADER_BYTES:] = self._records
            checksum = crc32c(memoryview(built)[Format.ATTRIBUTES_OFFSET :])
            struct.pack_into(">I", built, Format.CRC_OFFSET, checksum)
            self._built, self._records = built, b""
        return self._built
