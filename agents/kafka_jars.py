"""The jars of a Kafka broker, resolved by Maven from ``deploy/kafka/pom.xml``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from flowstream.errors import BrokerError

ROOT = Path(__file__).resolve().parents[1]
POM = ROOT / "deploy" / "kafka" / "pom.xml"
JARS = ROOT / ".flowstream" / "kafka" / "lib"

_STAMP = "resolved.json"  # written last: a folder without it was interrupted
_MAVEN_TIMEOUT_S = 900  # a first resolution downloads some 100 MB


def resolve_jars(folder: Path = JARS, pom: Path = POM) -> Path:
    """Return a folder that holds every jar the pom asks for; Maven runs only where it is not complete.

    Safe to call from several processes at once. Raises BrokerError, in one line, where the pom or Maven is
    missing or where Maven cannot resolve the artifacts.
    """
    if not pom.is_file():
        raise BrokerError(f"no Kafka jars: {pom} is missing (a local broker needs a source checkout)")
    wanted = hashlib.sha256(pom.read_bytes()).hexdigest()
    if _complete(folder, wanted):
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerError(f"no Kafka jars in {folder}, and Maven (mvn), which would fetch them, is not on the PATH")
    # Resolved aside and renamed, so that nobody ever sees, or reuses, half of a set.
    aside = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _copy_dependencies(maven, pom, aside)
        jars = sorted(jar.name for jar in aside.glob("*.jar"))
        if not jars:
            raise BrokerError("no Kafka jars: Maven ended well but copied no jars")
        (aside / _STAMP).write_text(json.dumps({"pom_sha256": wanted, "jars": jars}, indent=1))
        if not _complete(folder, wanted):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                aside.rename(folder)
            except OSError as error:
                if not _complete(folder, wanted):  # else another process came first, with the same jars
                    raise BrokerError(f"cannot place the Kafka jars in {folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _complete(folder: Path, wanted: str) -> bool:
    try:
        stamp = json.loads((folder / _STAMP).read_text())
        held: bool = stamp["pom_sha256"] == wanted and bool(stamp["jars"])
        return held and all((folder / name).is_file() for name in stamp["jars"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _copy_dependencies(maven: str, pom: Path, folder: Path) -> None:
    command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
    command.append(f"-DoutputDirectory={folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        run = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            timeout=_MAVEN_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise BrokerError(f"Maven did not fetch the Kafka jars within {_MAVEN_TIMEOUT_S} s") from None
    if run.returncode:
        said = [line for line in (run.stdout + run.stderr).splitlines() if "ERROR" in line]
        first = re.sub(r"\x1b\[[0-9;]*m", "", said[0]) if said else f"status {run.returncode}"
        raise BrokerError(f"Maven could not fetch the Kafka jars: {first[:300]}")


def main() -> int:
    """Fetch the jars, for ``make setup``: nothing to say if they are there, one line otherwise."""
    try:
        resolve_jars()
    except BrokerError as error:
        sys.stderr.write(f"note: {error}; tests that need a broker cannot run\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
