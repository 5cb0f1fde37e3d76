"""The settings as their class declares them, and the documents made of that.

``python -m tests.settings_table`` writes flowstream.sample.toml and the tables of docs/settings.md anew.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowstream.errors import SettingsError
from flowstream.settings import Settings, load

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "flowstream.sample.toml"
TABLES = ROOT / "docs" / "settings.md"
SCHEMA: dict[str, Any] = Settings.model_json_schema()
UNITS = {"_s": "s", "_hours": "h", "_bps_min": "bit/s", "bytes_max": "bytes"}
BOUNDS = {
    "exclusiveMinimum": "above {}",
    "minimum": "from {}",
    "exclusiveMaximum": "below {}",
    "maximum": "up to {}",
    "minLength": "{} characters or more",
    "maxLength": "{} characters at most",
    "minItems": "{} or more",
    "pattern": "matches `{}`",
}


def referred(field: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA["$defs"][field["$ref"].rpartition("/")[2]]
    return found


def leaves(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (dotted name, JSON schema) of every setting; of what may be unset, the schema of what is set."""
    for name, field in schema["properties"].items():
        if "$ref" in field:
            yield from leaves(referred(field), f"{prefix}{name}.")
        else:
            yield prefix + name, {**field, **field["anyOf"][0]} if "anyOf" in field else field


LEAVES = dict(leaves(SCHEMA))
LEAVES["sampling.exporters"]["default"] = {}  # made by a factory, of which the schema says nothing
SECTIONS = tuple(dict.fromkeys(name.partition(".")[0] for name in LEAVES if "." in name))
INPUT = dict(leaves(referred(LEAVES["inputs"]["items"]), "inputs.0."))

HEAD = """\
# Every setting of flowstream at its default. Copy this file to flowstream.toml and keep what you change.
# In brackets: the unit, and what is allowed. docs/settings.md says more. A variable FLOWSTREAM_<SECTION>__<KEY>
# in the environment goes before the file.
"""
#: What the sample file says after a setting, where an example helps.
EXAMPLES = {
    "inputs": '# for example: inputs = [{topic = "flow-messages"}, {topic = "eve", format = "suricata-eve"}]',
    "sampling.exporters": '# for example: exporters = {"10.255.0.11" = 1000}',
    "time.behind_max_s": "# for example: behind_max_s = 3600.0",
    "elephants.rate_bps_min": "# for example: rate_bps_min = 100e6",
}


def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave no settings file in the current folder, and no variable of ours."""
    monkeypatch.chdir(tmp_path)
    for variable in list(os.environ):
        if variable.upper().startswith("FLOWSTREAM_"):
            monkeypatch.delenv(variable)


def nested(name: str, value: Any) -> dict[str, Any]:
    section, _, key = name.rpartition(".")
    return {section: {key: value}} if section else {key: value}


def complaints(**overrides: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(**overrides)
    return str(caught.value).splitlines()


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def unit(name: str) -> str:
    return next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")


def allowed(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{word}`" for word in field["enum"])
    if field.get("type") == "boolean":
        return "`true`, `false`"
    parts = [text.format(field[key]) for key, text in BOUNDS.items() if key in field]
    if "enum" in field.get("items", {}):
        parts.append("of " + ", ".join(f"`{word}`" for word in field["items"]["enum"]))
    if isinstance(field.get("additionalProperties"), dict):
        parts.append("each " + allowed(field["additionalProperties"]))
    return ", ".join(parts)


def row(name: str, field: dict[str, Any]) -> str:
    """Return a setting's row in the table of docs/settings.md."""
    default = "required" if name == "inputs.0.topic" else "unset"
    if field.get("default") is not None:
        default = f"`{json.dumps(field['default'])}`"
    label = name.replace("inputs.0.", "inputs[].")
    cells = (f"`{label}`", unit(name), default, allowed(field), field["description"])
    return "| " + " | ".join(cells) + " |"


def entry(name: str, field: dict[str, Any]) -> str:
    """Return a setting's lines in the sample file; what is unset by default is commented out."""
    about = "; ".join(part for part in (unit(name), allowed(field).replace("`", "")) if part)
    comment = f"# {field['description']}" + (f" [{about}]" if about else "")
    key, default = name.rpartition(".")[2], field.get("default")
    return comment + "\n" + (f"# {key} =" if default is None else f"{key} = {toml(default)}")


def within(section: str) -> dict[str, dict[str, Any]]:
    """Return the settings of a section, those at the top for ""."""
    return {name: field for name, field in LEAVES.items() if name.rpartition(".")[0] == section}


def sample_text() -> str:
    """Return flowstream.sample.toml as it should be."""
    lines = [HEAD]
    for section in ["", *SECTIONS]:
        if section:
            lines.append(f"\n# {referred(SCHEMA['properties'][section])['description']}\n[{section}]")
        for name, field in within(section).items():
            lines.append(entry(name, field))
            lines.extend([EXAMPLES[name]] if name in EXAMPLES else [])
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """Return docs/settings.md with the rows of every table as they should be; its headings name the sections."""
    kept: list[str] = []
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ").removeprefix("Top level")
        if line.startswith("| `"):
            continue
        kept.append(line)
        if line.startswith("| ---"):
            chosen = within(section) if section else {**within(""), **INPUT}
            kept.extend(row(name, field) for name, field in chosen.items())
    return "\n".join(kept) + "\n"


if __name__ == "__main__":
    SAMPLE.write_text(sample_text())
    TABLES.write_text(with_tables(TABLES.read_text()))
    sys.stdout.write(f"{SAMPLE.name} and {TABLES.name} written: read the difference before committing it\n")
