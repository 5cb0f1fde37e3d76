"""What is wrong with the flows: their order, their times, their bytes, their number."""

from __future__ import annotations

import time
from collections import Counter
from itertools import count

from tests.faults import avro, client
from tests.faults.flows import SECOND_NS
from tests.faults.rig import Rig
from tests.faults.scenario import scenario
from tests.waiting import wait_for

DAY_NS = 86_400 * SECOND_NS
#: What a worker may take, whatever is thrown at it. It takes 200 to 300 MB with nothing to do.
RSS_MAX_BYTES = 900 << 20


def disordered(rig: Rig, records: int, within_s: float, seconds: float = 60) -> None:
    """Send flows in an order in which none comes more than ``within_s`` of event time after its turn."""
    flows = rig.sender.flows
    began_ns = flows.time_ns + 10 * SECOND_NS
    times = [began_ns + int(at * seconds * SECOND_NS / records) for at in range(records)]
    for time_ns in sorted(times, key=lambda at: at + rig.draw.uniform(0, within_s) * SECOND_NS):
        flows.time_ns = time_ns
        number = flows.number
        rig.sender.put(number, rig.sender.partition_of(number), flows.next(0))
    flows.time_ns = times[-1]
    rig.sender.flush()


@scenario(16, "out of order and late", fault="rows permuted within and beyond the allowance of 2 s")
def out_of_order_and_late(rig: Rig) -> None:
    rig.prepare(raw_partitions=2)
    rig.lab.worker()
    records = 3_000 if rig.quick else 40_000
    rig.fault("rows up to 1.9 s out of order")
    disordered(rig, records, 1.9)
    rig.drain()
    rig.verify(ledger=True)
    assert not rig.row.late, f"{rig.row.late} rows are late that were within the allowance"
    rig.fault("rows up to 4 s out of order")
    disordered(rig, records, 4)
    rig.drain()
    rig.verify(ledger=True)
    assert records // 20 < rig.row.late < records * 3 // 4, f"{rig.row.late} of {records} are late"


@scenario(17, "idle partition", fault="a partition without records, one of bytes that are no flows, one falls silent")
def idle_partition(rig: Rig) -> None:
    rig.prepare(raw_partitions=4, time={"idle_after_s": 4})
    sender = rig.sender
    sender.silent = {2, 3}
    rig.lab.worker()
    garbage = count()

    def newest() -> int:
        if next(garbage) % 4 == 0:
            sender.put(-1, 3, rig.draw.randbytes(40))
        return min(rig.watch.seen.newest.values(), default=0)

    with rig.producing(1_000):
        rig.fault("partition 2 never has a record, 3 only garbage")
        wait_for(lambda: len(rig.watch.seen.newest) == 4 and newest(), "windows to close all the same", 60)
        sender.silent = {1, 2, 3}
        rig.fault("partition 1 falls silent")
        last_ns = sender.flows.time_ns
        wait_for(lambda: newest() > last_ns, "windows to close after it has fallen silent", 90)
    rig.drain()
    for worker in rig.lab.workers:
        assert worker.stop() == 0  # before the clock closes more windows than the log does
    rig.verify(pipeline=False)
    assert not rig.row.late, f"{rig.row.late} rows are late"


@scenario(
    20, "bad timestamps", fault="clocks a day and 30 minutes ahead, 10 years and an hour behind, 2100, 0", quick=True
)
def bad_timestamps(rig: Rig) -> None:
    rig.prepare(raw_partitions=3, time={"behind_max_s": 60})
    worker = rig.lab.worker()
    sender, flows = rig.sender, rig.sender.flows
    records, seconds = (3_000, 300) if rig.quick else (60_000, 600)
    began_ns = time.time_ns() // SECOND_NS * SECOND_NS - (seconds + 30) * SECOND_NS
    wrong = {
        "a day ahead": DAY_NS, "30 minutes ahead": 1_800 * SECOND_NS, "an hour behind": -3_600 * SECOND_NS,
        "10 years behind": -3_652 * DAY_NS, "in 2100": 4_102_444_800 * SECOND_NS - began_ns, "at 0": -began_ns,
    }  # fmt: skip
    sent: Counter[str] = Counter()
    for clock in wrong:
        rig.fault(f"an exporter's clock {clock}")
    for at in range(records):
        true_ns = began_ns + at * seconds * SECOND_NS // records
        clock = "right"
        if at % 3 == 2:
            clock = "10 years behind"  # the only exporter of partition 2
        elif at < 3 or rig.draw.random() < 0.1:  # the first record of each partition, too
            clock = "a day ahead" if at == 0 else rig.draw.choice(list(wrong))
        elif at > records // 2 and at % 16 == 1:
            clock = "an hour behind"  # stepped back for good
        sent[clock] += 1
        flows.time_ns = true_ns + wrong.get(clock, 0)
        sender.put(flows.number, at % 3, flows.next(0), true_ns // 1_000_000)
    flows.time_ns = began_ns + seconds * SECOND_NS
    sender.flush()
    rig.drain()
    rig.verify(ledger=True)
    absurd = sum(sent[clock] for clock in ("a day ahead", "in 2100", "at 0"))
    behind = sum(sent[clock] for clock in ("an hour behind", "10 years behind"))
    assert (rig.row.dead_letters, rig.row.late) == (absurd, behind), f"{rig.row.dead_letters}, {rig.row.late}: {sent}"
    waiting = rig.truth.open_flows()
    assert waiting >= sent["30 minutes ahead"]
    wait_for(lambda: worker.metric("rows_open") == waiting, "those ahead of the log, and no others, to wait", 20)
    # A pane of each second in each flows partition, empty ones as long as an elephant is waited for.
    panes = worker.metric("panes_closed_total")
    rig.row.figures["panes closed"] = panes
    assert panes <= 4 * (seconds + 600), f"{panes} panes of {seconds} s of flows"


@scenario(23, "skewed keys and high cardinality", fault="a hot source; very many sources in a window")
def skewed_and_many(rig: Rig) -> None:
    rig.prepare(raw_partitions=2, distances={"flows_max": 300}, sources={"kept_bytes_max": 8 << 20})
    rig.lab.worker()
    rig.produce(10_000)
    rig.fault("nine flows of ten from one source")
    hot = 20_000 if rig.quick else 50_000
    rig.produce(hot, hot=0.9, seconds_of_event_time=30)
    many = 100_000 if rig.quick else 200_000
    rig.fault(f"{many} flows of as many sources within 10 s")
    rig.produce(many, sources=1 << 24, seconds_of_event_time=9)
    rig.produce(10_000)
    rig.drain(300)
    rig.verify(ledger=True)
    rig.row.figures["sources in the fullest window"] = max(Counter(start for start, _ in rig.truth.closed()).values())
    values = client.read(rig.address, rig.lab.topic("distances"))
    told = [avro.read("distances", r.value or b"") for r in values]
    largest = max(told, key=lambda value: value["flows_seen"])
    rig.row.figures["flows of the hottest source"] = largest["flows_seen"]
    assert largest["flows_seen"] > hot // 20, "the hot source should have had a window full of flows"
    assert (largest["flows"], largest["sampled"]) == (300, True), f"{largest['flows']} compared, 300 are allowed"
    assert max(value["pairs"] for value in told) == 300 * 299 // 2
    elephants = [avro.read("elephants", r.value or b"") for r in client.read(rig.address, rig.lab.topic("elephants"))]
    onsets = {(e["flow"]["src_addr"], e["flow"]["src_port"]) for e in elephants if e["event"] == "onset"}
    assert onsets == {("10.0.0.1", 40_000)}, f"the one elephant is {('10.0.0.1', 40_000)}, found: {onsets}"
    small_enough(rig)


def small_enough(rig: Rig) -> None:
    """Fail where a worker took more memory than any input is worth."""
    used = max(usage.rss_bytes for usage in rig.watch.seen.usage)
    assert used < RSS_MAX_BYTES, f"a worker took {used >> 20} MB"
