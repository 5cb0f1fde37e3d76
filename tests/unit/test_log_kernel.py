"""The logarithm that is the same everywhere."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowstream.log_kernel import log1p, log1p_in_place


def exact(x: float) -> Decimal:
    with localcontext() as context:
        context.prec = 400  # enough that 1 + 1e-300 is not 1
        one_more = Decimal(1) + Decimal(x)
        context.prec = 50
        return one_more.ln() if x > 1e-30 else Decimal(x)


@given(st.floats(0.0, 1e-3) | st.floats(0.0, 10.0) | st.floats(0.0, 1e39) | st.integers(0, 2**64).map(float))
@example(0.0)
@example(math.sqrt(2) - 1)
@example(2.0**53)
@example(5e-324)
def test_it_is_the_logarithm_to_a_last_place_and_a_half(x: float):
    assert abs(Decimal(float(log1p(x))) - exact(x)) <= Decimal(math.ulp(float(exact(x)))) * Decimal("1.5")


@given(st.lists(st.floats(0.0, 1e39), min_size=2, max_size=2))
def test_it_never_falls_by_more_than_a_last_place(ends: list[float]):
    low, high = sorted(ends)
    assert log1p(low) <= log1p(high) + math.ulp(float(log1p(high)))


@given(st.lists(st.floats(-1e9, 1e39), min_size=1, max_size=40))
def test_a_matrix_is_taken_value_by_value_and_negative_ones_count_as_zero(values: list[float]):
    matrix = np.array([values, values[::-1]])
    log1p_in_place(matrix)
    assert matrix.tolist() == [[float(log1p(max(v, 0.0))) for v in row] for row in (values, values[::-1])]


@pytest.mark.parametrize(
    ("x", "bits"),
    [(0.0, "0x0.0p+0"), (1.0, "0x1.62e42fefa39efp-1"), (1.5 / 0.7 - 1.0, "0x1.8637388d06bcdp-1"),
     (1500.0, "0x1.d416b8cb20b09p+2"), (0.1, "0x1.8663f793c46c7p-4"), (1e38, "0x1.5dfe30ee7550ap+6")],
)  # fmt: skip
def test_these_are_the_bits_on_every_machine(x: float, bits: str):
    assert float(log1p(x)).hex() == bits
