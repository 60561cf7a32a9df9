from __future__ import annotations

import numpy as np

from detseg3d.planning.rules.inference_limits import choose_coarse_reading_size, choose_dense_minimum


def test_the_second_reading_looks_for_lesions_above_the_95th_percentile_of_each_axis() -> None:
    extents = np.random.default_rng(0).uniform(1, 50, (500, 3)) * [3, 1, 1]
    size = choose_coarse_reading_size(extents)
    assert size is not None
    assert np.allclose((extents > size).mean(axis=0), 0.05, atol=0.005)


def test_without_lesions_there_is_neither_a_second_reading_nor_a_component() -> None:
    assert choose_coarse_reading_size(np.zeros((0, 3))) is None
    assert choose_dense_minimum([], (1, 1, 1)) is None


def test_a_component_is_larger_than_99_percent_of_the_lesions_and_has_27_cells() -> None:
    assert choose_dense_minimum(list(range(0, 2001, 10)), (1, 2, 2)) == 1980
    assert choose_dense_minimum([10, 50, 90], (1, 2, 2)) == 108
