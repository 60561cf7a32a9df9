from __future__ import annotations

import numpy as np

from detseg3d.preprocessing.crop import box_slices, include_lesions


def test_box_slices_cut_the_box_out() -> None:
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    assert np.array_equal(volume[box_slices((1, 0, 2, 3, 4, 6))], volume[1:3, 0:4, 2:6])


def test_a_lesion_outside_the_body_widens_the_box() -> None:
    assert include_lesions((2, 2, 2, 8, 8, 8), np.array([[3, 3, 3, 4, 4, 4], [0, 3, 7, 1, 4, 9]])) == (0, 2, 2, 8, 8, 9)


def test_without_lesions_the_box_stays() -> None:
    assert include_lesions((2, 2, 2, 8, 8, 8), np.zeros((0, 6))) == (2, 2, 2, 8, 8, 8)
