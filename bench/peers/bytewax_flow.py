"""Bytewax: keyed by source, tumbling windows by the records' own time.

Bytewax's ``EventClock`` moves a source's watermark on with the system's clock. Records of the past come faster or
slower than they did then: a run slower than the load was recorded would call records late. So this has a clock
of its own, as Bytewax allows: the watermark is the event time that every partition has reached, less the
out-of-orderness.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import Clock, ClockLogic, TumblingWindower, collect_window, fold_window

from bench.peers.flow_message import body, flow_message
from bench.peers.jobs import OUT_OF_ORDERNESS_MS, PARTITIONS, WINDOW_MS
from bench.peers.pairing import RESULTS, row

PARSE = flow_message().FromString
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATENESS = timedelta(milliseconds=OUT_OF_ORDERNESS_MS)
BATCH = 1000  # messages of a poll, Bytewax's default


class Replay(Clock[Any, None], ClockLogic[Any, None]):
    """A clock that goes by event time, the same for all sources."""

    def __init__(self) -> None:
        self.reached = dict.fromkeys(range(PARTITIONS), EPOCH)

    def build(self, resume_state: None) -> Replay:  # noqa: ARG002 - there is nothing to resume
        """Return the clock of a source."""
        return self

    def before_batch(self) -> None:
        """Nothing to do: ``read`` has moved the clock."""

    def on_item(self, value: tuple[datetime, Any]) -> tuple[datetime, datetime]:
        """Return a record's event time and the watermark."""
        return value[0], self.on_notify()

    def on_notify(self) -> datetime:
        """Return the watermark."""
        return min(self.reached.values()) - LATENESS

    def on_eof(self) -> datetime:
        """Return the watermark at the end of the input, which never comes."""
        return self.on_notify()

    def to_system_utc(self, timestamp: datetime) -> datetime:
        """Return when the watermark passes a time by the system's clock, if events come as fast as they did."""
        return datetime.now(UTC) + (timestamp - self.on_notify())

    def snapshot(self) -> None:
        """Return the state to keep: recovery is off."""

    def read(self, messages: Iterable[KafkaSourceMessage]) -> Iterator[tuple[str, tuple[datetime, Any]]]:
        """Yield each record with its source and its event time."""
        for message in messages:
            flow = PARSE(body(message.value))
            time = EPOCH + timedelta(microseconds=flow.time_received_ns // 1000)
            self.reached[message.partition] = max(self.reached[message.partition], time)
            yield flow.src_addr.hex(), (time, (flow, message.partition, message.offset))


def add(sums: list[int], timed: tuple[datetime, Any]) -> list[int]:
    """Add a flow to [bytes, packets, flows]."""
    flow = timed[1][0]
    sums[0] += flow.bytes
    sums[1] += flow.packets
    sums[2] += 1
    return sums


def plus(left: list[int], right: list[int]) -> list[int]:
    """Add up [bytes, packets, flows]: only windows that merge need it, which these do not."""
    return [a + b for a, b in zip(left, right, strict=True)]


def message(result: dict[str, Any]) -> KafkaSinkMessage[None, bytes]:
    """Return a result as a message."""
    return KafkaSinkMessage(None, orjson.dumps(result))


def sums_result(closed: tuple[str, tuple[int, list[int]]]) -> KafkaSinkMessage[None, bytes]:
    """Return the result of a closed window: windows are numbered from the epoch."""
    src_addr, (number, (size, packets, flows)) = closed
    return message(
        {
            "src_addr": src_addr,
            "window_start_ms": number * WINDOW_MS,
            "bytes": size,
            "packets": packets,
            "flows": flows,
        }
    )


def flow(job: str, bootstrap: str, source: str, output: str) -> Dataflow:
    """Return the dataflow, for ``python -m bytewax.run``."""
    clock = Replay()
    windower = TumblingWindower(length=timedelta(milliseconds=WINDOW_MS), align_to=EPOCH)
    dataflow = Dataflow("peer")
    committed = {"isolation.level": "read_committed"}
    read = op.input("in", dataflow, KafkaSource([bootstrap], [source], add_config=committed, batch_size=BATCH))
    keyed: Any = op.flat_map_batch("parse", read, clock.read)
    if job == "a":
        closed = fold_window("sums", keyed, clock, windower, lambda: [0, 0, 0], add, plus, ordered=False)
        results = op.map("result", closed.down, sums_result)
    else:
        collected = collect_window("flows", keyed, clock, windower, ordered=False)
        result = RESULTS[job]

        def of_pairs(closed: tuple[str, tuple[int, list[Any]]]) -> list[KafkaSinkMessage[None, bytes]]:
            src_addr, (number, timed) = closed
            rows = [row(*where) for _time, where in timed]
            return [message(found) for found in result(src_addr, number * WINDOW_MS, rows)]

        results = op.flat_map("pairs", collected.down, of_pairs)
    op.output("out", results, KafkaSink([bootstrap], output))
    return dataflow
