"""The composition root: ``create_app(settings)`` puts everything together; importing this starts nothing.

``faust -A agents.app worker`` finds ``app``, made from the settings on first use.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry

from agents.admin import changelogs, create_topics, unreachable
from agents.analyses import AnalysesAgent
from agents.batches import BatchSchema
from agents.context import Context
from agents.control import state_to_run
from agents.delivery import AtLeastOnce, Delivery
from agents.faust_app import FlowstreamApp, faust_app
from agents.ingest import IngestAgent
from agents.inventory import InventoryFollower
from agents.newest_table import NewestTable
from agents.progress import ProgressLog
from agents.publisher import Publisher
from agents.registry import register_schemas
from agents.tables import Tables
from agents.transactions import Transactional
from agents.web import add_views
from agents.web_guard import bearer_token, warn_of_exposure
from flowstream import __version__
from flowstream.app_state import Role
from flowstream.merging import PartitionMerges, merging_bounds
from flowstream.metrics import Metrics
from flowstream.results import ResultEncoder
from flowstream.settings import Settings, load
from flowstream.topics import name

ALL_AGENTS = ("ingest", "analyses", "merges")


class _Parts:
    """What a worker is put together of, and how that is connected, settled and disconnected."""

    def __init__(self, context: Context, agents: tuple[str, ...], role: Role) -> None:
        settings, app = context.settings, context.app
        self._context = context
        self._role: Role = role
        self._inventory = InventoryFollower(settings)
        self.tables = Tables(app, settings, context.metrics) if "analyses" in agents else None
        self._ingest = IngestAgent(context) if "ingest" in agents else None
        self._analyses = self._merges = None
        self.newest: NewestTable | None = None
        if self.tables is not None:
            self._analyses = AnalysesAgent(context, self.tables, self._inventory, _delivery(context, "analyses"))
        if "merges" in agents and settings.is_merging:
            delivery = _delivery(context, "merges")
            self.newest = NewestTable(app, settings)
            self._merges = AnalysesAgent(context, self.newest, self._inventory, delivery, PartitionMerges)
        self._stages = [stage for stage in (self._analyses, self._merges) if stage is not None]
        batched: set[str] = set()
        if self._ingest is not None:
            batched.update(i.topic for i in settings.inputs)
            _host_ingest(app, self._ingest, [i.topic for i in settings.inputs])
        for stage in self._stages:
            batched.add(name(settings, stage.stage.stream))
            _host_stage(app, stage, name(settings, stage.stage.stream))
        app.batched_topics = frozenset(batched)

    async def connect(self) -> None:
        """Connect what is ours; BrokerError or SettingsError where this worker cannot, or must not, run."""
        context, settings = self._context, self._context.settings
        state = await state_to_run(settings, self._role)
        if self._analyses is not None and state is not None:
            self._analyses.bounds = state.bounds
        if self._merges is not None and state is not None:
            self._merges.bounds = dict.fromkeys(range(settings.topics.partitions), merging_bounds(state.bounds))
        context.encoder = ResultEncoder(settings.output.format, await register_schemas(settings))
        try:
            await context.publisher.start()
            if self._stages:
                if settings.kafka.declare_topics:
                    # Faust knows of one of our tables only, and its own command comes here unprepared.
                    await create_topics(settings, changelogs(settings))
                await self._inventory.start()
        except (KafkaError, OSError, ValueError) as error:
            raise unreachable(settings, error) from error
        context.metrics.worker_up.labels(__version__, settings.digest()).set(1)

    async def settle(self) -> None:
        """Wait until the batches in hand are done with."""
        await asyncio.gather(*[part.settle() for part in (self._ingest, *self._stages) if part is not None])

    async def disconnect(self) -> None:
        """Let go of everything."""
        for stage in self._stages:
            await stage.let_go()
        await self._inventory.stop()
        await self._context.publisher.stop()


def create_app(settings: Settings, agents: tuple[str, ...] = ALL_AGENTS, role: Role = "live") -> FlowstreamApp:
    """Build the worker's app with the given agents."""
    metrics = Metrics(CollectorRegistry())
    token = bearer_token(settings.web)
    warn_of_exposure(settings.web, token)
    app = faust_app(settings, token)
    app.heard.on_unanswered = lambda client: metrics.requests_unanswered.labels(client).inc()
    metrics.broker_silence_seconds.set_function(app.heard.silence_s)
    publisher = Publisher(settings.kafka, app.heard)
    context = Context(settings, metrics, publisher, ResultEncoder(settings.output.format), app)
    parts = _Parts(context, agents, role)
    app.connect, app.disconnect, app.settle = parts.connect, parts.disconnect, parts.settle
    add_views(context, parts.tables, parts.newest, token)

    async def rebalanced(*_: Any, **__: Any) -> None:
        metrics.rebalances.inc()
        # Opening partitions takes clients, which are cycles when they are closed. Left to its thresholds
        # (agents/worker.py), the collector would let those of a hundred rebalances add up. Nothing is processed now.
        gc.collect()

    app.on_partitions_assigned.connect(rebalanced, weak=False)
    return app


def _host_ingest(app: FlowstreamApp, ingest: IngestAgent, topics: list[str]) -> None:
    async def ingest_stream(stream: Any) -> None:
        await ingest.run(stream)

    async def idle() -> None:
        if not app.rebalancing:
            await ingest.advance_idle()

    app.agent(app.topic(*topics, schema=_bytes_schema()), name="ingest")(ingest_stream)
    app.timer(interval=1.0, name="idle")(idle)


def _host_stage(app: FlowstreamApp, hosted: AnalysesAgent, topic: str) -> None:
    async def stage_stream(stream: Any) -> None:
        await hosted.run(stream)

    async def let_go(*sent: Any, **__: Any) -> None:
        await hosted.let_go(sent[1])

    app.agent(app.topic(topic, schema=_bytes_schema()), name=hosted.stage.stage)(stage_stream)
    app.on_partitions_revoked.connect(let_go, weak=False)


def _bytes_schema() -> BatchSchema:
    return BatchSchema(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")


def _delivery(context: Context, stage: str) -> Delivery:
    stored = ProgressLog(context.settings, stage)
    if context.settings.delivery == "at-least-once":
        return AtLeastOnce(context.publisher, stored)

    async def is_member() -> bool:
        return await context.consumer.is_member()

    return Transactional(context.settings, stored, is_member, stage)


def __getattr__(attribute: str) -> Any:
    """Make ``app`` when Faust's command line asks for it."""
    if attribute == "app":
        logging.getLogger("aiokafka").setLevel(logging.WARNING)
        made = create_app(load())
        globals()["app"] = made
        return made
    raise AttributeError(attribute)
