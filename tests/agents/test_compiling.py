"""Kernels are compiled by another process, once, so that the compiler's memory is not the worker's."""

import os
from pathlib import Path

import pytest

from agents.worker import compile_apart
from flowstream.kernel_cache import VARIABLE
from flowstream.settings import Settings


def note_process(settings: Settings) -> None:
    with (settings.data_dir / "processes").open("a") as noted:
        noted.write(f"{os.getpid()}\n")


def fail(settings: Settings) -> None:
    note_process(settings)
    os._exit(3)


def processes(folder: Path) -> list[int]:
    noted = folder / "processes"
    return list(map(int, noted.read_text().split())) if noted.exists() else []


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "kernels").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kernels"))
    return Settings(data_dir=tmp_path)


def test_another_process_compiles_once_and_again_for_what_was_never_compiled(settings: Settings) -> None:
    compile_apart(note_process, settings)
    compile_apart(note_process, settings)
    assert len(processes(settings.data_dir)) == 1
    compile_apart(note_process, settings.model_copy(update={"analyses": ("quality",)}))
    assert len(processes(settings.data_dir)) == 2
    assert os.getpid() not in processes(settings.data_dir)


def test_what_could_not_be_compiled_is_tried_again_by_the_next_start(settings: Settings) -> None:
    compile_apart(fail, settings)
    compile_apart(note_process, settings)
    assert len(processes(settings.data_dir)) == 2


def test_where_kernels_cannot_be_kept_no_other_process_compiles(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    compile_apart(note_process, settings)
    assert not processes(settings.data_dir)
