"""docs/reliability.md points at tests and scenarios that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.faults.scenario import scenarios

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")


def test_every_test_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    there = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert named
    assert named - there == set()


def test_the_table_of_scenarios_is_that_of_the_code() -> None:
    section = PAGE.partition("## The scenarios")[2].partition("\n## ")[0]
    told = {int(number): name for number, name in re.findall(r"^\| (\d+) \| ([^|]+?) \|", section, re.MULTILINE)}
    assert told == {number: one.name for number, one in scenarios().items()}
