from __future__ import annotations

import numpy as np
import pytest

from detseg3d.core.arrays import as_spacing, as_triple, format_shape, format_spacing


def test_a_triple_of_an_array_holds_python_integers() -> None:
    triple = as_triple(np.array([4, 16, 8], np.int64))
    assert triple == (4, 16, 8)
    assert all(type(value) is int for value in triple)


def test_a_spacing_of_an_array_holds_python_floats() -> None:
    spacing = as_spacing(np.array([3, 1, 2], np.float32))
    assert spacing == (3.0, 1.0, 2.0)
    assert all(type(value) is float for value in spacing)


@pytest.mark.parametrize("convert", [as_triple, as_spacing])
@pytest.mark.parametrize("values", [[1, 2], [1, 2, 3, 4]])
def test_other_lengths_than_three_are_refused(convert: object, values: list[int]) -> None:
    with pytest.raises(ValueError):
        convert(values)  # type: ignore[operator]


def test_shapes_and_spacings_are_written_with_a_multiplication_sign() -> None:
    assert format_shape(np.array([48, 96, 96])) == "48×96×96"
    assert format_spacing((3.0, 0.71875, 0.71875)) == "3×0.719×0.719 mm"
