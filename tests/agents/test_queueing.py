"""What a publisher does with batches that aiokafka has no room for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, ProducerClosed

from agents.publisher import Outgoing, Publisher
from flowstream.settings import load


class Queue:
    """A producer that takes a batch only at the third time of asking, as while brokers are away."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.taken: list[bytes] = []

    async def send_batch(self, batch: Any, _topic: str, *, partition: int) -> asyncio.Future[None]:
        assert partition == 1
        self.asked.append(bytes(batch._build()))
        if len(self.asked) % 3:
            raise KafkaTimeoutError
        self.taken.append(self.asked[-1])
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


async def test_what_cannot_be_queued_while_no_broker_answers_is_queued_later_once_and_in_order() -> None:
    publisher = Publisher(load(kafka={"compression": "none"}).kafka)
    producer = publisher._producer = Queue()
    await publisher.publish(Outgoing("t", 1, None, bytes([n]) * 600_000) for n in range(3))
    assert len(producer.taken) == 3
    assert [producer.asked.count(batch) for batch in producer.taken] == [3, 3, 3]
    assert [batch.count(bytes([n])) >= 600_000 for n, batch in enumerate(producer.taken)] == [True] * 3
    publisher._producer = None
    with pytest.raises(ProducerClosed):
        await publisher.publish([Outgoing("t", 1, None, b"x")])
