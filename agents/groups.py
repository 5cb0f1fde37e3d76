"""Consumer groups and the ends of the log: what a group has committed, who is in it, and how to change that.

aiokafka's admin client (0.14) can neither commit nor delete a group, and it takes no notice of the error that a
coordinator gives for a whole group when it is asked for offsets: one that is still loading would look like a group
without any. The requests are therefore built here, out of aiokafka's protocol classes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupIdNotFound,
    GroupLoadInProgressError,
    IllegalGenerationError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    NonEmptyGroup,
    NotCoordinatorForGroupError,
    RebalanceInProgressError,
    RequestTimedOutError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import DeleteGroupsRequest, DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest

from agents.admin import admin_client
from flowstream.errors import BrokerError
from flowstream.settings import Settings

ANSWERED_WITHIN_S = 20.0
RETRY_S = 0.2

#: What passes: a new broker makes its offsets topic first, one that was restarted reads it first.
_PASSING = (
    GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError, RequestTimedOutError,
    NodeNotReadyError, KafkaConnectionError,
)  # fmt: skip
_OCCUPIED = (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError, NonEmptyGroup)


class Position(NamedTuple):
    """What a group has committed for a partition."""

    offset: int  # the next record to be read
    metadata: str  # of a raw topic's partition: its watermark in ns; "" without one


class Member(NamedTuple):
    """A process in a group."""

    member_id: str
    client_id: str
    host: str


async def groups_named(settings: Settings, prefix: str) -> list[str]:
    """Return the groups the cluster knows whose names begin so, in order."""
    async with admin_client(settings) as client:
        try:
            listed = await client.list_consumer_groups()
        except KafkaError as error:
            raise BrokerError(f"the consumer groups cannot be listed: {_said(error)}") from error
    return sorted(group for group, _ in listed if group.startswith(prefix))


async def group_positions(settings: Settings, group: str) -> dict[TopicPartition, Position]:
    """Return what a group has committed, by partition; {} for a group that there is not.

    Raises BrokerError where no broker, or no coordinator of the group, answers.
    """
    async with admin_client(settings) as client:
        response = await _ask(client, group, OffsetFetchRequest(group, None), lambda r: [r.error_code])
    found = {}
    for topic, partitions in response.topics:
        for partition, offset, metadata, code in partitions:
            if code:
                raise BrokerError(f"group {group}: no position of {topic}-{partition}: {for_code(code).__name__}")
            if offset >= 0:
                found[TopicPartition(topic, partition)] = Position(offset, metadata or "")
    return dict(sorted(found.items()))


async def members(settings: Settings, group: str) -> tuple[Member, ...] | None:
    """Return who is in a group: () for one that nobody is in at present, None for one that there is not.

    A member that was killed counts until its session times out.
    """
    async with admin_client(settings) as client:
        request = DescribeGroupsRequest(groups=[group])
        response = await _ask(client, group, request, lambda r: [g[0] for g in r.groups])
    described = response.groups[0]
    state, found = described[2], described[5]
    if described[0] and for_code(described[0]) is not GroupIdNotFound:
        raise BrokerError(f"group {group}: {for_code(described[0]).__name__}")
    return None if state == "Dead" or described[0] else tuple(sorted(Member(*m[:3]) for m in found))


async def require_empty(settings: Settings, group: str) -> None:
    """Raise BrokerError, in one line, where somebody is in the group."""
    found = await members(settings, group)
    if found:
        raise _occupied(group, f"{len(found)} member{'s' * (len(found) > 1)}")


async def commit_positions(settings: Settings, group: str, positions: Mapping[TopicPartition, tuple[int, str]]) -> None:
    """Set what an empty group has committed, as (offset, metadata); partitions that are not given stay as they are.

    Raises BrokerError where somebody is in the group (Kafka itself refuses, so none can slip in between), or where a
    topic is not there; positions of other partitions may have been set by then, and setting them again is harmless.
    """
    if not positions:
        return
    topics = [
        (topic, [(tp.partition, *positions[tp]) for tp in tps])
        for topic, tps in groupby(sorted(positions), key=lambda tp: tp.topic)
    ]
    request = OffsetCommitRequest(
        group, OffsetCommitRequest.DEFAULT_GENERATION_ID, "", OffsetCommitRequest.DEFAULT_RETENTION_TIME, topics
    )
    async with admin_client(settings) as client:
        response = await _ask(client, group, request, lambda r: [c for _, ps in r.topics for _, c in ps])
    for topic, partitions in response.topics:
        for partition, code in partitions:
            if code and for_code(code) in _OCCUPIED:
                raise _occupied(group, "members")
            if code:
                raise BrokerError(
                    f"group {group}: the position of {topic}-{partition} could not be set: {for_code(code).__name__}"
                )


async def delete_group(settings: Settings, group: str) -> bool:
    """Delete a group with its positions; False where there is none. BrokerError where somebody is in it."""
    async with admin_client(settings) as client:
        response = await _ask(client, group, DeleteGroupsRequest([group]), lambda r: [c for _, c in r.results])
    error = for_code(response.results[0][1])
    if error in _OCCUPIED:
        raise _occupied(group, "members")
    if error is GroupIdNotFound:
        return False
    if response.results[0][1]:
        raise BrokerError(f"group {group} could not be deleted: {error.__name__}")
    return True


async def delete_topics(settings: Settings, topics: Collection[str]) -> list[str]:
    """Delete those of the topics that there are, wait until the broker shows them no more, and return their names."""
    async with admin_client(settings) as client:
        present = sorted(set(topics) & set(await client.list_topics()))
        if not present:
            return []
        try:
            response = await client.delete_topics(present, timeout_ms=round(ANSWERED_WITHIN_S * 1000))
        except KafkaError as error:
            raise BrokerError(f"topics could not be deleted: {_said(error)}") from error
        for topic, code in response.topic_error_codes:
            if code and for_code(code) is not UnknownTopicOrPartitionError:
                raise BrokerError(f"topic {topic} could not be deleted: {for_code(code).__name__}")
        for _ in range(round(ANSWERED_WITHIN_S / RETRY_S)):
            if not set(present) & set(await client.list_topics()):
                return present
            await asyncio.sleep(RETRY_S)
    raise BrokerError(f"the broker still shows deleted topics after {ANSWERED_WITHIN_S:g} s: {', '.join(present)}")


async def _ask(client: Any, group: str, request: Any, codes: Callable[[Any], Iterable[int]]) -> Any:
    """Return what the group's coordinator answers, as soon as it is one and is ready."""
    for left in reversed(range(round(ANSWERED_WITHIN_S / RETRY_S))):
        try:
            coordinator = await client.find_coordinator(group)
            response = await client._send_request(request, coordinator)  # noqa: SLF001 - see the module's docstring
            passing = [for_code(code) for code in codes(response) if for_code(code) in _PASSING]
            if not passing:
                return response
            raise passing[0]
        except KafkaError as error:
            if not isinstance(error, _PASSING) or not left:
                raise BrokerError(f"group {group}: its coordinator does not answer: {_said(error)}") from error
            await asyncio.sleep(RETRY_S)
    raise AssertionError("unreachable")


def _occupied(group: str, who: str) -> BrokerError:
    return BrokerError(
        f"group {group} has {who}: stop its workers first (one that was killed leaves after kafka.session_timeout_s)"
    )


def _said(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
