"""Fixtures that need the outside world: a Kafka broker, and names that nobody else uses on it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from agents.broker import LocalBroker
from agents.kafka_jars import resolve_jars
from agents.kafka_node import find_java
from flowstream.errors import BrokerError

# How long an example takes says nothing here: a first call may compile a kernel, and machines are shared.
settings.register_profile("flowstream", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=2000)  # chosen by `make fuzz`
settings.load_profile("flowstream")


NO_BROKER = "no Kafka broker: "


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what uses a broker, so that ``-m 'not broker'`` leaves out exactly that.

    A process that shares the tests with others begins with those files: they take minutes, and the last one that is
    handed out should not be waited for by all the others.
    """
    for item in items:
        if {"broker", "own_broker"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("broker")
    if hasattr(config, "workerinput"):
        long = {item.path for item in items if item.get_closest_marker("broker")}
        items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give all skips for want of a broker one place, so that the summary says it in one line."""
    report = yield
    if isinstance(report.longrepr, tuple) and NO_BROKER in report.longrepr[2]:
        report.longrepr = (__file__, 1, report.longrepr[2])
    return report


@pytest.fixture(scope="session")
def kafka_jars() -> Path:
    """The jars of a broker, there being a JDK to run them; without either skips, or fails in CI."""
    try:
        find_java()
        return resolve_jars()
    except BrokerError as error:
        required = os.environ.get("CI") == "true" or os.environ.get("FLOWSTREAM_REQUIRE_BROKER") == "1"
        (pytest.fail if required else pytest.skip)(f"{NO_BROKER}{error}")


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of a real broker: FLOWSTREAM_TEST_BROKER, or one started for the session."""
    given = os.environ.get("FLOWSTREAM_TEST_BROKER")
    if given:
        yield given
        return
    request.getfixturevalue("kafka_jars")
    local = LocalBroker(tmp_path_factory.mktemp("kafka"), port=0, controller_port=0)
    with local:
        yield local.bootstrap


@pytest.fixture(scope="session")
def spare_broker(kafka_jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """A second broker, for ``own_broker``; it starts with the first test that asks for it."""
    local = LocalBroker(tmp_path_factory.mktemp("spare"), port=0, controller_port=0, heap_mb=256)
    yield local
    local.kill()


@pytest.fixture
def own_broker(spare_broker: LocalBroker) -> Iterator[LocalBroker]:
    """A running broker that no other test uses meanwhile, to be killed, paused, stopped and started at will.

    Topics of earlier tests may still be on it; ``stop`` and ``start(wipe=True)`` rid it of them.
    """
    spare_broker.start()
    yield spare_broker
    if spare_broker.status().running:
        spare_broker.resume()


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics, groups and application ids that no other test, and no earlier run, has used."""
    return f"t{uuid.uuid4().hex[:12]}-"
