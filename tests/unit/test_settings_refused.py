"""Settings that are wrong: one line each, with which setting, which value, and what would be right."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowstream.errors import SettingsError
from flowstream.pipeline import decode_context
from flowstream.setting_tables import Input
from flowstream.settings import NOT_SETTINGS, SECRETS, Settings, load
from tests.settings_table import INPUT, LEAVES, SECTIONS, bare, complaints, nested

NUMBERS = [name for name, field in LEAVES.items() if field.get("type") == "number"]


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare(monkeypatch, tmp_path)


def bad_values(field: dict[str, Any]) -> Iterator[tuple[Any, str, list[str]]]:
    """Yield (wrong value, the part of it that is wrong, what the complaint has to mention)."""
    kind = field.get("type")
    if "enum" in field:
        yield "no-such", "'no-such'", field["enum"]
    elif kind in ("number", "integer"):
        yield "soon", "'soon'", [str(kind)]
        for bound, beyond in (
            ("minimum", -1),
            ("exclusiveMinimum", 0),
            ("maximum", 1),
            ("exclusiveMaximum", 0),
        ):
            if bound in field:
                yield field[bound] + beyond, str(field[bound] + beyond), [str(field[bound])]
    elif kind == "boolean":
        yield "perhaps", "'perhaps'", ["boolean"]
    elif kind == "string":
        yield [], "[]", ["path" if field.get("format") == "path" else "string"]
        if "pattern" in field:
            yield "not so!", "'not so!'", [field["pattern"]]
        if "minLength" in field:
            yield "", "''", [str(field["minLength"])]
        if "maxLength" in field:
            yield "x" * (field["maxLength"] + 1), "xxx", [str(field["maxLength"])]
    elif kind == "array":
        yield 5, "5", ["tuple"]
        if "minItems" in field:
            yield [], "[]", [str(field["minItems"])]
        if "enum" in field["items"]:
            yield ["no-such"], "'no-such'", field["items"]["enum"]
    else:
        assert kind == "object"
        yield {"10.255.0.11": 0}, "0", ["10.255.0.11", str(field["additionalProperties"]["minimum"])]


BAD = [(name, *bad) for name, field in LEAVES.items() for bad in bad_values(field)]


def test_there_is_a_bad_value_for_every_setting():
    assert {name for name, *_ in BAD} == set(LEAVES)


@pytest.mark.parametrize(("name", "value", "shown", "mentioned"), BAD)
def test_a_bad_value_is_one_line_with_the_setting_the_value_and_what_is_right(
    name: str, value: Any, shown: str, mentioned: list[str]
):
    lines = complaints(**nested(name, value))
    assert len(lines) == 1
    assert lines[0].startswith(f"setting {name}")
    assert shown in lines[0] or name in SECRETS
    assert [word for word in mentioned if word not in lines[0]] == []


@pytest.mark.parametrize(
    ("name", "value", "shown", "mentioned"),
    [(name, *bad) for name, field in INPUT.items() for bad in bad_values(field)],
)
def test_a_bad_value_of_an_input_is_named_by_the_inputs_number(name: str, value: Any, shown: str, mentioned: list[str]):
    given = {"topic": "flow-messages", "format": "goflow", name.rpartition(".")[2]: value}
    line = complaints(inputs=[given])[0]
    assert line.startswith(f"setting {name} = ")
    assert shown in line
    assert [word for word in mentioned if word not in line] == []


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_of_a_section_is_named(section: str):
    assert complaints(**{section: {"no_such_key": 1}}) == [
        f"setting {section}.no_such_key: there is no such setting; see docs/settings.md for those there are"
    ]


def test_an_unknown_key_of_the_file_is_named(tmp_path: Path):
    (tmp_path / "flowstream.toml").write_text("pane_s = 1.0\n")
    assert complaints() == ["setting pane_s: there is no such setting; see docs/settings.md for those there are"]


@pytest.mark.parametrize("name", ["FLOWSTREAM_FOO", "FLOWSTREAM_KAFKA_BOOTSTRAP", "FLOWSTREAM_TIMES__PANE_S"])
def test_a_variable_that_is_no_setting_is_named(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "1")
    assert complaints() == [f"variable {name}: there is no such setting; see docs/settings.md for those there are"]


def test_an_unknown_key_of_a_section_in_a_variable_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLOWSTREAM_KAFKA__BOOTSTRAPS", "x:1")
    assert complaints() == [
        "setting kafka.bootstraps: there is no such setting; see docs/settings.md for those there are"
    ]


@pytest.mark.parametrize(
    "name",
    ["APP__X", "INPUTS__0__TOPIC", "DATA_DIR__", "KAFKA__BOOTSTRAP__X", "DISTANCES__FEATURES__0"],
)
def test_a_part_of_a_setting_that_has_none_is_named_even_beside_the_setting(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(f"FLOWSTREAM_{name}", "1")
    monkeypatch.setenv("FLOWSTREAM_KAFKA__BOOTSTRAP", "a:1")
    assert [name.upper() in line.upper().replace(".", "__") for line in complaints()] == [True]


def test_a_map_has_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLOWSTREAM_SAMPLING__EXPORTERS__10.0.0.1", "64")
    assert load().sampling.exporters == {"10.0.0.1": 64}


@pytest.mark.parametrize("given", ['["hunter2"]', '"hunter2"', "7"])
def test_what_stands_in_the_place_of_a_table_is_not_printed(given: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLOWSTREAM_KAFKA", given)
    (line,) = complaints()
    assert line.startswith("setting kafka: ")
    assert given.strip('[]"') not in line


def test_a_name_that_cannot_be_printed_is_escaped_in_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "flowstream.toml").write_text('"a\\nb\\u2028" = 1\n')
    (line,) = complaints()
    assert line.startswith(r"setting a\nb\u2028: there is no such setting")
    monkeypatch.setenv("FLOWSTREAM_\udcff\x1b", "1")
    (line,) = complaints()
    assert line.startswith(r"variable FLOWSTREAM_\udcff\x1b: there is no such setting")


def test_what_is_nested_too_deep_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "flowstream.toml"
    file.write_text("inputs = " + "[" * 5000)
    assert complaints()[0].startswith("settings file flowstream.toml: nested deeper")
    file.unlink()
    monkeypatch.setenv("FLOWSTREAM_INPUTS", "[" * 100_000)
    assert complaints()[0].startswith("variable FLOWSTREAM_INPUTS: nested deeper")


def test_a_file_that_cannot_be_read_is_named():
    (line,) = complaints(path="x" * 5000)
    assert "File name too long" in line
    if Path("/proc/self/mem").is_file():  # a file whose first bytes nobody can read
        (line,) = complaints(path="/proc/self/mem")
        assert line.startswith("settings file /proc/self/mem: cannot be read")


def test_the_command_exits_with_2_and_one_line_for_what_no_setting_is():
    variables = {b"FLOWSTREAM_KAFKA__\xff": b"1", b"FLOWSTREAM_APP": b"\xfe"}
    for name, value in variables.items():
        command = [sys.executable, "-c", "from flowstream.cli import main; main()", "check"]
        ended = subprocess.run(command, env={**os.environb, name: value}, capture_output=True, check=False)
        lines = ended.stderr.decode().splitlines()
        assert (ended.returncode, len(lines)) == (2, 1)
        assert lines[0].startswith("flowstream: setting ")


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 5000, b'"string"', b"{}", b'{"type": "record", "name": "R"}'])
def test_a_schema_file_that_holds_no_flow_records_is_named(content: bytes, tmp_path: Path):
    file = tmp_path / "other.avsc"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"^setting inputs: schema_file = .*other\.avsc"):
        decode_context(Input(topic="a", format="avro", schema_file=str(file)))


@pytest.mark.parametrize("name", sorted(NOT_SETTINGS - {"SETTINGS"}))
def test_the_variables_of_the_tests_are_no_settings_and_no_mistakes(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(f"FLOWSTREAM_{name}", "1")
    assert load().model_dump() == Settings().model_dump()


def test_every_mistake_gets_its_line():
    lines = complaints(time={"pane_s": 0}, web={"port": 0}, kafka={"nowhere": 1})
    assert [line.split()[1].rstrip(":") for line in lines] == ["kafka.nowhere", "time.pane_s", "web.port"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"distances": {"size_s": 2.5}}, "distances.size_s = 2.5 is not a multiple of time.pane_s = 1"),
        ({"distances": {"step_s": 0.5}}, "distances.step_s = 0.5 is not a multiple of time.pane_s = 1"),
        ({"sources": {"size_s": 0.5}}, "sources.size_s = 0.5 is not a multiple of time.pane_s = 1"),
        ({"time": {"pane_s": 7.0}}, "distances.size_s = 3 is not a multiple of time.pane_s = 7"),
        ({"quality": {"size_s": 60.5}}, "quality.size_s = 60.5 is not a multiple of time.pane_s = 1"),
        ({"distances": {"step_s": 4.0}}, "distances.step_s = 4 is longer than distances.size_s = 3"),
        ({"inputs": [{"topic": "a"}, {"topic": "a"}]}, "inputs = ['a', 'a'] names a topic twice"),
        (
            {"kafka": {"heartbeat_s": 6.0}},
            "kafka.heartbeat_s = 6 is more than half of kafka.session_timeout_s",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_both_named(overrides: dict[str, Any], said: str):
    lines = complaints(**overrides)
    assert len(lines) == 1
    assert said in lines[0]


def test_a_file_that_is_not_toml_is_named_with_the_place(tmp_path: Path):
    (tmp_path / "flowstream.toml").write_text("[kafka\n")
    line = complaints()[0]
    assert "flowstream.toml" in line
    assert "line 1" in line


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_may_be_none_at_all(name: str):
    assert complaints(**nested(name, float("nan")))[0].startswith(f"setting {name}")


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_may_be_infinite(name: str):
    assert complaints(**nested(name, float("inf")))[0].startswith(f"setting {name}")


@pytest.mark.parametrize(
    ("name", "value", "mentioned"),
    [
        ("distances.features", ["no_such_feature"], "in_bytes"),
        ("sampling.exporters", {"nowhere": 64}, "nowhere"),
        ("time.ahead_max_s", 1e18, "ahead_max_s"),
        ("distances", {"pairs": "all", "pair_form": "records", "flows_max": 5000}, "flows_max"),
    ],
)
def test_what_an_operator_would_refuse_is_refused_as_a_setting(name: str, value: Any, mentioned: str):
    line = complaints(**nested(name, value))[0]
    assert name in line
    assert mentioned in line


def test_a_variable_that_is_not_json_where_it_must_be_is_not_blamed_on_the_file(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("FLOWSTREAM_INPUTS", "[oops")
    line = complaints()[0]
    assert "inputs" in line.lower()
    assert "flowstream.toml" not in line
