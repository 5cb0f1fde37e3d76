"""Laws that hold for every decoder, as functions to call with a batch of messages."""

from __future__ import annotations

import numpy as np

from flowstream.batch import FlowBatch
from flowstream.decode import DecodeContext, Decoded, Payloads, decode
from flowstream.errors import Reason

# What a careless or hostile producer may send where JSON is expected; several are only good when joined.
HOSTILE_JSON = [
    b"{},{}", b"1},{", b"]", b"[", b",", b"{", b"}", b'{"a":', b"1}", b'{"a":[[1', b"2]]}", b'"', b'{"a":"',
    b'"}', b"{}{}", b"{} {}", b"{}\n{}", b"\n", b" ", b"[]", b"[{}]", b"null", b"1", b"\xef\xbb\xbf{}",
    b'{"a":"\xff"}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1e999}', b'{"a":"\\ud800"}', b'{"a":"\\',
    b"{'a':1}", b"{}//", b"\x00",
    b'{"a":' + b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"a":' + b"9" * 5000 + b"}",
]  # fmt: skip


def outcome(decoded: Decoded) -> tuple[dict[str, list[object]], list[int], list[Reason], list[int]]:
    """Return all that a decoder said, comparable."""
    columns = {name: column.tolist() for name, column in decoded.flows.columns.items()}
    reasons = [Reason(reason) for reason in decoded.reasons.tolist()]
    return columns, decoded.rejected.tolist(), reasons, decoded.skipped.tolist()


def assert_batch_equals_singles(
    wire_format: str, messages: list[bytes | None], context: DecodeContext | None = None
) -> None:
    """A batch of n messages says what n batches of one say, and every message ends in exactly one place."""
    together = decode(wire_format, Payloads.from_values(messages), context)
    flows, rejected, reasons, skipped = [], [], [], []
    for index, message in enumerate(messages):
        alone = decode(wire_format, Payloads.from_values([message]), context)
        flows.append(alone.flows.replace(origin_offset=np.full(len(alone.flows), index)))
        rejected += [index] * len(alone.rejected)
        reasons += alone.reasons.tolist()
        skipped += [index] * len(alone.skipped)
        assert (len(alone.flows) > 0) + len(alone.rejected) + len(alone.skipped) == 1
    expected = Decoded(
        FlowBatch.concat(flows),
        np.array(rejected, np.int64),
        np.array(reasons, np.uint8),
        np.array(skipped, np.int64),
    )
    assert outcome(together) == outcome(expected)


def rejection(wire_format: str, message: bytes, context: DecodeContext | None = None) -> Reason:
    """Return why a message is rejected, having checked that it gave no row."""
    decoded = decode(wire_format, Payloads.from_values([message]), context)
    assert len(decoded.flows) == 0
    assert decoded.rejected.tolist() == [0]
    return decoded.reason(0)


def row(wire_format: str, message: bytes, context: DecodeContext | None = None) -> dict[str, object]:
    """Return the only row of a message, by column."""
    decoded = decode(wire_format, Payloads.from_values([message]), context)
    assert len(decoded.rejected) == 0, decoded.reason(0)
    assert len(decoded.flows) == 1
    return {name: column[0].tolist() for name, column in decoded.flows.columns.items()}
