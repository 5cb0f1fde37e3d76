"""Where compiled kernels are kept: a folder named for the sources of all of them.

Numba looks only at the file of the function it compiles. A kernel that calls one of another file would be
taken from the cache after that other file has changed, and give the old file's results. So any change of any
kernel means another folder. ``NUMBA_CACHE_DIR`` is respected where it is set.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def sources_digest(package: Path) -> str:
    """Return a hash of every file of the package that has a kernel in it."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        text = path.read_bytes()
        if b"njit" in text:
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + text)
    return digest.hexdigest()[:16]


def choose(package: Path) -> None:
    """Tell numba, which must not have been imported yet, where to keep this version's kernels."""
    if VARIABLE in os.environ:
        return
    caches = package / "__pycache__"
    chosen = caches / f"kernels-{sources_digest(package)}"
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a folder of somebody else's: numba finds a place in the user's home
    if not os.access(chosen, os.W_OK):
        return
    os.environ[VARIABLE] = str(chosen)
    for old in caches.glob("kernels-*"):
        if old != chosen:
            shutil.rmtree(old, ignore_errors=True)
