"""The Faust app as we want it: its consumer, its pages, its codecs, and how it starts and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import faust
from faust.serializers import codecs
from yarl import URL

from agents.client import faust_credentials
from agents.ending import BoundedWorker
from agents.heard import Heard
from agents.recovery import PatientTableManager
from agents.transport import BatchTransport
from agents.web_guard import Pages, guard
from flowstream.errors import SettingsError
from flowstream.settings import Settings
from flowstream.topics import BLOCK_BYTES_MAX

#: Faust's codecs that are left: ``raw`` is ours, ``json`` its own default, of topics that nobody makes here.
CODECS = frozenset({"raw", "json"})

#: Batches waiting in a stream. Together with the batch size it bounds what a slow worker holds in memory.
BATCHES_BUFFERED = 4

#: How long a worker that ends may take over the batches in hand. What is not done by then the next owner does again.
SETTLE_S = 5.0


class FlowstreamApp(faust.App):
    """A Faust app whose consumer delivers ``batched_topics`` in batches."""

    batched_topics: frozenset[str] = frozenset()
    connect: Callable[[], Awaitable[None]]
    disconnect: Callable[[], Awaitable[None]]
    settle: Callable[[], Awaitable[object]]

    async def on_first_start(self) -> None:
        """Make our folder, parents included."""
        try:
            self.conf.datadir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"data_dir {self.conf.datadir}: {error.strerror}; make room, or set another") from error
        await super().on_first_start()

    async def on_start(self) -> None:
        """Connect what is ours before Faust's consumer starts."""
        await super().on_start()
        await self.connect()

    async def on_shutdown(self) -> None:
        """Disconnect last, when nothing is processed any more."""
        await self.disconnect()
        await super().on_shutdown()

    async def _consumer_wait_empty(self, consumer: Any, logger: Any) -> None:  # noqa: ARG002
        """Finish the batches in hand and commit them before the worker ends.

        Faust's own way (``stream_wait_empty``) waits until everything is acked, which batches of an open window
        never are. In a rebalance, where this is called as well, they are void already.
        """
        if not self.should_stop:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self.settle(), SETTLE_S)
        await consumer.commit()

    def on_rebalance_end(self) -> None:
        """Begin to read streams: called when a rebalance is over and tables are restored."""
        super().on_rebalance_end()
        consumer: Any = self.consumer
        consumer.open_streams()

    def __init__(self, *args: Any, **options: Any) -> None:
        self.heard = Heard()
        super().__init__(*args, **options)

    def _new_transport(self) -> Any:
        return BatchTransport(self.conf.broker_consumer, self)

    def _new_web(self) -> Any:
        return Pages(self)


def faust_app(settings: Settings, token: str) -> FlowstreamApp:
    """Make the app, whose pages want a bearer token unless it is empty."""
    _keep_codecs()
    kafka = settings.kafka
    host = settings.web.host
    return FlowstreamApp(
        settings.app,
        broker=[URL(f"kafka://{address.strip()}") for address in kafka.bootstrap.split(",")],
        broker_credentials=faust_credentials(kafka),
        broker_session_timeout=kafka.session_timeout_s,
        broker_heartbeat_interval=kafka.heartbeat_s,
        broker_commit_interval=1.0,
        broker_request_timeout=max(30.0, kafka.session_timeout_s + 5),
        consumer_max_fetch_size=kafka.fetch_bytes_max,
        consumer_auto_offset_reset="earliest",
        producer_max_request_size=BLOCK_BYTES_MAX,
        producer_request_timeout=60.0,
        store="memory://",
        datadir=str(settings.data_dir / f"{settings.app}-data"),
        autodiscover=False,
        TableManager=PatientTableManager,
        Worker=BoundedWorker,  # of Faust's own command
        topic_partitions=settings.topics.partitions,
        topic_replication_factor=settings.topics.replication,
        topic_allow_declare=kafka.declare_topics,
        topic_disable_leader=True,
        table_standby_replicas=0,
        stream_buffer_maxsize=BATCHES_BUFFERED,
        # Batches of an open window stay unacked on purpose; waiting for them would never end.
        stream_wait_empty=False,
        web_bind=host,
        web_host=_reachable(host),
        web_port=settings.web.port,
        web_application_options={"middlewares": [guard(token)]},
        reply_create_topic=False,
        loghandlers=[],
        logging_config=None,
    )


def _keep_codecs() -> None:
    """Forget every codec of Faust's but those in use: nobody's bytes are ever to be unpickled."""
    codecs.get_codec("raw")  # loads what other packages add, which it would do later
    for codec in set(codecs.codecs) - CODECS:
        del codecs.codecs[codec]


def _reachable(host: str) -> str | None:
    """Return how other workers write the address in a URL; None, this machine's name, where it is any address."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104
        return None
    return f"[{host}]" if ":" in host else host
