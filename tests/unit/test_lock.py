"""requirements.lock holds every dependency of the project at one version, and names nothing else."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKED = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]
VERSIONS = ("3.11", "3.12")


def locked_for(python: str) -> dict[str, str]:
    """Return the locked versions by name of an installation on Linux."""
    environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.0"}
    chosen = [r for r in LOCKED if r.marker is None or r.marker.evaluate(environment)]
    found = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in chosen}
    assert len(found) == len(chosen), "a name twice"
    return found


def test_every_line_is_a_name_and_one_version() -> None:
    assert [str(r) for r in LOCKED if not re.fullmatch(r"==[0-9][0-9a-z.+]*", str(r.specifier)) or r.url] == []
    assert len(LOCKED) > 60


@pytest.mark.parametrize("python", VERSIONS)
def test_what_the_project_asks_for_is_locked_within_its_ranges(python: str) -> None:
    locked = locked_for(python)
    wrong = [str(r) for r in WANTED if not r.specifier.contains(locked.get(canonicalize_name(r.name), "0"))]
    assert wrong == []


def test_no_line_names_a_host() -> None:
    assert not re.search(r"://|@|--|\.(com|org|net|io)\b", (ROOT / "requirements.lock").read_text())


def test_everybody_who_installs_the_project_does_so_by_the_lock() -> None:
    installs = [
        (str(path.relative_to(ROOT)), line.strip())
        for path in (ROOT / "Makefile", ROOT / "deploy" / "Dockerfile", ROOT / ".ci" / "run")
        for line in path.read_text().splitlines()
        if re.search(r"pip install", line) and "bench/peers" not in line and "-r $<" not in line
    ]
    assert {where for where, _ in installs} == {"Makefile", "deploy/Dockerfile"}
    assert [where for where, line in installs if "-c requirements.lock" not in line] == []


FINDING = """Found 1 known vulnerability in 1 package
Name   Version ID
------ ------- -------------
jinja2 2.10    GHSA-462w-v97r-4m45"""


@pytest.mark.parametrize(
    ("says", "status", "ends", "told"),
    [
        ("No known vulnerabilities found", 0, 0, "no known vulnerability in requirements.lock"),
        (FINDING, 1, 1, "GHSA-462w-v97r-4m45"),
        ("ConnectionError: cannot be resolved", 1, 0, "note: known vulnerabilities were not looked up"),
        ("", 127, 0, "note: known vulnerabilities were not looked up"),
    ],
)
def test_the_audit_fails_on_a_finding_and_not_where_nobody_answers(
    tmp_path: Path, says: str, status: int, ends: int, told: str
) -> None:
    fake = tmp_path / "pip-audit"
    fake.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {status}\n")
    fake.chmod(0o755)
    done = subprocess.run(
        [ROOT / ".ci" / "audit"], env={"AUDIT": str(fake), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, told in done.stdout) == (ends, True), done.stdout + done.stderr
    assert done.stderr == ""


def test_an_audit_that_hangs_is_given_up(tmp_path: Path) -> None:
    fake = tmp_path / "pip-audit"
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    fake.chmod(0o755)
    environment = {"AUDIT": str(fake), "PATH": "/usr/bin:/bin", "AUDIT_WITHIN_S": "0.2"}
    done = subprocess.run(
        [ROOT / ".ci" / "audit"], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
