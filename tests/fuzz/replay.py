"""Tries laws on bytes there are already: python -m tests.fuzz.replay LAW FOLDER. Prints a digest of what came of them.

Kernels are compiled, interpreted, or compiled with every index checked, as NUMBA_DISABLE_JIT and NUMBA_BOUNDSCHECK
say; the digest must be the same.
"""

from __future__ import annotations

import hashlib
import random
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

from tests.fuzz.law import Law
from tests.fuzz.laws import LAWS

MUTANTS = 150
_BYTES = bytes([0x00, 0x01, 0x02, 0x3F, 0x40, 0x7F, 0x80, 0x81, 0xFE, 0xFF])


def mutant(law: Law, dice: random.Random) -> bytes:
    """Return a seed with up to eight changes: bytes set, put in, taken out, repeated, or a token put in."""
    octets = bytearray(dice.choice(law.seeds))
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        at = dice.randrange(len(octets) + 1)
        size = dice.randrange(1, 10)
        noise = bytes(dice.choice(_BYTES) for _ in range(size))
        piece = dice.choice(law.tokens) if law.tokens else noise
        octets[at : at + dice.choice((0, size))] = dice.choice((noise, piece, b"", bytes(octets[: 3 * size])))
    return bytes(octets)


def mutants(law: Law, count: int = MUTANTS, seed: int = 1) -> Iterable[bytes]:
    """Return bytes to try, the same for the same seed."""
    dice = random.Random(seed)
    return (mutant(law, dice) for _ in range(count))


def digest(law: Law, tried: Iterable[bytes]) -> str:
    """Return a hash of what came of bytes."""
    said = hashlib.sha256()
    for octets in tried:
        try:
            said.update(repr(law.check(octets)).encode())
        except BaseException:
            print(f"broken by {octets!r}", file=sys.stderr)
            raise
    return said.hexdigest()


if __name__ == "__main__":
    # Interpreted kernels wrap around as compiled ones do, but numpy warns of it.
    warnings.simplefilter("ignore", RuntimeWarning)
    names, folder = sys.argv[1].split(","), Path(sys.argv[2]) if len(sys.argv) > 2 else None
    for name in names:
        chosen = LAWS[name]
        found = (
            [path.read_bytes() for path in sorted(folder.iterdir())] if folder else [*chosen.seeds, *mutants(chosen)]
        )
        print(name, digest(chosen, found), flush=True)
