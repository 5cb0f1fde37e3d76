"""Positions as people say them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.errors import SettingsError
from flowstream.positions import Position, length_ns, length_text, time_text

TEN = 1_793_527_200 * 10**9  # 2026-11-01T10:00Z


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("earliest", "earliest", 0),
        ("latest", "latest", 0),
        ("2026-11-01T10:00Z", "event_time", TEN),
        ("2026-11-01T11:00:00.5+01:00", "event_time", TEN + 10**9 // 2),
        ("record:2026-11-01T10:00Z", "record_time", TEN),
        ("-15m", "before_newest", 900 * 10**9),
        ("-1.5h", "before_newest", 5400 * 10**9),
        ("-250s", "before_newest", 250 * 10**9),
        ("offset:1234", "offset", 1234),
    ],
)
def test_every_form_is_understood(text: str, kind: str, value: int) -> None:
    position = Position.parse(text)
    assert (position.kind, position.value, position.text) == (kind, value, text)


@pytest.mark.parametrize(
    "text", ["", "soon", "-15", "-15x", "offset:", "offset:-1", "offset:x", "record:yesterday", "1e9", "file:", "15m"]
)
def test_what_is_no_position_is_said_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(SettingsError, match="earliest, latest"):
        Position.parse(text)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(SettingsError, match="needs its zone"):
        Position.parse("2026-11-01T10:00")


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_time_that_is_written_is_read_back(moment: datetime) -> None:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    time_ns = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
    assert Position.parse(time_text(time_ns)).value == time_ns


@given(st.text(max_size=30))
def test_any_text_is_a_position_or_one_clear_line(text: str) -> None:
    with suppress(SettingsError):
        assert Position.parse(text).text == text


def test_a_file_gives_offsets_by_partition_and_perhaps_topic(tmp_path: Path) -> None:
    path = tmp_path / "positions.csv"
    path.write_text("topic,partition,offset\n# a remark\nraw, 0, 17\nraw,1,18\n\n2,19\n")
    assert Position.parse(f"file:{path}").listed == {("raw", 0): 17, ("raw", 1): 18, ("", 2): 19}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0,1\n0,2\n", "given twice"),
        ("0,x\n1,2\n3,y\n", "line 3"),
        ("", "no position"),
        ("a,b,c,d\n1,2,3,4\n", "line 2"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "positions.csv"
    path.write_text(text)
    with pytest.raises(SettingsError, match=said):
        Position.parse(f"file:{path}")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="positions file"):
        Position.parse(f"file:{tmp_path}/none.csv")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("0", 0), ("1.5h", 5400), ("24h", 86_400), ("2d", 172_800), ("0.25s", 0.25)]
)
def test_a_length_of_time_is_seconds_or_has_its_unit(text: str, seconds: float) -> None:
    assert length_ns(text) == round(seconds * 10**9)


@pytest.mark.parametrize("text", ["", "-5", "1w", "h", "1e3", "5 m", "\u0661"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is no length of time"):
        length_ns(text)


@given(st.integers(0, 10**8))
def test_a_length_that_is_written_is_read_back(seconds: int) -> None:
    assert length_ns(length_text(seconds * 10**9)) == seconds * 10**9


def test_a_length_is_written_in_the_largest_unit_that_fits() -> None:
    assert [length_text(s * 10**9) for s in (0, 90, 120, 3600, 3720, 86_400)] == ["0s", "90s", "2m", "1h", "62m", "24h"]
