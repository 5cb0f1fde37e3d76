"""What the opening of partitions leaves behind does not add up from rebalance to rebalance."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from faust.types import TP

from agents.app import create_app
from agents.mock_cluster import MockCluster
from agents.progress import ProgressLog
from flowstream.settings import Settings, load


@pytest.fixture
def settings() -> Iterator[Settings]:
    with MockCluster() as cluster:
        yield load(kafka={"bootstrap": cluster.bootstrap})


@pytest.fixture
def _collector_at_rest() -> Iterator[None]:
    """What a worker's thresholds come to: a hundred rebalances fit into them."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_collector_at_rest")
async def test_a_rebalance_leaves_no_client_of_those_before(settings: Settings) -> None:
    app: Any = create_app(settings)
    there = _clients()
    for _ in range(3):
        for partition in range(2):
            assert await ProgressLog(settings).read(partition) is None
        await app.on_partitions_assigned.send({TP("flows", 0)})
        assert _clients() == there


def _clients() -> int:
    return sum(isinstance(one, AIOKafkaClient) for one in gc.get_objects())
