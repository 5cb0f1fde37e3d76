"""What a law over bytes is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Law(NamedTuple):
    """``check`` raises where bytes break the law, and returns what came of them, comparable by its ``repr``."""

    check: Callable[[bytes], object]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes] = ()  # pieces worth putting in
