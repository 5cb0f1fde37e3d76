"""What a reader sets aside grows with the bytes it is given, not with what they claim."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from flowstream import schemas
from flowstream.decode import Payloads, decode
from flowstream.decode.payloads import ROWS_PER_MESSAGE_MAX
from flowstream.errors import Reason
from flowstream.record_batches import WireBatch, read_batches
from tests.builders import delimited, field, goflow2_v2, varint
from tests.fuzz.laws import LAWS
from tests.fuzz.records import wire_batch

SIZE = 60_000
# The most costly bytes are the shortest objects of JSON, "{}" and a line break: an object of a dozen members for each.
BYTES_PER_BYTE = 400
FIXED_BYTES = 2 << 20

_SHORT = delimited(field(2, 1) + field(6, bytes(4)))
COSTLY: dict[str, list[bytes]] = {
    "goflow": [
        b"\x00",
        b"\x08",
        b"\x00\x08",
        b"\xff",
        delimited(field(2, 1) + field(6, bytes(4))),
        b"\x32\x00",
        _SHORT,
    ],
    "goflow-json": [b"{}\n", b"[", b'{"":', b'"', b"\\", b'{"bytes":1}\n', b"\xc3\xa9"],
    "flow-event-json": [b"{}\n", b'{"a":[]}\n', b"9"],
    "suricata-eve": [b"{}\n", b'{"event":{}}\n', b'{"event_type":"flow"}\n'],
    "avro": [b"\x00", b"\xff", b"\x02", b"\x00\x00\x00\x00\x01", b"\xc3\x01" + bytes(8)],
}
CASES = [(wire_format, unit) for wire_format, units in COSTLY.items() for unit in units]


def peak(call: Callable[[], object]) -> int:
    """Return the most bytes that were set aside at once during a second call, kernels and caches being ready."""
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("wire_format", "unit"), CASES)
def test_a_decoder_sets_aside_so_many_bytes_per_byte(wire_format: str, unit: bytes) -> None:
    message = unit * (SIZE // len(unit))
    one = Payloads.from_values([message])
    many = Payloads.from_values([unit] * (SIZE // len(unit)))
    framed = Payloads.from_values([schemas.single_object_frame("flow_record", message)])
    for payloads in (one, framed):
        assert peak(lambda given=payloads: decode(wire_format, given)) < FIXED_BYTES + BYTES_PER_BYTE * SIZE
    # Each message, however short, has a row set aside for it.
    assert peak(lambda: decode(wire_format, many)) < FIXED_BYTES + BYTES_PER_BYTE * SIZE + 4000 * len(many)


@pytest.mark.parametrize("wire_format", ["goflow-json", "flow-event-json", "suricata-eve"])
def test_a_message_of_more_objects_than_rows_may_be_is_refused_before_they_are_made(wire_format: str) -> None:
    for objects, reason in ((ROWS_PER_MESSAGE_MAX, None), (ROWS_PER_MESSAGE_MAX + 1, Reason.TOO_LARGE)):
        decoded = decode(wire_format, Payloads.from_values([b"{}\n" * objects]))
        assert (Reason.TOO_LARGE in decoded.reasons.tolist()) == (reason is not None)
    bomb = Payloads.from_values([b"{}\n" * (4 << 18)])
    assert peak(lambda: decode(wire_format, bomb)) < FIXED_BYTES + len(bomb.buffer)


@pytest.mark.parametrize("count", [2**31 - 1, 10**6, -1])
def test_a_record_batch_that_claims_more_records_than_it_can_hold_is_refused_before_anything_is_set_aside(
    count: int,
) -> None:
    wire = bytearray(wire_batch(0))
    wire[57:61] = count.to_bytes(4, "big", signed=True)

    def refused() -> None:
        (records,) = read_batches([WireBatch(memoryview(bytes(wire)), 0, 4)], lambda _codec, packed: packed)
        assert [batch.reason for batch in records.refused] == [Reason.MALFORMED]

    assert peak(refused) < FIXED_BYTES


LYING: dict[str, list[bytes]] = {
    "block": [seed[:12] + varint(2**40) + seed[12:] for seed in LAWS["block"].seeds],
    "avro-json": [varint(2**40) + bytes(30), bytes(40) + varint(2**41)],
    "progress": [b"\xdf\xff\xff\xff\xff", b"\x81\xa1x\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff" + bytes(40)],
    "goflow": [varint(2**31) + goflow2_v2(), b"\x32" + varint(2**62), b"\x32" + varint(2**64 - 1)],
    "links": [b"exporter,if_index,name,speed_bps\n192.0.2.1,1,a," + b"9" * 30],
}


@pytest.mark.parametrize("name", LYING)
def test_a_length_that_lies_sets_nothing_aside(name: str) -> None:
    for octets in LYING[name]:
        assert peak(lambda given=octets: LAWS[name].check(given)) < FIXED_BYTES
