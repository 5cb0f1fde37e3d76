"""What the harness must know of a peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PeerCommand:
    """How to run a peer: one process tree that works until SIGTERM.

    ``argv`` is called with job ("a", "b" or "c"), bootstrap, input topic, output topic, consumer group.
    ``env`` is added to the environment.
    """

    name: str
    versions: dict[str, str]
    settings: dict[str, str]
    jobs: tuple[str, ...]
    argv: Callable[[str, str, str, str, str], list[str]]
    env: dict[str, str]
