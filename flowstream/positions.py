"""Where in the log to begin or end, as people say it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from flowstream.errors import SettingsError

Kind = Literal["earliest", "latest", "event_time", "record_time", "before_newest", "offset", "listed"]

FORMS = (
    "earliest, latest, an event time (2026-11-01T10:00Z), -15m (before the newest event time), "
    "record:2026-11-01T10:00Z, offset:1234 or file:positions.csv"
)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log; ``value`` is a time or length in ns, or an offset, by kind."""

    kind: Kind
    value: int = 0
    #: Of a file: offsets by topic ("" where the file names none) and partition.
    listed: Mapping[tuple[str, int], int] = field(default_factory=dict)
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read a position; SettingsError with the forms there are where it is none."""
        if text in {"earliest", "latest"}:
            return cls(text, text=text)  # type: ignore[arg-type]
        if ago := re.fullmatch(r"-([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd])", text):
            return cls("before_newest", round(float(ago[1]) * _SECONDS[ago[2]] * 1e9), text=text)
        kind, _, rest = text.partition(":")
        if kind == "offset" and re.fullmatch("[0-9]{1,18}", rest):
            return cls("offset", int(rest), text=text)
        if kind == "file" and rest:
            return cls("listed", listed=_read(Path(rest)), text=text)
        if kind == "record":
            return cls("record_time", _stamp_ns(rest, text), text=text)
        return cls("event_time", _stamp_ns(text, text), text=text)


def _stamp_ns(stamp: str, text: str) -> int:
    try:
        return moment_ns(stamp)
    except ValueError as error:
        raise SettingsError(f"position {text}: {error}; give {FORMS}") from None


def moment_ns(stamp: str) -> int:
    """Return the nanoseconds since the epoch of a time in ISO 8601 with its zone; ValueError says what is wrong."""
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        raise ValueError(f"{stamp!r} is no time; write it like 2026-11-01T10:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"{stamp!r} needs its zone, e.g. {stamp}Z for UTC")
    if moment < _EPOCH:
        raise ValueError(f"{stamp!r} is a time before 1970")
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _read(path: Path) -> dict[tuple[str, int], int]:
    try:
        rows = list(csv.reader(path.read_text("utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"positions file {path}: {error}") from error
    found: dict[tuple[str, int], int] = {}
    for number, row in enumerate(rows, 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#") or (number == 1 and not cells[-1].isdecimal()):
            continue  # a heading
        topic = cells[0] if len(cells) == 3 else ""
        if len(cells) not in {2, 3} or not all(re.fullmatch("[0-9]{1,18}", cell) for cell in cells[-2:]):
            raise SettingsError(f"positions file {path}, line {number}: give topic,partition,offset")
        place = topic, int(cells[-2])
        if place in found:
            raise SettingsError(f"positions file {path}, line {number}: partition {cells[-2]} is given twice")
        found[place] = int(cells[-1])
    if not found:
        raise SettingsError(f"positions file {path}: there is no position in it")
    return found


def length_ns(text: str) -> int:
    """Read a length of time: seconds, or with its unit (``90``, ``1.5h``, ``24h``); SettingsError where it is none."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd]?)", text)
    if found is None:
        raise SettingsError(f"{text!r} is no length of time; give seconds, or s, m, h or d behind a number: 90, 1.5h")
    return round(float(found[1]) * _SECONDS[found[2] or "s"] * 1e9)


def length_text(length: int) -> str:
    """Return a length in ns as ``length_ns`` reads it, in the largest unit of which it is a whole number: 24h, 90s."""
    seconds, rest = divmod(length, 1_000_000_000)
    if rest or not seconds:
        return f"{length / 1e9:g}s"
    unit = next(unit for unit in ("h", "m", "s") if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def time_text(time_ns: int) -> str:
    """Return a time as people read it, in UTC: 2026-11-01T10:00:00.25Z."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}{f'.{rest:09d}'.rstrip('0') if rest else ''}Z"
