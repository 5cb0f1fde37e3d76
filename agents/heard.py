"""When a broker was last heard, and how many requests none of them answered.

Kafka's clients wait for a broker that is away without a word. What they wait for has to show somewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiokafka.errors import KafkaError


class Heard:
    """What the clients of a worker hear of the brokers; told from several threads."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()
        self.on_unanswered: Callable[[str], None] = lambda _client: None

    def silence_s(self) -> float:
        """Return the seconds since a broker answered any request of any client."""
        return time.monotonic() - self._last_s

    def listen(self, client: Any, name: str) -> None:
        """Have an aiokafka client tell of its requests from now on, under a name."""
        send = client.send

        async def told(*args: Any, **options: Any) -> Any:
            try:
                answer = await send(*args, **options)
            except KafkaError:
                self.on_unanswered(name)
                raise
            self._last_s = time.monotonic()
            return answer

        client.send = told
