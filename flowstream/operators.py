"""What an operator is: panes in, results out, and nothing else.

An operator sees no Kafka, no Faust, no clock, no environment and no log. Given the same panes in the same
order it says the same things, and ``restore(snapshot())`` continues as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, runtime_checkable

from typing_extensions import TypeVar

from flowstream import schemas
from flowstream.batch import FlowBatch
from flowstream.byte_column import ByteColumn
from flowstream.columns import ColumnBatch

#: What kind of rows: flow records where it is not said, ``PartialBatch`` where those of a cube are merged.
Rows = TypeVar("Rows", bound=ColumnBatch, default=FlowBatch)


@dataclass(frozen=True, slots=True)
class Pane(Generic[Rows]):
    """The rows of one pane of event time, ``[start_ns, end_ns)``, in time order (``ColumnBatch.in_time_order``)."""

    index: int  # start_ns // pane length; panes are aligned to the epoch
    start_ns: int
    end_ns: int
    rows: Rows


class Result:
    """One thing an operator says.

    ``stream`` names the result topic (``distances``), ``key`` is upsertable (``window start | subject``),
    ``time_ns`` is the event time it holds for (the end of its window) and ``value`` fits the stream's schema.
    One out of ``Results`` has a ``body`` instead, the Avro encoding of the value, decoded when it is asked for.
    """

    __slots__ = ("_value", "body", "key", "stream", "time_ns")

    def __init__(
        self, stream: str, key: str, time_ns: int, value: dict[str, Any] | None = None, body: bytes | None = None
    ) -> None:
        self.stream = stream
        self.key = key
        self.time_ns = time_ns
        self.body = body
        self._value = value

    @property
    def value(self) -> dict[str, Any]:
        """The value; decoded at the first use where the operator gave a body."""
        if self._value is None:
            self._value = schemas.decode_body(self.stream.replace("-", "_"), self.body or b"")
        return self._value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        return (self.stream, self.key, self.time_ns, self.value) == (
            other.stream, other.key, other.time_ns, other.value,
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.stream, self.key, self.time_ns))

    def __repr__(self) -> str:
        return f"Result({self.stream!r}, {self.key!r}, {self.time_ns}, {self.value!r})"


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """Very many results of one stream and time, in columns: what an operator says that says very much.

    ``keys`` are in UTF-8, ``bodies`` are the Avro encodings of the values. Whoever sends them on need not look at
    any of them alone; whoever does gets each as a ``Result``.
    """

    stream: str
    time_ns: int
    keys: ByteColumn
    bodies: ByteColumn

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Result]:
        for key, body in zip(self.keys.values(), self.bodies.values(), strict=True):
            yield Result(self.stream, key.decode(), self.time_ns, None, body)


Said = Result | Results


def one_by_one(said: Iterable[Said]) -> Iterator[Result]:
    """Yield every result alone."""
    for results in said:
        yield from (results,) if isinstance(results, Result) else results


class Operator(Protocol[Rows]):
    """The contract, tested over every operator in ``tests/contracts/test_operators.py``."""

    name: str
    lookback: int  # how many earlier panes ``process`` needs to see raw, beside the new one

    @property
    def quiet(self) -> bool:
        """Whether an empty pane would change nothing and say nothing (the lookback being empty too)."""
        ...

    def process(self, panes: Sequence[Pane[Rows]]) -> Sequence[Said]:
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


@runtime_checkable
class Keeps(Protocol):
    """An operator with more state than belongs in a snapshot: it says it in a stream of its own, and wants it back.

    Values of ``kept_stream`` are upserted by their keys. ``load`` takes those of the operator's partition that are
    still there, in their order, after a restart and before the first pane; what a life said that went further than
    the snapshot is among them, and must not count. Where a replay warms up, they are said when nothing else is.
    """

    kept_stream: str

    def load(self, values: Iterable[Mapping[str, Any]]) -> None:
        """Take values of the kept stream; StateError where one is not."""
        ...
