"""A change of any kernel's source means another cache, so that no old machine code is ever run."""

import os
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


def test_every_kernel_of_the_package_is_covered() -> None:
    package = Path(flowstream.__file__).parent
    kernels = [p for p in package.rglob("*.py") if "@njit" in p.read_text() or "@nb.njit" in p.read_text()]
    assert len(kernels) >= 5
    assert all(b"njit" in p.read_bytes() for p in kernels)
