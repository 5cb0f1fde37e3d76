"""What counting once says of itself, and that on a real fabric it is right where a sum over exporters is not."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from flowstream.batch import FlowBatch, address_text
from flowstream.counting import CountOnce, Rule
from flowstream.counting_results import CountingResults
from flowstream.cubes import CubesConfig, CubesOf
from flowstream.decode import Payloads, decode
from flowstream.estimate import estimates
from flowstream.export_loss import Loss, correction, overall, widening
from flowstream.links import LinkTable
from flowstream.operators import Pane, Result, one_by_one
from flowstream.partial_blocks import PartialsOperator, Route
from flowstream.partials import Cube, PartialBatch
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.recordings import Recording
from flowstream.sequence_gaps import LossTracker
from flowstream.settings import Settings
from tests.partial_rows import SECOND, interval, pane_of, summed

RECORDED = Path(__file__).resolve().parents[1] / "data"
LINKS = LinkTable.from_path(RECORDED / "clos_links.csv")


@cache
def fabric() -> FlowBatch:
    stream = gzip.decompress((RECORDED / "clos_60s_goflow2_v2.bin.gz").read_bytes())
    return decode("goflow", Payloads.from_values([stream])).flows


@cache
def oracle() -> dict[str, tuple[int, int]]:
    """True frame bytes, check sequences included, and packets by source."""
    sources = json.loads((RECORDED / "clos_60s_oracle.json").read_text())["sources"]
    return {s["src"]: (s["bytes"] + 4 * s["packets"], s["packets"]) for s in sources}


def panes(rows: FlowBatch, links: LinkTable) -> list[tuple[Pane, PartialBatch]]:
    """Return the partials of every second of the run."""
    cubes, seconds = CubesOf(CubesConfig(), CountOnce(links)), rows.time_ns // SECOND
    made = []
    for k in np.unique(seconds).tolist():
        pane = Pane(k, k * SECOND, (k + 1) * SECOND, rows.take(seconds == k).in_time_order())
        made.append((pane, cubes.of(pane, 0)))
    return made


@cache
def merged() -> PartialBatch:
    return PartialBatch.concat(partials for _, partials in panes(fabric(), LINKS))


def by_source(rows: PartialBatch) -> dict[str, dict[str, float]]:
    """Add up cube SOURCE in plain Python."""
    found: dict[str, dict[str, float]] = {}
    rows = rows.take(rows.cube == Cube.SOURCE)
    names = ("bytes", "packets", "records", "variance")
    for n in range(len(rows)):
        sums = found.setdefault(address_text(int(rows.key_0[n]), int(rows.key_1[n])), dict.fromkeys((*names, "top"), 0))
        for name in names:
            sums[name] += rows.column(name)[n].item()
        sums["top"] = max(sums["top"], rows.weight_max[n].item())
    return found


def told(links: LinkTable, size_panes: int = 60) -> list[dict]:
    operator, said = CountingResults(size_panes, SECOND), []
    for pane, partials in panes(fabric(), links):
        said += operator.process([Pane(pane.index, pane.start_ns, pane.end_ns, partials)])
    end_ns = -(-pane.end_ns // operator.size_ns) * operator.size_ns
    if not operator.quiet:
        last = Pane(end_ns // SECOND - 1, end_ns - SECOND, end_ns, PartialBatch.zeros(0))
        said += operator.process([last])
    return [result.value for result in said]


def test_summing_over_the_switches_of_a_fabric_gives_some_three_times_what_was_sent():
    sent = sum(size for size, _ in oracle().values())
    rows = fabric()
    everywhere = int((rows.bytes * rows.sampling_rate).sum())
    assert 2.5 < everywhere / sent < 3.1
    values = told(LINKS)
    counted, removed = (sum(r[f"bytes_{k}"] for v in values for r in v["rules"]) for k in ("counted", "removed"))
    assert counted + removed == everywhere
    assert abs(counted / sent - 1) < 0.02
    assert all(2.5 < v["sum_over_exporters"] < 3.1 for v in values)
    assert {r["rule"] for v in values for r in v["rules"]} == {"EDGE"}


def test_counted_once_the_bytes_of_sources_lie_in_their_intervals():
    found, covered = by_source(merged()), 0
    for address, sums in found.items():
        one = estimates(np.array([sums["records"]]), [sums["bytes"]], [sums["variance"]], [sums["top"]], 4.0).fields(0)
        covered += one["low"] <= oracle()[address][0] <= one["high"]
        assert (one["estimate"] is None) == (sums["bytes"] ** 2 < 4 * sums["variance"])
    assert len(found) > 18
    assert covered >= 0.93 * len(found)


def test_without_a_table_the_same_flows_count_once_too_but_by_the_nearest_or_largest_sighting():
    values = told(LinkTable())
    rules = {r["rule"] for v in values for r in v["rules"]}
    assert rules == {"ONLY", "TTL"}
    counted = sum(r["records_counted"] + r["records_removed"] for v in values for r in v["rules"])
    assert counted == len(fabric())
    assert all(v["sum_over_exporters"] > 1.5 for v in values)


@pytest.mark.parametrize("links", [LINKS, LinkTable()], ids=["edges", "no links"])
def test_what_each_rule_left_and_removed_is_as_sure_as_its_rows_together(links):
    sums: dict[tuple[int, str, str], list[float]] = {}
    for pane, _ in panes(fabric(), links):
        counted = CountOnce(links).in_time_order(pane.rows)
        columns = (counted.rule, counted.counts, pane.rows.bytes, pane.rows.sampling_rate)
        for rule, counts, sent, rate in zip(*(column.tolist() for column in columns), strict=True):
            key = (pane.start_ns // (60 * SECOND) * 60 * SECOND, Rule(rule).name, "counted" if counts else "removed")
            own = sums.setdefault(key, [0, 0.0, 0.0])
            own[0] += sent * rate
            own[1] += (sent * rate) ** 2 * (1 - 1 / rate)
            own[2] = max(own[2], sent * rate, 1518 * rate)
    figures = 0
    for value in told(links):
        for rule in value["rules"]:
            for kind in ("counted", "removed"):
                total, variance, most = sums.pop((value["window_start_ns"], rule["rule"], kind), (0, 0.0, 0.0))
                assert rule[f"bytes_{kind}"] == (total if total**2 >= 4 * variance else None)
                bounds = rule[f"bytes_{kind}_low"], rule[f"bytes_{kind}_high"]
                assert bounds == pytest.approx(interval(total, variance, most), rel=1e-6, abs=1)
                figures += 1
    assert not sums
    assert figures > 3


def test_what_was_sent_is_between_the_bounds_of_what_counts():
    (value,) = told(LINKS, 3600)
    (rule,) = value["rules"]
    assert rule["bytes_counted_low"] <= sum(size for size, _ in oracle().values()) <= rule["bytes_counted_high"]


@pytest.mark.parametrize(("samples", "enough"), [(3, False), (4, True)])
def test_of_few_samples_there_are_bounds_and_no_number(samples, enough):
    operator = CountingResults(1, SECOND, 4.0)
    rows = FlowBatch.of(
        samples, {"bytes": [1000] * samples, "packets": [1] * samples, "sampling_rate": [2**30] * samples}
    )
    (result,) = operator.process([Pane(0, 0, SECOND, summed(rows))])
    (rule,) = result.value["rules"]
    named = (rule["bytes_counted"], rule["packets_counted"], result.value["sum_over_exporters"])
    sent = samples * 1000 * 2**30
    # Of four samples at one in 2^30 the variance is by 2^-30 below that of four.
    assert named == ((sent, samples * 2**30, 1.0) if enough else (None, None, None))
    assert rule["records_counted"] == samples
    assert rule["bytes_counted_low"] < sent < rule["bytes_counted_high"]
    assert (rule["bytes_removed"], rule["bytes_removed_low"], rule["bytes_removed_high"]) == (0, 0, 0)


@pytest.mark.parametrize("links", [LINKS, LinkTable()], ids=["edges", "no links"])
def test_talkers_name_the_rules_by_which_anything_counted_and_have_its_bytes(links):
    windows = {"windows": [{"size_s": 20, "step_s": 20}], "rank": ["bytes"]}
    chosen = Settings(analyses=("counting", "talkers"), counting={"size_s": 20}, talkers=windows)
    pipeline = FilePipeline(chosen, links, "flow-messages", "goflow")
    batches = in_batches(Recording(RECORDED / "clos_60s_goflow2_v2.bin.gz").messages(), 3000)
    results = [*(r for p in batches for r in one_by_one(pipeline.feed(p))), *one_by_one(pipeline.finish())]
    counted = {
        r.value["window_start_ns"]: [rule for rule in r.value["rules"] if rule["records_counted"]]
        for r in results
        if r.stream == "counting"
    }
    talkers = [r.value for r in results if r.stream == "talkers"]
    assert len(talkers) == 8 * len(counted) > 16
    for value in talkers:
        rules = counted[value["window_start_ns"]]
        assert value["counted_by"] == [rule["rule"] for rule in rules]
        assert value["bytes"] == sum(rule["bytes_counted"] for rule in rules)
        if len(rules) == 1:
            assert value["bytes_low"] == pytest.approx(rules[0]["bytes_counted_low"], rel=1e-6)


@pytest.mark.parametrize("dropped", [0.1, 0.3])
def test_of_lost_sflow_datagrams_the_upper_bound_knows(dropped):
    """Whole datagrams are dropped; the truth stays between bounds that the gaps have widened."""
    rows = fabric()
    rng = np.random.default_rng(7)
    datagram = rows.exporter[:, 1] << np.uint64(32) | rows.sequence_num
    lost = rng.random(len(np.unique(datagram))) < dropped
    kept = rows.take(~lost[np.searchsorted(np.unique(datagram), datagram)])
    tracker, losses, parts = LossTracker(), [], []
    for _, partials in panes(kept, LINKS):
        losses.append(tracker.take(partials))
        parts.append(partials)
    loss = Loss.merged(losses)
    assert np.all(correction(loss, loss.exporter) == 1.0)
    assert np.all(np.abs(loss.share - dropped) < 0.1)
    found = by_source(PartialBatch.concat(parts))
    _, possible = overall(loss)
    assert np.isclose(possible, np.average(widening(loss, loss.exporter), weights=loss.bytes))
    covered = Counter()
    for address, sums in found.items():
        for name, factor in (("as if all had come", 1.0), ("widened", possible)):
            one = estimates(
                np.array([sums["records"]]), [sums["bytes"]], [sums["variance"]], [sums["top"]], 4.0, 1.0, factor
            )
            covered[name] += bool(one.low[0] <= oracle()[address][0] <= one.high[0])
    assert covered["widened"] >= 0.93 * len(found)
    assert covered["widened"] > covered["as if all had come"]


def test_windows_do_not_mix_and_a_restored_operator_goes_on():
    columns = {"bytes": [5, 7, 11], "packets": [1, 1, 1], "src_port": [1, 2, 3], "sampling_rate": [3, 3, 3]}
    rows = FlowBatch.of(3, columns)
    through, again = CountingResults(2, SECOND, 0.0), CountingResults(2, SECOND, 0.0)
    said, repeated = [], []
    for index in (4, 6, 7):
        again.restore(through.snapshot())
        pane = Pane(index, index * SECOND, (index + 1) * SECOND, summed(rows, index=index))
        said += through.process([pane])
        repeated += again.process([pane])
        assert again.snapshot() == through.snapshot()
    assert said == repeated
    assert [(r.key, r.value["rules"][0]["bytes_counted"], r.value["sum_over_exporters"]) for r in said] == [
        (str(4 * SECOND), 69, 1.0), (str(6 * SECOND), 138, 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize("partitions", [2, 5])
def test_both_stages_say_the_same_over_any_number_of_partitions_and_say_it_once(partitions):
    def said(count: int) -> list[Result]:
        chosen = Settings(analyses=("counting",), topics={"partitions": count}, counting={"size_s": 20})
        pipeline = FilePipeline(chosen, LINKS, "flow-messages", "goflow")
        batches = in_batches(Recording(RECORDED / "clos_60s_goflow2_v2.bin.gz").messages(), 3000)
        results = [r for payloads in batches for r in one_by_one(pipeline.feed(payloads))]
        return sorted([*results, *one_by_one(pipeline.finish())], key=lambda r: (r.stream, r.key))

    spread = said(partitions)
    assert spread == said(1)
    assert len({(r.stream, r.key) for r in spread}) == len(spread)
    exporters = {r.value["exporter"]: 0 for r in spread if r.stream == "export-loss"}
    for result in spread:
        if result.stream == "export-loss":
            exporters[result.value["exporter"]] += result.value["received"] + result.value["lost"]
    rows = fabric()
    spans = {
        address_text(0, int(word)): int(np.ptp(rows.sequence_num[rows.exporter[:, 1] == word])) + 1
        for word in np.unique(rows.exporter[:, 1])
    }
    assert exporters == spans


def test_sequence_numbers_go_to_every_partition_and_all_else_to_one():
    counting = CountOnce(LinkTable())
    operator = PartialsOperator(CubesOf(CubesConfig(), counting), SECOND, Route("flows", 0, 3))
    counting.links = LINKS  # the table that is put in its place is the one that says what counts
    pane = pane_of(fabric().take(slice(0, 500)))
    operator.process([pane])
    told = [block.rows for _, block in operator.take(pane.index + 1)]
    cubes = [set(rows.cube.tolist()) for rows in told]
    assert set.intersection(*cubes) == {Cube.SEQUENCE}
    assert sum(map(len, cubes)) == len(CubesConfig().cubes) + len(told) - 1
    assert {int(k) >> 1 for rows in told for k in rows.key_0[rows.cube == Cube.COUNTING]} == {Rule.EDGE}
