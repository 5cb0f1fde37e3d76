"""Byte strings in a column: what very many keys or values are held in, so that kernels can walk them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class ByteColumn:
    """Byte strings end to end: number ``i`` is ``buffer[bounds[i]:bounds[i + 1]]``.

    The buffer (uint8) may hold more than the strings; ``bounds`` (int64, one more than there are strings) ascend.
    """

    buffer: NDArray[np.uint8]
    bounds: NDArray[np.int64]

    @classmethod
    def of(cls, values: Sequence[bytes]) -> ByteColumn:
        """Join byte strings."""
        bounds = np.zeros(len(values) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=bounds[1:])
        return cls(bytes_array(bytearray().join(values)), bounds)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def size_bytes(self) -> int:
        """How long the strings are together."""
        return int(self.bounds[-1] - self.bounds[0])

    def values(self) -> list[bytes]:
        """Return the strings as bytes objects."""
        first = int(self.bounds[0])
        packed = self.buffer[first : self.bounds[-1]].tobytes()
        return [packed[a:b] for a, b in pairwise((self.bounds - first).tolist())]


def bytes_array(packed: bytes | bytearray) -> NDArray[np.uint8]:
    """Return bytes as an array that kernels take: one over ``bytes`` is read-only, another type to the compiler."""
    return np.frombuffer(packed if isinstance(packed, bytearray) else bytearray(packed), np.uint8)
