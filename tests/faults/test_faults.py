"""The quick scenarios, one test each; ``python -m tests.faults`` runs all of them, in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.broker import LocalBroker
from tests.faults.rig import run
from tests.faults.scenario import Scenario, scenarios

QUICK = [one for one in scenarios().values() if one.quick]


def named(one: Scenario) -> str:
    return one.name.replace(" ", "-")


@pytest.mark.parametrize("one", [one for one in QUICK if not one.own_broker], ids=named)
def test_the_truth_comes_out_of(one: Scenario, broker: str, topic_prefix: str, tmp_path: Path) -> None:
    row = run(one, broker, tmp_path, prefix=topic_prefix, quick=True)
    assert row.passed, row.detail


@pytest.mark.parametrize("one", [one for one in QUICK if one.own_broker], ids=named)
def test_the_truth_comes_out_of_a_harmed_broker(
    one: Scenario, own_broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    row = run(one, own_broker.bootstrap, tmp_path, prefix=topic_prefix, quick=True, broker=own_broker)
    assert row.passed, row.detail
