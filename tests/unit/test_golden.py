"""The recorded fabric gives the bytes it always gave: on any machine, and until somebody decides otherwise."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden import GOLDEN, RUNS, digests

ROOT = Path(__file__).resolve().parents[2]
KEPT: dict[str, dict[str, str]] = json.loads(GOLDEN.read_text("utf-8"))

#: What the libraries below us ask before they choose a routine for the processor at hand: numpy, and the C library.
OTHER_PROCESSOR = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3 AVX512_ICL AVX512_SPR",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4,-AVX2,-AVX512F",
    "NUMBA_NUM_THREADS": "1",
    "PYTHONHASHSEED": "7",
}
#: Their last bits are not prescribed by any standard; flowstream/log_kernel.py has a logarithm that is.
UNPRESCRIBED = {
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "power", "float_power", "cbrt", "hypot", "sin",
    "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "sinh", "cosh", "tanh", "logaddexp", "gamma", "lgamma",
    "erf", "dot", "matmul", "einsum", "inner", "tensordot", "fma",
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
def test_the_recorded_fabric_gives_the_golden_bytes(run: str):
    found, kept = digests(run), KEPT[run]
    changed = [stream for stream in sorted(found | kept) if found.get(stream) != kept.get(stream)]
    if changed:
        said = "\n".join(f"  {s}: {kept.get(s, 'nothing')}\n    now {found.get(s, 'nothing')}" for s in changed)
        pytest.fail(
            f"other results than before, in {', '.join(changed)} (run {run!r}):\n{said}\n"
            f"If that is meant, say so in CHANGELOG.md and run: python -m tests.golden --update"
        )


def test_the_golden_runs_say_something_on_every_stream():
    from flowstream.topics import STREAMS

    assert set().union(*KEPT.values()) == set(STREAMS)
    assert set(KEPT) == set(RUNS)


def test_another_processor_gives_the_same_bytes():
    """numpy and the C library are told to do without what newer processors have."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.golden"], env=os.environ | OTHER_PROCESSOR, cwd=ROOT, text=True,
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == KEPT


@pytest.mark.parametrize("path", sorted((ROOT / "flowstream").rglob("*.py")), ids=lambda p: p.name)
def test_no_result_rests_on_a_function_whose_last_bit_is_the_machines(path: Path):
    """Sums and products round as IEEE 754 says; compilers may not regroup them, and no other functions are called."""
    tree = ast.parse(path.read_text("utf-8"))
    called = {
        ast.unparse(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) in {"np", "math", "np.linalg", "special"}
    }
    assert {name for name in called if name.rpartition(".")[2] in UNPRESCRIBED or "linalg" in name} == set()
    options = {k.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for k in node.keywords}
    assert options & {"fastmath", "parallel"} == set()
    scipy = {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "scipy" in (node.module or "")
    }
    assert scipy == ({"scipy.special"} if path.name == "estimate.py" else set())  # which rounds what it is given
