"""The alerts ask for metrics that exist, and fire when they should and only then, by Prometheus' own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

PROMETHEUS = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
ALERTS: dict[str, Any] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]


def promtool(*arguments: str, folder: Path = PROMETHEUS) -> subprocess.CompletedProcess[str]:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    return subprocess.run([found, *arguments], capture_output=True, text=True, cwd=folder, check=False)


def test_alerts_ask_only_for_metrics_and_labels_that_exist() -> None:
    from flowstream.metrics import Metrics

    registry = CollectorRegistry()
    Metrics(registry)
    known = {name for collector in registry._collector_to_names.values() for name in collector}
    asked = {name for rule in RULES for name in re.findall(r"\bflowstream_[a-z_]+", rule["expr"])}
    assert len(asked) >= 7
    assert asked - known == set()
    labels = {c._name: set(c._labelnames) for c in registry._collector_to_names if hasattr(c, "_labelnames")}
    for rule in RULES:
        (by,) = {*re.findall(r"by \((\w+)\)", rule["expr"])} or {""}
        names = [re.sub("_total$", "", n) for n in re.findall(r"\bflowstream_[a-z_]+", rule["expr"])]
        assert all(by in labels[name] for name in names if by), rule


def test_every_alert_says_what_it_means_and_how_urgent_it_is() -> None:
    alerts = [rule for rule in RULES if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 6
    for rule in alerts:
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]


def test_prometheus_accepts_its_configuration_and_rules() -> None:
    for check in ["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"]:
        run = promtool(*check)
        assert run.returncode == 0, run.stdout + run.stderr


class Firing(typing.NamedTuple):
    """Series over 40 minutes, one value a minute, and the alerts they should raise at the end."""

    series: dict[str, str]
    alerts: dict[str, list[dict[str, str]]]


UP = {'up{job="flowstream",instance="a"}': "1x40", 'flowstream_worker_up{version="1"}': "1x40"}
LAG = 'flowstream_offset_lag{topic="flow-messages",partition="0",instance="%s"}'
CONSUMED = 'flowstream_records_consumed_total{topic="t",format="goflow"}'
REJECTED = 'flowstream_records_rejected_total{topic="t",reason="%s"}'

FIRINGS = {
    "all is well": Firing(
        UP
        | {
            LAG % "a": "0+10x40",
            'flowstream_watermark_lag_seconds{partition="0"}': "3x40",
            "flowstream_block_gaps_total": "0x40",
            CONSUMED: "0+60000x40",
            REJECTED % "empty": "0+300x40",
            "flowstream_rows_applied_total": "0+60000x40",
            "flowstream_rows_late_total": "0+300x40",
        },
        {},
    ),
    "a worker does not answer": Firing(
        UP | {'up{job="flowstream",instance="b"}': "0x40"},
        {"FlowstreamWorkerDown": [{"job": "flowstream", "instance": "b"}]},
    ),
    "no broker answers one of two workers": Firing(
        UP
        | {
            'flowstream_broker_silence_seconds{instance="a"}': "1x40",
            'flowstream_broker_silence_seconds{instance="b"}': "0x30 0+60x10",
        },
        {"FlowstreamBrokerSilent": [{"instance": "b"}]},
    ),
    "there is no worker": Firing({}, {"FlowstreamWorkerDown": [{}]}),
    "lag grows, and is not counted twice after a rebalance": Firing(
        UP | {LAG % "a": "0+2000x40", LAG % "b": "1000x40"},
        {"FlowstreamLagGrowing": [{"topic": "flow-messages"}]},
    ),
    "lag is large but shrinks": Firing(UP | {LAG % "a": "900000-2000x40"}, {}),
    "lag grows but is small": Firing(UP | {LAG % "a": "0+600x40", LAG % "b": "30000x40"}, {}),
    "one watermark stalls, another only on the worker that gave it up": Firing(
        UP
        | {
            'flowstream_watermark_lag_seconds{partition="0"}': "0+60x40",
            'flowstream_watermark_lag_seconds{partition="1",instance="a"}': "0+60x40",
            'flowstream_watermark_lag_seconds{partition="1",instance="b"}': "3x40",
        },
        {"FlowstreamWatermarkStalled": [{"partition": "0"}]},
    ),
    "a single gap": Firing(UP | {"flowstream_block_gaps_total": "0x35 1x5"}, {"FlowstreamBlockGaps": [{}]}),
    "two per cent are rejected, for two reasons": Firing(
        UP | {CONSUMED: "0+60000x40", REJECTED % "empty": "0+600x40", REJECTED % "truncated": "0+600x40"},
        {"FlowstreamRejectedShareHigh": [{"topic": "t"}]},
    ),
    "two per cent are late": Firing(
        UP | {"flowstream_rows_applied_total": "0+98x40", "flowstream_rows_late_total": "0+2x40"},
        {"FlowstreamLateShareHigh": [{}]},
    ),
}


@pytest.mark.parametrize("firing", FIRINGS.values(), ids=FIRINGS.keys())
def test_alerts_fire_when_they_should_and_only_then(firing: Firing, tmp_path: Path) -> None:
    # Without annotations, which promtool would compare to the letter.
    bare = [{key: part for key, part in rule.items() if key != "annotations"} for rule in RULES]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump({"groups": [{"name": "bare", "rules": bare}]}))
    severity = {rule["alert"]: rule["labels"] for rule in RULES if "alert" in rule}
    expected = [
        {
            "eval_time": "39m",
            "alertname": alert,
            "exp_alerts": [{"exp_labels": labels | severity[alert]} for labels in firing.alerts.get(alert, [])],
        }
        for alert in severity
    ]
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in firing.series.items()],
        "alert_rule_test": expected,
    }
    tests = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": [case]}
    (tmp_path / "case.yml").write_text(yaml.safe_dump(tests))
    run = promtool("test", "rules", "case.yml", folder=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
