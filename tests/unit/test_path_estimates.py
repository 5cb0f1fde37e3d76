"""How many bytes a flow sent, as paths say it: laws against plain Python, and on the recorded fabric."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from flowstream.counting import CountOnce
from flowstream.links import LinkTable
from flowstream.operators import Pane, one_by_one
from flowstream.paths import PathsConfig, PathsOperator
from flowstream.pipeline import FilePipeline, in_batches
from flowstream.recordings import Recording
from flowstream.settings import Settings
from flowstream.source_blocks import SourceBlock
from flowstream.topology import Topology
from tests.builders import flows
from tests.golden import DATA
from tests.sightings import Sighting, counting_places

SECOND = 10**9
PANES = 3
NOBODY = "::"  # the exporter of a record that names none
FULL_FRAME = 1518


class Row(NamedTuple):
    src_port: int
    exporter: str
    in_if: int
    ip_ttl: int
    bytes: int
    rate: int
    time_ns: int

    @property
    def pane(self):
        return self.time_ns // SECOND

    @property
    def place(self):
        return self.exporter, self.in_if


class Sum(NamedTuple):
    """What the samples that count say of a flow, or of several."""

    samples: int
    total: int
    variance: Fraction
    largest: int

    @classmethod
    def of(cls, parts):
        parts = list(parts)
        return cls(
            *(sum(part[n] for part in parts) for n in range(3)), max((part.largest for part in parts), default=0)
        )

    def fields(self):
        """Return what is said of it, as docs/counting.md words it, with the interval as Fay and Feuer's paper does."""
        low = high = self.total
        if self.variance:
            low = _quantile(self.total, self.variance, 0.025)
        if self.largest:
            high = _quantile(self.total + self.largest, self.variance + self.largest**2, 0.975)
        enough = self.total**2 >= 4 * self.variance and (self.samples > 0 or self.largest == 0)
        return self.total if enough else None, pytest.approx(low, rel=1e-5, abs=1), pytest.approx(high, rel=1e-5, abs=1)


def _quantile(y, v, probability):
    y, v = float(y), float(v)
    return v / (2 * y) * chi2.ppf(probability, 2 * y**2 / v)


ROWS = st.lists(
    st.builds(
        Row, st.integers(1, 3), st.sampled_from(["192.0.2.1", "192.0.2.2", NOBODY]), st.integers(1, 3),
        st.sampled_from([0, 62, 63]), st.integers(1, 2000), st.sampled_from([1, 2, 64]),
        st.integers(0, PANES * SECOND - 1),
    ),
    min_size=1, max_size=40,
)  # fmt: skip
EDGES = st.dictionaries(
    st.tuples(st.sampled_from(["192.0.2.1", "192.0.2.2"]), st.integers(1, 3)), st.booleans(), max_size=4
)


def plainly(rows, edges):
    """Sum up flow by flow what counts, pane by pane; flows that no exporter is named for have no path."""
    said = {}
    for port in {row.src_port for row in rows if row.exporter != NOBODY}:
        mine = [row for row in rows if row.src_port == port]
        counted = []
        for pane in range(PANES):
            of_place = defaultdict(list)
            for row in mine:
                if row.pane == pane:
                    of_place[row.place].append(row)
            if of_place:
                seen = {
                    place: Sighting(max(r.ip_ttl for r in own), sum(r.bytes * r.rate for r in own))
                    for place, own in of_place.items()
                }
                counted += [row for place in counting_places(seen, edges)[0] for row in of_place[place]]
        weights = [row.bytes * row.rate for row in counted]
        variance = sum((row.bytes * row.rate) ** 2 * (1 - Fraction(1, row.rate)) for row in counted)
        possible = [max(row.bytes, FULL_FRAME) * row.rate for row in counted or mine if row.rate > 1]
        said[port] = Sum(len(counted), sum(weights), Fraction(variance), max(possible, default=0))
    return said


def panes_of(rows):
    for k in range(PANES):
        own = [row for row in rows if row.pane == k]
        port, exporter, in_if, ttl, sent, rate, time_ns = zip(*own, strict=True) if own else [()] * 7
        made = flows(len(own), src_port=list(port), exporter=list(exporter), in_if=list(in_if), ip_ttl=list(ttl),
                     bytes=list(sent), sampling_rate=list(rate), time_ns=list(time_ns))  # fmt: skip
        yield Pane(k, k * SECOND, (k + 1) * SECOND, made.in_time_order())


def operator_of(edges, elephants=None, **config):
    links = LinkTable.from_rows(
        {"exporter": exporter, "if_index": in_if, "name": "", "speed_bps": 1, "edge": edge}
        for (exporter, in_if), edge in edges.items()
    )
    return PathsOperator(PathsConfig(PANES, **config), SECOND, CountOnce(links), Topology(), elephants)


def estimate(value):
    return value["bytes"], value["bytes_low"], value["bytes_high"]


@given(ROWS, EDGES, st.integers(0, PANES))
def test_the_bytes_of_a_flow_are_those_of_the_rows_that_count_with_their_interval_also_after_a_restart(
    rows, edges, restart
):
    operator, panes, said = operator_of(edges), list(panes_of(rows)), []
    for k in range(PANES):
        if k == restart:
            operator = operator_of(edges)
        said += operator.process(panes[: k + 1])
    expected = plainly(rows, edges)
    told = {r.value["flow"]["src_port"]: r.value for r in said if r.stream == "paths"}
    assert {port: (value["samples"], *estimate(value)) for port, value in told.items()} == {
        port: (own.samples, *own.fields()) for port, own in expected.items()
    }
    windows = [r.value for r in said if r.stream == "path-windows"]
    assert len(windows) == bool(expected)
    for window in windows:
        whole = Sum.of(expected.values())
        assert (window["samples"], *estimate(window)) == (whole.samples, *whole.fields())
        assert window["bytes_told"] == window["bytes"]


@given(ROWS, EDGES, st.integers(1, 3))
def test_the_flows_with_most_bytes_that_count_are_told_and_of_equal_ones_the_first(rows, edges, count):
    operator, panes, said = operator_of(edges, flows_max=count, samples_min=0.0), list(panes_of(rows)), []
    for k in range(PANES):
        said += operator.process(panes[: k + 1])
    expected = plainly(rows, edges)
    largest = sorted(sorted(expected), key=lambda port: -expected[port].total)[:count]
    assert [r.value["flow"]["src_port"] for r in said if r.stream == "paths"] == sorted(largest)
    for window in (r.value for r in said if r.stream == "path-windows"):
        assert window["bytes"] == sum(own.total for own in expected.values())
        assert window["bytes_told"] == sum(expected[port].total for port in largest)


class Elephant:
    """The flow of a source port, which becomes an elephant in the second pane."""

    def __init__(self, src_port):
        rows = flows(1, src_port=src_port)
        ports = np.array([[6 << 32 | src_port << 16 | 443]], np.uint64)
        self._words = np.column_stack([rows.src_addr, rows.dst_addr, ports])
        self.pane = 0

    @property
    def begun(self):
        return self._words[: self.pane == 1]

    @property
    def active(self):
        return self._words[: self.pane >= 1]


@given(ROWS, EDGES, st.booleans())
def test_an_elephant_is_told_at_once_with_what_counts_up_to_there(rows, edges, restart):
    elephant, panes = Elephant(src_port=1), list(panes_of(rows))
    operator = operator_of(edges, elephant)
    operator.process(panes[:1])
    elephant.pane = 1
    said = (operator_of(edges, elephant) if restart else operator).process(panes[:2])
    expected = plainly([row for row in rows if row.pane < 2], edges)
    assert [(r.value["samples"], *estimate(r.value)) for r in said] == [
        (own.samples, *own.fields()) for port, own in expected.items() if port == 1
    ]


@pytest.mark.parametrize("rate", [1, 1000])
def test_a_flow_that_was_sampled_only_where_it_does_not_count_has_no_number(rate):
    """Nothing to what one more sample may stand for; where nothing is sampled, it is known that nothing came in."""
    edges = {("192.0.2.1", 3): True, ("192.0.2.2", 3): False}
    rows = flows(2, exporter="192.0.2.2", sampling_rate=rate, bytes=[9000, 100], time_ns=1)
    said = operator_of(edges).process([Pane(PANES - 1, (PANES - 1) * SECOND, PANES * SECOND, rows)])
    most = 0 if rate == 1 else math.ceil(-math.log(0.025) * 9000 * rate)  # no sample, Poisson
    for value in (result.value for result in said):
        assert (value["samples"], value["bytes_low"]) == (0, 0)
        assert value["bytes"] == (0 if rate == 1 else None)
        assert value["bytes_high"] == pytest.approx(most, rel=1e-6)
    assert [r.stream for r in said] == ["path-windows", "paths"]
    assert said[0].value["bytes_told"] == said[0].value["bytes"]


def recorded(**changed):
    """Return what is said of the recorded fabric, by stream."""
    pipeline = FilePipeline(Settings(**changed), LinkTable.from_path(DATA / "clos_links.csv"), "clos", "goflow")
    messages = Recording(DATA / "clos_60s_goflow2_v2.bin.gz").messages()
    said = [result for batch in in_batches(messages) for result in pipeline.feed(batch)]
    of_stream = defaultdict(list)
    for result in one_by_one([*said, *pipeline.finish()]):
        of_stream[result.stream].append(result.value)
    return of_stream


def test_the_flows_of_a_window_sum_up_to_the_table_of_sources_and_each_is_that_conversation_among_the_talkers():
    """All three count once. Talkers allow for datagrams that may have been lost, by a share they name."""
    talkers = {"windows": [{"size_s": 10, "step_s": 10}], "by": ["conversation"], "rank": ["bytes"], "count": 10**4}
    said = recorded(
        analyses=("sources", "paths", "talkers"), sources={"distances": False}, paths={"flows_max": 10**4},
        talkers=talkers, topics={"partitions": 1},
    )  # fmt: skip
    blocks = map(SourceBlock.from_value, said["sources"])
    sums = {b.window_start_ns: [int(b.columns[name].sum()) for name in ("flows", "estimated_bytes")] for b in blocks}
    told = {(value["window_start_ns"], *value["flow"].values()): value for value in said["paths"]}
    assert {v["window_start_ns"]: [v["samples"], v["bytes"]] for v in said["path-windows"]} == sums
    assert len(sums) == 7

    compared = 0
    for window in said["talkers"]:
        for talker in window["top"]:
            names = ("src_addr", "dst_addr", "proto", "src_port", "dst_port")
            value = told[(window["window_start_ns"], *(talker[name] for name in names))]
            assert (value["bytes"], value["samples"]) == (talker["bytes"], talker["records"])
            assert value["bytes_low"] == pytest.approx(talker["bytes_low"], rel=1e-6, abs=1)
            without_loss = talker["bytes_high"] * (1.0 - window["lost_share"])
            assert value["bytes_high"] == pytest.approx(without_loss, rel=1e-6, abs=1)
            compared += 1
    assert compared == sum(value["samples"] > 0 for value in told.values()) > 300
    assert sum(value["bytes"] is None for value in told.values()) > 300
    assert {value["bytes"] for value in told.values() if value["samples"] == 0} == {None}


def test_the_floor_is_that_of_the_settings():
    said = recorded(analyses=("paths",), sampling={"samples_min": 0.0})
    values = [*said["paths"], *said["path-windows"]]
    assert min(value["samples"] for value in values) == 0
    assert None not in {value["bytes"] for value in values}


def test_what_was_really_sent_is_within_the_bounds_of_the_sum_and_of_the_flows():
    """What sFlow counts of a packet is its frame with the check sequence of four bytes, which the truth leaves out."""
    oracle = json.loads((DATA / "clos_60s_oracle.json").read_text())
    said = recorded(analyses=("paths",), paths={"size_s": 300.0, "flows_max": 10**4}, topics={"partitions": 1})
    sent = sum(source["bytes"] + 4 * source["packets"] for source in oracle["sources"])
    (window,) = said["path-windows"]
    assert window["bytes_low"] <= sent <= window["bytes_high"]
    assert window["bytes"] == pytest.approx(sent, rel=0.01), "the largest sighting of each would be 9 % more"
    told = {tuple(value["flow"].values()): value for value in said["paths"]}
    within = []
    for flow in oracle["flows"]:
        own = told.get((flow["src"], flow["dst"], flow["proto"], flow["sport"], flow["dport"]))
        if own is not None:  # of some no packet was sampled anywhere
            within.append(own["bytes_low"] <= flow["bytes"] + 4 * flow["packets"] <= own["bytes_high"])
    assert len(within) > 35
    assert sum(within) >= 0.93 * len(within)
