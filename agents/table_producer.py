"""The producer that writes tables: Faust's, made patient."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from faust.transport.drivers import aiokafka as driver


class TableProducer(driver.Producer):
    """Faust's producer, which writes tables: it neither gives a record up nor sends it out of order.

    A producer that is not idempotent drops what it could not send within its timeout, and Faust only logs that.
    """

    app: Any

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    async def on_start(self) -> None:
        """Connect, and have what no broker answers counted."""
        await super().on_start()
        self.app.heard.listen(self._ensure_producer().client, "tables")

    async def send(self, *args: Any, **options: Any) -> Any:
        """Queue a record; one that cannot be sent ends the worker, where Faust would commit what rests on it."""
        sent: Any = await super().send(*args, **options)
        sent.add_done_callback(self._sent)
        return sent

    def _sent(self, sent: asyncio.Future[Any]) -> None:
        if not sent.cancelled() and (error := sent.exception()) is not None:
            self.add_future(self.app.crash(error))
