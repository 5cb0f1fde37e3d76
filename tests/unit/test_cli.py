"""The command line: help with an example everywhere, results where asked, and one line with exit code 2 for errors."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flowstream.cli import main
from flowstream.recordings import Recording
from flowstream.topics import STREAMS
from tests.builders import delimited, goflow2_v2

DATA = Path(__file__).resolve().parents[1] / "data"
CLOS, LINKS = DATA / "clos_60s_goflow2_v2.bin.gz", DATA / "clos_links.csv"
FLOWSTREAM = Path(sys.executable).with_name("flowstream")
NOWHERE = {"FLOWSTREAM_KAFKA__BOOTSTRAP": "127.0.0.1:1"}  # tcpmux, which nothing serves
SUMMARY = "20,198 messages: 0 rejected, 0 without a flow. 20,198 flow records: 20,198 analysed, 0 late."


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLOWSTREAM_")}
    return {**kept, "COLUMNS": "80", **variables}


def flowstream(
    *args: object, cwd: Path | None = None, timeout_s: float = 60, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FLOWSTREAM, *map(str, args)], capture_output=True, text=True, cwd=cwd, env=environment(**variables),
        timeout=timeout_s, check=False,
    )  # fmt: skip


def refusal(*args: object, cwd: Path | None = None, timeout_s: float = 60, **variables: str) -> str:
    """Return the one line that a command says before it exits with 2."""
    done = flowstream(*args, cwd=cwd, timeout_s=timeout_s, **variables)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("flowstream: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("flowstream: ").rstrip()


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(main))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_that_it_would_take(path, monkeypatch):
    command = COMMANDS[path]
    with click.Context(command, info_name="flowstream " + " ".join(path)) as context:
        text = command.get_help(context)
    example = next(line for line in text.splitlines() if "Example: " in line)
    words = shlex.split(example.split("Example: ")[1])
    assert words[: 1 + len(path)] == ["flowstream", *path]
    command.make_context(" ".join(path), words[1 + len(path) :])
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert all(option.help for option in options)


def test_help_and_version_are_said_by_the_installed_command():
    said = flowstream("analyze", "--help")
    assert said.returncode == 0
    assert "Example: flowstream analyze" in said.stdout
    assert flowstream("-h").stdout.startswith("Usage: flowstream")
    assert flowstream("--version").stdout.startswith("flowstream, version ")


@cache
def on_stdout() -> subprocess.CompletedProcess[str]:
    return flowstream("analyze", CLOS, "--links", LINKS)


def test_analyze_prints_the_results_as_json_lines_and_the_ledger_beside_them():
    done = on_stdout()
    assert done.returncode == 0
    assert done.stderr == SUMMARY + "\n"
    records = [json.loads(line) for line in done.stdout.splitlines()]
    onsets = [r["flow"]["src_port"] for r in records if r.get("event") == "onset"]
    assert sorted(onsets) == [40001, 40012, 40053]


def test_analyze_writes_a_file_per_stream_that_holds_what_it_would_print(tmp_path):
    stale = tmp_path / "out" / "input-quality.jsonl"
    stale.parent.mkdir()
    stale.write_text('{"of": "an earlier run"}\n')
    other = tmp_path / "out" / "notes.txt"
    other.write_text("mine")
    done = flowstream("analyze", CLOS, "--links", LINKS, "--output", tmp_path / "out")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", SUMMARY + "\n")
    files = {path.name: path.read_text().splitlines() for path in (tmp_path / "out").iterdir()}
    assert files.pop("notes.txt") == ["mine"]
    assert set(files) == {"distances.jsonl", "elephants.jsonl", "sources.jsonl"} < {f"{s}.jsonl" for s in STREAMS}
    assert sorted(line for lines in files.values() for line in lines) == sorted(on_stdout().stdout.splitlines())


def test_analyze_only_runs_what_is_asked_for(tmp_path):
    flowstream("analyze", CLOS, "--only", "sources, quality", "--output", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sources.jsonl"]


def test_analyze_takes_several_files_as_one_stream(tmp_path):
    messages = list(Recording(CLOS).messages())
    halves = [tmp_path / "first.bin", tmp_path / "second.bin"]
    halves[0].write_bytes(b"".join(messages[:8192]))
    halves[1].write_bytes(b"".join(messages[8192:]))
    # Partitions take turns batch by batch, and a file ends a batch: the lines are the same, in another order.
    said = flowstream("analyze", *halves, "--links", LINKS).stdout
    assert sorted(said.splitlines()) == sorted(on_stdout().stdout.splitlines())


def test_analyze_ends_quietly_where_its_reader_has_seen_enough():
    shell = f"'{FLOWSTREAM}' analyze '{CLOS}' | head -n 1"
    done = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, env=environment(), timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)


def test_bad_messages_are_counted_and_do_not_end_the_analysis(tmp_path):
    path = tmp_path / "flows.bin"
    path.write_bytes(delimited(goflow2_v2(), b"junk", goflow2_v2(), b"", goflow2_v2()))
    done = flowstream("analyze", path)
    assert done.returncode == 0
    assert done.stderr == "5 messages: 2 rejected, 0 without a flow. 3 flow records: 3 analysed, 0 late.\n"


REFUSED = {
    "a file that is not there": (["analyze", "none.bin"], "none.bin: no such file"),
    "a file of nothing": (["analyze", "empty"], "empty: cannot tell its format; name it with --format"),
    "a cut file": (["analyze", "cut.gz"], "cut.gz: cannot be read: Compressed file ended"),
    "a format that it is not": (
        ["analyze", CLOS, "--format", "suricata-eve"],
        "messages is suricata-eve (the first is malformed); name their format with --format",
    ),
    "a container that is none": (["analyze", CLOS, "--format", "avro"], "not a container of flow records"),
    "a format that does not exist": (["analyze", CLOS, "--format", "pcap"], "'pcap' is not one of 'avro', "),
    "files of two formats": (["analyze", CLOS, "eve.json"], "different formats (goflow, suricata-eve)"),
    "an analysis that does not exist": (["analyze", CLOS, "--only", "elephant"], "analyses.0 = 'elephant': "),
    "no analysis": (["analyze", CLOS, "--only", ""], "analyses.0 = ''"),
    "settings that are not there": (["analyze", CLOS, "--settings", "none.toml"], "none.toml: no such file"),
    "settings that are no TOML": (["analyze", CLOS, "--settings", "empty.csv"], "settings file empty.csv: "),
    "a setting that does not exist": (["analyze", CLOS, "--settings", "typo.toml"], "setting kafka.bootstap: "),
    "links that are not there": (["analyze", CLOS, "--links", "none.csv"], "none.csv: cannot be read"),
    "links with a wrong cell": (["analyze", CLOS, "--links", "bad.csv"], "bad.csv, line 2, column speed_bps: '10G'"),
    "links without a header": (["links", "load", "empty.csv"], "empty.csv, line 1: column "),
    "a folder that is a file": (["analyze", CLOS, "--output", "empty"], "--output empty: cannot be written"),
    "no file": (["analyze"], "Missing argument 'PATHS...'. See flowstream analyze --help."),
    "a command that does not exist": (["analyse"], "No such command 'analyse'"),
    "an option that does not exist": (["tail", "elephants", "--follow"], "No such option"),
    "a rate of nothing": (["send", CLOS, "--rate", "0"], "'--rate'"),
    "a port beyond the last": (["worker", "--port", "70000"], "'--port'"),
    "an agent that does not exist": (["worker", "--agents", "ingest,analysis"], "--agents ingest,analysis: "),
    "a log level that does not exist": (["worker", "--log-level", "loud"], "--log-level loud: "),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("refused")
    (path / "empty").touch()
    (path / "empty.csv").write_text("speed\n")
    (path / "cut.gz").write_bytes(CLOS.read_bytes()[:-9])
    (path / "eve.json").write_text('{"event_type": "flow"}\n')
    (path / "typo.toml").write_text('[kafka]\nbootstap = "127.0.0.1:9092"\n')
    (path / "bad.csv").write_text("exporter,if_index,name,speed_bps\n10.255.0.11,9,l1s1,10G\n")
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_in_one_line_with_exit_code_two(case, folder, monkeypatch):
    args, said = REFUSED[case]
    monkeypatch.chdir(folder)
    done = CliRunner(env=NOWHERE).invoke(main, [str(arg) for arg in args], prog_name="flowstream")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("flowstream: ")
    assert said in done.stderr


def test_the_installed_command_refuses_in_one_line_too(folder):
    assert refusal("analyze", "none.bin", cwd=folder) == "none.bin: no such file"


@pytest.mark.parametrize(
    "args",
    [
        ["topics"], ["topics", "--check"], ["check"], ["send", CLOS], ["links", "load", LINKS], ["worker"],
        ["tail", "elephants"],
    ],
    ids=lambda args: " ".join(map(str, args[:2])),
)  # fmt: skip
def test_without_a_broker_every_command_says_so_in_one_line_within_seconds(args, tmp_path):
    said = refusal(*args, cwd=tmp_path, timeout_s=15, **NOWHERE)
    assert said == (
        "no Kafka broker answers at 127.0.0.1:1; start one (flowstream broker start) or set kafka.bootstrap"
    )


@pytest.mark.parametrize(
    "args", [["topics"], ["links", "load", LINKS], ["tail", "elephants"]], ids=lambda args: args[0]
)
def test_an_address_that_is_none_is_said_in_one_line_too(args, tmp_path):
    said = refusal(*args, cwd=tmp_path, timeout_s=15, FLOWSTREAM_KAFKA__BOOTSTRAP="localhost:port")
    assert said.startswith("no Kafka broker answers at localhost:port (")


def test_a_variable_that_is_no_setting_is_refused(tmp_path):
    said = refusal("analyze", CLOS, cwd=tmp_path, FLOWSTREAM_KAFKA_BOOTSTRAP="127.0.0.1:9092")
    assert "FLOWSTREAM_KAFKA_BOOTSTRAP: there is no such setting" in said


def test_importing_the_command_line_loads_no_kafka_and_no_faust():
    program = "import sys, flowstream.cli; print(sorted({'faust', 'aiokafka'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
