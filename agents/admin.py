"""Topics as they should be and as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code

from agents import newest_table
from agents.client import client_options
from agents.progress import progress_topic
from flowstream.errors import BrokerError
from flowstream.settings import Settings
from flowstream.topics import BLOCK_BYTES_MAX, TopicSpec, specs

LISTED_WITHIN_S = 20


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic beside what it should be; ``wrong`` is empty where it is right."""

    spec: TopicSpec
    exists: bool
    partitions: int
    wrong: str


def unreachable(settings: Settings, error: Exception) -> BrokerError:
    """Return what to say where no client can connect; ValueError is what clients raise over an odd address."""
    why = (
        ""
        if isinstance(error, KafkaConnectionError)
        else f" ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    )
    protocol = settings.kafka.security_protocol
    if protocol != "PLAINTEXT":
        named = "kafka.sasl_*" if protocol == "SASL_PLAINTEXT" else "kafka.ssl_*"
        named += " and kafka.sasl_*" if protocol == "SASL_SSL" else ""
        return BrokerError(
            f"no Kafka broker at {settings.kafka.bootstrap} lets us in over {protocol}{why}; "
            f"look at kafka.bootstrap, {named}"
        )
    return BrokerError(
        f"no Kafka broker answers at {settings.kafka.bootstrap}{why}; "
        f"start one (flowstream broker start) or set kafka.bootstrap"
    )


@asynccontextmanager
async def admin_client(settings: Settings) -> AsyncIterator[Any]:
    """Connect an admin client; BrokerError where no broker answers."""
    client = None
    try:
        client = AIOKafkaAdminClient(**client_options(settings.kafka), request_timeout_ms=15_000)
        await client.start()
    except (KafkaError, OSError, ValueError) as error:
        if client is not None:
            await client.close()
        raise unreachable(settings, error) from error
    try:
        yield client
    finally:
        await client.close()


def wanted(settings: Settings) -> list[TopicSpec]:
    """Return our topics and the raw ones."""
    raw = [
        TopicSpec(i.topic, f"raw input ({i.format})", "", settings.topics.partitions, {"cleanup.policy": "delete"})
        for i in settings.inputs
    ]
    return raw + specs(settings)


async def list_topics(settings: Settings) -> set[str]:
    """Return the names of the topics there are."""
    async with admin_client(settings) as client:
        return set(await client.list_topics())


def changelogs(settings: Settings) -> list[TopicSpec]:
    """Return the topics of an app's state: progress, and what is behind its tables by Faust's names for them.

    The first is the progress of flows; where there are merges, their progress and what they said last are the last.
    """
    usual = {"max.message.bytes": str(BLOCK_BYTES_MAX)}
    topics = {progress_topic(settings.app): usual, f"{settings.app}-sources-changelog": usual}
    if settings.is_merging:
        topics |= {progress_topic(settings.app, "merges"): usual}
        topics |= {f"{settings.app}-{newest_table.NAME}-changelog": newest_table.CHANGELOG_CONFIG}
    return [
        TopicSpec(
            topic, f"state of {settings.app}", "", settings.topics.partitions, {"cleanup.policy": "compact", **config}
        )
        for topic, config in topics.items()
    ]


async def create_topics(settings: Settings, chosen: Sequence[TopicSpec] | None = None) -> list[str]:
    """Create the topics that are missing, of those given or of all; return their names."""
    async with admin_client(settings) as client:
        existing = set(await client.list_topics())
        made = [spec for spec in (wanted(settings) if chosen is None else chosen) if spec.name not in existing]
        if made:
            response = await client.create_topics([_new(spec, settings.topics.replication) for spec in made])
            for topic, code, *message in response.topic_errors:
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    raise BrokerError(
                        f"topic {topic} could not be created: {error.__name__} {' '.join(map(str, message))}"
                    )
            await _until_listed(client, {spec.name for spec in made})
        return [spec.name for spec in made]


async def _until_listed(client: Any, topics: set[str]) -> None:
    """Wait until the broker shows topics that it has just made: the next command looks for them."""
    for _ in range(LISTED_WITHIN_S * 10):
        if topics <= set(await client.list_topics()):
            return
        await asyncio.sleep(0.1)
    raise BrokerError(f"the broker does not show new topics within {LISTED_WITHIN_S} s")


def _new(spec: TopicSpec, replication: int) -> NewTopic:
    return NewTopic(spec.name, spec.partitions, replication, topic_configs=dict(spec.config))


async def check_topics(settings: Settings) -> list[TopicState]:
    """Compare every topic with what it should be."""
    async with admin_client(settings) as client:
        existing = set(await client.list_topics())
        present = [spec.name for spec in wanted(settings) if spec.name in existing]
        counts = {t["topic"]: len(t["partitions"]) for t in await client.describe_topics(present)} if present else {}
        configs = await _configs(client, present)
    return [_state(spec, counts.get(spec.name), configs.get(spec.name, {}), settings) for spec in wanted(settings)]


async def _configs(client: Any, topics: list[str]) -> dict[str, dict[str, str]]:
    if not topics:
        return {}
    found: dict[str, dict[str, str]] = {}
    responses = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, t) for t in topics])
    for response in responses:
        for _code, _message, _kind, topic, entries in response.resources:
            found[topic] = {entry[0]: entry[1] for entry in entries}
    return found


def _state(spec: TopicSpec, count: int | None, config: dict[str, str], settings: Settings) -> TopicState:
    if count is None:
        return TopicState(spec, exists=False, partitions=0, wrong="missing; flowstream topics creates it")
    raw = not spec.schema
    wrong = []
    if not raw and count != spec.partitions:
        wrong.append(f"{count} partitions, topics.partitions says {settings.topics.partitions}")
    for key, value in spec.config.items():
        if not raw and config and set(config.get(key, "").split(",")) != set(value.split(",")):
            wrong.append(f"{key} is {config.get(key)}, should be {value}")
    return TopicState(spec, exists=True, partitions=count, wrong="; ".join(wrong))


async def topic_partitions(settings: Settings, topic: str) -> int:
    """Return how many partitions a topic has; BrokerError where it is not there."""
    async with admin_client(settings) as client:
        if topic not in await client.list_topics():
            raise BrokerError(f"topic {topic}: there is none; flowstream topics creates those of the settings")
        return len((await client.describe_topics([topic]))[0]["partitions"])
