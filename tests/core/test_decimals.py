from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.core.decimals import FLOAT32_ROUNDING, decimal_of_float32, meant_decimal, nearby_decimal

SPACINGS = st.integers(1, 10**6).map(lambda thousandths: thousandths / 1000)


@given(SPACINGS)
def test_a_spacing_survives_single_precision(spacing: float) -> None:
    assert decimal_of_float32(np.float32(spacing)) == spacing


@given(st.floats(2.0**-20, 2.0**20, width=32))
def test_the_decimal_rounds_to_the_same_float32(value: float) -> None:
    assert np.float32(decimal_of_float32(value)) == np.float32(value)


@given(SPACINGS, st.floats(-1, 1))
def test_a_spacing_survives_a_norm_with_rounding(spacing: float, error: float) -> None:
    assert nearby_decimal(spacing * (1 + error * FLOAT32_ROUNDING), 2 * FLOAT32_ROUNDING) == spacing


@given(SPACINGS)
def test_a_spacing_survives_a_file_in_single_precision_and_one_in_double_precision(spacing: float) -> None:
    assert meant_decimal(float(np.float32(spacing))) == spacing
    assert meant_decimal(float(f"{np.float32(spacing):.15g}")) == spacing
    assert meant_decimal(spacing) == pytest.approx(spacing, rel=FLOAT32_ROUNDING)


@pytest.mark.parametrize("value", [np.pi, 1.20000005, 1e-300, 1e300, 0.0, 0.1 + 0.2])
def test_a_number_of_double_precision_is_left_alone(value: float) -> None:
    assert meant_decimal(value) == value


@pytest.mark.parametrize("value", [0.0, 1 / 3, np.pi, 1e-300, 123456.789])
def test_a_value_is_never_moved_further_than_its_error(value: float) -> None:
    assert abs(nearby_decimal(value, 1e-7) - value) <= 1e-7 * value
