from __future__ import annotations

import pytest

from detseg3d.evaluation.definitions.voxels import dice_from_counts


@pytest.mark.parametrize(
    ("intersection", "truth", "prediction", "expected"),
    [(2, 2, 2, 1.0), (1, 2, 2, 0.5), (0, 1, 1, 0.0), (0, 0, 0, 1.0), (0, 0, 1, 0.0), (0, 1, 0, 0.0)],
)
def test_dice_by_hand(intersection: int, truth: int, prediction: int, expected: float) -> None:
    assert dice_from_counts(intersection, truth, prediction) == expected
