"""Wire formats to columns: one module per format, each with the same two names.

    WIRE_FORMAT                                     what settings and metrics call it
    decode(payloads, context) -> Decoded            many messages at once, never raises for any bytes

Every payload ends in exactly one place: it gave rows, or it is rejected with a reason, or it is skipped
because the format says that it carries no flow. Adding a format is one file and one row in ``DECODERS``.
"""

from collections.abc import Mapping
from typing import Protocol

from flowstream.decode import avro, flow_event_json, goflow, goflow_json, suricata_eve
from flowstream.decode.payloads import DecodeContext, Decoded, Payloads
from flowstream.errors import DecodeError

__all__ = ["DECODERS", "DecodeContext", "Decoded", "Payloads", "decode", "decode_one"]


class Decode(Protocol):
    """What a format's ``decode`` is."""

    def __call__(self, payloads: Payloads, context: DecodeContext) -> Decoded: ...


DECODERS: Mapping[str, Decode] = {
    module.WIRE_FORMAT: module.decode for module in (goflow, goflow_json, avro, flow_event_json, suricata_eve)
}


def decode(wire_format: str, payloads: Payloads, context: DecodeContext | None = None) -> Decoded:
    """Decode a batch; KeyError where there is no such format."""
    return DECODERS[wire_format](payloads, context or DecodeContext())


def decode_one(wire_format: str, payload: bytes, context: DecodeContext | None = None) -> Decoded:
    """Decode a single message; DecodeError where a batch would list it as rejected."""
    decoded = decode(wire_format, Payloads.from_values([payload]), context)
    if len(decoded.rejected):
        raise DecodeError(wire_format, decoded.reason(0))
    return decoded
