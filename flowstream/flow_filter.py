"""Flows as people write them: ``10.0.1.10:5001>10.0.3.10:5201/tcp``, of which ports and protocol may be left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowstream.batch import address_text, address_words
from flowstream.render import PROTOCOLS

_NUMBERS = {name: number for number, name in PROTOCOLS.items()}
_PORT = re.compile(r"(?P<address>[^:]+):(?P<port>[0-9]{1,5})")
_BRACKETS = re.compile(r"\[(?P<address>[^\]]+)\](?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """What a flow must be: the fields that are named, as results have them."""

    fields: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> FlowFilter:
        """Read ``source[:port]>destination[:port][/protocol]``; ValueError says what would be right."""
        ends, _, protocol = text.partition("/")
        sides = ends.split(">")
        if len(sides) != 2:
            raise ValueError(f"{text!r} is no flow; write it as 10.0.1.10:5001>10.0.3.10:5201/tcp")
        fields: dict[str, Any] = {}
        for side, part in zip(("src", "dst"), sides, strict=True):
            address, port = _end(part.strip())
            fields[f"{side}_addr"] = one_address(address)
            if port is not None:
                fields[f"{side}_port"] = port
        if protocol:
            fields["proto"] = _protocol(protocol.strip())
        return cls(fields)

    def matches(self, flow: Mapping[str, Any]) -> bool:
        """Whether it is such a flow."""
        return all(flow[name] == value for name, value in self.fields.items())


def one_address(text: str) -> str:
    """Return an address as results spell it; ValueError where it is none."""
    try:
        return address_text(*address_words(text))
    except ValueError:
        raise ValueError(f"{text!r} is no IP address; write one like 10.0.1.10 or 2001:db8::1") from None


def _end(text: str) -> tuple[str, int | None]:
    found = _BRACKETS.fullmatch(text) or _PORT.fullmatch(text)
    if found is None:
        return text, None
    port = None if found["port"] is None else int(found["port"])
    if port is not None and port > 65_535:
        raise ValueError(f"{port} is no port; write 0 to 65535")
    return found["address"], port


def _protocol(text: str) -> int:
    if text.lower() in _NUMBERS:
        return _NUMBERS[text.lower()]
    if not text.isdecimal() or not text.isascii() or int(text) > 255:
        raise ValueError(f"{text!r} is no protocol; write {', '.join(_NUMBERS)} or a number up to 255")
    return int(text)
