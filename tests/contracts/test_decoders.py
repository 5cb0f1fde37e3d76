"""What every decoder promises, whatever its format: tested over all of ``DECODERS``, and over hostile bytes.

A new format is picked up by itself; it must bring messages that it takes, in ``VALID``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.batch import COLUMNS
from flowstream.decode import DECODERS, DecodeContext, Decoded, Payloads, decode, decode_one
from flowstream.errors import DecodeError, Reason
from tests.builders import delimited, goflow2_v1, goflow2_v2, goflow_v3
from tests.unit.decode import examples

VALID: dict[str, list[bytes]] = examples.VALID | {
    "goflow": [
        goflow2_v2(),
        delimited(goflow2_v2(src_addr=bytes(range(16)), dst_addr=None)),
        goflow2_v1(),
        delimited(goflow_v3()),
        delimited(goflow2_v2(), goflow2_v1(), goflow_v3()),
    ],
}

every_format = pytest.mark.parametrize("wire_format", sorted(DECODERS))

Outcome = tuple[str, object]


def run(wire_format: str, values: Sequence[bytes | None]) -> Decoded:
    return decode(wire_format, Payloads.from_values(values), DecodeContext())


def outcomes(decoded: Decoded, messages: int) -> list[Outcome]:
    """Return what became of each message; fails unless that is exactly one thing.

    For rows it is every column but the index of the message, which the position in the list stands for.
    """
    found: dict[int, Outcome] = {}
    flows = decoded.flows
    assert np.all(np.diff(flows.origin_offset) >= 0), "rows are in the order of their messages"
    for message, first, count in zip(
        *np.unique(flows.origin_offset, return_index=True, return_counts=True), strict=True
    ):
        rows = flows.take(slice(int(first), int(first + count)))
        assert rows.origin_row.tolist() == list(range(count)), "rows number on from zero in each message"
        columns = {name: column.tolist() for name, column in rows.columns.items() if name != "origin_offset"}
        found[int(message)] = "rows", columns
    assert len(decoded.reasons) == len(decoded.rejected)
    for name, indices in {"rejected": decoded.rejected, "skipped": decoded.skipped}.items():
        assert indices.dtype == np.int64
        assert np.all(np.diff(indices) > 0), f"{name} ascends"
        for position, message in enumerate(indices.tolist()):
            assert message not in found, f"message {message} ended in two places"
            found[message] = name, decoded.reason(position) if name == "rejected" else None
    assert sorted(found) == list(range(messages)), "every message ended somewhere"
    return [found[message] for message in range(messages)]


@st.composite
def hostile(draw: st.DrawFn, wire_format: str) -> bytes | None:
    """Null, any bytes, or a good message: whole, cut, with bytes changed, cut out, put in, or spliced."""
    good = draw(st.sampled_from(VALID[wire_format]))
    kind = draw(st.sampled_from(["null", "any", "whole", "cut", "changed", "removed", "inserted", "spliced"]))
    if kind == "null":
        return None
    if kind == "any":
        return draw(st.binary(max_size=80))
    start = draw(st.integers(0, len(good)))
    end = draw(st.integers(start, min(len(good), start + 8)))
    if kind == "cut":
        return good[:start]
    if kind == "changed":
        return good[:start] + draw(st.binary(min_size=end - start, max_size=end - start)) + good[end:]
    if kind == "removed":
        return good[:start] + good[end:]
    if kind == "inserted":
        return good[:start] + draw(st.binary(max_size=12)) + good[start:]
    if kind == "spliced":
        other = draw(st.sampled_from(VALID[wire_format]))
        return good[:start] + other[draw(st.integers(0, len(other))) :]
    return good


def batches(wire_format: str) -> st.SearchStrategy[list[bytes | None]]:
    return st.lists(hostile(wire_format), max_size=8)


@every_format
def test_every_format_brings_messages_that_it_takes(wire_format):
    messages = VALID[wire_format]
    assert messages
    assert [kind for kind, _ in outcomes(run(wire_format, messages), len(messages))] == ["rows"] * len(messages)


@every_format
@given(data=st.data())
def test_whatever_the_bytes_each_message_ends_in_exactly_one_place(wire_format, data):
    values = data.draw(batches(wire_format))
    found = outcomes(run(wire_format, values), len(values))
    for value, (kind, detail) in zip(values, found, strict=True):
        assert (value is None) <= (kind == "skipped")
        assert (value == b"") <= (detail is Reason.EMPTY)


@every_format
@given(data=st.data())
def test_a_batch_is_its_messages_one_by_one_in_any_order(wire_format, data):
    values = data.draw(batches(wire_format))
    found = outcomes(run(wire_format, values), len(values))
    assert found == [outcomes(run(wire_format, [value]), 1)[0] for value in values]
    order = data.draw(st.permutations(range(len(values))))
    assert outcomes(run(wire_format, [values[i] for i in order]), len(values)) == [found[i] for i in order]


@every_format
def test_a_message_cut_at_any_byte_spoils_neither_itself_nor_its_neighbours(wire_format):
    for good in VALID[wire_format]:
        cuts = [good[:end] for end in range(len(good))]
        values = [value for cut in cuts for value in (good, cut)]
        found = outcomes(run(wire_format, values), len(values))
        assert found[::2] == [found[0]] * len(cuts)
        assert found[0][0] == "rows"
        assert found[1] == ("rejected", Reason.EMPTY)


@every_format
def test_any_single_byte_changed_spoils_no_neighbour(wire_format):
    for good in VALID[wire_format]:
        values = [good]
        for position, byte in enumerate(good):
            changed = {0x00, 0x7F, 0x80, 0xFF, byte ^ 0x01} - {byte}
            values += [good[:position] + bytes([new]) + good[position + 1 :] for new in sorted(changed)]
        values.append(good)
        found = outcomes(run(wire_format, values), len(values))
        assert found[0] == found[-1]
        assert found[0][0] == "rows"


@every_format
def test_a_null_message_is_skipped_and_one_without_bytes_is_rejected_as_empty(wire_format):
    found = outcomes(run(wire_format, [None, b"", None]), 3)
    assert found == [("skipped", None), ("rejected", Reason.EMPTY), ("skipped", None)]


@every_format
def test_no_messages_are_no_rows(wire_format):
    decoded = run(wire_format, [])
    assert (len(decoded.flows), len(decoded.rejected), len(decoded.skipped)) == (0, 0, 0)


@every_format
@given(data=st.data())
def test_the_columns_are_complete_and_of_their_types(wire_format, data):
    values = data.draw(batches(wire_format))
    flows = run(wire_format, values).flows
    assert list(flows.columns) == list(COLUMNS)
    for name, column in COLUMNS.items():
        array = flows.columns[name]
        assert array.dtype == np.dtype(column.dtype)
        assert array.shape == ((len(flows),) if column.width == 1 else (len(flows), column.width))


@every_format
@given(data=st.data())
def test_the_payloads_are_left_as_they_were_and_say_the_same_again(wire_format, data):
    values = data.draw(batches(wire_format))
    payloads = Payloads.from_values(values)
    before = payloads.buffer, payloads.bounds.tolist(), payloads.null.tolist()
    first = outcomes(decode(wire_format, payloads), len(values))
    assert (payloads.buffer, payloads.bounds.tolist(), payloads.null.tolist()) == before
    assert outcomes(decode(wire_format, payloads), len(values)) == first


@every_format
@given(data=st.data())
def test_a_single_message_raises_decode_error_with_the_reason_a_batch_would_list(wire_format, data):
    value = data.draw(hostile(wire_format).filter(lambda v: v is not None))
    kind, detail = outcomes(run(wire_format, [value]), 1)[0]
    if kind != "rejected":
        assert outcomes(decode_one(wire_format, value), 1) == [(kind, detail)]
        return
    with pytest.raises(DecodeError) as refused:
        decode_one(wire_format, value)
    assert (refused.value.reason, refused.value.wire_format) == (detail, wire_format)


def test_an_unknown_format_is_a_key_error():
    with pytest.raises(KeyError):
        decode("no-such-format", Payloads.from_values([b"x"]))
