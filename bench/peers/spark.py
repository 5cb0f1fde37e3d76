"""Spark Structured Streaming: a watermark, a window, append mode.

Messages are parsed in a function over Arrow batches: the jar of Spark's own ``from_protobuf`` could not be had
where this was written. The rest is in Spark's own expressions but for the summaries of job c, which a pandas
function computes from the flows of a window.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from bench.peers.flow_message import body, flow_message
from bench.peers.jobs import OUT_OF_ORDERNESS_MS, WINDOW_MS
from bench.peers.pairing import distances

JARS = Path(__file__).parents[2] / ".flowstream" / "spark"
CONF = {
    "spark.master": "local[1]",
    "spark.driver.memory": "4g",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
}
PARSED = "src_addr string, time_ns long, partition int, offset long, duration double, bytes long, packets long"
SUMMARY = "flows long, pairs long, min double, max double, mean double"


def flows(spark: SparkSession, bootstrap: str, source: str) -> DataFrame:
    """Return the records: source, event time, order and figures."""
    reader = spark.readStream.format("kafka").option("kafka.bootstrap.servers", bootstrap).option("subscribe", source)
    reader = reader.option("startingOffsets", "earliest").option("kafka.isolation.level", "read_committed")
    read = reader.load().select("value", "partition", "offset").mapInArrow(parse, PARSED)
    time = f.expr("timestamp_micros(time_ns div 1000)")
    return read.withColumn("time", time).withWatermark("time", f"{OUT_OF_ORDERNESS_MS} milliseconds")


def parse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Parse messages, a batch at a time."""
    read = flow_message().FromString
    for batch in batches:
        found = [read(body(value)) for value in batch.column("value").to_pylist()]
        lasted_s = [max(0, flow.time_flow_end_ns - flow.time_flow_start_ns) / 1e9 for flow in found]
        yield pa.RecordBatch.from_arrays(
            [
                pa.array([flow.src_addr.hex() for flow in found], pa.string()),
                pa.array([flow.time_received_ns for flow in found], pa.int64()),
                batch.column("partition"),
                batch.column("offset"),
                pa.array(lasted_s, pa.float64()),
                pa.array([flow.bytes for flow in found], pa.int64()),
                pa.array([flow.packets for flow in found], pa.int64()),
            ],
            names=["src_addr", "time_ns", "partition", "offset", "duration", "bytes", "packets"],
        )


def grouped(records: DataFrame) -> Any:
    """Return the records by source and window."""
    return records.groupBy("src_addr", f.window("time", f"{WINDOW_MS} milliseconds"))


def sums(records: DataFrame) -> DataFrame:
    """Job a."""
    return grouped(records).agg(
        f.sum("bytes").alias("bytes"), f.sum("packets").alias("packets"), f.count("*").alias("flows")
    )


def collected(records: DataFrame) -> DataFrame:
    """Return each source's flows of a window, in order."""
    point = f.struct("time_ns", "partition", "offset", "duration", "bytes", "packets")
    return grouped(records).agg(f.sort_array(f.collect_list(point)).alias("rows"))


def pairs(records: DataFrame) -> DataFrame:
    """Job b."""
    left = collected(records).select("src_addr", "window", "rows", f.posexplode("rows").alias("first", "x"))
    rest = f.expr("slice(rows, first + 2, size(rows))")
    both = left.select("src_addr", "window", "first", "x", f.posexplode(rest).alias("after", "y"))
    square = " + ".join(f"pow(x.{name} - y.{name}, 2)" for name in ("duration", "bytes", "packets"))
    return both.select(
        "src_addr", "window", "first", f.expr("first + 1 + after").alias("second"),
        f.expr(f"sqrt({square})").alias("distance"),
    )  # fmt: skip


def summaries(records: DataFrame) -> DataFrame:
    """Job c."""

    @f.pandas_udf(SUMMARY)
    def summary(rows: pd.Series) -> pd.DataFrame:
        found = []
        for of_source in rows:
            points = [
                (r["time_ns"], r["partition"], r["offset"], r["duration"], 0.0, 0.0, r["bytes"], r["packets"])
                for r in of_source
            ]
            apart = distances(points)[2]
            found.append((len(points), len(apart), apart.min(), apart.max(), apart.mean()))
        return pd.DataFrame(found, columns=["flows", "pairs", "min", "max", "mean"])

    enough = collected(records).where("size(rows) > 1")
    return enough.select("src_addr", "window", summary("rows").alias("of")).select("src_addr", "window", "of.*")


def main(job: str, bootstrap: str, source: str, output: str, _group: str) -> None:
    """Run until SIGTERM."""
    builder = SparkSession.builder.appName("peer").config("spark.jars", ",".join(map(str, JARS.glob("*.jar"))))
    for name, chosen in CONF.items():
        builder = builder.config(name, chosen)
    spark = builder.getOrCreate()
    results = {"a": sums, "b": pairs, "c": summaries}[job](flows(spark, bootstrap, source))
    others = [name for name in results.columns if name != "window"]
    start_ms = f.unix_millis("window.start").alias("window_start_ms")
    written = results.select(f.to_json(f.struct(start_ms, *others)).alias("value")).writeStream.format("kafka")
    written = written.option("kafka.bootstrap.servers", bootstrap).option("topic", output).outputMode("append")
    written.option("checkpointLocation", str(Path("checkpoint").absolute())).start().awaitTermination()


if __name__ == "__main__":
    os.environ["PYSPARK_PYTHON"] = sys.executable
    main(*sys.argv[1:])
