"""What an operator is: panes in, results out, and nothing else.

An operator sees no Kafka, no Faust, no clock, no environment and no log. Given the same panes in the same
order it says the same things, and ``restore(snapshot())`` continues as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flowstream.batch import FlowBatch


@dataclass(frozen=True, slots=True)
class Pane:
    """The rows of one pane of event time, ``[start_ns, end_ns)``, in time order (``FlowBatch.in_time_order``)."""

    index: int  # start_ns // pane length; panes are aligned to the epoch
    start_ns: int
    end_ns: int
    rows: FlowBatch


@dataclass(frozen=True, slots=True)
class Result:
    """One thing an operator says.

    ``stream`` names the result topic (``distances``), ``key`` is upsertable (``window start | subject``),
    ``time_ns`` is the event time it holds for (the end of its window) and ``value`` fits the stream's schema.
    """

    stream: str
    key: str
    time_ns: int
    value: dict[str, Any]


class Operator(Protocol):
    """The contract, tested over every operator in ``tests/contracts/test_operators.py``."""

    name: str
    lookback: int  # how many earlier panes ``process`` needs to see raw, beside the new one

    @property
    def quiet(self) -> bool:
        """Whether an empty pane would change nothing and say nothing (the lookback being empty too)."""
        ...

    def process(self, panes: Sequence[Pane]) -> list[Result]:
        """Take in ``panes[-1]``, just closed.

        ``panes[:-1]`` are those of the ``lookback`` panes before it that were processed, in order; one that
        is missing was empty.
        """
        ...

    def snapshot(self) -> bytes:
        """Return the state after the last processed pane; raw rows are not in it (that is what lookback is for)."""
        ...

    def restore(self, state: bytes) -> None:
        """Take a snapshot's state; StateError if this version cannot."""
        ...
