"""The scenarios and their numbers, which are those of docs/reliability.md."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.rig import Rig


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is done to flowstream, and the function that does it: AssertionError where a criterion fails."""

    number: int
    name: str
    fault: str
    quick: bool  # short enough for every run of the tests
    own_broker: bool  # it harms the broker, so it gets one of its own
    run: Callable[[Rig], None]


_REGISTERED: dict[int, Scenario] = {}


def scenario(
    number: int, name: str, *, fault: str, quick: bool = False, own_broker: bool = False
) -> Callable[[Callable[[Rig], None]], Callable[[Rig], None]]:
    """Register a function as the scenario of a number; ValueError where there is one already."""

    def register(run: Callable[[Rig], None]) -> Callable[[Rig], None]:
        if number in _REGISTERED:
            raise ValueError(f"scenario {number} is {_REGISTERED[number].name!r}, and {name!r} too")
        _REGISTERED[number] = Scenario(number, name, fault, quick, own_broker, run)
        return run

    return register


def scenarios() -> dict[int, Scenario]:
    """Return every scenario by number: those of all modules of this package."""
    package = importlib.import_module("tests.faults")
    for module in pkgutil.iter_modules(package.__path__, "tests.faults."):
        if not module.name.rpartition(".")[2].startswith(("__", "test_")):
            importlib.import_module(module.name)
    return dict(sorted(_REGISTERED.items()))
