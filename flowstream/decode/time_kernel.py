"""The kernel that reads times: decimal numbers of some unit, and RFC 3339 date-times, to nanoseconds.

Integers throughout. Digits beyond the nanosecond round it half up, by the first of them.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

FINE, ABSENT, UNREADABLE, OUT_OF_RANGE = range(4)  # what reading one text came to

LAST_NS = 2**63 - 1

_Bytes = NDArray[np.uint8]
_Int = int | np.int64

_ZERO, _FIVE, _NINE = 0x30, 0x35, 0x39
_DAY_S = 86_400
_NEVER = -(2**62)  # a date that does not exist


@njit(nogil=True, cache=True, error_model="numpy")
def _digits(text: _Bytes, p: _Int, end: _Int, count: _Int) -> _Int:
    """Return the number that exactly ``count`` digits at ``p`` spell; -1 where they are not there."""
    if p + count > end:
        return -1
    value: _Int = 0
    for i in range(p, p + count):
        if text[i] < _ZERO or text[i] > _NINE:
            return -1
        value = value * 10 + (np.int64(text[i]) - _ZERO)
    return value


@njit(nogil=True, cache=True, error_model="numpy")
def _end_of_digits(text: _Bytes, p: _Int, end: _Int) -> _Int:
    while p < end and _ZERO <= text[p] <= _NINE:
        p += 1
    return p


@njit(nogil=True, cache=True, error_model="numpy")
def _exponent(text: _Bytes, p: _Int, end: _Int) -> _Int:
    """Return the power of ten that the rest of a number names, at most four digits of it; else _NEVER."""
    if p == end:
        return 0
    if p + 1 >= end or (text[p] != 0x45 and text[p] != 0x65):
        return _NEVER
    signed = text[p + 1] == 0x2B or text[p + 1] == 0x2D
    begin = p + 2 if signed else p + 1
    if not 0 < end - begin <= 4:
        return _NEVER
    power = _digits(text, begin, end, end - begin)
    if power < 0:
        return _NEVER
    return -power if text[p + 1] == 0x2D else power


@njit(nogil=True, cache=True, error_model="numpy")
def _rounded(text: _Bytes, p: _Int, end: _Int, kept: _Int) -> _Int:
    """Return the number that the first ``kept`` digits spell, rounded by the next; -1 beyond 63 bits.

    Where there are fewer digits, zeros follow; a decimal point among them is passed over.
    """
    value: _Int = np.int64(0)
    taken = 0
    for i in range(p, end):
        if text[i] == 0x2E:
            continue
        if taken >= kept:
            return value + (1 if taken == kept and text[i] >= _FIVE else 0)
        digit = np.int64(text[i]) - _ZERO
        if value > (LAST_NS - digit) // 10:
            return -1
        value = value * 10 + digit
        taken += 1
    while taken < kept and value > 0:
        if value > LAST_NS // 10:
            return -1
        value *= 10
        taken += 1
    return value


@njit(nogil=True, cache=True, error_model="numpy")
def _number(text: _Bytes, p: _Int, end: _Int, places: int) -> tuple[int, _Int]:
    """Read a JSON number, as an integer of 10 to the minus ``places``; (status, value)."""
    negative = text[p] == 0x2D
    begin = p + 1 if negative else p
    point = _end_of_digits(text, begin, end)
    mantissa_end = point
    if point < end and text[point] == 0x2E:
        mantissa_end = _end_of_digits(text, point + 1, end)
        if mantissa_end == point + 1:
            return UNREADABLE, 0
    power = _exponent(text, mantissa_end, end)
    if point == begin or power == _NEVER:
        return UNREADABLE, 0
    value = _rounded(text, begin, mantissa_end, point - begin + places + power)
    if value == 0:
        return ABSENT, 0
    if negative:
        return OUT_OF_RANGE, 0
    return (OUT_OF_RANGE, LAST_NS) if value < 0 else (FINE, value)


@njit(nogil=True, cache=True, error_model="numpy")
def _date(text: _Bytes, p: _Int, end: _Int) -> _Int:
    """Return the day of ``YYYY-MM-DD``, counted from 1970-01-01; _NEVER where there is no such day.

    Years are counted from 1 March, so that the leap day is the last of its year.
    """
    year, month, day = _digits(text, p, end, 4), _digits(text, p + 5, end, 2), _digits(text, p + 8, end, 2)
    if year < 0 or text[p + 4] != 0x2D or text[p + 7] != 0x2D or not 1 <= month <= 12:
        return _NEVER
    leap = 1 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 0
    length = 28 + leap if month == 2 else 30 if month in (4, 6, 9, 11) else 31
    if not 1 <= day <= length:
        return _NEVER
    shifted = year if month > 2 else year - 1
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return shifted * 365 + shifted // 4 - shifted // 100 + shifted // 400 + day_of_year - 719_468


@njit(nogil=True, cache=True, error_model="numpy")
def _clock(text: _Bytes, p: _Int, end: _Int) -> _Int:
    """Return the seconds of ``hh:mm:ss``; -1 where it is none. A second of 60 is the next minute."""
    hour, minute, second = (
        _digits(text, p, end, 2),
        _digits(text, p + 3, end, 2),
        _digits(text, p + 6, end, 2),
    )
    if not 0 <= hour <= 23 or not 0 <= minute <= 59 or not 0 <= second <= 60:
        return -1
    return hour * 3600 + minute * 60 + second if text[p + 2] == 0x3A and text[p + 5] == 0x3A else -1


@njit(nogil=True, cache=True, error_model="numpy")
def _offset(text: _Bytes, p: _Int, end: _Int) -> _Int:
    """Return the seconds east of UTC that ``Z``, ``+hh:mm`` or ``+hhmm`` name; _NEVER where it is none."""
    if p + 1 == end and (text[p] == 0x5A or text[p] == 0x7A):
        return 0
    if p + 5 > end or (text[p] != 0x2B and text[p] != 0x2D):
        return _NEVER
    colon = 1 if text[p + 3] == 0x3A else 0
    hours, minutes = _digits(text, p + 1, end, 2), _digits(text, p + 3 + colon, end, 2)
    if p + 5 + colon != end or not 0 <= hours <= 23 or not 0 <= minutes <= 59:
        return _NEVER
    east = hours * 3600 + minutes * 60
    return -east if text[p] == 0x2D else east


@njit(nogil=True, cache=True, error_model="numpy")
def _date_time(text: _Bytes, p: _Int, end: _Int) -> tuple[int, _Int]:
    """Read an RFC 3339 date-time of at least 20 characters; (status, value)."""
    days, seconds, mark = _date(text, p, end), _clock(text, p + 11, end), text[p + 10]
    if days == _NEVER or seconds < 0 or mark not in (0x54, 0x74, 0x20):
        return UNREADABLE, 0
    fraction: _Int = 0
    rest = p + 19
    if text[rest] == 0x2E:
        rest = _end_of_digits(text, p + 20, end)
        if rest == p + 20:
            return UNREADABLE, 0
        fraction = _rounded(text, p + 20, rest, 9)
    east = _offset(text, rest, end)
    if east == _NEVER:
        return UNREADABLE, 0
    seconds += days * _DAY_S - east
    if seconds < 0:
        return OUT_OF_RANGE, 0
    if seconds >= LAST_NS // 1_000_000_000:
        return OUT_OF_RANGE, LAST_NS
    value = seconds * 1_000_000_000 + fraction
    return (FINE, value) if value > 0 else (ABSENT, 0)


@njit(nogil=True, cache=True, error_model="numpy")
def read_times(
    text: _Bytes, bounds: NDArray[np.int64], places: int, values: NDArray[np.int64], statuses: _Bytes
) -> None:
    """Read JSON tokens: null, a number, or a string that holds a number or a date-time.

    Token ``i`` is ``text[bounds[i]:bounds[i + 1]]``; an empty one is ABSENT. ``places`` is how many decimal
    places lie between the unit of a bare number and the nanosecond.
    """
    for i in range(len(values)):
        p, end = bounds[i], bounds[i + 1]
        quoted = end - p >= 2 and text[p] == 0x22
        if quoted:
            p, end = p + 1, end - 1
        if p == end or (not quoted and text[p] == 0x6E):
            statuses[i], values[i] = ABSENT, 0
        elif quoted and end - p >= 20 and text[p + 4] == 0x2D:
            statuses[i], values[i] = _date_time(text, p, end)
        else:
            statuses[i], values[i] = _number(text, p, end, places)
