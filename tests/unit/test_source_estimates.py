"""How sure the sums of sources are: their spread, bounds and floor."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from flowstream.batch import FlowType, address_words
from flowstream.links import LinkTable
from flowstream.operators import Pane
from flowstream.source_blocks import SourceBlock
from flowstream.sources import SourcesConfig
from tests.builders import T0_NS, flows
from tests.source_rows import SECOND, block_of, operator_of, said

LIMIT = 2**63 - 1
counts = st.integers(0, 10**6) | st.integers(LIMIT - 5, LIMIT)
addresses = st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1", "::"])


def test_the_spread_is_that_of_the_samples_and_no_order_of_the_rows_changes_a_byte():
    """Packet samples are one each, flow records as many as their packets; what was not sampled has none."""
    kinds = st.sampled_from([FlowType.SFLOW_5, FlowType.NETFLOW_V9, FlowType.IPFIX, FlowType.UNKNOWN])
    row = st.tuples(addresses, counts, counts, st.integers(1, 2**32 - 1) | st.just(1), kinds)

    @given(st.lists(row, min_size=1, max_size=30), st.randoms())
    def law(listed, random):
        said_of = []
        for _ in range(2):
            src, sent, packets, rate, kind = map(list, zip(*listed, strict=True))
            rows = flows(
                len(listed),
                src_addr=src,
                bytes=sent,
                packets=packets,
                sampling_rate=rate,
                flow_type=kind,
                time_ns=T0_NS,
            )
            said_of.append(said(rows, SourcesConfig(1, distances=None)).value)
            random.shuffle(listed)
        assert said_of[0] == said_of[1]
        block = SourceBlock.from_value(said_of[0])
        for at, words in enumerate(block.addresses.tolist()):
            own = [entry for entry in listed if address_words(entry[0]) == tuple(words)]
            variance, largest = Fraction(0), 0.0
            for _, sent, packets, rate, kind in own:
                samples = 1 if kind in (FlowType.SFLOW_5, FlowType.UNKNOWN) else max(packets, 1)
                variance += min(Fraction((sent * rate) ** 2, samples) * (1 - Fraction(1, rate)), Fraction(2**125))
                largest = max(largest, sent * rate / samples, 1518 * rate) if rate > 1 else largest
            # A row's variance is rounded down to whole bytes squared; a sum stops just below 2^126.
            assert math.isclose(block.columns["variance"][at], min(variance, 2**126), rel_tol=1e-12, abs_tol=len(own))
            assert math.isclose(block.columns["weight_max"][at], largest, rel_tol=1e-12)

    law()


def fay_feuer(samples: list[int], largest: float) -> tuple[float, float]:
    """The interval as the paper writes it, of samples that weigh so much each."""
    low_y, low_v = sum(samples), sum(w * w for w in samples)
    high_y, high_v = low_y + largest, low_v + largest**2
    low = low_v / (2 * low_y) * chi2.ppf(0.025, 2 * low_y**2 / low_v)
    return low, high_v / (2 * high_y) * chi2.ppf(0.975, 2 * high_y**2 / high_v)


@given(st.lists(st.integers(64, 9000), min_size=1, max_size=12), st.sampled_from([2**20, 2**31]))
def test_an_estimate_has_its_gamma_interval_and_is_no_number_on_few_samples(sizes, rate):
    rows = flows(len(sizes), bytes=sizes, sampling_rate=rate)
    (row,) = block_of(rows, SourcesConfig(1, distances=None)).rows()
    weights = [size * rate for size in sizes]  # so rarely sampled that 1 - 1 / N is nearly 1
    low, high = fay_feuer(weights, max(*weights, 1518 * rate))
    assert row["estimated_bytes_low"] == pytest.approx(low, rel=1e-5)
    assert row["estimated_bytes_high"] == pytest.approx(high, rel=1e-5)
    enough = Fraction(sum(weights) ** 2) >= 4 * sum(w * w for w in weights) * (1 - Fraction(1, rate))
    assert row["estimated_bytes"] == (sum(weights) if enough else None)
    assert row["estimated_packets"] == (len(sizes) * rate if enough else None)
    assert (row["bytes"], row["flows"]) == (sum(sizes), len(sizes))


def test_what_was_not_sampled_is_exact_whatever_the_floor():
    (row,) = block_of(flows(1, bytes=77, sampling_rate=1), SourcesConfig(1, samples_min=1000.0)).rows()
    assert [row[f"estimated_bytes{bound}"] for bound in ("", "_low", "_high")] == [77, 77, 77]


@pytest.mark.parametrize("sent", [2**53 + 1, 2**62 + 3, LIMIT])
def test_what_was_not_sampled_is_exact_beyond_what_a_float_holds(sent):
    (row,) = block_of(flows(1, bytes=sent, sampling_rate=1)).rows()
    assert [row[f"estimated_bytes{bound}"] for bound in ("", "_low", "_high")] == [sent, sent, sent]


def edges_of(**edges: bool) -> LinkTable:
    return LinkTable.from_rows(
        {"exporter": "192.0.2.1", "if_index": int(name[2:]), "name": "", "speed_bps": 1, "edge": edge}
        for name, edge in edges.items()
    )


@pytest.mark.parametrize("rate", [1, 1000])
@pytest.mark.parametrize("floor", [0.0, 4.0])
def test_of_a_source_of_which_nothing_counts_it_is_known_how_much_sampling_may_have_left_out(rate, floor):
    rows = flows(2, in_if=4, sampling_rate=rate, bytes=[9000, 100])
    config = SourcesConfig(1, samples_min=floor)
    (result,) = operator_of(config, edges_of(if3=True, if4=False)).process([Pane(7, 7 * SECOND, 8 * SECOND, rows)])
    (row,) = SourceBlock.from_value(result.value).rows()
    assert (row["records"], row["flows"], row["estimated_bytes_low"]) == (2, 0, 0)
    assert row["estimated_bytes"] == (0 if rate == 1 or floor == 0 else None)
    most = 0 if rate == 1 else -math.log(0.025) * 9000 * rate  # no sample, Poisson
    assert row["estimated_bytes_high"] == pytest.approx(most, rel=1e-6)


def test_samples_that_do_not_count_make_what_counts_no_less_sure():
    rows = flows(3, in_if=[4, 3, 4], sampling_rate=[1000, 1, 1000], bytes=[9000, 500, 9000])
    (result,) = operator_of(links=edges_of(if3=True, if4=False)).process([Pane(7, 7 * SECOND, 8 * SECOND, rows)])
    (row,) = SourceBlock.from_value(result.value).rows()
    assert [row[f"estimated_bytes{bound}"] for bound in ("", "_low", "_high")] == [500, 500, 500]
