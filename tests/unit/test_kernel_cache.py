"""A change of any kernel's source means another cache, so that no old machine code is ever run."""

import os
import shutil
from pathlib import Path

import pytest

import flowstream
from flowstream.kernel_cache import VARIABLE, choose, sources_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "deep").mkdir()
    (tmp_path / "plain.py").write_text("x = 1\n")
    (tmp_path / "caller.py").write_text("from numba import njit\n")
    (tmp_path / "deep" / "callee.py").write_text("from numba import njit  # 1\n")
    return tmp_path


def test_a_change_of_a_file_that_a_kernel_calls_changes_the_digest(package: Path) -> None:
    before = sources_digest(package)
    (package / "plain.py").write_text("x = 2\n")
    assert sources_digest(package) == before
    (package / "deep" / "callee.py").write_text("from numba import njit  # 2\n")
    assert sources_digest(package) != before


@pytest.mark.parametrize(
    "line",
    ["from flowstream.plain import x", "from flowstream.plain import (\n    x,\n)", "from flowstream import plain"],
)
def test_a_change_of_a_file_that_a_kernels_file_imports_or_that_one_imports_changes_the_digest(
    package: Path, line: str
) -> None:
    (package / "deep" / "callee.py").write_text(f"from numba import njit\n{line}\n")
    (package / "plain.py").write_text("from flowstream.deep.tables import NUMBERS\n")
    digests = set()
    for numbers in (b"1", b"2"):
        (package / "deep" / "tables.py").write_bytes(b"NUMBERS = " + numbers)
        digests.add(sources_digest(package))
    assert len(digests) == 2


def test_the_folder_is_named_for_the_sources_and_older_ones_go(package: Path) -> None:
    choose(package)
    first = Path(os.environ.pop(VARIABLE))
    assert first.name == f"kernels-{sources_digest(package)}"
    (package / "caller.py").write_text("from numba import njit  # changed\n")
    choose(package)
    assert Path(os.environ[VARIABLE]).is_dir()
    assert not first.exists()


def test_a_folder_that_was_named_is_left_alone(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/somewhere/else")
    choose(package)
    assert os.environ[VARIABLE] == "/somewhere/else"


def test_the_constants_of_kernels_are_covered(tmp_path: Path) -> None:
    """Those of a file without a kernel of its own, from which a kernel is compiled."""
    copied = tmp_path / "flowstream"
    shutil.copytree(Path(flowstream.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    before = sources_digest(copied)
    for name, counts in {
        "decode/protobuf_fields.py": True,
        "errors.py": True,
        "batch.py": True,
        "cli.py": False,
    }.items():
        file = copied / name
        file.write_bytes(file.read_bytes() + b"# changed\n")
        assert (sources_digest(copied) != before) == counts, name
        before = sources_digest(copied)


def test_every_kernel_of_the_package_is_covered() -> None:
    package = Path(flowstream.__file__).parent
    kernels = [p for p in package.rglob("*.py") if "@njit" in p.read_text() or "@nb.njit" in p.read_text()]
    assert len(kernels) >= 5
    assert all(b"njit" in p.read_bytes() for p in kernels)
