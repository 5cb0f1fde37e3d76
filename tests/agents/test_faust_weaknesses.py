"""Parts of Faust that are known to be weak are not in use: docs/reliability.md tells why, one by one."""

from __future__ import annotations

from typing import Any

import pytest
from faust.tables.wrappers import WindowWrapper
from faust.types.enums import ProcessingGuarantee

from agents.app import create_app
from flowstream.settings import load


@pytest.fixture(scope="module")
def app() -> Any:
    return create_app(load())


def test_nothing_of_fausts_own_delivery_is_in_use(app: Any) -> None:
    assert app.conf.processing_guarantee is ProcessingGuarantee.AT_LEAST_ONCE
    assert not app.conf.stream_publish_on_commit
    assert not app.conf.producer_threaded
    assert not app.conf.stream_wait_empty
    assert {topic for topics in (agent.channel.topics for agent in app.agents.values()) for topic in topics} == (
        app.batched_topics
    )


def test_the_timeouts_of_faust_are_not_kept(app: Any) -> None:
    assert app.conf.broker_session_timeout == load().kafka.session_timeout_s < 60
    assert 2 * app.conf.broker_heartbeat_interval < app.conf.broker_session_timeout
    assert app.conf.producer_request_timeout < 1200


def test_no_table_has_a_window_and_none_is_on_disk(app: Any) -> None:
    assert set(app.tables) == {"sources"}
    for table in app.tables.values():
        assert not isinstance(table, WindowWrapper)
        assert table.window is None
        assert type(table.data).__module__ == "faust.stores.memory"
