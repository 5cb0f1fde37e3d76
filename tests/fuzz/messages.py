"""Laws of the decoders: any bytes give rows or a reason, the bytes around them do not matter, and others agree."""

from __future__ import annotations

import json
from functools import partial

import numpy as np

from flowstream import schemas
from flowstream.decode import DECODERS, DecodeContext, Decoded, Payloads, decode
from flowstream.decode.avro_writers import writer
from flowstream.errors import Reason
from tests.builders import delimited, goflow2_v1, goflow2_v2, goflow_v3
from tests.fuzz import protobuf_oracle
from tests.fuzz.law import Law
from tests.unit.decode.batches import outcome
from tests.unit.decode.examples import VALID

GOFLOW_SEEDS = [
    goflow2_v2(),
    delimited(goflow2_v2(src_addr=bytes(range(16)), dst_addr=None)),
    goflow2_v1(),
    delimited(goflow_v3()),
    delimited(goflow2_v2(), goflow2_v1(), goflow_v3()),
]
_OURS = json.loads(
    (schemas.directory() / "flow_record.v1.avsc").read_text()
)  # fastavro would put its keys in any order
#: The layout of our schema under another name: another fingerprint, so that fastavro reads it.
RENAMED = _OURS | {"name": "flowstream.Renamed"}
_WITH_KERNEL, _WITH_FASTAVRO = DecodeContext({7: _OURS}), DecodeContext({7: RENAMED})
_UNREADABLE = {Reason.MALFORMED, Reason.TRUNCATED}

# What would be seen if it were read: neither ends a varint, a string or an object.
_BEFORE, _AFTER = b'\xff{"', b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"


def decoded_within(wire_format: str, payload: bytes, context: DecodeContext | None = None) -> Decoded:
    """Decode a message; fail unless it says the same with other bytes around it, and ends in exactly one place."""
    alone = decode(wire_format, Payloads.from_values([payload]), context)
    bounds = np.array([len(_BEFORE), len(_BEFORE) + len(payload)], np.int64)
    within = decode(wire_format, Payloads(_BEFORE + payload + _AFTER, bounds, np.zeros(1, np.bool_)), context)
    assert outcome(alone) == outcome(within), "bytes around the message were looked at"
    assert (len(alone.flows) > 0) + len(alone.rejected) + len(alone.skipped) == 1, "not in exactly one place"
    assert all(reason in set(Reason) for reason in alone.reasons.tolist())
    return alone


def check_goflow(payload: bytes) -> object:
    """Rows and reasons are those of protobuf's own parser, but for what ``protobuf_oracle`` lists."""
    found = decoded_within("goflow", payload)
    wanted = protobuf_oracle.message(payload)
    if len(found.rejected):
        reason = found.reason(0)
        assert wanted == (protobuf_oracle.UNSOUND if reason in _UNREADABLE else reason), (wanted, reason)
    else:
        assert isinstance(wanted, list), wanted
        assert len(wanted) == len(found.flows)
        for name in wanted[0]:
            assert found.flows.columns[name].tolist() == [row[name] for row in wanted], name
    return outcome(found)


def _refuse(constant: str) -> object:
    raise ValueError(constant)


def json_objects(message: bytes) -> int | None:
    """Return how many objects, a line break between one and the next, the standard library finds; None if others."""
    reader = json.JSONDecoder(parse_constant=_refuse, parse_int=len)
    try:
        text, at, found = message.decode(), 0, 0
        while True:
            after = len(text) - len(text[at:].lstrip(" \t\r\n"))
            if after == len(text):
                return found or None
            if text[after] != "{" or (found and "\n" not in text[at:after]):
                return None
            _, at = reader.raw_decode(text, after)
            found += 1
    except (ValueError, RecursionError):
        return None


def check_json(wire_format: str, payload: bytes) -> object:
    """What the standard library does not take for objects in lines is rejected; rows are no more than objects."""
    found = decoded_within(wire_format, payload)
    objects = json_objects(payload)
    assert objects is not None or len(found.rejected)
    if len(found.flows):
        assert len(found.flows) <= (objects or 0)
        assert wire_format == "suricata-eve" or len(found.flows) == objects
    return outcome(found)


def check_avro(payload: bytes) -> object:
    """Our schema's kernel says what fastavro says. It may be stricter about varints of more than ten bytes."""
    bare = decoded_within("avro", payload)
    framed = schemas.confluent_frame(7, payload)
    ours, theirs = (
        decode("avro", Payloads.from_values([framed]), context) for context in (_WITH_KERNEL, _WITH_FASTAVRO)
    )
    if not (len(ours.rejected) and ours.reason(0) == Reason.MALFORMED):
        assert outcome(ours) == outcome(theirs)
    return outcome(bare), outcome(ours)


_BODIES = [VALID["avro"][0], VALID["avro"][0][:40], b"\xff" * 40, b"\x02" * 200, b"\x00" * 200]


def check_avro_schema(text: bytes) -> object:
    """Any JSON is a writer's schema to read with, or is none, and reading with it raises nothing."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        return None
    made = writer(schema)
    context = DecodeContext({1: schema})
    found = [decoded_within("avro", schemas.confluent_frame(1, body), context) for body in _BODIES]
    assert made is not None or all(one.reasons.tolist() == [Reason.UNKNOWN_SCHEMA] for one in found)
    return [outcome(one) for one in found]


_JSON_TOKENS = [
    b"null", b"true", b"1e400", b"-1", b"1.0", b'"\\ud800"', b"NaN", b"\xef\xbb\xbf", b"[[[[", b"}\n{", b"\r\n",
    b"\\u0062", b"18446744073709551616", b'"9223372036854775808"', b"1970-01-01T00:00:00Z", b'"::ffff:1.2.3.4"',
]  # fmt: skip
_KEYS = {
    "goflow-json": [b"time_received_ns", b"SrcAddr", b"src_addr", b"IPTTL", b"TimeFlowStartMs", b"proto", b"type"],
    "flow-event-json": [b"eventtime", b"src_ip4", b"src_ip6", b"@timestamp", b"duration", b"eventid", b"nproto"],
    "suricata-eve": [b"event_type", b"netflow", b"flow_id", b"event", b"timestamp", b"tcp_flags", b"pkts_toserver"],
}
_SCHEMA_WORDS = "type fields record array items map values fixed size enum symbols null"
_VARINTS = [b"\x80" * 9 + b"\x01", b"\xff" * 9 + b"\x02", b"\x80" * 4 + b"\x10", b"\x43", b"\x44", b"\xf2\x06"]
_AVRO_SEEDS = [*VALID["avro"], VALID["avro"][1][10:]]
_SCHEMA_SEEDS = [json.dumps(schema).encode() for schema in (_OURS, ["null", "long"], {"type": "map", "values": "int"})]
_SCHEMA_TOKENS = [b'"%s"' % word.encode() for word in _SCHEMA_WORDS.split()]

LAWS: dict[str, Law] = {
    "goflow": Law(check_goflow, GOFLOW_SEEDS, _VARINTS),
    "avro": Law(check_avro, _AVRO_SEEDS, _VARINTS),
    "avro-schema": Law(check_avro_schema, _SCHEMA_SEEDS, _SCHEMA_TOKENS),
} | {
    name: Law(partial(check_json, name), VALID[name], [*_JSON_TOKENS, *(b'"%s":' % key for key in keys)])
    for name, keys in _KEYS.items()
}
assert set(DECODERS) <= set(LAWS), "a format without a law"
