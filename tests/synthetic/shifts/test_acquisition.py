from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from scipy.special import ndtr

from detseg3d.core.geometry import Geometry
from detseg3d.synthetic.shifts.acquisition import blur, other_spacing, slice_weights, thick_slices
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Strength
from tests.synthetic.shifts.scans import make_scan

RANDOM = np.random.default_rng(0)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 0.12, 0.3]))
def test_the_weights_of_a_slice_have_the_sum_one(length: int, count: int, edge: float) -> None:
    weights = slice_weights(length, count, edge)
    assert weights.shape == (count, length) and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-9)


def test_slices_without_smooth_edges_are_means_of_the_voxels_that_they_hold() -> None:
    expected = [[2 / 5, 2 / 5, 1 / 5, 0, 0], [0, 0, 1 / 5, 2 / 5, 2 / 5]]
    np.testing.assert_allclose(slice_weights(5, 2, 0.0), expected, atol=1e-12)


def test_the_profile_is_a_rectangle_smoothed_by_a_gaussian() -> None:
    # Numerical integration of the profile of the middle one of three slices, over voxels of a tenth of a slice.
    def profile(place: float) -> float:
        return float(ndtr((place + 0.5) / 0.12) - ndtr((place - 0.5) / 0.12))

    edges = np.linspace(-1.5, 1.5, 31)
    expected = np.array([integrate.quad(profile, a, b)[0] for a, b in pairwise(edges)])
    np.testing.assert_allclose(slice_weights(30, 3, 0.12)[1], expected / expected.sum(), atol=1e-6)


@pytest.mark.parametrize(("strength", "count"), [(Strength.MILD, 10), (Strength.MEDIUM, 6), (Strength.STRONG, 4)])
def test_slices_are_as_thick_as_stated_and_fill_the_field_of_view(strength: Strength, count: int) -> None:
    scan = make_scan()
    thick = thick_slices(scan, strength, RANDOM, axis=0)
    assert thick.geometry.shape == (count, *scan.geometry.shape[1:])
    assert thick.geometry.spacing == (30 / count, 1.0, 1.0)


def test_slices_that_are_thick_already_become_thicker() -> None:
    thick = thick_slices(make_scan(spacing=(6.0, 1.0, 1.0)), Strength.MEDIUM, RANDOM, axis=0)
    assert thick.geometry.spacing == (12.0, 1.0, 1.0)


def test_a_lesion_thinner_than_a_slice_stays_in_the_truth_and_becomes_fainter() -> None:
    image, instances = np.zeros((15, 5, 5), np.float32), np.zeros((15, 5, 5), np.int32)
    image[7, 2, 2], instances[7, 2, 2] = 100, 1
    scan = Scan(image[None], instances, Geometry((15, 5, 5)), (False,))
    thick = thick_slices(scan, Strength.MEDIUM, RANDOM, axis=0)
    assert np.argwhere(thick.instances).tolist() == [[1, 2, 2]]
    # It fills a fifth of its slice.
    assert thick.images[0, 1, 2, 2] == pytest.approx(20, abs=0.1)


def test_the_volume_of_large_lesions_hardly_changes() -> None:
    scan = make_scan()
    for axis in range(3):
        thick = thick_slices(scan, Strength.MILD, RANDOM, axis=axis)
        before = (scan.instances == 1).sum()
        assert (thick.instances == 1).sum() * thick.geometry.voxel_volume == pytest.approx(before, rel=0.15)


def test_blur_keeps_slow_waves_and_removes_fast_ones() -> None:
    shape = (8, 8, 64)
    place = np.arange(64) + 0.5
    for cycles, kept in ((0.02, (0.9, 1.0)), (0.25, (0.0, 0.35)), (0.45, (-1e-6, 1e-6))):
        # A whole number of half waves is one frequency of the cosine transform.
        wave = np.cos(np.pi * round(2 * 64 * cycles) * place / 64)
        image = np.broadcast_to(wave, shape).astype(np.float32)[None]
        scan = Scan(image, np.zeros(shape, np.int32), Geometry(shape), (False,))
        result = blur(scan, Strength.MEDIUM, RANDOM).images[0, 4, 4]
        amplitude = float(result @ wave / (wave @ wave))
        assert kept[0] <= amplitude <= kept[1]


def test_blur_is_measured_in_mm() -> None:
    # Voxels of 4 mm count as they are, so the limit of 1.25 times 4 mm keeps more than half of the contrast.
    fine, coarse = (make_scan(spacing=(mm,) * 3) for mm in (0.5, 4.0))
    spread = [blur(scan, Strength.MILD, RANDOM).images.std() / scan.images.std() for scan in (fine, coarse)]
    assert spread[0] < spread[1]


def test_other_spacing_makes_two_axes_coarser_and_one_finer() -> None:
    scan = make_scan()
    spacing = other_spacing(scan, Strength.MEDIUM, np.random.default_rng(1)).geometry.spacing
    assert sum(mm > 1.4 for mm in spacing) == 2 and sum(mm < 0.75 for mm in spacing) == 1
