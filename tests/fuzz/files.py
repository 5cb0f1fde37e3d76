"""Laws of what people hand in: settings, link tables, recordings. What is wrong is told in printable lines."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowstream import schemas
from flowstream.counting import CountOnce
from flowstream.decode import DECODERS
from flowstream.errors import FlowstreamError, SettingsError
from flowstream.links import LinkTable
from flowstream.pipeline import build_operators, ingest_config
from flowstream.recordings import Recording, RecordingError
from flowstream.settings import PREFIX, Settings, load
from flowstream.topics import specs
from tests.builders import varint
from tests.fuzz.law import Law
from tests.unit.decode.examples import AVRO_FULL, AVRO_SHORT, VALID

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent
_SCHEMA = json.loads((schemas.directory() / "flow_record.v1.avsc").read_text())
_SYNC = b"sixteen letters."
_SCRATCH = Path(tempfile.mkdtemp(prefix="flowstream-fuzz-"))


def told(error: FlowstreamError) -> list[str]:
    """Return the lines of a complaint; fail unless each can be printed and says something."""
    lines = str(error).split("\n")
    assert all(line and line.isprintable() for line in lines), lines
    return lines


def check_links(text: bytes) -> object:
    """A CSV is a table that its own rows give again, or a SettingsError that names the line or the column."""
    file = _SCRATCH / "links.csv"
    file.write_bytes(text)
    try:
        table = LinkTable.from_path(file)
    except SettingsError as error:
        (line,) = told(error)
        assert str(file) in line
        return line.replace(str(_SCRATCH), "")
    rows = table.to_rows()
    assert LinkTable.from_rows(rows).to_rows() == rows
    return rows


def check_recording(content: bytes) -> object:
    """A file is a recording, read to its end, or a RecordingError; its messages are no larger than they may be."""
    file = _SCRATCH / "recording"
    file.write_bytes(content)
    found: list[object] = []
    for wire_format in (None, *DECODERS):
        try:
            sizes = [len(message) for message in Recording(file, wire_format).messages()]
        except RecordingError as error:
            (line,) = told(error)
            found.append(line.replace(str(_SCRATCH), ""))
        else:
            found.append(sizes)
    return found


@contextmanager
def _only(variables: dict[str, str]) -> Iterator[None]:
    """Have no variables of ours but these."""
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.upper().startswith(PREFIX)}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


_BEGINNINGS = ("setting ", "settings file ", "variable ", "error parsing value for field ")


def _loaded(file: Path | None) -> object:
    try:
        settings = load(file)
    except SettingsError as error:
        lines = told(error)
        assert all(
            line.startswith(("setting ", "settings file ", "variable ", "error parsing value")) for line in lines
        )
        return [line.replace(str(_SCRATCH), "") for line in lines]
    _can_be_used(settings)
    return settings.digest()


def _can_be_used(settings: Settings) -> None:
    """Fail unless what was accepted can be made into topics and operators."""
    assert settings.pane_ns > 0
    assert all(0 < int(spec.config.get("retention.ms", 1)) < 2**63 for spec in specs(settings))
    sources = tuple((chosen.topic, 1) for chosen in settings.inputs)
    ingest_config(settings, sources)
    for operator in build_operators(settings, CountOnce(LinkTable()), {}):
        operator.restore(operator.snapshot())


def check_settings_file(text: bytes) -> object:
    """Any file gives settings that can be used, or a SettingsError."""
    file = _SCRATCH / "flowstream.toml"
    file.write_bytes(text)
    with _only({}):
        return _loaded(file)


def check_settings_variables(text: bytes) -> object:
    """Any environment gives settings that can be used, or a SettingsError. A line is a variable, without our prefix."""
    variables = {}
    for line in text.replace(b"\0", b"").split(b"\n"):
        name, _, value = line.partition(b"=")
        variables[PREFIX + os.fsdecode(name)] = os.fsdecode(value)
    with _only(variables):
        return _loaded(None)


def sized(octets: bytes) -> bytes:
    """Return bytes as Avro writes them, behind their length."""
    return varint(2 * len(octets)) + octets


def container(bodies: list[bytes], codec: str = "null", schema: object = _SCHEMA, declared: int | None = None) -> bytes:
    """Return an Avro container of one block, which may declare another size than it has."""
    block = b"".join(bodies)
    if codec == "deflate":
        packing = zlib.compressobj(wbits=-15)
        block = packing.compress(block) + packing.flush()
    meta = {b"avro.schema": json.dumps(schema).encode(), b"avro.codec": codec.encode()}
    head = b"".join(sized(key) + sized(value) for key, value in meta.items())
    size = len(block) if declared is None else declared
    return b"".join((
        b"Obj\x01", varint(2 * len(meta)), head, b"\0", _SYNC, varint(2 * len(bodies)), varint(2 * size), block, _SYNC,
    ))  # fmt: skip


_FLOWS = [schemas.encode_body("flow_record", record) for record in (AVRO_FULL, AVRO_SHORT)]
_RECORDINGS = [
    container(_FLOWS),
    container(_FLOWS, "deflate"),
    gzip.compress(VALID["suricata-eve"][1], mtime=0),
    VALID["flow-event-json"][0],
    bytes.fromhex("0801") + b"\n",
]
_LINKS = [(_ROOT / "tests/data/clos_links.csv").read_bytes()]
_VARIABLES = [
    b"KAFKA__BOOTSTRAP=a:1\nTIME__PANE_S=0.5",
    b'INPUTS=[{"topic": "a", "format": "avro"}]\nSAMPLING__EXPORTERS={"10.0.0.1": 5}',
    b'KAFKA={"bootstrap": "b:1"}\nANALYSES=["sources"]\nWEB__PORT=1',
]
_WORDS = [
    b"__",
    b"=",
    b"1e400",
    b"5e-324",
    b"-1",
    b"null",
    b"[[[[",
    b'"',
    b"'''",
    b"{",
    b"1979-05-27",
    b"true",
    b"9" * 30,
]

LAWS: dict[str, Law] = {
    "links": Law(
        check_links, [(_ROOT / "tests/data/clos_links.csv").read_bytes()], [b'"', b",", b"\r", b"\xef\xbb\xbf"]
    ),
    "recording": Law(check_recording, _RECORDINGS, [b"Obj\x01", b"\x1f\x8b\x08", b"\xff\xff\xff\xff\x0f", b"deflate"]),
    "settings-file": Law(check_settings_file, [(_ROOT / "flowstream.sample.toml").read_bytes()], _WORDS),
    "settings-variables": Law(check_settings_variables, _VARIABLES, _WORDS),
}
