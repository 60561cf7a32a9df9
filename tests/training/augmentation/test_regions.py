from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from detseg3d.training.augmentation.affine import AffineMap, draw_affine
from detseg3d.training.augmentation.regions import Source, air_of, replace_regions
from detseg3d.training.augmentation.table import AugmentationTable, Change

UNIT = (1.0, 1.0, 1.0)
SHAPE = (30, 32, 34)
AIR = torch.tensor([-9.0, -5.0])


def make_source(affine: AffineMap | None = None) -> Source:
    whole = AffineMap(np.asarray(SHAPE) / 2, np.eye(3), interpolate=False)
    return Source(SHAPE, UNIT, affine or whole, AIR.numpy())


def make_window() -> tuple[torch.Tensor, np.ndarray]:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32))
    instances = np.zeros(SHAPE, np.int32)
    instances[12:15, 10:12, 20:24] = 3
    instances[16, 20, 9] = 8
    return image, instances


def replaced(seed: int, source: Source | None = None, **changes: Change) -> tuple[torch.Tensor, torch.Tensor]:
    image, instances = make_window()
    random = np.random.default_rng(seed)
    result = replace_regions(image, AIR, instances, source or make_source(), AugmentationTable(**changes), random)
    return make_window()[0], result


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_lesions_are_never_replaced_or_touched(seed: int) -> None:
    image, result = replaced(seed, cut_outs=Change(1, 0.1, 0.6), outside=Change(1, 0.3, 1))
    _, instances = make_window()
    near = ndimage.binary_dilation(instances > 0, np.ones((3, 3, 3)))
    np.testing.assert_array_equal(result[:, near], image[:, near])


@pytest.mark.parametrize("name", ["cut_outs", "outside"])
def test_regions_are_replaced_in_all_channels(name: str) -> None:
    fractions = []
    for seed in range(30):
        image, result = replaced(seed, **{name: Change(1, 0.3, 0.9)})
        differs = (image != result).numpy()
        np.testing.assert_array_equal(differs[0], differs[1])
        fractions.append(differs.mean())
    assert 0.01 < np.mean(fractions) < 0.8
    assert np.count_nonzero(fractions) > 10


def test_most_regions_become_air() -> None:
    fillings = []
    for seed in range(40):
        image, result = replaced(seed, outside=Change(1, 0.5, 0.7))
        differs = image[0] != result[0]
        if differs.any():
            fillings.append(torch.equal(result[:, differs].amax(dim=1), AIR))
    assert 0.35 < np.mean(fillings) < 0.85


def test_the_scan_outside_an_ellipsoid_is_removed() -> None:
    corners = (slice(None), [0, 0, -1, -1], [0, -1, 0, -1], [0, -1, -1, 0])
    removed = 0
    for seed in range(30):
        image, result = replaced(seed, outside=Change(1, 0.9, 0.9))
        removed += bool((image[corners] != result[corners]).all())
    assert removed > 10


def test_air_is_the_lowest_intensity_in_the_corners_of_each_channel() -> None:
    image = np.zeros((2, 20, 20, 20), np.float16)
    image[0, -1, 0, -1], image[1, 2, 2, 2], image[:, 10, 10, 10] = -4, -2, -9
    air = air_of(image)
    assert air.tolist() == [-4, -2] and air.dtype == np.float32
    assert air_of(np.ones((1, 2, 3, 1), np.float16)).tolist() == [1]


def test_only_windows_that_reach_beyond_the_scan_have_a_part_beyond_it() -> None:
    assert make_source().is_beyond(SHAPE) is None
    smaller = make_source(AffineMap(np.asarray(SHAPE) / 2, np.eye(3) * 2, interpolate=True))
    beyond = smaller.is_beyond(SHAPE)
    assert beyond is not None
    # Half of the window along each axis shows the scan.
    assert (~beyond).numpy().mean() == pytest.approx(1 / 8, abs=0.02)
    assert not beyond[15, 16, 17] and beyond[0, 16, 17] and beyond[15, 16, -1]


def test_the_part_beyond_the_scan_becomes_air() -> None:
    source = make_source(AffineMap(np.asarray(SHAPE) / 2, np.eye(3) * 2, interpolate=True))
    _, result = replaced(0, source, beyond=Change(1))
    assert result[:, 0, 0, 0].tolist() == AIR.tolist()
    assert result[0, 15, 16, 17] != AIR[0]


@pytest.mark.parametrize("seed", range(5))
def test_places_follow_the_map_of_the_window(seed: int) -> None:
    table = AugmentationTable(zoom=Change(1, 0.6, 1.7), rotation=30)
    affine = draw_affine((14, 15, 19), UNIT, 1000, table, np.random.default_rng(seed))
    source = make_source(affine)
    window, voxel = (6, 8, 10), np.array([1, 6, 3])
    expected = affine.matrix @ (voxel + 0.5 - np.asarray(window) / 2) + affine.center
    for axis in range(3):
        place = source.places(axis, window).expand(window)
        assert float(place[tuple(voxel)]) == pytest.approx(expected[axis], abs=1e-3)
