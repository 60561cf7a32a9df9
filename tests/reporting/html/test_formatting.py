from __future__ import annotations

import pytest

from detseg3d.reporting.html.formatting import DASH, count, interval, number, sphere_diameter


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), "", True])
def test_a_missing_number_is_a_dash(missing: object) -> None:
    assert number(missing) == DASH


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.005, 2, "0.01"), (-0.004, 2, "0.00"), (1234567, 0, "1\u202f234\u202f567"), (-2.5, 1, "−2.5"), (3, 0, "3")],
)
def test_numbers_are_rounded_and_grouped(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


@pytest.mark.parametrize(("low", "high"), [(None, 1.0), (0.0, None), (None, None)])
def test_an_interval_without_both_limits_is_empty(low: float | None, high: float | None) -> None:
    assert interval(low, high) == ""


@pytest.mark.parametrize(("quantity", "text"), [(0, "0 scans"), (1, "1 scan"), (1200, "1\u202f200 scans")])
def test_a_quantity_of_one_is_in_the_singular(quantity: int, text: str) -> None:
    assert count(quantity, "scan") == text


def test_a_sphere_of_this_diameter_has_the_volume() -> None:
    assert sphere_diameter(4 / 3 * 3.141592653589793 * 2**3) == pytest.approx(4.0)
