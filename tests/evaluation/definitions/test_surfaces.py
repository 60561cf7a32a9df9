from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion, distance_transform_edt

from detseg3d.core.arrays import BoolArray
from detseg3d.evaluation.definitions.surfaces import surface_metrics, surface_voxels

SPACING = (3.0, 1.0, 0.5)
masks = arrays(np.bool_, (3, 4, 5))


def dense(truth: BoolArray, prediction: BoolArray, tolerance: float) -> tuple[float, float]:
    """Compute the metrics by erosion and distance transforms of the whole volume."""
    edges = [mask & ~binary_erosion(mask, border_value=0) for mask in (truth, prediction)]
    to_other = [distance_transform_edt(~edges[1 - side], sampling=SPACING)[edges[side]] for side in range(2)]
    near = sum(np.count_nonzero(distance <= tolerance + 1e-6) for distance in to_other)
    return near / sum(len(d) for d in to_other), max(np.percentile(distance, 95) for distance in to_other)


@given(masks, masks, st.sampled_from([0.5, 1.0, 3.0]))
@settings(deadline=None)
def test_it_equals_distance_transforms(truth: BoolArray, prediction: BoolArray, tolerance: float) -> None:
    if not (truth.any() and prediction.any()):
        return
    found = surface_metrics(truth, prediction, SPACING, tolerance)
    assert (found.nsd, found.hd95_mm) == pytest.approx(dense(truth, prediction, tolerance))


@given(masks)
def test_the_surface_equals_the_voxels_that_erosion_removes(mask: BoolArray) -> None:
    expected = np.argwhere(mask & ~binary_erosion(mask, border_value=0))
    assert surface_voxels(mask).tolist() == expected.tolist()


@given(masks, masks)
@settings(deadline=None)
def test_swapping_the_sides_and_flipping_axes_change_nothing(truth: BoolArray, prediction: BoolArray) -> None:
    first = surface_metrics(truth, prediction, SPACING)
    second = surface_metrics(prediction[::-1, :, ::-1], truth[::-1, :, ::-1], SPACING)
    assert (first.nsd, first.hd95_mm) == pytest.approx((second.nsd, second.hd95_mm))


def test_a_shift_of_two_voxels_is_measured_in_millimetres() -> None:
    truth, prediction = np.zeros((2, 1, 1, 9))
    truth[0, 0, 2], prediction[0, 0, 4] = 1, 1
    assert surface_metrics(truth, prediction, SPACING).hd95_mm == 1.0
    assert surface_metrics(truth, prediction, SPACING, tolerance_mm=1.0).nsd == 1.0
    assert surface_metrics(truth, prediction, SPACING, tolerance_mm=0.9).nsd == 0.0


def test_a_tolerance_is_met_despite_rounding() -> None:
    truth, prediction = np.zeros((2, 1, 1, 9))
    truth[0, 0, 2], prediction[0, 0, 5] = 1, 1
    assert surface_metrics(truth, prediction, (1.0, 1.0, 0.1), tolerance_mm=0.3).nsd == 1.0


def test_empty_masks_are_defined() -> None:
    empty, some = np.zeros((4, 4, 6)), np.ones((4, 4, 6))
    nothing = surface_metrics(empty, empty, SPACING)
    assert (nothing.nsd, nothing.hd95_mm) == (1.0, 0.0)
    for pair in ((empty, some), (some, empty)):
        missed = surface_metrics(*pair, SPACING)
        assert (missed.nsd, missed.hd95_mm) == (0.0, pytest.approx(np.sqrt(12**2 + 4**2 + 3**2)))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        surface_metrics(np.zeros((1, 1, 1)), np.zeros((1, 1, 2)), SPACING)


def test_average_distances_by_hand() -> None:
    """The truth has two surface voxels at 0 and 3 mm from the only voxel of the prediction."""
    truth, prediction = np.zeros((2, 1, 1, 8), np.uint8)
    truth[0, 0, [1, 4]], prediction[0, 0, 1] = 1, 1
    found = surface_metrics(truth, prediction, (1.0, 1.0, 1.0))
    assert (found.assd_mm, found.masd_mm) == (pytest.approx(3 / 3), pytest.approx((3 / 2 + 0) / 2))
    empty = surface_metrics(truth, np.zeros_like(truth), (1.0, 1.0, 1.0))
    assert empty.assd_mm == empty.masd_mm == empty.hd95_mm
