"""A recording is recognised by what is in it, split exactly, and never worse than one bad message or one line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

import fastavro
import pytest
from google.protobuf.internal import decoder as upb_varint
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flowstream import recordings, schemas
from flowstream.decode import Payloads, decode
from flowstream.recordings import Recording, RecordingError
from tests.builders import T0_NS, delimited, goflow2_v1, goflow2_v2, varint

CLOS = Path(__file__).resolve().parents[1] / "data" / "clos_60s_goflow2_v2.bin.gz"
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
RECORDS = [goflow2_v2(src_port=port) for port in range(1, 30)]
EVE = {"event_type": "flow", "timestamp": "2024-05-01T00:00:00+0000", "src_ip": "10.0.0.1"}
FLOW_RECORD = {
    "time_received_ns": T0_NS, "src_addr": bytes([10, 0, 0, 1]), "dst_addr": bytes([10, 0, 0, 2]),
    "bytes": 1500, "packets": 1,
}  # fmt: skip


def lines(*objects: object) -> bytes:
    return b"".join(json.dumps(o).encode() + b"\n" for o in objects)


def container(*records: object, codec: str = "null") -> bytes:
    written = io.BytesIO()
    fastavro.writer(written, schemas.load("flow_record"), records, codec=codec)
    return written.getvalue()


FORMATS: dict[str, tuple[str, bytes, int]] = {
    "goflow": ("goflow", delimited(*RECORDS), len(RECORDS)),
    "goflow with separators": ("goflow", b"".join(delimited(r) + b"\n" for r in RECORDS), len(RECORDS)),
    "goflow v1": ("goflow", delimited(goflow2_v1(), goflow2_v1()), 2),
    "goflow-json": ("goflow-json", lines({"src_addr": "10.0.0.1"}, {"src_addr": "10.0.0.2"}), 2),
    "suricata-eve": ("suricata-eve", lines(EVE, EVE, EVE), 3),
    "flow-event-json": ("flow-event-json", lines({"eventid": 1}, {"eventid": 2}), 2),
    "avro": ("avro", container(FLOW_RECORD, FLOW_RECORD), 2),
    "avro deflated": ("avro", container(FLOW_RECORD, FLOW_RECORD, codec="deflate"), 2),
}


def written(tmp_path: Path, content: bytes, name: str = "recording") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def split_one_by_one(stream: bytes, separator: bytes = b"") -> list[bytes]:
    """Split as the protobuf documentation says, with protobuf's own varint reader."""
    found, at = [], 0
    while at < len(stream):
        length, body = upb_varint._DecodeVarint32(stream, at)
        found.append(stream[at : body + length])
        at = body + length
        if separator and stream[at : at + 1] == separator:
            at += 1
    return found


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("content", FORMATS)
def test_a_format_is_recognised_from_the_content_however_it_is_compressed(tmp_path, content, compression):
    wire_format, plain, count = FORMATS[content]
    recording = Recording(written(tmp_path, COMPRESSIONS[compression](plain)))
    assert recording.wire_format == wire_format
    assert len(list(recording.messages())) == count
    assert list(recording.messages()) == list(recording.messages())


def test_a_named_format_is_not_second_guessed(tmp_path):
    path = written(tmp_path, lines(EVE))
    assert Recording(path, "goflow-json").wire_format == "goflow-json"


def test_a_first_message_as_long_as_the_byte_of_a_brace_is_no_json(tmp_path):
    padding = 0x7B - len(goflow2_v2()) - 3  # two bytes of tag, one of length
    message = goflow2_v2() + varint(1000 << 3 | 2) + varint(padding) + bytes(padding)
    assert delimited(message)[:1] == b"{"
    recording = Recording(written(tmp_path, delimited(message, *RECORDS)))
    assert recording.wire_format == "goflow"
    assert len(list(recording.messages())) == 1 + len(RECORDS)


def test_the_recorded_fabric_splits_as_protobuf_itself_splits_it():
    messages = list(Recording(CLOS).messages())
    assert messages == split_one_by_one(gzip.decompress(CLOS.read_bytes()))
    assert len(messages) == 20_198
    assert not len(decode("goflow", Payloads.from_values(messages)).rejected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bodies=st.lists(st.sampled_from(RECORDS) | st.binary(max_size=300).filter(lambda b: len(b) != 10), min_size=1),
    separator=st.sampled_from([b"", b"\n"]),
    chunk=st.integers(1, 400),
)
@example(bodies=[b"\n" * 9, b"\n" * 11], separator=b"\n", chunk=1)
@example(bodies=[bytes(127), bytes(128), bytes(129)], separator=b"", chunk=129)
def test_any_delimited_messages_are_given_back_whatever_the_reads_are_cut_into(
    monkeypatch, tmp_path, bodies, separator, chunk
):
    with monkeypatch.context() as patched:
        patched.setattr(recordings, "CHUNK_BYTES", chunk)
        stream = b"".join(delimited(body) + separator for body in bodies)
        path = written(tmp_path, stream)
        messages = list(Recording(path, "goflow").messages())
    assert messages == [delimited(body) for body in bodies]
    assert messages == split_one_by_one(stream, separator)


def test_more_messages_than_one_call_can_bound_are_all_found(tmp_path):
    body = delimited(b"abc")
    path = written(tmp_path, body * 150_000)
    assert list(Recording(path, "goflow").messages()) == [body] * 150_000


@given(cut=st.integers(1, len(delimited(*RECORDS)) - 1), separated=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_delimited_file_ends_in_at_most_one_bad_message(tmp_path, cut, separated):
    whole = b"".join(delimited(r) + (b"\n" if separated else b"") for r in RECORDS)
    messages = list(Recording(written(tmp_path, whole[:cut]), "goflow").messages())
    good = [delimited(r) for r in RECORDS]
    assert messages[:-1] == good[: len(messages) - 1]
    assert good[len(messages) - 1].startswith(messages[-1]) or messages[-1] == b"\n"
    rejected = decode("goflow", Payloads.from_values(messages)).rejected.tolist()
    assert rejected in ([], [len(messages) - 1])


@pytest.mark.parametrize(
    ("garbage", "kept"),
    [(b"\xff" * 300_000, 1 << 16), (varint(1 << 34) + bytes(99), 104), (varint(17 << 20) + bytes(300_000), 1 << 16)],
    ids=["endless prefix", "sixteen gigabytes", "beyond the limit"],
)
def test_what_cannot_be_split_is_one_last_message_of_bounded_size(tmp_path, garbage, kept):
    path = written(tmp_path, delimited(*RECORDS) + garbage)
    *good, last = Recording(path, "goflow").messages()
    assert good == [delimited(r) for r in RECORDS]
    assert last == garbage[:kept]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.sampled_from(sorted(FORMATS)),
    compression=st.sampled_from(sorted(COMPRESSIONS)),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
    named=st.sampled_from([None, "goflow", "avro", "suricata-eve"]),
)
def test_a_damaged_file_gives_messages_or_an_error_of_one_line_that_names_it(
    tmp_path, content, compression, cut, flips, named
):
    damaged = bytearray(COMPRESSIONS[compression](FORMATS[content][1]))
    for place, change in flips:
        damaged[int(place * len(damaged))] ^= change
    path = written(tmp_path, bytes(damaged[: int(cut * len(damaged))]))
    messages, said = [], None
    try:
        messages = list(Recording(path, named).messages())
    except RecordingError as error:
        said = str(error)
    assert said is None or (said.startswith(str(path)) and "\n" not in said)
    assert sum(map(len, messages)) <= 50 * (len(damaged) + 100)


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_compressed_file_that_ends_too_early_is_an_error_and_not_a_short_recording(tmp_path, compression):
    noise = b"".join(zlib.crc32(bytes([i, j])).to_bytes(4, "big") for i in range(99) for j in range(99))
    whole = COMPRESSIONS[compression](delimited(*RECORDS, noise[:30_000]))
    recording = Recording(written(tmp_path, whole[: len(whole) - 20]), "goflow")
    with pytest.raises(RecordingError, match="cannot be read: "):
        list(recording.messages())


@pytest.mark.parametrize("content", [b"", b"hello, world\n", b"{not json", b"[1, 2]\n", bytes(100)])
def test_what_is_no_recording_is_refused_with_the_fix(tmp_path, content):
    with pytest.raises(RecordingError, match=r"cannot tell its format; name it with --format$"):
        Recording(written(tmp_path, content))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(RecordingError, match=f"^{path}: no such file$"):
            Recording(path)


def test_lines_are_bounded_and_blank_ones_carry_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "LINE_BYTES_MAX", 64)
    path = written(tmp_path, b'{"a":1}\r\n\n  \n' + b"x" * 150 + b'\n{"a":2}')
    assert list(Recording(path, "goflow-json").messages()) == [
        b'{"a":1}', b"x" * 64, b"x" * 64, b"x" * 22, b'{"a":2}',
    ]  # fmt: skip


def test_a_container_of_something_else_is_refused(tmp_path):
    other = io.BytesIO()
    schema = {"type": "record", "name": "Other", "fields": [{"name": "a", "type": "int"}]}
    fastavro.writer(other, fastavro.parse_schema(schema), [{"a": 1}])
    recording = Recording(written(tmp_path, other.getvalue()))
    with pytest.raises(RecordingError, match="not a container of flow records"):
        list(recording.messages())


def test_progress_runs_from_nothing_to_the_size_of_the_file(tmp_path):
    recording = Recording(CLOS)
    assert (recording.bytes_read, recording.bytes_total) == (0, CLOS.stat().st_size)
    seen = [recording.bytes_read for _ in recording.messages()]
    assert seen == sorted(seen)
    assert seen[-1] == recording.bytes_total
