"""The table of sources of the recorded fabric, against what was really sent and against the talkers by source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowstream.links import LinkTable
from flowstream.operators import Result, one_by_one
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.recordings import Recording
from flowstream.settings import Settings
from flowstream.source_blocks import SourceBlock

DATA = Path(__file__).parents[1] / "data"
ORACLE: dict[str, Any] = json.loads((DATA / "clos_60s_oracle.json").read_text())
FCS = 4  # sFlow counts it, the truth does not


def run(**changed: Any) -> list[Result]:
    links = LinkTable.from_path(DATA / "clos_links.csv")
    pipeline = FilePipeline(Settings(**changed), links, "clos", "goflow")
    messages = Recording(DATA / "clos_60s_goflow2_v2.bin.gz").messages()
    said = [result for batch in in_batches(messages) for result in pipeline.feed(batch)]
    return list(one_by_one([*said, *pipeline.finish()]))


def rows_of(results: list[Result]) -> dict[tuple[int, str], dict[str, Any]]:
    """Return the rows by the start of their window and their address."""
    blocks = [SourceBlock.from_value(r.value) for r in results if r.stream == "sources"]
    return {(block.window_start_ns, row["src_addr"]): row for block in blocks for row in block.rows()}


def test_what_each_source_really_sent_is_within_its_bounds():
    found = {
        address: row
        for (_, address), row in rows_of(
            run(analyses=("sources",), sources={"size_s": 300.0, "distances": False})
        ).items()
    }
    for source in ORACLE["sources"]:
        sent, row = source["bytes"] + FCS * source["packets"], found[source["src"]]
        assert row["estimated_bytes_low"] <= sent <= row["estimated_bytes_high"], (source, row)
        if row["flows"] > 1000:
            assert row["estimated_bytes"] == pytest.approx(sent, rel=0.1)


def test_each_window_of_a_source_is_as_large_and_as_sure_as_that_talker():
    """Talkers are merged from the partitions and allow for datagrams that may have been lost, by a share they name."""
    talkers = {"windows": [{"size_s": 10, "step_s": 10}], "by": ["source"], "rank": ["bytes"], "count": 1000}
    results = run(analyses=("sources", "talkers"), sources={"distances": False}, talkers=talkers)
    rows, compared = rows_of(results), 0
    for result in results:
        if result.stream != "talkers":
            continue
        window = result.value
        assert len(window["top"]) == window["keys"]
        for talker in window["top"]:
            row = rows[window["window_start_ns"], talker["src_addr"]]
            assert row["flows"] == talker["records"]
            assert (row["estimated_bytes"], row["estimated_packets"]) == (talker["bytes"], talker["packets"])
            assert row["estimated_bytes_low"] == pytest.approx(talker["bytes_low"], rel=1e-6, abs=1)
            without_loss = talker["bytes_high"] * (1.0 - window["lost_share"])
            assert row["estimated_bytes_high"] == pytest.approx(without_loss, rel=1e-6, abs=1)
            compared += 1
    assert compared == sum(row["flows"] > 0 for row in rows.values()) > 100
    assert any(row["estimated_bytes"] is None for row in rows.values())


def test_the_floor_is_that_of_the_settings():
    chosen = {"analyses": ("sources",), "sources": {"distances": False}}
    estimates = [
        [row["estimated_bytes"] for row in rows_of(run(**chosen, sampling={"samples_min": floor})).values()]
        for floor in (0.0, 4.0, 50.0)
    ]
    unknown = [told.count(None) for told in estimates]
    assert 0 == unknown[0] < unknown[1] < unknown[2] < len(estimates[2])
