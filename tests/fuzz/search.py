"""Searches for bytes that break a law, with atheris: python -m tests.fuzz.search LAW FOLDER [libFuzzer's options].

Kernels are interpreted (NUMBA_DISABLE_JIT=1, which ``python -m tests.fuzz`` sets): only so does atheris see which of
their branches are taken, and an index beyond an array is an error. What is found is tried on the compiled ones after.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris


def search(name: str, options: list[str]) -> None:
    """Search until libFuzzer's options say to stop; a finding ends the process and is left in a file."""
    with atheris.instrument_imports(include=["flowstream"]):
        from tests.fuzz.laws import LAWS

    law = LAWS[name]
    folder = Path(options[0])
    tokens = folder.parent / f"{name}.tokens"
    spelt = ("".join(f"\\x{byte:02x}" for byte in token) for token in law.tokens)
    tokens.write_text("".join(f'"{token}"\n' for token in spelt))
    for number, seed in enumerate(law.seeds):
        (folder / f"seed-{number}").write_bytes(seed)

    def check(octets: bytes) -> None:
        law.check(octets)

    atheris.Setup([sys.argv[0], *options, f"-dict={tokens}"], check)
    atheris.Fuzz()


if __name__ == "__main__":
    search(sys.argv[1], sys.argv[2:])
