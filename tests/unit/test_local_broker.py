"""What the local broker does before there is one: which process is meant, which jars, and what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from agents.broker import LocalBroker
from agents.kafka_jars import POM, resolve_jars
from agents.pidfile import born, live_mark, write_mark
from flowstream.errors import BrokerError


def test_a_pid_file_counts_only_for_the_very_process_it_was_written_for(tmp_path: Path) -> None:
    local = LocalBroker(tmp_path)
    path = tmp_path / "broker.pid"
    assert local.status().detail == "not running"

    write_mark(path, os.getpid(), 19092)
    mark = live_mark(path)
    assert mark is not None
    assert mark.pid == os.getpid()

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        write_mark(path, child.pid, 19092)
        reused = json.loads(path.read_text()) | {"born": born(os.getpid())}
        path.write_text(json.dumps(reused))
        assert not local.status().running
        assert "without being stopped" in local.status().detail
        local.stop()
        assert child.poll() is None, "a process that merely has the old pid was ended"
        assert not path.exists()
        write_mark(path, child.pid, 19092)
        assert local.status().running
        child.kill()
        child.wait()
        assert not local.status().running
    for broken in "", "[]", "{}", '{"pid": 1}', "\x00":
        path.write_text(broken)
        assert not local.status().running


def fake_maven(folder: Path, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "mvn").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "mvn").chmod(0o755)


def test_jars_are_resolved_once_and_again_only_when_one_is_missing_or_the_pom_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, lib, pom = tmp_path / "tools", tmp_path / "cache" / "lib", tmp_path / "pom.xml"
    pom.write_bytes(POM.read_bytes())
    copy = 'for a; do case "$a" in -DoutputDirectory=*) d="${a#*=}";; esac; done; mkdir -p "$d"'
    fake_maven(tools, f'{copy}; touch "$d/a.jar" "$d/b.jar"; echo run >> {tmp_path}/runs')
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")

    def runs() -> int:
        return len((tmp_path / "runs").read_text().splitlines())

    assert resolve_jars(lib, pom) == lib
    assert resolve_jars(lib, pom) == lib
    assert runs() == 1
    (lib / "b.jar").unlink()
    resolve_jars(lib, pom)
    assert runs() == 2
    pom.write_text(pom.read_text().replace("</project>", "<!-- newer --></project>"))
    resolve_jars(lib, pom)
    assert runs() == 3
    (lib / "resolved.json").write_text("[")
    resolve_jars(lib, pom)
    assert runs() == 4
    assert sorted(path.name for path in lib.iterdir()) == ["a.jar", "b.jar", "resolved.json"]
    assert [path.name for path in lib.parent.iterdir()] == ["lib"]


def test_what_is_missing_for_a_broker_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools, lib = tmp_path / "tools", tmp_path / "lib"

    def refusal(pattern: str) -> None:
        with pytest.raises(BrokerError, match=pattern) as raised:
            resolve_jars(lib)
        assert "\n" not in str(raised.value)

    monkeypatch.setenv("PATH", str(tmp_path))
    refusal(r"Maven \(mvn\).*not on the PATH")
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    fake_maven(tools, "echo '[ERROR] Could not find artifact kafka_2.13'; echo '[ERROR] more'; exit 1")
    refusal("Could not find artifact kafka_2.13$")
    fake_maven(tools, "exit 0")
    refusal("Maven ended well but copied no jars")
    assert not lib.exists()
    with pytest.raises(BrokerError, match="is missing"):
        resolve_jars(lib, tmp_path / "no-pom.xml")

    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(BrokerError, match=r"JAVA_HOME=.* has no bin/java: .* JDK of 17"):
        LocalBroker(tmp_path / "kafka").start()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError, match=r"java is not on the PATH: .* JDK of 17"):
        LocalBroker(tmp_path / "kafka").start()


def test_the_pom_pins_every_version() -> None:
    space = "{http://maven.apache.org/POM/4.0.0}"
    tree = ET.parse(POM)
    pinned = [*tree.iter(space + "dependency"), *tree.iter(space + "plugin")]
    assert {entry.findtext(space + "artifactId") for entry in pinned} >= {
        "kafka_2.13",
        "maven-dependency-plugin",
    }
    for entry in pinned:
        version = entry.findtext(space + "version") or ""
        assert version.replace(".", "").isdigit(), entry.findtext(space + "artifactId")
