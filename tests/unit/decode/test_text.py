"""Text to columns, against the standard library's own readers."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal, localcontext

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowstream.decode import text
from flowstream.decode.time_kernel import ABSENT, FINE, LAST_NS, OUT_OF_RANGE, UNREADABLE
from flowstream.errors import Reason

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read(token: str, places: int = text.SECONDS) -> tuple[int, int]:
    values, statuses = text.times([msgspec.Raw(token.encode())], places)
    return int(statuses[0]), int(values[0])


def rounded(number: Decimal) -> int:
    with localcontext(prec=2000):
        return int(number.to_integral_value(ROUND_HALF_UP))


@given(
    st.datetimes(datetime.fromisoformat("1970-01-03"), datetime.fromisoformat("2262-01-01")).map(
        lambda t: t.replace(microsecond=0)
    ),
    st.text("0123456789", max_size=14),
    st.sampled_from("Tt "),
    st.one_of(st.just("Z"), st.integers(-1439, 1439)),
    st.booleans(),
)
def test_a_date_time_is_read_to_the_nanosecond(moment, fraction, mark, offset, colon):
    zone = UTC if offset == "Z" else timezone(timedelta(minutes=offset))
    suffix = offset if offset == "Z" else f"{'-+'[offset >= 0]}{abs(offset) // 60:02}{':' * colon}{abs(offset) % 60:02}"
    since = moment.replace(tzinfo=zone) - EPOCH
    expected = (since.days * 86400 + since.seconds) * 10**9 + rounded(Decimal(f"0.{fraction or 0}") * 10**9)
    token = f'"{moment:%Y-%m-%d}{mark}{moment:%H:%M:%S}{"." * bool(fraction)}{fraction}{suffix}"'
    assert read(token) == (FINE, expected)


@given(st.integers(1970, 2261), st.integers(1, 12), st.integers(0, 32))
@example(2000, 2, 29)
@example(2100, 2, 29)
def test_a_day_is_read_iff_it_exists(year, month, day):
    token = f'"{year}-{month:02}-{day:02}T00:00:01Z"'
    try:
        expected = (
            FINE,
            int((datetime(year, month, day, 0, 0, 1, tzinfo=UTC) - EPOCH).total_seconds()) * 10**9,
        )
    except ValueError:
        expected = UNREADABLE, 0
    assert read(token) == expected


@pytest.mark.parametrize(
    "token",
    [
        '"2024-01-01T00:00:00"', '"2024-01-01T00:00:00.Z"', '"2024-01-01T24:00:00Z"',
        '"2024-01-01T00:60:00Z"', '"2024-01-01T00:00:61Z"', '"2024-13-01T00:00:00Z"',
        '"2024-01-01X00:00:00Z"', '"2024/01/01T00:00:00Z"', '"2024-01-01T00:00:00+2"',
        '"2024-01-01T00:00:00+24:00"', '"2024-01-01T00:00:00+01:60"', '"2024-01-01T00:00:00ZZ"',
        '"2024-01-01T00:00:00 Z"', '"2024-01-01T00-00-00Z"', '"2024-1-01T00:00:000Z"',
        '"2024-01-01T00:00:00.1+01:0"', '"\u0662024-01-01T00:00:00Z"', '"2024-01-01"', '"now"', '"-"', '"."',
        '"1."', '".5"', '"1e"', '"1e+"', '"1e12345"', '"1 "', '" 1"', '"+1"', '"0x10"', '"1_0"', '"NaN"',
        '"null"', "true", "false", "[1]", "{}", '"1.2.3"', '"--1"', '"1e1.5"',
    ],
)  # fmt: skip
def test_what_is_no_time_is_unreadable(token):
    assert read(token) == (UNREADABLE, 0)


@pytest.mark.parametrize("token", ["", "null", '""', "0", '"0"', "0.0", "0e5", "-0", '"1970-01-01T00:00:00Z"', "1e-30"])
def test_null_and_nothing_and_zero_are_absent(token):
    assert read(token) == (ABSENT, 0)


def test_a_leap_second_is_the_first_of_the_next_minute():
    assert read('"2016-12-31T23:59:60Z"') == read('"2017-01-01T00:00:00Z"')


numerals = st.builds(
    lambda whole, fraction, power: f"{whole}{'.' * bool(fraction)}{fraction}{power}",
    st.one_of(st.integers(0, 2**70).map(str), st.text("0123456789", min_size=1, max_size=30)),
    st.text("0123456789", max_size=30),
    st.one_of(st.just(""), st.builds("{}{}".format, st.sampled_from("eE"), st.integers(-40, 40))),
)


@given(numerals, st.sampled_from([text.SECONDS, text.MILLISECONDS, text.NANOSECONDS]), st.booleans())
@example("1490024708.123456789", text.SECONDS, False)
@example("0.0000000005", text.SECONDS, False)
@example("0.00000000049", text.SECONDS, True)
@example("9007199254740993", text.NANOSECONDS, False)
def test_a_number_is_read_exactly_and_rounded_half_up_at_the_nanosecond(numeral, places, quoted):
    with localcontext(prec=2000):
        expected = rounded(Decimal(numeral).scaleb(places))
    status, value = read(f'"{numeral}"' if quoted else numeral, places)
    if status == OUT_OF_RANGE:
        assert value == LAST_NS
        assert expected > LAST_NS * 0.99
    else:
        assert (status, value) == (FINE if expected else ABSENT, expected)


@pytest.mark.parametrize(
    ("token", "value"),
    [
        ("-1", 0), ('"-0.5"', 0), ("1e19", LAST_NS), ("9" * 400, LAST_NS), ("1e9999", LAST_NS),
        ('"0001-01-01T00:00:00Z"', 0), ('"1969-12-31T23:59:59Z"', 0), ('"9999-12-31T23:59:59Z"', LAST_NS),
        ('"2262-04-11T23:47:17Z"', LAST_NS), ('"1970-01-01T00:00:00+01:00"', 0),
    ],
)  # fmt: skip
def test_times_before_the_epoch_or_beyond_63_bits_are_out_of_range(token, value):
    assert read(token) == (OUT_OF_RANGE, value)


@given(st.lists(st.binary(max_size=40)))
def test_no_bytes_are_read_outside_their_token(tokens):
    raws = [msgspec.Raw(token) for token in tokens]
    together = text.times(raws, text.SECONDS)
    apart = [text.times([raw], text.SECONDS) for raw in raws]
    assert together[0].tolist() == [values[0] for values, _ in apart]
    assert together[1].tolist() == [statuses[0] for _, statuses in apart]


@given(st.lists(st.ip_addresses()))
def test_an_address_becomes_its_16_bytes_with_ipv4_mapped(addresses):
    words, statuses = text.addresses([str(a) for a in addresses])
    mapped = [int(a) if a.version == 6 else int(ipaddress.IPv6Address(f"::ffff:{a}")) for a in addresses]
    assert [h << 64 | w for h, w in words.tolist()] == mapped
    assert (statuses == FINE).all()
    packed, _ = text.mixed_addresses([a.packed for a in addresses])
    assert packed.tolist() == words.tolist()


@given(st.one_of(st.text(max_size=50), st.binary(max_size=20)))
def test_an_address_is_fine_iff_the_standard_library_reads_it(value):
    if isinstance(value, bytes):
        expected = FINE if len(value) in {4, 16} else UNREADABLE
    else:
        try:
            ipaddress.ip_address(value)
            expected = FINE
        except ValueError:
            expected = UNREADABLE
    assert text.mixed_addresses([value])[1].tolist() == [expected if value else ABSENT]


@given(
    st.lists(st.one_of(st.none(), st.integers(-5, 300), st.sampled_from(["", "TCP", "udp", "IPv6-ICMP", "unassigned"])))
)
def test_protocols_are_numbers_of_a_byte_names_or_nothing(values):
    known = {None: 0, "": 0, "TCP": 6, "udp": 17, "IPv6-ICMP": 58, "unassigned": text.UNKNOWN_PROTO}
    expected = [known.get(v, -1) if v in known else v if 0 <= v <= 255 else -1 for v in values]
    assert text.protocols(values).tolist() == expected
    spelt = [str(v) if isinstance(v, int) and v >= 0 else v for v in values]
    assert text.protocols(spelt).tolist() == expected


def test_the_first_reason_given_to_a_row_stays():
    rows = text.Rows(3)
    rows.reject(np.array([True, False, False]), Reason.NO_TIME)
    rows.reject(np.array([True, True, False]), Reason.NO_ADDRESS)
    assert rows.reasons.tolist() == [Reason.NO_TIME, Reason.NO_ADDRESS, 0]


@given(st.lists(st.one_of(st.none(), st.integers(0, 2**66))))
def test_a_record_id_has_64_bits_or_its_row_is_rejected(values):
    rows = text.Rows(len(values))
    ids = rows.record_id(values)
    for value, reason, record_id in zip(values, rows.reasons.tolist(), ids.tolist(), strict=True):
        if (value or 0) < 2**64:
            assert (reason, record_id) == (0, value or 0)
        else:
            assert reason == Reason.OUT_OF_RANGE
