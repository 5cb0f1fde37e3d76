"""Bytes that are no flow records: poison by hand, and from a seeded generator."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from confluent_kafka import Producer

from tests.builders import varint
from tests.faults import avro, checker, client
from tests.faults.flaws import small_enough
from tests.faults.flows import Flows, encoded
from tests.faults.rig import Rig
from tests.faults.scenario import scenario
from tests.faults.state import configure
from tests.faults.workers import processed
from tests.integration.kafka import create_topic
from tests.integration.lab import Worker
from tests.waiting import wait_for

MEASURED = 150_000  # records by which a rate is measured
DIP_PERCENT_MAX = 20
LARGEST_BYTES = 12 << 20  # of a record of the raw topic
CODECS = ("gzip", "snappy", "lz4", "zstd")
CLOSING = "198.51.100.1"
REASONS = {
    "empty", "truncated", "malformed", "no_time", "no_address", "time_out_of_range", "unknown_schema", "too_large",
    "out_of_range",
}  # fmt: skip


def avro_flow(time_ns: int, src_addr: bytes = bytes([198, 51, 100, 1])) -> bytes:
    """Return a flow record in Avro, single-object encoding."""
    record = {"time_received_ns": time_ns, "src_addr": src_addr, "bytes": 64, "packets": 1}
    return avro.encoded("flow_record", record)


def json_flow(time_ns: int, src_addr: str = CLOSING) -> bytes:
    """Return a flow record as goflow2 writes it in JSON."""
    return json.dumps({
        "type": "SFLOW_5", "time_received_ns": time_ns, "sequence_num": 1, "sampling_rate": 1, "src_addr": src_addr,
        "dst_addr": src_addr, "bytes": 64, "packets": 1, "proto": "TCP", "src_port": 1, "dst_port": 2,
    }).encode()  # fmt: skip


def goflow_poison() -> list[bytes]:
    """Return messages that are no protobuf flow records, each in a way of its own."""
    good = Flows(99).next(1)
    return [
        b"", good[: len(good) // 2], good[:-1], b"\xff" * 40, b"not protobuf at all", b"\x00", json_flow(1),
        b"\xff" * 9 + b"\x7f" + good, encoded(bytes=1, time_received_ns=Flows(1).time_ns),
        b"\x00\x00\x00\x30\x39" + good, bytes(10 << 20),
    ]  # fmt: skip


AVRO_POISON = [
    b"", b"\x00\x00\x00\x30\x39\x02\x04", b"\xc3\x01" + bytes(8) + b"\x02", b"\xc3\x01", b"\xff" * 30, b"{}",
    avro_flow(Flows(1).time_ns)[:-3], avro_flow(Flows(1).time_ns) + b"\x00",
]  # fmt: skip
JSON_POISON = [
    b"", b"{", b"[1, 2", b"null", b"\xff\xfe", b'{"type": "SFLOW_5"}', b"[" * 100_000, json_flow(1)[:-5],
    b'{"src_addr": "300.1.1.1", "time_received_ns": 1700000000000000000}', b'{"bytes": 1e999, "src_addr": 7}',
    json_flow(Flows(1).time_ns).replace(b"64", b"18446744073709551616"),
]  # fmt: skip


@scenario(18, "poison records", fault="bytes of every wrong kind, 10 MB, empty, decompression bombs", quick=True)
def poison_records(rig: Rig) -> None:
    others = {f"{rig.lab.raw}-avro": "avro", f"{rig.lab.raw}-json": "goflow-json"}
    for topic in others:
        create_topic(rig.address, topic, 1)
    inputs = [{"topic": rig.lab.raw, "format": "goflow"}]
    rig.session_timeout(30)  # it is held still for a while
    rig.prepare(2, inputs=inputs + [{"topic": topic, "format": form} for topic, form in others.items()])
    configure(rig.address, rig.lab.raw, max_message_bytes=LARGEST_BYTES)
    worker = rig.lab.worker()
    sender = rig.sender
    rig.produce(3_000 if rig.quick else 30_000)
    before = worker.process.pid
    poison = goflow_poison()
    if not rig.quick:
        _dip(rig, worker, [value for value in poison if len(value) < 1000])
    for value in poison:
        rig.produce(100)
        for partition in range(2):
            sender.put(-1, partition, value)
    rig.fault(f"{len(poison)} kinds of bytes that are no flow record, in each partition")
    sender.put(-1, 0, None)
    sender.put(sender.flows.number, 0, large(sender.flows, 9 << 20))
    sender.flush()
    mebibytes = 64
    for codec in CODECS:
        rig.fault(f"a record of {mebibytes} MB of zeros, as {codec}")
        _bomb(rig, codec, mebibytes << 20)
    after_ns = sender.flows.time_ns + 500 * 10**9
    wrong = {
        f"{rig.lab.raw}-avro": [*AVRO_POISON, avro_flow(after_ns)],
        f"{rig.lab.raw}-json": [*JSON_POISON, json_flow(after_ns)],
    }
    for topic, values in wrong.items():
        _put(rig, topic, values)
    rig.produce(1_000)
    rig.drain(180)
    rig.verify()
    assert worker.alive, "the worker has ended"
    assert worker.process.pid == before
    letters = _letters(rig)
    expected = {(topic, 0, offset) for topic, values in wrong.items() for offset in range(len(values) - 1)}
    assert {at for at in letters if at[0] != rig.lab.raw} == expected, "the dead letters of the other formats"
    assert set(letters.values()) <= REASONS
    rig.row.figures["dead letters of all topics"] = len(letters)
    small_enough(rig)


def _dip(rig: Rig, worker: Worker, poison: list[bytes]) -> None:
    """Compare what the worker gets done in a second of its processor's time with and without poison in a hundredth."""
    rig.fault(f"a hundredth of {MEASURED} records is poison")
    rates = [_rate(rig, worker, wrong) for wrong in ([], poison) * 2]
    dip = 1 - max(rates[1::2]) / max(rates[::2])
    rig.within(round(100 * dip, 1), DIP_PERCENT_MAX, "dip of the rate by poison in a hundredth, %")


def _rate(rig: Rig, worker: Worker, poison: list[bytes]) -> float:
    worker.pause()  # the backlog is there when it begins, so that both times its batches are full
    for at in range(MEASURED // 100):
        rig.sender.send(100 - bool(poison), 1_000_000, 48, 0.0)
        if poison:
            rig.sender.put(-1, at % 2, poison[at % len(poison)])
    rig.sender.flush()
    goal = sum(client.ends(rig.address, [rig.lab.raw]).values())
    began = worker.cpu_s()
    worker.resume()
    wait_for(lambda: processed(rig) >= goal, "the backlog to be done", 120)
    return MEASURED / (worker.cpu_s() - began)


def large(flows: Flows, size: int) -> bytes:
    """Return a flow in a message of about ``size`` bytes: a field that nobody knows fills it."""
    body = flows.next(0)
    record = body[1 + (body[0] >> 7) :]
    unknown = varint(1000 << 3 | 2) + varint(size) + bytes(size)
    return varint(len(record) + len(unknown)) + record + unknown


def _bomb(rig: Rig, codec: str, size: int) -> None:
    """Send a record that is small as it lies in the log and large when it is unpacked, in a batch of its own."""
    producer = Producer({
        "bootstrap.servers": rig.address, "compression.type": codec, "message.max.bytes": 1_000_000_000,
        "queue.buffering.max.kbytes": 2_000_000, "linger.ms": 0,
    })  # fmt: skip
    refused: list[str] = []
    producer.produce(
        rig.lab.raw, bytes(size), key=b"k", partition=1,
        on_delivery=lambda error, _: refused.append(str(error)) if error is not None else None,
    )  # fmt: skip
    assert not producer.flush(120)
    producer.close()
    assert not refused, f"the broker took no {codec} bomb: {refused}"


def _put(rig: Rig, topic: str, values: list[bytes]) -> None:
    producer = client.producer(rig.address)
    for value in values:
        producer.produce(topic, value, partition=0)
    assert not producer.flush(60)
    producer.close()


def _letters(rig: Rig) -> dict[tuple[str, int, int], str]:
    """Return the reasons of the dead letters by (topic, partition, offset); each is there once."""
    values, changed = checker.last_values(client.read(rig.address, rig.lab.topic("dead-letters")))
    assert not changed
    letters = [avro.read("dead_letter", value) for value in values.values()]
    found = {(x["topic"], x["partition"], x["offset"]): x["reason"] for x in letters}
    assert len(found) == len(letters), "a message is a dead letter twice"
    return found


def mutants(seeds: list[bytes], draw: random.Random) -> Iterator[bytes]:
    """Yield messages that are nearly right: bits flipped, bytes cut out, doubled, exchanged, or all at random."""
    while True:
        value = bytearray(draw.choice(seeds))
        for _ in range(draw.randrange(4)):
            at = draw.randrange(len(value)) if value else 0
            match draw.randrange(6):
                case 0 if value:
                    value[at] ^= 1 << draw.randrange(8)
                case 1:
                    value[at : at + draw.randrange(20)] = b""
                case 2:
                    value[at:at] = value[at : at + draw.randrange(20)]
                case 3:
                    value[at:at] = draw.randbytes(draw.randrange(12))
                case 4:
                    value[at : at + 8] = draw.choice([b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7])
                case _:
                    value = bytearray(draw.randbytes(draw.randrange(200)) if draw.random() < 0.1 else value)
        yield bytes(value)


def _eve(time_ns: int) -> bytes:
    at = f"2023-11-14T22:13:20.{time_ns // 1000 % 1_000_000:06d}+0000"
    flow = {
        "pkts_toserver": 3,
        "pkts_toclient": 2,
        "bytes_toserver": 300,
        "bytes_toclient": 200,
        "start": at,
        "end": at,
    }
    return json.dumps({
        "timestamp": at, "flow_id": 7, "event_type": "flow", "src_ip": "10.1.2.3", "src_port": 1234,
        "dest_ip": "10.3.2.1", "dest_port": 443, "proto": "TCP", "flow": flow,
    }).encode()  # fmt: skip


def _event(seed: int) -> bytes:
    return json.dumps({"eventtime": 1_700_000_000 + seed, "src_ip": "10.1.1.1", "out_bytes": 9}).encode()


#: By format, what makes a good message of a small number.
SEEDS: dict[str, Callable[[int], bytes]] = {
    "goflow": lambda seed: Flows(seed).next(1),
    "goflow-json": lambda seed: json_flow(Flows(1).time_ns + seed, "10.1.1.1"),
    "avro": lambda seed: avro_flow(Flows(1).time_ns + seed, bytes([10, 1, 1, 1])),
    "suricata-eve": _eve,
    "flow-event-json": _event,
}


@scenario(19, "decoder fuzz through the whole worker", fault="mutated messages of every format, from a seed")
def decoder_fuzz(rig: Rig) -> None:
    topics = {f"{rig.lab.raw}-{form}": form for form in SEEDS}
    for topic in topics:
        create_topic(rig.address, topic, 1)
    rig.prepare(1, inputs=[{"topic": topic, "format": form} for topic, form in topics.items()])
    worker = rig.lab.worker()
    each = 2_000 if rig.quick else 40_000
    rig.fault(f"{each} mutated messages of each format")
    for topic, form in topics.items():
        messages = mutants([SEEDS[form](seed) for seed in range(8)], rig.draw)
        _put(rig, topic, [next(messages) for _ in range(each)])
    total = each * len(topics)
    wait_for(lambda: _alive(rig) and worker.metric("records_consumed_total") >= total, "all of it to be read", 300)
    settled = {}

    def placed() -> bool:
        nonlocal settled
        before, settled = settled, {name: worker.metric(f"{name}_total") for name in _PLACES}
        return before == settled and settled["rows_applied"] + settled["rows_late"] == settled["rows_decoded"]

    wait_for(lambda: _alive(rig) and placed(), "every row to be applied or late", 120)
    letters = _letters(rig)
    rig.row.records, rig.row.dead_letters, rig.row.late = total, len(letters), round(settled["rows_late"])
    rig.row.lost = rig.row.duplicated = 0
    assert settled["records_consumed"] == total
    assert settled["records_rejected"] == len(letters)
    assert set(letters.values()) <= REASONS
    for topic, form in topics.items():
        rejected = sum(at[0] == topic for at in letters)
        rig.row.figures[f"rejected of {form}"] = rejected
        assert 0 < rejected < each, f"{form}: {rejected} of {each} were rejected: the mutants teach nothing"
    assert not rig.watch.seen.violations, f"while it ran: {rig.watch.seen.violations[:5]}"
    # What is right is still taken in, whatever came before it.
    decoded = settled["rows_decoded"]
    for topic, form in topics.items():
        _put(rig, topic, [SEEDS[form](seed) for seed in range(100)])
    wait_for(lambda: worker.metric("rows_decoded_total") == decoded + 100 * len(topics), "the good ones", 60)
    small_enough(rig)


_PLACES = ("records_consumed", "records_rejected", "records_skipped", "rows_decoded", "rows_applied", "rows_late")


def _alive(rig: Rig) -> bool:
    assert all(worker.alive for worker in rig.lab.workers), rig.lab.workers[0].log.read_text()[-3000:]
    return True
