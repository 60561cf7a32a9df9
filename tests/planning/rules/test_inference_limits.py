from __future__ import annotations

import pytest

from detseg3d.planning.rules.inference_limits import smallest_lesion


@pytest.mark.parametrize(
    ("volumes", "smallest"),
    [([], 0), ([50, 10_000], 50), ([7] + [9] * 99, 7), ([7] + [9] * 100, 9), ([7, 7] + [9] * 198, 7)],
)
def test_one_lesion_in_a_hundred_may_be_smaller_than_the_smallest(volumes: list[float], smallest: float) -> None:
    assert smallest_lesion(volumes) == smallest
