"""The composition root: ``create_app(settings)`` puts everything together; importing this starts nothing.

``faust -A agents.app worker`` finds ``app``, made from the settings on first use.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import faust
from prometheus_client import CollectorRegistry
from yarl import URL

from agents.admin import changelogs, create_topics
from agents.analyses import AnalysesAgent
from agents.batches import BatchSchema
from agents.client import faust_credentials
from agents.context import Context
from agents.delivery import AtLeastOnce, Delivery
from agents.ingest import IngestAgent
from agents.links import LinkFollower
from agents.progress import ProgressLog
from agents.publisher import Publisher
from agents.registry import register_schemas
from agents.tables import Tables
from agents.transactions import Transactional
from agents.transport import BatchTransport
from agents.web import add_views
from flowstream import __version__
from flowstream.metrics import Metrics
from flowstream.results import ResultEncoder
from flowstream.settings import Settings, load
from flowstream.topics import BLOCK_BYTES_MAX, name

ALL_AGENTS = ("ingest", "analyses")

#: Batches waiting in a stream. Together with the batch size it bounds what a slow worker holds in memory.
BATCHES_BUFFERED = 4


class FlowstreamApp(faust.App):
    """A Faust app whose consumer delivers ``batched_topics`` in batches."""

    batched_topics: frozenset[str] = frozenset()
    connect: Callable[[], Awaitable[None]]
    disconnect: Callable[[], Awaitable[None]]

    async def on_first_start(self) -> None:
        """Make our folder, parents included."""
        self.conf.datadir.mkdir(parents=True, exist_ok=True)
        await super().on_first_start()

    async def on_start(self) -> None:
        """Connect what is ours before Faust's consumer starts."""
        await super().on_start()
        await self.connect()

    async def on_shutdown(self) -> None:
        """Disconnect last, when nothing is processed any more."""
        await self.disconnect()
        await super().on_shutdown()

    def _new_transport(self) -> Any:
        return BatchTransport(self.conf.broker_consumer, self)


def create_app(settings: Settings, agents: tuple[str, ...] = ALL_AGENTS) -> FlowstreamApp:
    """Build the worker's app with the given agents."""
    metrics = Metrics(CollectorRegistry())
    app = _faust_app(settings)
    publisher = Publisher(settings.kafka)
    context = Context(settings, metrics, publisher, ResultEncoder(settings.output.format), app)
    links = LinkFollower(settings)
    tables = Tables(app, settings, metrics) if "analyses" in agents else None
    analyses: AnalysesAgent | None = None
    schema = BatchSchema(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    batched: set[str] = set()

    if "ingest" in agents:
        raw = [i.topic for i in settings.inputs]
        batched.update(raw)
        ingest = IngestAgent(context)

        async def ingest_stream(stream: Any) -> None:
            await ingest.run(stream)

        app.agent(app.topic(*raw, schema=schema), name="ingest")(ingest_stream)

        async def idle() -> None:
            if not app.rebalancing:
                await ingest.advance_idle()

        app.timer(interval=1.0, name="idle")(idle)

    if tables is not None:
        flows = name(settings, "flows")
        batched.add(flows)
        analyses = hosted = AnalysesAgent(context, tables, links, _delivery(context))

        async def analyses_stream(stream: Any) -> None:
            await hosted.run(stream)

        async def let_go(*sent: Any, **__: Any) -> None:
            await hosted.let_go(sent[1])

        app.agent(app.topic(flows, schema=schema), name="analyses")(analyses_stream)
        app.on_partitions_revoked.connect(let_go, weak=False)

    app.batched_topics = frozenset(batched)
    add_views(context, tables)

    async def connect() -> None:
        context.encoder = ResultEncoder(settings.output.format, await register_schemas(settings))
        await publisher.start()
        if tables is not None:
            if settings.kafka.declare_topics:
                await create_topics(settings, changelogs(settings))  # Faust knows of one only
            await links.start()
        metrics.worker_up.labels(__version__, settings.digest()).set(1)

    async def disconnect() -> None:
        if analyses is not None:
            await analyses.let_go()
        await links.stop()
        await publisher.stop()

    async def count_rebalance(*_: Any, **__: Any) -> None:
        metrics.rebalances.inc()

    app.connect, app.disconnect = connect, disconnect
    app.on_partitions_assigned.connect(count_rebalance, weak=False)
    return app


def _delivery(context: Context) -> Delivery:
    stored = ProgressLog(context.settings)
    if context.settings.delivery == "at-least-once":
        return AtLeastOnce(context.publisher, stored)

    async def is_member() -> bool:
        return await context.consumer.is_member()

    return Transactional(context.settings, stored, is_member)


def _faust_app(settings: Settings) -> FlowstreamApp:
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
        topic_partitions=settings.topics.partitions,
        topic_replication_factor=settings.topics.replication,
        topic_allow_declare=kafka.declare_topics,
        topic_disable_leader=True,
        table_standby_replicas=0,
        stream_buffer_maxsize=BATCHES_BUFFERED,
        # Batches of an open window stay unacked on purpose; waiting for them would never end.
        stream_wait_empty=False,
        web_bind=host,
        web_host=host if host != "0.0.0.0" else None,  # noqa: S104
        web_port=settings.web.port,
        web_tables_enabled=False,
        reply_create_topic=False,
        loghandlers=[],
        logging_config=None,
    )


def __getattr__(attribute: str) -> Any:
    """Make ``app`` when Faust's command line asks for it."""
    if attribute == "app":
        logging.getLogger("aiokafka").setLevel(logging.WARNING)
        made = create_app(load())
        globals()["app"] = made
        return made
    raise AttributeError(attribute)
