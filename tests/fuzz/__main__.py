"""Runs the search for each law, and then tries what it found on compiled kernels: python -m tests.fuzz --help."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import flowstream
from flowstream.kernel_cache import sources_digest
from tests.fuzz.laws import LAWS

_TRIED = re.compile(r"stat::number_of_executed_units:\s*(\d+)\s*stat::average_exec_per_sec:\s*(\d+)")


class Outcome(NamedTuple):
    """What a law's search came to. ``findings`` are files, each of which breaks the law."""

    tried: int
    per_second: int
    kept: int
    findings: list[Path]
    compiled: bool


def _run(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.fuzz.{module}", *arguments],
        env=os.environ | environment, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip


def search(name: str, folder: Path, seconds: int, size_max: int) -> Outcome:
    """Search for so long, leaving what widened the coverage in ``folder/name`` and what broke the law beside it."""
    corpus, found = folder / name, folder / f"{name}-found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    limits = [
        f"-max_total_time={seconds}",
        f"-max_len={size_max}",
        "-len_control=0",
        "-timeout=20",
        "-print_final_stats=1",
    ]
    said = _run("search", name, str(corpus), *limits, f"-artifact_prefix={found}/", NUMBA_DISABLE_JIT="1")
    tried = _TRIED.search(said.stderr)
    kernels = folder / f"kernels-{sources_digest(Path(flowstream.__file__).parent)}"
    compiled = _run("replay", name, str(corpus), NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(kernels))
    interpreted = _run("replay", name, str(corpus), NUMBA_DISABLE_JIT="1")
    (folder / f"{name}.log").write_text(said.stdout + said.stderr + compiled.stderr + interpreted.stderr)
    same = compiled.returncode == interpreted.returncode == 0 and compiled.stdout == interpreted.stdout
    kept = sum(1 for _ in corpus.iterdir())
    return Outcome(*(map(int, tried.groups()) if tried else (0, 0)), kept, sorted(found.iterdir()), same)


def main() -> int:
    """Search as the arguments say; 1 where a law was broken, 2 where nothing could be searched."""
    arguments = argparse.ArgumentParser(prog="make fuzz ARGS=", description=__doc__)
    arguments.add_argument("--seconds", type=int, default=60, help="for each law (default: 60)")
    arguments.add_argument("--only", default=",".join(LAWS), help=f"laws, separated by commas: {', '.join(LAWS)}")
    arguments.add_argument("--size-max", type=int, default=4096, help="bytes of what is tried (default: 4096)")
    arguments.add_argument("--folder", type=Path, default=Path(".flowstream/fuzz"), help="where what is found stays")
    given = arguments.parse_args()
    names = given.only.split(",")
    if unknown := sorted(set(names) - set(LAWS)):
        arguments.error(f"no law of {', '.join(unknown)}")
    if find_spec("atheris") is None:
        print("atheris is not installed: pip install -e '.[fuzz]'", file=sys.stderr)
        return 2
    print(f"{'law':20} {'tried':>10} {'per second':>10} {'kept':>6}  compiled kernels  findings")
    wrong = False
    for name in names:
        outcome = search(name, given.folder, given.seconds, given.size_max)
        agree = "agree" if outcome.compiled else f"see {name}.log"
        found = ", ".join(map(str, outcome.findings)) or "none"
        print(
            f"{name:20} {outcome.tried:10,} {outcome.per_second:10,} {outcome.kept:6}  {agree:16}  {found}", flush=True
        )
        wrong |= not outcome.compiled or bool(outcome.findings) or not outcome.tried
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
