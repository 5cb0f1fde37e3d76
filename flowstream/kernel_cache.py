"""Where compiled kernels are kept: a folder named for the sources of all of them.

Numba looks only at the file of the function it compiles. A kernel that calls one of another file would be
taken from the cache after that other file has changed, and give the old file's results; and so would one that was
compiled with another file's constants. So any change of any kernel, or of what kernels' files import, means another
folder. ``NUMBA_CACHE_DIR`` is respected where it is set.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"
_IMPORTS = re.compile(rb"^from flowstream([.\w]*) import (\([^)]*\)|.*)", re.MULTILINE)


def sources_digest(package: Path) -> str:
    """Return a hash of every file of the package that has a kernel in it, or that such a file imports, and so on."""
    sources = {path: path.read_bytes() for path in sorted(package.rglob("*.py"))}
    told, pending = set[Path](), [path for path, text in sources.items() if b"njit" in text]
    while pending:
        path = pending.pop()
        if path in sources and path not in told:
            told.add(path)
            pending += (found for names in _IMPORTS.findall(sources[path]) for found in _files(package, names))
    digest = hashlib.sha256()
    for path in sorted(told):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + sources[path])
    return digest.hexdigest()[:16]


def _files(package: Path, names: tuple[bytes, bytes]) -> list[Path]:
    """Return where the modules of ``from flowstream<.module> import <names>`` may be: itself, or each of the names."""
    inner = package.joinpath(*names[0].decode().strip(".").split("."))
    imported = [inner / f"{name}.py" for name in re.findall(r"\w+", names[1].decode())]
    return [inner.with_suffix(".py"), inner / "__init__.py", *imported]


def note_of_compiled(what: str) -> Path | None:
    """Return the file whose being there says that the kernels of ``what`` are kept; None where nothing may be noted.

    Whoever has compiled them makes it. It is in the folder of the kernels, and goes with them.
    """
    folder = os.environ.get(VARIABLE)
    return None if folder is None or not os.access(folder, os.W_OK) else Path(folder) / f"compiled-{what}"


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
