"""Doubles as text: the digits of Python, the notation of msgspec, and the same number when read back."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numba import njit

from flowstream.double_kernel import DOUBLE_MAX, put_double

BITS = st.integers(0, 2**64 - 1).map(np.uint64)


@njit
def put_column(bits, buffer, ends):
    at = 0
    for i in range(len(bits)):
        at = put_double(buffer, at, bits[i])
        ends[i] = at


def written(numbers):
    buffer, ends = np.full(DOUBLE_MAX * len(numbers), 0xAA, np.uint8), np.zeros(len(numbers), np.int64)
    put_column(numbers.view(np.uint64), buffer, ends)
    packed = buffer.tobytes()
    return [packed[a:b] for a, b in zip([0, *ends.tolist()], ends.tolist(), strict=False)]


def check(numbers):
    texts = written(numbers)
    assert b"[" + b",".join(texts) + b"]" == msgspec.json.encode(numbers.tolist())
    for text, number in zip(texts, numbers.tolist(), strict=True):
        if math.isfinite(number):
            mantissa = text.lower().lstrip(b"-").split(b"e")[0].replace(b".", b"").strip(b"0")
            assert mantissa == repr(number).lstrip("-").split("e")[0].replace(".", "").strip("0").encode()
            assert float(text) == number


@given(st.lists(st.one_of(st.floats(), BITS.map(lambda b: float(b.view(np.float64)))), min_size=1))
@example([0.0, -0.0, 5e-324, 2.2250738585072014e-308, 2.225073858507201e-308, 1.7976931348623157e308])
@example([1e15, 1e16, 1e17, 9999999999999998.0, 123456789012345680.0, 1e21, 1e22, 1e23, 9007199254740993.0])
@example([1e-4, 1e-5, 1e-6, 1.5e-5, 1.5e-6, 0.1, 0.3, 1 / 3, 100.0, 12.5, math.nan, math.inf, -math.inf])
def test_a_double_is_written_as_python_and_msgspec_have_it(numbers):
    check(np.array(numbers, np.float64))


@pytest.mark.parametrize("sign", [0, 1])
def test_every_power_of_two_and_its_neighbours_are_right(sign):
    bits = np.arange(1, 2047, dtype=np.uint64) << np.uint64(52)
    around = np.concatenate(
        [bits - np.uint64(1), bits, bits + np.uint64(1), np.uint64(1) << np.arange(52, dtype=np.uint64)]
    )
    check((around | np.uint64(sign << 63)).view(np.float64))


def test_every_power_of_ten_and_its_neighbours_are_right():
    powers = np.array([float(f"1e{p}") for p in range(-323, 309)])
    check(np.concatenate([np.nextafter(powers, 0), powers, np.nextafter(powers, np.inf)]))


@pytest.mark.parametrize("seed", range(4))
def test_hundreds_of_thousands_of_random_doubles_are_right(seed):
    rng = np.random.default_rng(seed)
    check(rng.integers(0, 2**64, 60_000, np.uint64).view(np.float64))
    check(np.sqrt(rng.integers(0, 10**12, 30_000).astype(float)))
    check(rng.integers(0, 10**6, 10_000) / 1000)
