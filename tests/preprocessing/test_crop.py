from __future__ import annotations

import numpy as np

from detseg3d.preprocessing.crop import include_lesions


def test_a_lesion_outside_the_body_widens_the_box() -> None:
    assert include_lesions((2, 2, 2, 8, 8, 8), np.array([[3, 3, 3, 4, 4, 4], [0, 3, 7, 1, 4, 9]])) == (0, 2, 2, 8, 8, 9)


def test_without_lesions_the_box_stays() -> None:
    assert include_lesions((2, 2, 2, 8, 8, 8), np.zeros((0, 6))) == (2, 2, 2, 8, 8, 8)
