"""The composition root: ``create_app(settings)`` puts everything together; importing this starts nothing.

``faust -A agents.app worker`` finds ``app``, made from the settings on first use.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import faust
from faust.serializers import codecs
from prometheus_client import CollectorRegistry
from yarl import URL

from agents.analyses import AnalysesAgent
from agents.batches import BatchSchema
from agents.client import faust_credentials
from agents.context import Context
from agents.control import state_to_run
from agents.ingest import IngestAgent
from agents.links import LinkFollower
from agents.publisher import Publisher
from agents.registry import register_schemas
from agents.tables import Tables
from agents.transport import BatchTransport
from agents.web import add_views
from agents.web_guard import Pages, bearer_token, guard, warn_of_exposure
from flowstream import __version__
from flowstream.app_state import Role
from flowstream.metrics import Metrics
from flowstream.results import ResultEncoder
from flowstream.settings import Settings, load
from flowstream.topics import BLOCK_BYTES_MAX, name

ALL_AGENTS = ("ingest", "analyses")

#: Faust's codecs that are left: ``raw`` is ours, ``json`` its own default, of topics that nobody makes here.
CODECS = frozenset({"raw", "json"})

#: Batches waiting in a stream. Together with the batch size it bounds what a slow worker holds in memory.
BATCHES_BUFFERED = 4

#: How long a worker that ends, or gives partitions away, may take over the batches in hand. What is not done by
#: then is done again by the next owner; the others wait for this one meanwhile.
SETTLE_S = 5.0


class FlowstreamApp(faust.App):
    """A Faust app whose consumer delivers ``batched_topics`` in batches."""

    batched_topics: frozenset[str] = frozenset()
    connect: Callable[[], Awaitable[None]]
    disconnect: Callable[[], Awaitable[None]]
    settle: Callable[[], Awaitable[object]]

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

    async def _consumer_wait_empty(self, consumer: Any, logger: Any) -> None:  # noqa: ARG002
        """Finish the batches in hand and commit them, before the worker ends or gives partitions away.

        Faust's own way (``stream_wait_empty``) waits until everything is acked, which batches of an open window
        never are.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self.settle(), SETTLE_S)
        await consumer.commit()

    def _new_transport(self) -> Any:
        return BatchTransport(self.conf.broker_consumer, self)

    def _new_web(self) -> Any:
        return Pages(self)


def create_app(settings: Settings, agents: tuple[str, ...] = ALL_AGENTS, role: Role = "live") -> FlowstreamApp:
    """Build the worker's app with the given agents."""
    _keep_codecs()
    metrics = Metrics(CollectorRegistry())
    token = bearer_token(settings.web)
    warn_of_exposure(settings.web, token)
    app = _faust_app(settings, token)
    publisher = Publisher(settings.kafka)
    context = Context(settings, metrics, publisher, ResultEncoder(settings.output.format), app)
    links = LinkFollower(settings)
    tables = Tables(app, settings, metrics) if "analyses" in agents else None
    schema = BatchSchema(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    batched: set[str] = set()
    settling: list[Callable[[], Awaitable[None]]] = []

    if "ingest" in agents:
        raw = [i.topic for i in settings.inputs]
        batched.update(raw)
        ingest = IngestAgent(context)
        settling.append(ingest.settle)

        async def ingest_stream(stream: Any) -> None:
            await ingest.run(stream)

        app.agent(app.topic(*raw, schema=schema), name="ingest")(ingest_stream)

        async def idle() -> None:
            if not app.rebalancing:
                await ingest.advance_idle()

        app.timer(interval=1.0, name="idle")(idle)

    analyses = None
    if tables is not None:
        flows = name(settings, "flows")
        batched.add(flows)
        analyses = AnalysesAgent(context, tables, links)
        settling.append(analyses.settle)

        async def analyses_stream(stream: Any) -> None:
            await analyses.run(stream)

        app.agent(app.topic(flows, schema=schema), name="analyses")(analyses_stream)

    app.batched_topics = frozenset(batched)
    add_views(context, tables, token)

    async def connect() -> None:
        state = await state_to_run(settings, role)
        if analyses is not None and state is not None:
            analyses.bounds = state.bounds
        context.encoder = ResultEncoder(settings.output.format, await register_schemas(settings))
        await publisher.start()
        if tables is not None:
            await links.start()
        metrics.worker_up.labels(__version__, settings.digest()).set(1)

    async def disconnect() -> None:
        await links.stop()
        await publisher.stop()

    async def count_rebalance(*_: Any, **__: Any) -> None:
        metrics.rebalances.inc()

    async def settle() -> None:
        await asyncio.gather(*[agent() for agent in settling])

    app.connect, app.disconnect, app.settle = connect, disconnect, settle
    app.on_partitions_assigned.connect(count_rebalance, weak=False)
    return app


def _keep_codecs() -> None:
    """Forget every codec of Faust's but those in use: nobody's bytes are ever to be unpickled."""
    codecs.get_codec("raw")  # loads what other packages add, which it would do later
    for codec in set(codecs.codecs) - CODECS:
        del codecs.codecs[codec]


def _faust_app(settings: Settings, token: str) -> FlowstreamApp:
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
        web_host=_reachable(host),
        web_port=settings.web.port,
        web_application_options={"middlewares": [guard(token)]},
        reply_create_topic=False,
        loghandlers=[],
        logging_config=None,
    )


def _reachable(host: str) -> str | None:
    """Return how other workers write the address in a URL; None, this machine's name, where it is any address."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104
        return None
    return f"[{host}]" if ":" in host else host


def __getattr__(attribute: str) -> Any:
    """Make ``app`` when Faust's command line asks for it."""
    if attribute == "app":
        logging.getLogger("aiokafka").setLevel(logging.WARNING)
        made = create_app(load())
        globals()["app"] = made
        return made
    raise AttributeError(attribute)
