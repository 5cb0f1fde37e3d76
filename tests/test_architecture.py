"""The shape of the code: who may import whom, what the pure half may not touch, and how long things may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: The ladder of the library. A module imports only from rungs above its own; a new module needs its place here.
LADDER = (
    "errors bare_kernel",
    "ordering log_kernel saturation",
    "columns byte_column",
    "batch partials",
    "schemas csv_rows",
    "operators topology flow_keys",
    "topology_json grouping histogram pair_kernels selection_kernels text_kernels estimate links windows spread",
    "hashing double_kernel record_kernel cabling",
    "holder_kernels",
    "avro_json",
    "decode.time_kernel decode.protobuf_fields",
    "decode.protobuf_kernel",
    "decode.payloads decode.avro_kernel decode.avro_writers decode.text",
    "decode.json_kernel",
    "decode.json_lines record_batches",
    "decode.goflow decode.goflow_json decode.avro decode.flow_event_json decode.suricata_eve",
    "decode",
    "narrow",
    "blocks normalise recordings",
    "ingest panes",
    "analysis partial_blocks",
    "partition_work holders",
    "counting export_loss cube_sums rank_kernels features elephant_state path_shapes path_changes",
    "path_sightings sequence_gaps running_windows cubes distance_kernels cusum pair_encoding link_ports wire_load",
    "path_results summaries elephant_events counting_results export_loss_results recent_losses",
    "distance_encoding pairs path_joining elephant_hops shared_links talker_kernels link_state",
    "distances elephants quality link_results paths talker_tables",
    "link_periods",
    "source_blocks link_use talker_steps talker_results",
    "sources talkers newest_links",
    "results render field_changes",
    "flow_filter",
    "compare",
    "setting_tables metrics kernel_cache",
    "settings",
    "topics merging replay_warmup",
    "pipeline",
    "analyze warmup app_state positions replay",
    "console",
    "inventory_commands log_commands path_commands replay_commands",
    "cli",
)
RUNG = {module: rung for rung, names in enumerate(LADDER) for module in names.split()}
FIRST_WITH_SETTINGS = RUNG["setting_tables"]

#: What would make a result depend on anything but the input and the settings.
IMPURE = {
    "asyncio", "concurrent", "faust", "logging", "multiprocessing", "os", "random", "secrets", "socket",
    "subprocess", "threading", "time", "uuid",
}  # fmt: skip
KAFKA = {"agents", "aiokafka", "confluent_kafka", "faust", "mode"}
CLOCKS = {"now", "today", "utcnow", "default_rng", "getenv", "environ"}

LINES_OF_FILE = 300
#: Known to be longer, and reported; one that is cut says so by failing.
TOO_LONG: set[str] = set()
LINES_OF_FUNCTION = 70
BANNED_NAMES = {"data", "helper", "helpers", "info", "item", "manager", "misc", "util", "utils"}


def modules(folder: str) -> dict[str, Path]:
    """Return the modules of a package by their name within it."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        inner = path.relative_to(ROOT / folder).with_suffix("")
        name = ".".join(inner.parts[:-1] if inner.name == "__init__" else inner.parts)
        found[name] = path
    return found


LIBRARY = {name: path for name, path in modules("flowstream").items() if name}
#: They import agents where a command needs them, and only there.
COMMANDS = {name for name in LIBRARY if name == "cli" or name.endswith("_commands")}
AGENTS = modules("agents")
SOURCES = sorted(p for f in ("flowstream", "agents") for p in (ROOT / f).rglob("*.py"))
EVERYTHING = [*SOURCES, *sorted(p for f in ("tests", "bench", "deploy") for p in (ROOT / f).rglob("*.py"))]


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(node: ast.AST) -> list[str]:
    """Return what an import statement names, ``from a import b`` as ``a`` and ``a.b``; [] for other nodes."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def at_import(path: Path) -> Iterator[ast.AST]:
    """Yield the nodes of a module that run when it is imported: everything outside of functions."""
    waiting: list[ast.AST] = [tree(path)]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def tops(names: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_every_module_of_the_library_has_its_rung():
    assert set(RUNG) == set(LIBRARY)


@pytest.mark.parametrize("module", LIBRARY)
def test_a_module_imports_only_from_rungs_above_its_own(module: str):
    wrong = []
    for node in ast.walk(tree(LIBRARY[module])):
        for name in imported(node):
            inner = name.removeprefix("flowstream.")
            # ``from flowstream.decode import avro`` needs decode's own rung only where nothing more exact is meant.
            if not name.startswith("flowstream.") or inner not in RUNG or inner == module:
                continue
            exact = [n for n in imported(node) if n.removeprefix(f"{name}.") in _children(inner)]
            if inner != module and not exact and RUNG[inner] >= RUNG[module]:
                wrong.append(inner)
    assert wrong == []


def _children(module: str) -> set[str]:
    return {name.removeprefix(f"{module}.") for name in LIBRARY if name.startswith(f"{module}.")}


@pytest.mark.parametrize("module", LIBRARY)
def test_the_library_knows_neither_kafka_nor_faust(module: str):
    nodes = at_import(LIBRARY[module]) if module in COMMANDS else ast.walk(tree(LIBRARY[module]))
    assert KAFKA & {top for node in nodes for top in tops(imported(node))} == set()


@pytest.mark.parametrize("module", sorted(COMMANDS))
def test_the_command_line_imports_agents_only_where_a_command_needs_them(module: str):
    needed = {top for node in ast.walk(tree(LIBRARY[module])) for top in tops(imported(node))}
    assert needed & KAFKA == {"agents"}


@pytest.mark.parametrize("module", [m for m in LIBRARY if RUNG[m] < FIRST_WITH_SETTINGS])
def test_below_the_settings_there_is_no_clock_environment_log_chance_or_thread(module: str):
    nodes = list(ast.walk(tree(LIBRARY[module])))
    assert IMPURE & {top for node in nodes for top in tops(imported(node))} == set()
    called = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert CLOCKS & called == set()
    assert "numpy.random" not in {name for node in nodes for name in imported(node)}
    assert [ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n) == "np.random"] == []


@pytest.mark.parametrize("module", [m for m in LIBRARY if m not in {"settings", "console", "cli", "kernel_cache"}])
def test_nobody_but_the_settings_reads_the_environment(module: str):
    assert "os" not in {top for node in ast.walk(tree(LIBRARY[module])) for top in tops(imported(node))}


def test_the_agents_import_no_command_line():
    assert [
        name
        for path in AGENTS.values()
        for node in ast.walk(tree(path))
        for name in imported(node)
        if name.startswith("flowstream.cli")
    ] == []


@pytest.mark.parametrize("path", EVERYTHING, ids=label)
def test_a_file_fits_the_mind(path: Path):
    long = len(path.read_text("utf-8").splitlines()) > LINES_OF_FILE
    assert long == (label(path) in TOO_LONG)


@pytest.mark.parametrize("path", EVERYTHING, ids=label)
def test_a_function_fits_the_screen(path: Path):
    long = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LINES_OF_FUNCTION
    }
    assert long == {}


@pytest.mark.parametrize("path", EVERYTHING, ids=label)
def test_no_module_is_named_for_nothing(path: Path):
    assert BANNED_NAMES & set(path.stem.split("_")) == set()


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_what_is_public_says_what_it_is(path: Path):
    module = tree(path)
    assert ast.get_docstring(module)
    assert list(_undocumented(module, "")) == []


def _undocumented(node: ast.AST, prefix: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if child.name.startswith("_"):
            continue
        if not ast.get_docstring(child):
            yield prefix + child.name
        if isinstance(child, ast.ClassDef):
            yield from _undocumented(child, f"{prefix}{child.name}.")
