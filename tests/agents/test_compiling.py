"""Kernels are compiled by another process, once, so that the compiler's memory is not the worker's."""

import os
from pathlib import Path

import pytest

from agents.worker import compile_apart
from flowstream.kernel_cache import VARIABLE
from flowstream.setting_tables import Input
from flowstream.settings import Settings, load


def note_process(settings: Settings) -> None:
    with (settings.data_dir / "processes").open("a") as noted:
        noted.write(f"{os.getpid()} {settings.digest()}\n")


def fail(settings: Settings) -> None:
    note_process(settings)
    os._exit(3)


def processes(folder: Path) -> list[tuple[int, str]]:
    """Return the processes that worked, with the digests of the settings that they were given."""
    noted = folder / "processes"
    lines = noted.read_text().splitlines() if noted.exists() else []
    return [(int(process), digest) for process, digest in map(str.split, lines)]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "kernels").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kernels"))
    return load(data_dir=tmp_path, inputs=[{"topic": "raw", "format": "avro"}], kafka={"sasl_password": "secret"})


def test_another_process_compiles_once_and_again_for_what_was_never_compiled(settings: Settings) -> None:
    compile_apart(note_process, settings)
    compile_apart(note_process, settings.model_copy(update={"inputs": (Input(topic="other", format="avro"),)}))
    other = settings.model_copy(update={"analyses": ("quality",)})
    compile_apart(note_process, other)
    noted = processes(settings.data_dir)
    assert [digest for _, digest in noted] == [settings.digest(), other.digest()]
    assert os.getpid() not in {process for process, _ in noted}


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
