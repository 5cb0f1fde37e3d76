"""The recorded minute as flowstream publishes it: judged like a run, and shown without a lie."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from deploy.testbed import show
from deploy.testbed.check import RECORDED, check, port_names
from deploy.testbed.pipeline import read_results
from deploy.testbed.plan import Run
from deploy.testbed.published import source_bytes
from deploy.testbed.truth import recorded
from flowstream.links import LinkTable
from flowstream.topics import STREAMS

Published = Mapping[str, list[dict[str, Any]]]


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Return the results of the recorded minute, which the check has judged to be good."""
    folder = tmp_path_factory.mktemp("recorded")
    with inside(folder):
        assert check(Console(file=StringIO()), None) == 0
    return {stream: read_results(folder / ".flowstream" / "testbed" / "recorded", stream) for stream in STREAMS}


def test_top_talkers_of_the_whole_minute_are_the_oracles_to_the_byte(published: Published):
    oracle = json.loads(Path(RECORDED, "clos_60s_oracle.json").read_text())["sources"]
    wanted = {row["src"]: row["sflow_bytes"] + 4 * row["sflow_packets"] for row in oracle if row["sflow_packets"]}
    found = source_bytes(published["talkers"], 0)
    assert set(found) == {(0, src) for src in wanted}
    stated = {src: estimate.bytes for (_, src), estimate in found.items() if estimate.stated}
    assert len(stated) == 20
    assert stated == {src: wanted[src] for src in stated}


def printed(table: Table) -> str:
    out = StringIO()
    Console(file=out, width=300).print(table)
    return out.getvalue()


def test_elephants_are_shown_with_their_whole_path_by_names_and_what_they_share(published: Published):
    names = port_names(LinkTable.from_path(RECORDED / "clos_links.csv"))
    elephants = printed(show.elephants_table(recorded(RECORDED), published, names))
    told = [line for line in elephants.splitlines() if "Mb/s (" in line]
    # E1 went by spine 1, E2 and E3 by spine 2, says the generator of the recording.
    for line, way in zip(told, ("spine1[s1l1>s1l3]", "spine2[s2l1>s2l3]", "spine2[s2l2>s2l3]"), strict=True):
        assert way in line
        assert " yes " in line
    assert " no " not in "".join(told)
    shared = printed(show.shared_table(published["elephant-links"]))
    assert "leaf3[l3h]" in shared


def test_top_talkers_are_shown_with_an_interval_that_is_marked_where_it_misses(published: Published):
    truth = recorded(RECORDED)
    assert "missed" not in printed(show.sources_table(truth, published["talkers"]))
    doubled = {key: 2 * sent for key, sent in truth.sources.items()}
    wrong = type(truth)(truth.link_bps, 0, doubled, truth.flows, {})
    assert printed(show.sources_table(wrong, published["talkers"])).count("missed") == show.TOP


def test_all_three_scenarios_are_shown_with_the_brackets_of_ports(published: Published):
    names = port_names(LinkTable.from_path(RECORDED / "clos_links.csv"))
    tables = show.tables(recorded(RECORDED), Run(duration_s=60), published, names)
    titles = [str(table.title) for table in tables]
    assert [sum(title.startswith(mark) for title in titles) for mark in ("(a)", "(b)", "(c)")] == [2, 2, 1]
    assert "[l3h] out" in "".join(map(printed, tables))
