"""Laws of the rates on shared links: none is named from too few samples, and each allows for what its exporter lost."""

import pytest

from flowstream.batch import FlowBatch, FlowType
from flowstream.counting import CountOnce
from flowstream.cubes import CubesConfig, CubesOf
from flowstream.operators import Pane, Result
from flowstream.partials import Cube
from flowstream.results import ResultEncoder
from flowstream.shared_links import STREAM
from tests.builders import flows
from tests.path_rows import FIRST, LINKS, SECOND, names, sampled
from tests.unit.test_shared_links import WINDOW, Marked, merged, traffic


def test_below_the_floor_of_samples_there_are_bounds_and_no_rate():
    """Of equal weight are 20 samples of port 1 in a window and 40 of port 2; those below the floor still share."""
    rows = FlowBatch.concat([sampled(s / 4, *names(1), src_port=p, times=p) for s in range(20) for p in (1, 2)])
    named = {}
    for floor in (20, 20.1, 40.1, 60.1):
        (value, *_) = merged(rows, Marked(rows, 1, 2), samples_min=floor / (1 - 1e-3))
        rates = [e["rate_bps"] is not None for e in value["elephants"]]
        named[floor] = [*rates, value["rate_bps"] is not None, value["share"] is not None]
        assert [e["samples"] for e in value["elephants"]] == [40, 20]
        assert all(0 < e["low_bps"] < e["high_bps"] for e in (value, *value["elephants"]))
        assert ResultEncoder().encode(Result(STREAM, "", 0, value))
    assert named == {
        20: [True, True, True, True],
        20.1: [True, False, True, True],
        40.1: [False, False, True, True],
        60.1: [False, False, False, False],
    }


@pytest.mark.parametrize("kind", [FlowType.NETFLOW_V5, FlowType.SFLOW_5])
@pytest.mark.parametrize("restart", [False, True])
def test_what_an_exporter_lost_in_the_window_moves_its_rates_or_their_upper_bounds_and_no_other_s(kind, restart):
    rows = traffic()
    first, lossy = FIRST + WINDOW, LINKS.to_rows()[0]["exporter"]

    def numbers(pane):
        # Of ten numbers a pane, two do not come: in the second window, of one exporter.
        lost = {3, 4} if first <= pane.index < first + WINDOW else set()
        came = [n for n in range(10) if n not in lost]
        rows = flows(
            len(came), time_ns=pane.start_ns, time_received_ns=pane.start_ns, exporter=lossy, flow_type=int(kind),
            sequence_num=[pane.index * 10 % 2**31 + n for n in came],
        )  # fmt: skip
        part = Pane(pane.index, pane.start_ns, pane.end_ns, rows)
        return [CubesOf(CubesConfig(frozenset({Cube.SEQUENCE})), CountOnce(LINKS)).of(part, 9)]

    clean = merged(rows, Marked(rows, 1, 2, 3), restart=restart)
    told = merged(rows, Marked(rows, 1, 2, 3), restart=restart, numbers=numbers)
    assert [v["exporter"] for v in told] == [v["exporter"] for v in clean]
    of_lossy = 0
    for value, without in zip(told, clean, strict=True):
        is_hit = value["exporter"] == lossy and value["window_start_ns"] == first * SECOND
        of_lossy += is_hit
        most = 10 / 8 if is_hit else 1.0
        sure = most if kind == FlowType.NETFLOW_V5 else 1.0
        assert value["correction"] == pytest.approx(sure)
        assert value["lost_share"] == pytest.approx(1 - 1 / most)
        for one, other in zip((value, *value["elephants"]), (without, *without["elephants"]), strict=True):
            assert one["rate_bps"] == pytest.approx(other["rate_bps"] * sure)
            assert one["low_bps"] == pytest.approx(other["low_bps"] * sure)
            assert one["high_bps"] == pytest.approx(other["high_bps"] * most)
            assert one["samples"] == other["samples"]
    assert of_lossy == 1
