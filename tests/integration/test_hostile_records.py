"""What a producer may write that brokers accept and no client library would write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from agents.publisher import REQUEST_BYTES_MAX
from agents.record_batches import SealedBatch
from flowstream.blocks import decode_block
from flowstream.byte_column import ByteColumn
from flowstream.record_kernel import Run, SectionWriter
from tests.builders import goflow2_v2
from tests.integration.kafka import read_all
from tests.integration.lab import Lab
from tests.waiting import wait_for

RECORDS = 6


@pytest.fixture
def lab(broker: str, topic_prefix: str, tmp_path: Path) -> Iterator[Lab]:
    with Lab(broker, topic_prefix, tmp_path) as made:
        yield made


def lying(values: Sequence[bytes], place: int, delta: int) -> SealedBatch:
    """Return a batch in which the record at ``place`` claims another offset; its length stays what it was."""
    (section,) = [*(writer := SectionWriter(1 << 16)).put(Run(None, ByteColumn.of(values))), *writer.rest()]
    records, at = section.records.copy(), 0
    for _ in range(place):
        size, used = int(records[at] & 0x7F), 1
        if records[at] & 0x80:
            size, used = size | int(records[at + 1]) << 7, 2
        at += used + size // 2
    assert records[at] & 0x80, "a length of two bytes"
    assert records[at + 4] == 2 * place, "the offset's place"
    records[at + 4] = 2 * delta if delta >= 0 else -2 * delta - 1
    return SealedBatch(type(section)(records, section.count), "none", int(time.time() * 1000), REQUEST_BYTES_MAX)


def send(broker: str, topic: str, batches: Sequence[Any]) -> None:
    async def go() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=broker)
        await producer.start()
        try:
            for batch in batches:
                await (await producer.send_batch(batch, topic, partition=0))
        finally:
            await producer.stop()

    asyncio.run(go())


def test_a_record_that_claims_another_offset_is_where_the_broker_put_it_and_moves_no_other(lab: Lab) -> None:
    values = [goflow2_v2(src_port=port) for port in range(RECORDS)]
    honest = [values] * 4
    claims = [(1, -3), (3, 60), (RECORDS - 1, 0), (0, 5)]
    lab.prepare()
    send(lab.broker, lab.raw, [lying(batch, *claim) for batch, claim in zip(honest, claims, strict=True)])
    total = RECORDS * len(claims)
    # A client that believes the records sees other offsets than there are: the broker did not look.
    assert sorted(r.offset for r in read_all(lab.broker, lab.raw)) != list(range(total))

    lab.worker("ingest")
    told: list[Any] = []

    def all_are_told() -> bool:
        told[:] = [decode_block(r.value) for r in read_all(lab.broker, lab.topic("flows"))]
        return max((block.to_offset for block in told), default=0) >= total

    wait_for(all_are_told, "the blocks of all records", 30)
    found = [row for b in told for row in zip(b.rows.origin_offset.tolist(), b.rows.src_port.tolist(), strict=True)]
    assert sorted(found) == [(offset, offset % RECORDS) for offset in range(total)]
