"""The web server of real workers: metrics as a whole, health, and every source found through every worker."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowstream import __version__
from flowstream.links import LinkTable
from flowstream.operators import one_by_one
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.recordings import Recording
from flowstream.results import unpack
from tests.integration.kafka import read_all
from tests.integration.lab import Lab, Worker
from tests.waiting import wait_for

DATA = Path(__file__).parent.parent / "data"
CLOS, LINKS = DATA / "clos_60s_goflow2_v2.bin.gz", DATA / "clos_links.csv"
BAD = {b"": "empty", b"\xff" * 40: "malformed", b"not protobuf at all": "malformed", b"\x08": "truncated"}
ROWS = 20_198
Sample = tuple[str, frozenset[tuple[str, str]]]
Rows = dict[int, dict[str, dict[str, Any]]]  # window start -> address -> row


class Fabric(NamedTuple):
    """A lab whose worker has analysed the recording, its metrics then, and what a file says of the sources."""

    lab: Lab
    worker: Worker
    metrics: dict[Sample, float]
    expected: Rows


def sources_over_a_file(lab: Lab, values: list[bytes | None]) -> Rows:
    pipeline = FilePipeline(lab.settings(), LinkTable.from_path(LINKS), lab.raw, "goflow")
    results = [r for payloads in in_batches(v or b"" for v in values) for r in pipeline.feed(payloads)]
    windows: Rows = {}
    for result in one_by_one([*results, *pipeline.finish()]):
        if result.stream == "sources":
            value = unpack("sources", result.value)
            rows = {row["src_addr"]: row for row in value["sources"]}
            windows.setdefault(value["window_start_ns"], {}).update(rows)
    return windows


def measured(worker: Worker) -> dict[Sample, float]:
    """Every sample but creation times and single buckets."""
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket"))
    }


def labelled(name: str, **labels: str) -> Sample:
    return f"flowstream_{name}", frozenset(labels.items())


@pytest.fixture(scope="module")
def fabric(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    with Lab(broker, f"t{uuid.uuid4().hex[:12]}-", tmp_path_factory.mktemp("web")) as lab:
        lab.prepare(LINKS)
        worker = lab.worker()
        values: list[bytes | None] = [*Recording(CLOS).messages(), *BAD, None]
        lab.send(values)
        expected = sources_over_a_file(lab, values)
        wait_for(lambda: worker.metric("records_consumed_total") == len(values), "the messages to be consumed")
        wait_for(lambda: worker.metric("rows_applied_total") == ROWS, "all rows to be applied")
        # The last window closes as time goes on in the silent source partition.
        last = max(expected)
        wait_for(lambda: fetch(worker, "/sources?top=1000")[1].get("window_start_ns") == last, "the last window")
        sources = expected[last].keys()
        wait_for(
            lambda: {r["src_addr"] for r in fetch(worker, "/sources?top=1000")[1]["sources"]} == sources, "all of it"
        )
        yield Fabric(lab, worker, measured(worker), expected)


@pytest.fixture(scope="module")
def both(fabric: Fabric) -> list[Worker]:
    """The worker and a second one, each with some of the partitions."""
    second = fabric.lab.worker()
    changelog = f"{fabric.lab.app}-sources-changelog"

    def shared() -> bool:
        healths = [w.get("/health") for w in (fabric.worker, second)]
        held = [h.get("assigned", {}).get(changelog, []) for h in healths]
        return all(held) and sorted(chain(*held)) == [0, 1, 2, 3] and all(h["status"] == "ok" for h in healths)

    wait_for(shared, "the partitions to be shared")
    for worker in (fabric.worker, second):
        wait_for(lambda w=worker: fetch(w, "/sources")[0] == 200, "the tables to be recovered")
    return [fabric.worker, second]


def fetch(worker: Worker, path: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON answer, whatever the status is."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}{path}", timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_every_metric_of_a_worker_is_as_the_recording_makes_it(fabric):
    lab, raw = fabric.lab, fabric.lab.raw
    results = {lab.topic(s): len(read_all(lab.broker, lab.topic(s))) for s in ("distances", "elephants", "sources")}
    exact = {
        labelled("records_consumed_total", topic=raw, format="goflow"): ROWS + 5,
        labelled("records_skipped_total", topic=raw): 1,
        labelled("rows_decoded_total", format="goflow"): ROWS,
        labelled("rows_applied_total"): ROWS,
        labelled("rows_late_total"): 0,
        labelled("rows_duplicate_total"): 0,
        labelled("block_gaps_total"): 0,
        labelled("blocks_rejected_total"): 0,
        labelled("flows_refused_total"): 0,
        **{labelled(f"partials_{n}_total"): 0 for n in ("applied", "late", "duplicate", "refused", "panes_closed")},
        labelled("offset_lag", topic=raw, partition="0"): 0,
        labelled("table_entries", table="progress"): 4,
        labelled("table_entries", table="sources"): results[lab.topic("sources")],
        labelled("worker_up", version=__version__, settings=lab.settings().digest()): 1,
    }
    for reason, count in Counter(BAD.values()).items():
        exact[labelled("records_rejected_total", topic=raw, reason=reason)] = count
    # What depends on the moment: above zero, or (lags, open rows) merely there.
    positive = [labelled("panes_closed_total"), labelled("rebalances_total")]
    positive += [labelled(f"{n}_{part}") for n in ("decode_seconds", "pane_seconds") for part in ("sum", "count")]
    positive += [labelled("results_sent_total", topic=topic) for topic in results]
    positive += [labelled("watermark_lag_seconds", partition=str(p)) for p in range(4)]
    present = [labelled("rows_open", partition=str(p)) for p in range(4)]
    present += [labelled("offset_lag", topic=lab.topic("flows"), partition=str(p)) for p in range(4)]
    present.append(labelled("broker_silence_seconds"))
    assert set(fabric.metrics) == {*exact, *positive, *present}
    assert {key: fabric.metrics[key] for key in exact} == exact
    assert [key for key in positive if fabric.metrics[key] <= 0] == []
    assert [key for key in present if fabric.metrics[key] < 0] == []
    for topic, count in results.items():
        assert fabric.metrics[labelled("results_sent_total", topic=topic)] <= count


def test_health_says_ok_and_what_is_assigned(fabric):
    status, health = fetch(fabric.worker, "/health")
    assert (status, health["status"]) == (200, "ok")
    assert health["assigned"][fabric.lab.raw] in ([0], [])


def test_it_listens_on_loopback_alone(fabric):
    listening = [
        c.laddr for c in psutil.Process(fabric.worker.process.pid).net_connections() if c.status == psutil.CONN_LISTEN
    ]
    assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", fabric.worker.port)]


COLUMNS = ("estimated_bytes", "bytes", "packets", "records", "flows", "dst_addrs", "distance_p999")


@pytest.mark.parametrize("by", COLUMNS)
@pytest.mark.parametrize("top", [1, 7, 1000])
def test_the_top_sources_of_any_window_by_any_column_are_those_of_the_file(both, fabric, by, top):
    for start, rows in fabric.expected.items():
        ordered = sorted(rows.values(), key=lambda r: r["src_addr"])
        ordered.sort(key=lambda r: (r[by] is None, -(r[by] or 0)))
        for worker in both:
            status, answer = fetch(worker, f"/sources?window={start}&top={top}&by={by}")
            assert (status, answer["window_start_ns"], answer["by"]) == (200, start, by)
            assert answer["sources"] == ordered[:top]


def test_without_parameters_it_is_the_newest_window_by_estimated_bytes_ten_of_them(both, fabric):
    newest = fabric.expected[max(fabric.expected)]
    sure = [r for r in newest.values() if r["estimated_bytes"] is not None]
    unsure = sorted((r for r in newest.values() if r["estimated_bytes"] is None), key=lambda r: r["src_addr"])
    ordered = sorted(sure, key=lambda r: (-r["estimated_bytes"], r["src_addr"])) + unsure
    for worker in both:
        status, answer = fetch(worker, "/sources")
        assert status == 200
        assert answer == {
            "window_start_ns": max(fabric.expected), "by": "estimated_bytes", "missing_partitions": [],
            "sources": ordered[:10],
        }  # fmt: skip


def test_every_source_address_is_found_through_either_worker(both, fabric):
    newest_of = {a: s for s in sorted(fabric.expected) for a in fabric.expected[s]}
    assert any(":" in address for address in newest_of)
    assert len(newest_of) > 20
    for address, start in newest_of.items():
        wanted = {"address": address, "windows": [{"window_start_ns": start, **fabric.expected[start][address]}]}
        for worker in both:
            assert fetch(worker, f"/sources/{address}") == (200, wanted)


def test_the_windows_of_a_source_come_newest_first_and_one_can_be_named(both, fabric):
    starts = sorted((s for s, rows in fabric.expected.items() if "10.0.1.10" in rows), reverse=True)
    assert len(starts) > 5
    for worker in both:
        _, answer = fetch(worker, "/sources/10.0.1.10?limit=100")
        assert [window["window_start_ns"] for window in answer["windows"]] == starts
        _, answer = fetch(worker, "/sources/10.0.1.10?limit=3")
        assert [window["window_start_ns"] for window in answer["windows"]] == starts[:3]
        _, answer = fetch(worker, f"/sources/10.0.1.10?window={starts[-1]}")
        assert answer["windows"] == [{"window_start_ns": starts[-1], **fabric.expected[starts[-1]]["10.0.1.10"]}]


@pytest.mark.parametrize("address", ["203.0.113.9", "2001:db8::1", "0.0.0.0"])
def test_a_source_that_sent_nothing_is_not_found(both, address):
    for worker in both:
        assert fetch(worker, f"/sources/{address}") == (404, {"address": address, "windows": []})


@pytest.mark.parametrize("spelling", ["FD00:0:0:4:0:0:0:10", "fd00::4:0:0:0:10"])
def test_any_spelling_of_an_address_finds_it(both, spelling):
    for worker in both:
        status, answer = fetch(worker, f"/sources/{spelling}")
        assert (status, answer["windows"][0]["src_addr"]) == (200, "fd00:0:0:4::10")


@pytest.mark.parametrize(
    "path",
    [
        "/sources/garbage", "/sources/10.0.1", "/sources/10.0.1.256", "/sources/10.0.1.10?window=now",
        "/sources/10.0.1.10?limit=0", "/sources/10.0.1.10?limit=-1", "/sources?top=0", "/sources?top=-1",
        "/sources?top=ten", "/sources?window=1.5", "/sources?by=nothing", "/sources?by=src_addr", "/sources?by=",
    ],
)  # fmt: skip
def test_a_bad_parameter_is_the_client_s_fault_and_named(both, path):
    for worker in both:
        status, answer = fetch(worker, path)
        assert status == 400
        assert answer["error"]


def test_an_unknown_window_has_no_sources(both):
    for worker in both:
        assert fetch(worker, "/sources?window=12345") == (
            200, {"window_start_ns": 12345, "by": "estimated_bytes", "missing_partitions": [], "sources": []},
        )  # fmt: skip
