"""Quix Streams: re-keyed by source, tumbling windows by the records' own time, closed for a whole partition."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

from quixstreams import Application
from quixstreams.context import message_context
from quixstreams.dataframe.windows import Collect, Count, Sum
from quixstreams.models.serializers import BytesDeserializer

from bench.peers.flow_message import body, flow_message
from bench.peers.jobs import MS, OUT_OF_ORDERNESS_MS, WINDOW_MS
from bench.peers.pairing import RESULTS, row

PARSE = flow_message().FromString


def read(value: bytes) -> dict[str, Any]:
    """Return the fields of a record that sums need."""
    flow = PARSE(body(value))
    return {
        "src_addr": flow.src_addr.hex(),
        "bytes": flow.bytes,
        "packets": flow.packets,
        "time_ms": flow.time_received_ns // MS,
    }


def read_row(value: bytes) -> dict[str, Any]:
    """Return a record's source and its row."""
    flow, where = PARSE(body(value)), message_context()
    return {
        "src_addr": flow.src_addr.hex(),
        "row": row(flow, where.partition, where.offset),
        "time_ms": flow.time_received_ns // MS,
    }


def sums(window: dict[str, Any], src_addr: str, *_: Any) -> dict[str, Any]:
    """Return the result of a closed window."""
    return {
        "src_addr": src_addr,
        "window_start_ms": window["start"],
        "bytes": window["bytes"],
        "packets": window["packets"],
        "flows": window["flows"],
    }


def main(job: str, bootstrap: str, source: str, output: str, group: str) -> None:
    """Run until SIGTERM."""
    app = Application(
        bootstrap, consumer_group=group, auto_offset_reset="earliest", state_dir="state", loglevel="ERROR",
        consumer_extra_config={"isolation.level": "read_committed"},
    )  # fmt: skip
    results = app.topic(output, value_serializer="json", key_serializer="str")
    stream = app.dataframe(app.topic(source, value_deserializer=BytesDeserializer()))
    stream = stream.apply(read if job == "a" else read_row)
    stream = stream.group_by("src_addr", key_serializer="str", key_deserializer="str")
    stream = stream.set_timestamp(lambda value, *_: value["time_ms"])
    windows = stream.tumbling_window(timedelta(milliseconds=WINDOW_MS), timedelta(milliseconds=OUT_OF_ORDERNESS_MS))
    if job == "a":
        closed = windows.agg(bytes=Sum("bytes"), packets=Sum("packets"), flows=Count()).final("partition")
        closed = closed.apply(sums, metadata=True)
    else:
        closed = windows.agg(rows=Collect("row")).final("partition")
        result = RESULTS[job]
        closed = closed.apply(
            lambda window, key, *_: list(result(key, window["start"], window["rows"])), expand=True, metadata=True
        )
    closed.to_topic(results)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
