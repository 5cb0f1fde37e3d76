"""Bytes that once broke a law, as small as they could be made, named for what they hold."""

from __future__ import annotations

from flowstream import schemas
from tests.builders import varint
from tests.fuzz.files import container
from tests.fuzz.records import wire_batch
from tests.unit.decode.examples import AVRO_SHORT


def renumbered(place: int, delta: int) -> bytes:
    """Return a batch of records that each hold nothing but a letter, one of which claims another offset."""
    deltas = [delta if at == place else at for at in range(3)]
    body = b"".join(
        bytes([16, 0, 0, 2 * d if d >= 0 else -2 * d - 1, 1, 4]) + b"v%d\0" % at for at, d in enumerate(deltas)
    )
    return wire_batch(0, 3)[:61] + body


_OURS = schemas.load("flow_record")
_EMPTY_ITEMS = {"type": "array", "items": "null"}
_WIDE = {"type": "record", "name": _OURS["name"], "fields": [*_OURS["fields"], {"name": "x", "type": _EMPTY_ITEMS}]}
_BODY = schemas.encode_body("flow_record", AVRO_SHORT)

FINDINGS: dict[str, tuple[str, bytes]] = {
    "a record that claims an offset far behind its batch": ("record-batch", renumbered(1, -60)),
    "a record that claims an offset far ahead of its batch": ("record-batch", renumbered(1, 60)),
    "a progress record nested deeper than the parser goes": ("progress", b"\x81\xa1x" + b"\x91" * 5000),
    "a container whose block declares more bytes than there are in the world": (
        "recording",
        container([_BODY], declared=2**50),
    ),
    "a container of arrays that claim a trillion items of no bytes each": (
        "recording",
        container([_BODY + varint(2 * 10**12) + b"\0"], schema=_WIDE),
    ),
    "a branch of a union that there is not": (
        "avro-json",
        bytes.fromhex("00 00 0000000000000000 04 0000000000000000 00 00 00"),
    ),
    "a pane so short that no window can be counted in it": ("settings-file", b"[time]\npane_s = 5e-324"),
    "a pane of less than a nanosecond": ("settings-file", b"[time]\npane_s = 1e-10"),
    "a retention that is no number of milliseconds": ("settings-file", b"[topics]\nflows_retention_hours = 1e308"),
    "a file nested deeper than the parser goes": ("settings-file", b"a = " + b"[" * 5000),
    "a key with a line break": ("settings-file", b'[kafka]\n"a\\nb" = 1'),
    "a variable nested deeper than the parser goes": ("settings-variables", b"INPUTS=" + b"[" * 100_000),
    "a variable whose name has a control character": ("settings-variables", b"A\x1b=1"),
}
