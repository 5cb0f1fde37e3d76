"""What a row is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.ground import Ground
from bench.verdict import Outcome, Target


@dataclass(frozen=True, slots=True)
class Row:
    """``measure`` returns a value per target, or raises BenchError where the run does not count."""

    name: str
    targets: tuple[Target, ...]
    measure: Callable[[Ground], Outcome]
