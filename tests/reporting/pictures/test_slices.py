from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detseg3d.core.orientation import StoredOrder
from detseg3d.reporting.pictures.case_view import LesionMap
from detseg3d.reporting.pictures.findings import collect_findings
from detseg3d.reporting.pictures.slices import (
    SlicePlane,
    TurnedCase,
    best_slice,
    busiest_slice,
    intensity_window,
    outline_segments,
    tile_axis,
    tile_region,
    tile_window,
)


def turned(truth: npt.NDArray[Any], prediction: npt.NDArray[Any] | None = None, spacing: Any = (1, 1, 1)) -> TurnedCase:
    return TurnedCase(np.zeros(truth.shape, np.float32), spacing, truth, prediction, StoredOrder(truth.shape))


@given(arrays(np.int64, (3, 4), elements=st.integers(0, 2)))
def test_outlines_are_the_edges_between_different_pixels(labels: npt.NDArray[np.int64]) -> None:
    padded = np.pad(labels, 1)
    expected = int((np.diff(padded, axis=0) != 0).sum() + (np.diff(padded, axis=1) != 0).sum())
    segments = outline_segments(labels)
    assert segments.shape == (expected, 2, 2)
    assert np.allclose(np.abs(segments[:, 1] - segments[:, 0]).sum(axis=1), 1)


def test_outlines_enclose_their_pixel() -> None:
    labels = np.zeros((3, 5))
    labels[1, 3] = 1
    segments = outline_segments(labels).reshape(-1, 2)
    assert (segments.min(axis=0).tolist(), segments.max(axis=0).tolist()) == ([3, 1], [4, 2])


def test_the_busiest_slice_has_the_most_lesions_not_the_most_voxels() -> None:
    truth = np.zeros((3, 6, 6), np.int64)
    truth[0] = 9
    truth[2, 0, 0], truth[2, 3, 3] = 1, 2
    assert busiest_slice(turned(truth), 0) == 2


def test_a_case_without_lesions_shows_the_middle_slice() -> None:
    assert busiest_slice(turned(np.zeros((7, 2, 2), np.int64)), 0) == 3


def test_a_found_lesion_is_shown_on_a_slice_with_truth_and_prediction() -> None:
    truth, prediction = np.zeros((2, 5, 4, 4), np.int64)
    truth[0:3, 0, 0], truth[0, :3, :3] = 1, 1  # largest on slice 0, where nothing was predicted
    prediction[2:5, 0, 0] = 1
    (finding,) = collect_findings((1, 1, 1), LesionMap(truth), LesionMap(prediction))
    assert best_slice(turned(truth, prediction), 0, finding) == 2


def test_a_missed_lesion_is_shown_where_it_is_largest() -> None:
    truth = np.zeros((5, 4, 4), np.int64)
    truth[1:4, 0, 0], truth[3, :3, :3] = 1, 1
    (finding,) = collect_findings((1, 1, 1), LesionMap(truth), None)
    assert best_slice(turned(truth), 0, finding) == 3


@pytest.mark.parametrize(("spacing", "axis"), [((1, 1, 1), 0), ((3, 1, 1), 0), ((1, 3, 1), 1), ((1.2, 1, 1.4), 0)])
def test_tiles_cross_the_coarse_axis(spacing: tuple[float, float, float], axis: int) -> None:
    assert tile_axis(spacing) == axis


@pytest.mark.parametrize("start", [0, 50, 99])
def test_a_tile_is_square_in_millimetres_contains_the_lesion_and_lies_inside_the_image(start: int) -> None:
    case = turned(np.zeros((3, 100, 100), np.int64), spacing=(1.0, 2.0, 0.5))
    (top, bottom), (left, right) = tile_region(case, 0, (0, start, start, 1, start + 1, start + 1))
    assert (bottom - top) * 2.0 == pytest.approx((right - left) * 0.5)
    assert top <= start < start + 1 <= bottom <= 100
    assert left <= start < start + 1 <= right <= 100


def test_a_tile_larger_than_the_image_is_clipped() -> None:
    plane = SlicePlane(turned(np.zeros((3, 5, 9), np.int64)), 0, 1, ((-2.5, 7.5), (1.2, 4.0)))
    assert plane.limits == ((0, 5), (1, 4))
    assert plane.take(plane.case.image).shape == (5, 3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_takes_its_slice_with_its_scale(axis: int) -> None:
    volume = np.arange(24).reshape(2, 3, 4)
    plane = SlicePlane(turned(volume, spacing=(2.0, 3.0, 5.0)), axis, 1)
    assert np.array_equal(plane.take(volume), np.take(volume, 1, axis))
    assert plane.shape == np.take(volume, 1, axis).shape
    assert plane.scale == [(3.0, 5.0), (2.0, 5.0), (2.0, 3.0)][axis]


def test_the_air_around_the_body_does_not_change_the_window() -> None:
    image = np.full((20, 20, 20), -1000.0, np.float32)
    image[5:10] = np.linspace(0, 100, 5 * 400).reshape(5, 20, 20)
    low, high = intensity_window(image)
    assert 0 <= low < 5
    assert 95 < high <= 100


def test_a_constant_image_has_a_window() -> None:
    low, high = intensity_window(np.zeros((3, 3, 3), np.float32))
    assert low < 0 < high


def test_the_window_of_a_tile_has_a_minimum_width() -> None:
    low, high = tile_window(np.array([[50.0, 51.0]], np.float32), (0.0, 100.0))
    assert high - low == pytest.approx(30.0)
    assert low < 50 < 51 < high
