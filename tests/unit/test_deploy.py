"""What is shipped for deployment agrees with the program, with itself, and with the tools that read it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
PROMETHEUS = ROOT / "deploy" / "prometheus"
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*")


def setting_variables(model: Any, prefix: str = "FLOWSTREAM_") -> Iterator[str]:
    """Yield the name of every environment variable that sets something in a settings model."""
    for name, field in model.model_fields.items():
        yield prefix + name.upper()
        if hasattr(field.annotation, "model_fields"):
            yield from setting_variables(field.annotation, f"{prefix}{name.upper()}__")


def docker_lines(instruction: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in joined.splitlines() if line.startswith(instruction + " ")]


def test_every_image_is_pinned_to_a_version() -> None:
    images = [service["image"] for service in SERVICES.values()] + [line.split()[0] for line in docker_lines("FROM")]
    assert [image for image in images if not PINNED.fullmatch(image)] == []


def test_our_image_bears_the_version_of_the_project() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    ours = {service["image"] for service in SERVICES.values() if "build" in service}
    assert ours == {f"flowstream:{version[1]}"}


def test_the_broker_is_the_one_that_the_tests_run_against() -> None:
    pom = (ROOT / "deploy" / "kafka" / "pom.xml").read_text()
    version = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>(.+?)</version>", pom)
    assert version is not None
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version[1]}"


def test_everything_that_is_mounted_copied_or_built_from_exists() -> None:
    named = [service["build"]["dockerfile"] for service in SERVICES.values() if "build" in service]
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                named.append(source)
            else:
                assert source in COMPOSE["volumes"], f"volume {source} is not declared"
    for line in docker_lines("COPY"):
        if not line.startswith("--from="):
            named += line.split()[:-1]
    assert len(named) > 6
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_image_holds_all_that_the_wheel_is_built_from() -> None:
    copied = {path for line in docker_lines("COPY") for path in line.split()[:-1]}
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"^packages = (\[.*\])$", project, re.MULTILINE)
    included = re.findall(r'^"(.+)" = "flowstream/', project, re.MULTILINE)
    assert packages is not None
    assert copied >= {"pyproject.toml", "README.md", "LICENSE", *json.loads(packages[1]), *included}


def test_the_image_runs_without_rights_and_can_write_its_kernel_cache() -> None:
    assert docker_lines("USER") == ["flowstream"]
    home = re.search(r"--home-dir (\S+)", DOCKERFILE)
    cache = re.search(r"NUMBA_CACHE_DIR=(\S+)", DOCKERFILE)
    state = re.search(r"FLOWSTREAM_DATA_DIR=(\S+)", DOCKERFILE)
    assert home is not None
    assert cache is not None
    assert state is not None
    assert cache[1].startswith(home[1] + "/")
    assert state[1].startswith(home[1] + "/")


def test_every_variable_is_a_setting_that_exists() -> None:
    from flowstream.settings import Settings

    known = set(setting_variables(Settings))
    assert {"FLOWSTREAM_KAFKA__BOOTSTRAP", "FLOWSTREAM_WEB__PORT", "FLOWSTREAM_INPUTS"} <= known
    used = set(re.findall(r"\bFLOWSTREAM_[A-Z_0-9]+", DOCKERFILE))
    used |= {name for service in SERVICES.values() for name in service.get("environment", {})}
    assert {name for name in used if name.startswith("FLOWSTREAM_")} - known == set()


def test_the_variables_of_the_worker_are_valid_and_change_only_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from flowstream.settings import load

    monkeypatch.chdir(tmp_path)  # a flowstream.toml of this folder is not meant
    for name in [name for name in os.environ if name.startswith("FLOWSTREAM_")]:
        monkeypatch.delenv(name)
    default = load()
    for name, value in SERVICES["worker"]["environment"].items():
        monkeypatch.setenv(name, value)
    deployed = load()
    assert deployed.kafka.bootstrap == "kafka:9092"
    assert deployed.web.host == "0.0.0.0"
    moved = {"kafka": deployed.kafka, "web": deployed.web}
    assert default.model_copy(update=moved).model_dump() == deployed.model_dump()


def test_collector_and_worker_agree_on_topic_and_format() -> None:
    flags = dict(flag.lstrip("-").partition("=")[::2] for flag in SERVICES["goflow2"]["command"])
    inputs = json.loads(SERVICES["worker"]["environment"]["FLOWSTREAM_INPUTS"])
    assert flags["format"] == "bin"
    assert {"topic": flags["transport.kafka.topic"], "format": "goflow"} in inputs
    assert flags["transport.kafka.brokers"] == SERVICES["worker"]["environment"]["FLOWSTREAM_KAFKA__BOOTSTRAP"]


def test_collector_finds_its_mapping_and_keys_records_by_exporter() -> None:
    flags = dict(flag.lstrip("-").partition("=")[::2] for flag in SERVICES["goflow2"]["command"])
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["goflow2"]["volumes"])
    source = {target: source for source, target in mounts.items()}[flags["mapping"]]
    assert yaml.safe_load((ROOT / source).read_text()) == {"formatter": {"key": ["sampler_address"]}}
    assert flags["transport.kafka.hashing"] == "true"


def test_collector_listens_where_its_ports_are_published() -> None:
    flags = dict(flag.lstrip("-").partition("=")[::2] for flag in SERVICES["goflow2"]["command"])
    listening = set(re.findall(r"://:(\d+)", flags["listen"]))
    assert listening == {"6343", "2055"}
    assert set(SERVICES["goflow2"]["ports"]) == {f"{port}:{port}/udp" for port in listening}


def test_the_default_settings_reach_the_composed_broker_from_the_host() -> None:
    from flowstream.setting_tables import Kafka, Web

    environment = SERVICES["kafka"]["environment"]
    bootstrap = Kafka().bootstrap
    port = bootstrap.rpartition(":")[2]
    assert f"HOST://{bootstrap}" in environment["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f"HOST://:{port}" in environment["KAFKA_LISTENERS"].split(",")
    assert SERVICES["kafka"]["ports"] == [f"{bootstrap}:{port}"]
    assert SERVICES["worker"]["ports"] == [f"127.0.0.1:{Web().port}:{Web().port}"]
    assert f"EXPOSE {Web().port}" in DOCKERFILE


def test_every_broker_listener_has_a_protocol() -> None:
    environment = SERVICES["kafka"]["environment"]
    protocols = dict(pair.split(":") for pair in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    listeners = {listener.split("://")[0] for listener in environment["KAFKA_LISTENERS"].split(",")}
    advertised = {name.split("://")[0] for name in environment["KAFKA_ADVERTISED_LISTENERS"].split(",")}
    assert listeners == set(protocols)
    assert advertised == listeners - {environment["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised


def test_services_run_commands_that_exist() -> None:
    from flowstream.cli import main

    known = main.list_commands(click.Context(main))
    ours = [service["command"][0] for service in SERVICES.values() if "build" in service]
    ours += [json.loads(line)[0] for line in docker_lines("CMD")]
    assert set(ours) - set(known) == set()


def test_topics_exist_before_anything_reads_or_writes_them() -> None:
    done, healthy = "service_completed_successfully", "service_healthy"
    assert SERVICES["topics"]["depends_on"]["kafka"]["condition"] == healthy
    for service in "worker", "goflow2":
        assert SERVICES[service]["depends_on"]["topics"]["condition"] == done
    assert SERVICES["topics"]["restart"] == "no"
    assert all("healthcheck" in service for name, service in SERVICES.items() if name != "topics")


def test_prometheus_scrapes_the_worker_where_its_web_server_is() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "flowstream"]
    (target,) = job["dns_sd_configs"]
    assert target["names"] == ["worker"]
    assert set(target["names"]) <= set(SERVICES)
    assert str(target["port"]) == SERVICES["worker"]["environment"]["FLOWSTREAM_WEB__PORT"]
    assert all((PROMETHEUS / name).is_file() for name in config["rule_files"])
    (mount,) = [v for v in SERVICES["prometheus"]["volumes"] if v.startswith("./deploy/prometheus:")]
    assert mount.split(":")[1] == "/etc/prometheus"
