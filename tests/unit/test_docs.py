"""The documentation tells the truth: what it names exists, what exists is named, and its commands can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from flowstream.batch import COLUMNS, Quality
from flowstream.cli import main
from flowstream.decode import DECODERS
from flowstream.errors import Reason
from flowstream.metrics import Metrics
from flowstream.setting_tables import MERGED
from flowstream.settings import NOT_SETTINGS, Settings
from flowstream.topics import specs
from tests.settings_table import LEAVES, SECTIONS

EVERYTHING = Settings(analyses=(*Settings().analyses, *sorted(MERGED - {*Settings().analyses})))
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
TEXT = {path: path.read_text("utf-8") for path in PAGES}
README = TEXT[ROOT / "README.md"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^(?: {4,}|\$ )(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?flowstream ([a-z].*)$", re.MULTILINE)


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(group: click.Group = main, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, with its full name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*prefix, name))
        else:
            yield " ".join((*prefix, name)), command


COMMANDS = dict(commands())


def type_in(line: str) -> str:
    """Parse a command line as click would, run nothing, and return the name of its command."""
    words = shlex.split(line, comments=True)
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in COMMANDS:
            COMMANDS[name].make_context(name, words[count:])
            return name
    raise click.UsageError(f"there is no command flowstream {line}")


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    outside_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", outside_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_link_within_the_repository_leads_somewhere(page: Path):
    broken = []
    for link in LINK.findall(TEXT[page]):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(TEXT[target])):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_index():
    index = DOCS / "README.md"
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in LINK.findall(TEXT[index])}
    assert {page for page in PAGES if page.is_relative_to(DOCS) and page != index} - linked == set()


def test_decisions_are_numbered_without_a_hole_and_have_three_parts():
    decisions = sorted(DOCS.glob("decisions/*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        assert anchors(TEXT[path]) >= {"context", "decision", "consequences"}, path.name


# -- commands


def test_the_readme_lists_every_command():
    assert [name for name in COMMANDS if f"| `{name}" not in README] == []


def test_the_readme_lists_no_command_that_does_not_exist():
    listed = re.findall(
        r"^\| `([a-z]+(?: [a-z]+)?)", README.partition("## By hand")[2].partition("\n## ")[0], re.MULTILINE
    )
    assert set(listed) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_an_example_that_can_be_typed(name: str):
    help_text = COMMANDS[name].get_help(click.Context(COMMANDS[name], info_name=name))
    examples = re.findall(r"^ *Example: flowstream (.+)$", help_text, re.MULTILINE)
    assert [type_in(example) for example in examples] == [name]


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_command_in_the_documentation_can_be_typed(page: Path):
    for line in COMMAND.findall(TEXT[page]):
        type_in(line)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_make_target_in_the_documentation_exists(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", TEXT[page], re.MULTILINE)) <= targets


# -- names


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_environment_variable_in_the_documentation_exists(page: Path):
    there = {"FLOWSTREAM_" + name.upper().replace(".", "__") for name in LEAVES}
    there |= {f"FLOWSTREAM_{name}" for name in NOT_SETTINGS}
    assert set(re.findall(r"FLOWSTREAM_[A-Z0-9_]*[A-Z0-9]", TEXT[page])) <= there


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_setting_named_in_the_documentation_exists(page: Path):
    named = re.findall(rf"`((?:{'|'.join(SECTIONS)})\.[a-z_]+)\b(?!\.v\d)", TEXT[page])
    assert {name for name in named if not name.endswith((".py", ".jsonl"))} <= set(LEAVES)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_metric_named_in_the_documentation_exists(page: Path):
    there = {"flowstream_test", "flowstream_bench"}
    for collector in vars(Metrics(CollectorRegistry())).values():
        if isinstance(collector, CollectorRegistry):
            continue
        ends = ("_total",) if isinstance(collector, Counter) else ("",)
        if isinstance(collector, Histogram):
            ends = ("", "_bucket", "_sum", "_count")
        there |= {collector._name + end for end in ends}
    assert set(re.findall(r"`(flowstream_[a-z_]+)", TEXT[page])) <= there


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_file_named_in_the_documentation_exists(page: Path):
    folders = "flowstream|agents|tests|deploy|docs|avro_schemas|bench"
    named = re.findall(rf"`((?:{folders})/[\w./-]+\.(?:py|md|yaml|yml|avsc|csv|json|gz|toml|xml))`", TEXT[page])
    assert [name for name in named if not (ROOT / name).exists() and not name.startswith("bench/out/")] == []


# -- topics


def test_every_topic_is_documented_with_its_schema_and_cleanup():
    rows = {line.split("`")[1]: line for line in TEXT[DOCS / "topics.md"].splitlines() if line.startswith("| `")}
    wanted = {spec.name: spec for spec in specs(EVERYTHING)}
    assert set(wanted) <= set(rows)
    for name, spec in wanted.items():
        assert f"{spec.schema}.v1.avsc" in rows[name]
        assert f"| {spec.config['cleanup.policy']} |" in rows[name]


def test_no_topic_is_documented_that_does_not_exist():
    named = set(re.findall(r"`(flowstream\.[a-z-]+\.v\d+)`", "".join(TEXT.values())))
    assert named == {spec.name for spec in specs(EVERYTHING)}


# -- closed sets


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_of_a_dead_letter_is_explained(reason: Reason):
    assert f"`{reason.label}`" in TEXT[DOCS / "topics.md"]


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_in_the_glossary(column: str):
    assert f"`{column}`" in TEXT[DOCS / "glossary.md"]


@pytest.mark.parametrize("flag", [flag for flag in Quality if flag is not Quality.LATE])
def test_every_doubt_about_a_row_is_explained(flag: Quality):
    assert flag.name is not None
    assert f"`{flag.name.lower()}`" in TEXT[DOCS / "topics.md"]


@pytest.mark.parametrize("wire_format", DECODERS)
def test_every_wire_format_is_in_the_readme(wire_format: str):
    assert f"`{wire_format}`" in README


ALERTS = re.findall(r"- alert: (\w+)", (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_its_section_of_what_to_do(alert: str):
    assert f"\n### {alert}\n" in TEXT[DOCS / "operating.md"]
