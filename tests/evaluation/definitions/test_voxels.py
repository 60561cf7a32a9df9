from __future__ import annotations

import numpy as np
import pytest

from detseg3d.evaluation.definitions.voxels import dice_from_counts, dice_score


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        ([1, 1, 0], [1, 1, 0], 1.0),
        ([1, 1, 0], [0, 1, 1], 0.5),
        ([1, 0, 0], [0, 0, 1], 0.0),
        ([0, 0, 0], [0, 0, 0], 1.0),
        ([0, 0, 0], [1, 0, 0], 0.0),
        ([1, 0, 0], [0, 0, 0], 0.0),
        ([7, 0, 0], [3, 0, 0], 1.0),
    ],
)
def test_dice_by_hand(truth: list[int], prediction: list[int], expected: float) -> None:
    assert dice_score(np.array(truth), np.array(prediction)) == expected


def test_dice_from_counts_of_nothing_is_one() -> None:
    assert dice_from_counts(0, 0, 0) == 1.0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        dice_score(np.zeros(3), np.zeros(4))
