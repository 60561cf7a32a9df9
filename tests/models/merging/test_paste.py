from __future__ import annotations

import numpy as np
import torch

from detseg3d.models.merging.paste import RoiPrediction, paste_predictions

SHAPE = (6, 7, 8)


def prediction(roi: list[float], fill: float = 1.0) -> RoiPrediction:
    return RoiPrediction(np.array(roi), 3, torch.full((4, 4, 4), fill).half(), 0.5)


def test_the_region_is_the_part_of_the_roi_in_the_volume() -> None:
    [pasted] = paste_predictions([prediction([-2, 1, 4, 2, 5, 12])], SHAPE)
    assert pasted.region == (slice(0, 2), slice(1, 5), slice(4, 8))
    assert pasted.probability.shape == (2, 4, 4) and pasted.candidate == 3


def test_an_roi_outside_has_no_voxels() -> None:
    [pasted] = paste_predictions([prediction([9, 9, 9, 12, 12, 12])], SHAPE)
    assert pasted.probability.size == 0


def test_probabilities_do_not_leave_their_range() -> None:
    cube = torch.zeros(8, 8, 8).half()
    cube[2:6, 2:6, 2:6] = 1  # putting back overshoots at edges
    [pasted] = paste_predictions([RoiPrediction(np.array([0, 0, 0, 5, 5, 5.0]), 0, cube, 1.0)], SHAPE)
    assert pasted.probability.min() == 0 and pasted.probability.max() == 1


def test_closeness_falls_from_the_centre_to_a_tenth_at_the_faces() -> None:
    [pasted] = paste_predictions([prediction([0, 0, 0, 1, 1, 8])], SHAPE)
    everything = (slice(0, 1), slice(0, 1), slice(0, 8))
    line = pasted.closeness(everything)[0, 0]
    np.testing.assert_allclose(line, 1 - 0.9 * np.abs(np.arange(8) + 0.5 - 4) / 4, rtol=1e-6)
    np.testing.assert_array_equal(pasted.closeness((*everything[:2], slice(2, 5)))[0, 0], line[2:5])


def test_an_roi_relative_to_a_part_of_the_volume_equals_the_roi_pasted_into_that_part() -> None:
    roi = [1.3, 2.0, 2.6, 4.1, 5.5, 7.2]
    [whole] = paste_predictions([prediction(roi, 0.7)], SHAPE)
    moved = whole.seen_from(np.array([1, 2, 2]), 9)
    [apart] = paste_predictions([prediction((np.array(roi) - [1, 2, 2, 1, 2, 2]).tolist(), 0.7)], (5, 5, 6))
    assert moved.region == apart.region and moved.candidate == 9
    np.testing.assert_array_equal(moved.prediction.roi, apart.prediction.roi)
    np.testing.assert_allclose(moved.probability, apart.probability, atol=1e-3)
