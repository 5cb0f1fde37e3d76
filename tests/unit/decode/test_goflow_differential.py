"""The decoder against protobuf's own: the same messages, every column compared.

The messages are built and read back by the protobuf runtime from descriptors made here from a field table of
the three schemas, with the fields the decoder does not use among them. What the columns should then be is
written out below in plain Python, from the wire-format rules and not from the decoder.
"""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import assume, given
from hypothesis import strategies as st

from flowstream.batch import COLUMNS
from flowstream.decode.goflow import decode
from flowstream.decode.payloads import DecodeContext, Payloads
from flowstream.errors import Reason
from tests.builders import delimited

U32, U64, TEXT = "uint32", "uint64", "bytes"
COMMON = {
    "type": (1, "enum"), "sampling_rate": (3, U64), "sequence_num": (4, U32), "src_addr": (6, TEXT),
    "dst_addr": (7, TEXT), "bytes": (9, U64), "packets": (10, U64), "sampler_address": (11, TEXT),
    "next_hop": (12, TEXT), "next_hop_as": (13, U32), "src_as": (14, U32), "dst_as": (15, U32), "src_net": (16, U32),
    "in_if": (18, U32), "out_if": (19, U32), "proto": (20, U32), "src_port": (21, U32),
    "dst_port": (22, U32), "ip_tos": (23, U32), "ip_ttl": (25, U32), "tcp_flags": (26, U32),
    "src_mac": (27, U64), "etype": (30, U32), "fragment_id": (35, U32), "ipv6_flow_label": (37, U32),
}  # fmt: skip
SECONDS = {"time_received": (2, U64), "time_flow_end": (5, U64), "time_flow_start": (38, U64)}
SCHEMAS: dict[str, dict[str, tuple[int, str]]] = {
    "GoFlowV3": COMMON | SECONDS | {
        "has_encap": (43, "bool"), "src_addr_encap": (44, TEXT), "has_mpls": (53, "bool"),
        "mpls_count": (54, U32), "has_ppp": (63, "bool"), "ppp_address_control": (64, U32),
    },
    "GoFlow2V1": COMMON | SECONDS | {
        "time_flow_start_ms": (63, U64), "time_flow_end_ms": (64, U64), "mpls_label_ip": (65, TEXT),
        "observation_domain_id": (70, U32), "bgp_communities": (101, "uint32 repeated"),
        "as_path": (102, "uint32 repeated"), "custom_integer_5": (1005, U64), "custom_bytes_1": (1011, TEXT),
    },
    "GoFlow2V2": COMMON | {
        "ip_flags": (38, U32), "mpls_ttl": (80, "uint32 repeated"), "mpls_ip": (82, "bytes repeated"),
        "as_path": (102, "uint32 unpacked"), "layer_stack": (103, "uint32 repeated"),
        "time_received_ns": (110, U64), "time_flow_start_ns": (111, U64), "time_flow_end_ns": (112, U64),
        "custom_fixed": (1002, "fixed64"), "custom_float": (1003, "float"),
    },
}  # fmt: skip

_Field = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    "enum": _Field.TYPE_INT32, "bool": _Field.TYPE_BOOL, "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64, "bytes": _Field.TYPE_BYTES, "fixed64": _Field.TYPE_FIXED64,
    "float": _Field.TYPE_FLOAT,
}  # fmt: skip


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="flowstream_test.proto", package="flows", syntax="proto3")
    for schema, table in SCHEMAS.items():
        message = file.message_type.add(name=schema)
        for name, (number, kind) in table.items():
            base, *rest = kind.split()
            label = _Field.LABEL_REPEATED if rest else _Field.LABEL_OPTIONAL
            declared = message.field.add(name=name, number=number, type=_KINDS[base], label=label)
            if rest == ["unpacked"]:
                declared.options.packed = False
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {s: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"flows.{s}")) for s in SCHEMAS}


MESSAGES = _messages()
RECEIVED_MAX_S = (2**63 - 1) // 10**9


def _value(name: str, kind: str) -> st.SearchStrategy[Any]:
    base, *rest = kind.split()
    if rest:
        element = st.integers(0, 2**32 - 1) if base == U32 else st.binary(max_size=20)
        return st.lists(element, max_size=5)
    if name in {"src_addr", "dst_addr", "sampler_address"}:
        sized = st.sampled_from([4, 4, 4, 16, 16, 0]).flatmap(lambda n: st.binary(min_size=n, max_size=n))
        return sized | st.binary(max_size=18) if name == "dst_addr" else sized
    if name.startswith("time_"):
        plausible = {"ns": 10**9, "ms": 10**3}.get(name.rsplit("_", 1)[1], 1)
        near = st.integers(1_600_000_000, 1_800_000_000).map(lambda s: s * plausible)
        return near | near | st.integers(0, 2**64 - 1) | st.integers(0, 2**41)
    if name in COLUMNS:
        bits = 8 * int(COLUMNS[name].dtype[1]) - (COLUMNS[name].dtype[0] == "i")
        usual = st.integers(0, 2 ** min(bits, 32 if base == U32 else 63) - 1)
        return usual | usual | usual | usual | usual | st.integers(0, 2 ** (32 if base == U32 else 64) - 1)
    by_kind: dict[str, st.SearchStrategy[Any]] = {
        "enum": st.integers(0, 12) | st.integers(-(2**31), 2**31 - 1), "bool": st.booleans(),
        "uint32": st.integers(0, 2**32 - 1), "uint64": st.integers(0, 2**64 - 1),
        "bytes": st.binary(max_size=40), "fixed64": st.integers(0, 2**64 - 1),
        "float": st.floats(width=32, allow_nan=False),
    }  # fmt: skip
    return by_kind[base]


@st.composite
def messages(draw: st.DrawFn) -> Any:
    schema = draw(st.sampled_from(sorted(SCHEMAS)))
    table = {name: _value(name, kind) for name, (_, kind) in SCHEMAS[schema].items()}
    needed = {"src_addr", "time_received", "time_received_ns"} & set(table)
    optional = {name: value for name, value in table.items() if name not in needed}
    drawn = st.fixed_dictionaries({name: table[name] for name in sorted(needed)}, optional=optional)
    return MESSAGES[schema](**draw(drawn))


def _mapped(address: bytes) -> list[int]:
    if not address:
        return [0, 0]
    full = address if len(address) == 16 else bytes(10) + b"\xff\xff" + address
    return [int.from_bytes(full[:8], "big"), int.from_bytes(full[8:], "big")]


def expected(message: Any) -> Reason | dict[str, Any]:
    """Return the columns that a message should give, or why it should be refused."""
    if hasattr(message, "time_received_ns"):
        received, start, end = (getattr(message, f"time_{n}_ns") for n in ("received", "flow_start", "flow_end"))
    else:
        received, start, end = (getattr(message, f"time_{n}") * 10**9 for n in ("received", "flow_start", "flow_end"))
        if getattr(message, "time_flow_start_ms", 0) > 10**12:
            start = message.time_flow_start_ms * 10**6
        if getattr(message, "time_flow_end_ms", 0) > 10**12:
            end = message.time_flow_end_ms * 10**6
    if received == 0:
        return Reason.NO_TIME
    addresses = {
        "src_addr": message.src_addr,
        "dst_addr": message.dst_addr,
        "exporter": message.sampler_address,
    }
    if not message.src_addr or any(len(a) not in {0, 4, 16} for a in addresses.values()):
        return Reason.NO_ADDRESS
    row: dict[str, Any] = {name: _mapped(address) for name, address in addresses.items()}
    row |= {name: getattr(message, name) for name in COLUMNS if name in COMMON and name not in addresses}
    row |= {"time_received_ns": received, "time_ns": received}
    if any(
        row[n] >= 2 ** (8 * int(c.dtype[1]) - (c.dtype[0] == "i"))
        for n, c in COLUMNS.items()
        if type(row.get(n)) is int
    ):
        return Reason.OUT_OF_RANGE
    row["time_flow_start_ns"] = min(start or received, 2**63 - 1)
    row["time_flow_end_ns"] = min(end or received, 2**63 - 1)
    row["flow_type"] = {1: 1, 2: 2, 3: 3, 4: 4, 9: 3, 10: 4}.get(message.type, 0)
    return row | dict.fromkeys(("in_bytes", "in_packets", "record_id", "quality", "origin_id", "origin_row"), 0)


FRAMINGS = {"bare": bytes, "delimited": delimited}


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
@given(batch=st.lists(messages(), min_size=1, max_size=8))
def test_every_column_of_every_message_is_what_protobuf_reads(framing, batch):
    wire = [message.SerializeToString() for message in batch]
    outcome = decode(Payloads.from_values([framing(one) for one in wire]), DecodeContext())
    # A bare message of nothing but defaults has no bytes, which is no message at all.
    wanted = [
        expected(type(m).FromString(one)) if framing(one) else Reason.EMPTY for m, one in zip(batch, wire, strict=True)
    ]
    refused = {i: want for i, want in enumerate(wanted) if isinstance(want, Reason)}
    assert {int(i): outcome.reason(n) for n, i in enumerate(outcome.rejected)} == refused
    rows = [want | {"origin_offset": i} for i, want in enumerate(wanted) if not isinstance(want, Reason)]
    for name in COLUMNS:
        assert outcome.flows.columns[name].tolist() == [row[name] for row in rows], name


@given(batch=st.lists(messages().filter(lambda m: not isinstance(expected(m), Reason)), min_size=2, max_size=6))
def test_a_run_of_delimited_messages_gives_the_rows_that_they_give_one_by_one(batch):
    wire = [message.SerializeToString() for message in batch]
    assume(not _reads_as_one(type(batch[0]), delimited(*wire)))
    run = decode(Payloads.from_values([delimited(*wire)]), DecodeContext()).flows
    apart = decode(Payloads.from_values(wire), DecodeContext()).flows
    assert run.origin_row.tolist() == apart.origin_offset.tolist() == list(range(len(batch)))
    for name in set(COLUMNS) - {"origin_offset", "origin_row"}:
        assert run.columns[name].tolist() == apart.columns[name].tolist(), name


def _reads_as_one(kind: type[Any], run: bytes) -> bool:
    """Whether a run happens to be a good bare record as well, which then it is taken for."""
    try:
        return not isinstance(expected(kind.FromString(run)), Reason)
    except DecodeError:
        return False
