from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from detseg3d.core.tensors import tensor_of


@pytest.mark.parametrize("shape", [(1, 4, 5), (4, 1, 5), (4, 5, 1), (1, 1, 5), (2, 3, 4)])
def test_arrays_flipped_along_any_axes_become_tensors(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for steps in product((1, -1), repeat=3):
        flipped = array[tuple(slice(None, None, step) for step in steps)]
        assert np.array_equal(tensor_of(flipped).numpy(), flipped)


def test_an_array_that_torch_takes_is_not_copied() -> None:
    array = np.zeros((2, 3), np.float32)
    assert np.shares_memory(tensor_of(array).numpy(), array)


def test_the_tensor_has_the_requested_dtype() -> None:
    assert tensor_of(np.ones((1, 2), np.int64)[::-1], np.int32).numpy().dtype == np.int32
