"""Compressed batches are unpacked into no more memory than one may take, whatever their bytes claim."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cramjam
import pytest
from aiokafka.codec import snappy_encode
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

import agents.client  # noqa: F401 - installs the codecs
from agents.codecs import decompress
from flowstream.errors import DecodeError, Reason
from flowstream.record_batches import UNPACKED_BYTES_MAX, WireBatch, read_batches

ROOT = Path(__file__).resolve().parents[2]
PACK: dict[int, list[Callable[[bytes], bytes]]] = {
    1: [lambda b: bytes(cramjam.gzip.compress(b))],
    2: [snappy_encode, lambda b: bytes(cramjam.snappy.compress_raw(b))],
    3: [lambda b: bytes(cramjam.lz4.compress(b))],
    4: [lambda b: bytes(cramjam.zstd.compress(b))],
}
EVERY = [(codec, pack) for codec, packs in PACK.items() for pack in packs]
HEADER = struct.Struct(">qiibIhiqqqhii")


def batch(codec: int, body: bytes, count: int, base: int = 0) -> WireBatch:
    """Return a record batch with any bytes for its records; nobody below looks at its checksum."""
    wire = HEADER.pack(base, 49 + len(body), 0, 2, 0, codec, count - 1, 0, 0, -1, -1, -1, count) + body
    return WireBatch(memoryview(wire), base, base + count)


def record(value: bytes) -> bytes:
    """Return the only record of a batch: attributes, times, offset 0, no key, the value, no headers."""
    body = b"\x00\x00\x00\x01" + zigzag(len(value)) + value + b"\x00"
    return zigzag(len(body)) + body


def zigzag(number: int) -> bytes:
    number, out = number << 1, b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


@pytest.mark.parametrize(("codec", "pack"), EVERY)
@given(body=st.binary(max_size=3000).map(lambda b: b * 50))
@settings(max_examples=30)
def test_what_was_packed_is_unpacked(codec: int, pack: Callable[[bytes], bytes], body: bytes) -> None:
    assert decompress(codec, memoryview(pack(body))) == body


@pytest.mark.parametrize(("codec", "pack"), EVERY)
def test_the_largest_batch_is_unpacked_and_one_byte_more_is_too_large(codec, pack) -> None:
    assert len(decompress(codec, memoryview(pack(bytes(UNPACKED_BYTES_MAX))))) == UNPACKED_BYTES_MAX
    with pytest.raises(DecodeError) as raised:
        decompress(codec, memoryview(pack(bytes(UNPACKED_BYTES_MAX + 1))))
    assert raised.value.reason is Reason.TOO_LARGE
    assert decompress(codec, memoryview(pack(b"next"))) == b"next"


@pytest.mark.parametrize(("codec", "pack"), EVERY)
@given(place=st.integers(0, 400), byte=st.integers(0, 255), cut=st.integers(0, 400))
@settings(max_examples=60)
def test_broken_bytes_are_refused_or_unpack_to_no_more_than_the_bound(codec, pack, place, byte, cut) -> None:
    packed = bytearray(pack(b"a flow record, again and again; " * 20))
    packed[place % len(packed)] = byte
    try:
        size = len(decompress(codec, memoryview(bytes(packed[: len(packed) - cut % len(packed)]))))
    except DecodeError:
        return
    assert size <= UNPACKED_BYTES_MAX


def test_a_codec_that_there_is_not_is_malformed() -> None:
    for codec in (0, 5, 6, 7):
        with pytest.raises(DecodeError) as raised:
            decompress(codec, memoryview(b"x"))
        assert raised.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(("codec", "pack"), EVERY)
def test_a_bomb_among_batches_is_refused_alone_with_its_offsets(codec, pack) -> None:
    bomb = pack(bytes(UNPACKED_BYTES_MAX + 1))
    good = [batch(codec, pack(record(value)), 1, base) for base, value in ((5, b"one"), (18, b"two"))]
    (read,) = read_batches([good[0], batch(codec, bomb, 12, 6), good[1]], decompress)
    assert read.payloads.values() == [b"one", b"two"]
    assert read.offsets.tolist() == [5, 18]
    (refused,) = read.refused
    assert (refused.batch.first_offset, refused.batch.next_offset, refused.records) == (6, 18, 12)
    assert (refused.reason, read.next_offset) == (Reason.TOO_LARGE, 19)


@given(sizes=st.lists(st.sampled_from([0, 1, 5 << 20, 17 << 20, 33 << 20]), min_size=1, max_size=8), at=st.data())
@settings(max_examples=15)
def test_what_is_refused_depends_on_the_batch_and_not_on_where_a_fetch_was_cut(sizes: list[int], at: st.DataObject):
    batches = [batch(4, PACK[4][0](record(bytes(size))), 1, base) for base, size in enumerate(sizes)]
    cut = at.draw(st.integers(0, len(sizes)))
    parts = [part for half in (batches[:cut], batches[cut:]) for part in read_batches(half, decompress)]
    assert [o for part in parts for o in part.offsets.tolist()] == [b for b, s in enumerate(sizes) if s < 32 << 20]
    assert [r.batch.first_offset for p in parts for r in p.refused] == [b for b, s in enumerate(sizes) if s > 32 << 20]
    assert parts[-1].next_offset == len(sizes)
    # One that is large may come with what was read before it, so twice the bound less a byte; never with two.
    assert max(len(part.payloads.buffer) for part in parts) < (16 << 20) + UNPACKED_BYTES_MAX


def test_aiokafka_s_own_reading_is_held_to_the_same_bound() -> None:
    builder = DefaultRecordBatchBuilder(2, 4, False, -1, 0, 0, 1 << 30)
    builder.append(0, 1, b"key", bytes(UNPACKED_BYTES_MAX), [])
    bomb = bytes(builder.build())
    assert len(bomb) < 10_000
    with pytest.raises(CorruptRecordException, match="too_large"):
        list(MemoryRecords(bomb).next_batch())
    builder = DefaultRecordBatchBuilder(2, 4, False, -1, 0, 0, 1 << 20)
    builder.append(0, 1, b"key", b"value" * 100, [])
    (read,) = MemoryRecords(bytes(builder.build())).next_batch()
    assert (read.key, read.value) == (b"key", b"value" * 100)
    assert DefaultRecordBatch.__module__.startswith("aiokafka.record.")


BOMBS = """
import resource, sys, cramjam
import agents.client
from flowstream.record_batches import read_batches
from agents.codecs import decompress
from tests.agents.test_codecs import PACK, batch, record, zigzag
from flowstream.errors import Reason
bombs = [batch(codec, pack(bytes(1 << 28)), 1) for codec, packs in PACK.items() for pack in packs]
lies = [batch(2, b"\\xff\\xff\\xff\\xff\\x0f" + b"x" * 50, 1), batch(0, record(b"x" * 50), 2**31 - 1)]
lies += [batch(0, zigzag(2**31) + b"\\0" * 50, 1), batch(4, bytes(cramjam.zstd.compress(record(b"x"))), 2**30)]
list(read_batches([batch(4, PACK[4][0](record(b"warm")), 1)], decompress))
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (100 << 20), resource.RLIM_INFINITY))
(read,) = read_batches([*bombs, *lies], decompress)
print([r.reason.label for r in read.refused])
"""


def test_refusing_bombs_and_lies_takes_no_memory_in_proportion_to_them() -> None:
    # 256 MiB out of a few kilobytes each, and batches that claim 2^30 records, with 100 MiB of addresses left.
    run = subprocess.run([sys.executable, "-c", BOMBS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == str(["too_large"] * 6 + ["malformed"] * 3), run.stderr[-2000:]
