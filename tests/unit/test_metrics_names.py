"""Metrics: named as Prometheus wants them, with bounded labels, each of them used, and each documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from flowstream.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "metrics.md"
#: What may tell series apart: topics, partitions and names from closed sets, never an address or a key.
LABELS = {"topic", "partition", "format", "reason", "table", "version", "settings", "client"}
COLLECTORS: dict[str, Any] = {
    attribute: value
    for attribute, value in vars(Metrics(CollectorRegistry())).items()
    if isinstance(value, Counter | Gauge | Histogram)
}


def exposed(collector: Any) -> str:
    """Return the name under which a metric is scraped."""
    return f"{collector._name}_total" if isinstance(collector, Counter) else str(collector._name)


def row(collector: Any) -> str:
    """Return how a metric's row in docs/metrics.md begins."""
    labels = ", ".join(collector._labelnames)
    return f"| `{exposed(collector)}` | {collector._type} | {labels} | {collector._documentation} |"


@pytest.mark.parametrize("attribute", COLLECTORS)
def test_a_name_has_our_prefix_and_is_the_attributes_name(attribute: str):
    assert COLLECTORS[attribute]._name == f"flowstream_{attribute}"
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", attribute)


@pytest.mark.parametrize("attribute", COLLECTORS)
def test_durations_are_in_seconds_and_say_so(attribute: str):
    collector = COLLECTORS[attribute]
    told = attribute.endswith("_seconds")
    assert told or not isinstance(collector, Histogram)
    assert not re.search(r"_(ms|ns|s|minutes|time|latency)$", attribute)


@pytest.mark.parametrize("attribute", COLLECTORS)
def test_labels_are_bounded(attribute: str):
    assert set(COLLECTORS[attribute]._labelnames) <= LABELS


@pytest.mark.parametrize("attribute", COLLECTORS)
def test_every_metric_is_set_by_the_agents(attribute: str):
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "agents").glob("*.py"))
    assert re.search(rf"metrics\.{attribute}\b", code)


def test_every_metric_that_is_set_exists():
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "agents").glob("*.py"))
    used = set(re.findall(r"metrics\.([a-z_]+)\.(?:inc|set|labels|time|observe)\(", code))
    assert used
    assert used <= set(COLLECTORS)


def test_two_workers_in_one_process_do_not_share_a_metric():
    first, second = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    first.rows_late.inc(7)
    assert b"flowstream_rows_late_total 7.0" in generate_latest(first.registry)
    assert b"flowstream_rows_late_total 0.0" in generate_latest(second.registry)


@pytest.mark.parametrize("attribute", COLLECTORS)
def test_every_metric_is_documented_as_it_is(attribute: str):
    wanted = row(COLLECTORS[attribute])
    told = [line for line in PAGE.read_text().splitlines() if line.startswith(wanted)]
    assert len(told) == 1, wanted
    assert told[0].removeprefix(wanted).strip(" |"), "what to do about it is missing"


def test_no_metric_is_documented_that_does_not_exist():
    told = re.findall(r"^\| `(flowstream_\w+)` ", PAGE.read_text(), re.MULTILINE)
    assert sorted(told) == sorted(map(exposed, COLLECTORS.values()))
