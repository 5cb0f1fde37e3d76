"""Undoes the compression of record batches, into no more memory than a batch may take.

A few kilobytes can be made to unpack to gigabytes, and what a frame declares of its own size may be a lie. So there is
one buffer per thread, as large as is allowed, into which everything is unpacked; only the pages that were written
take memory. What does not fit is refused.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

import cramjam
import numpy as np
from aiokafka.errors import CorruptRecordException
from aiokafka.record import default_records, legacy_records

from flowstream.errors import DecodeError, Reason
from flowstream.record_batches import UNPACKED_BYTES_MAX

#: A buffer of which more than this was written is not kept.
_KEPT_BYTES: Final = 4 << 20
_XERIAL: Final = b"\x82SNAPPY\x00"  # snappy in blocks, as Java's clients write it; then two versions of 4 bytes
_XERIAL_HEADER_BYTES: Final = 16
_LENGTH: Final = struct.Struct(">i")
#: cramjam's words for a buffer that is too small.
_NO_ROOM: Final = ("failed to write whole buffer", "is smaller than required")

_local = threading.local()


def decompress(codec: int, packed: memoryview) -> memoryview:
    """Undo a record batch's compression; what is returned is overwritten by this thread's next call.

    Raises DecodeError where the codec is none or the bytes are not what it writes, and, as TOO_LARGE, where they
    unpack to more than ``UNPACKED_BYTES_MAX``.
    """
    if codec not in _CODECS:
        raise DecodeError("record-batch", Reason.MALFORMED, f"codec {codec}, which there is not")
    out: memoryview | None = getattr(_local, "out", None)
    if out is None:
        out = _local.out = memoryview(np.empty(UNPACKED_BYTES_MAX, np.uint8))  # type: ignore[arg-type]
    try:
        size = _CODECS[codec](packed, out)
    except (cramjam.DecompressionError, struct.error, OSError, EOFError, ValueError) as error:
        _local.out = None
        is_full = any(words in str(error) for words in _NO_ROOM)
        reason = Reason.TOO_LARGE if is_full else Reason.MALFORMED
        raise DecodeError("record-batch", reason, f"cannot be decompressed: {error}") from error
    if size > _KEPT_BYTES:
        _local.out = None
    return out[:size]


def _snappy(packed: memoryview, out: memoryview) -> int:
    if packed[: len(_XERIAL)].tobytes() != _XERIAL:
        return int(cramjam.snappy.decompress_raw_into(packed, out))
    at, used = _XERIAL_HEADER_BYTES, 0
    while at < len(packed):
        size = _LENGTH.unpack_from(packed, at)[0]
        at += _LENGTH.size
        if not 0 <= size <= len(packed) - at:
            raise ValueError(f"a block of {size} bytes where {len(packed) - at} are left")
        used += int(cramjam.snappy.decompress_raw_into(packed[at : at + size], out[used:]))
        at += size
    return used


_CODECS: Final[dict[int, Callable[[Any, Any], int]]] = {
    1: cramjam.gzip.decompress_into,
    2: _snappy,
    3: cramjam.lz4.decompress_into,
    4: cramjam.zstd.decompress_into,
}


def _for_aiokafka(codec: int) -> Callable[[bytes], bytes]:
    def decode(packed: bytes) -> bytes:
        try:
            return bytes(decompress(codec, memoryview(packed)))
        except DecodeError as error:
            raise CorruptRecordException(str(error)) from error

    return decode


def install() -> None:
    """Have aiokafka unpack what it reads itself (changelogs, links, what ``tail`` prints) within the same bound."""
    for reader in (default_records.DefaultRecordBatch, legacy_records.LegacyRecordBatch):
        module = sys.modules[reader.__module__]  # compiled, or in Python where that could not be loaded
        for name, codec in (("gzip_decode", 1), ("snappy_decode", 2), ("lz4_decode", 3), ("zstd_decode", 4)):
            if hasattr(module, name):
                setattr(module, name, _for_aiokafka(codec))
