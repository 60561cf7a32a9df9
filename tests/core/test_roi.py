from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from detseg3d.core.roi import (
    box_indicator,
    crop_features,
    crop_matrix,
    crop_rois,
    inside_volume,
    paste_matrix,
    paste_region,
    paste_roi,
    sample_positions,
    voxel_range,
)
from detseg3d.core.tiles import rois_from_boxes

SIZE = (32, 32, 32)
positions = st.floats(-20, 40, allow_nan=False, width=32)
extents = st.floats(0.5, 60, allow_nan=False, width=32)
seeds = st.integers(0, 2**32 - 1)


def ball(diameter: float, shape: int, center: float | None = None) -> np.ndarray:
    middle = shape / 2 if center is None else center
    grid = np.arange(shape) + 0.5 - middle
    return (grid[:, None, None] ** 2 + grid[:, None] ** 2 + grid**2) <= (diameter / 2) ** 2


def ragged(extent: int, seed: int) -> np.ndarray:
    """A random shape that touches all faces of a cube of ``extent`` voxels: corners, holes, isolated voxels."""
    mask = np.random.default_rng(seed).random((extent,) * 3) < 0.5
    mask[0, 0, 0] = mask[-1, -1, -1] = True
    return mask


def crop_and_paste(mask: np.ndarray, shift: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """Crop the box of a lesion to 32³ samples, paste it and apply the threshold, as a perfect Stage 2 would."""
    where = np.argwhere(mask)
    box = np.concatenate([where.min(axis=0) + shift, where.max(axis=0) + 1 + shift])[None]
    roi = rois_from_boxes(box.astype(np.float32), 0.3, (8, 8, 8))[0]
    cube = crop_rois(torch.from_numpy(mask.astype(np.float32))[None], roi[None], SIZE)[0]
    values, region = paste_roi(cube, roi, mask.shape)
    pasted = np.zeros(mask.shape, bool)
    pasted[region] = values[0].numpy() >= 0.5
    return pasted


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


# -- Crop and paste of lesions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("diameter", range(1, 11))
def test_a_ball_of_up_to_ten_voxels_is_restored_exactly(diameter: int) -> None:
    mask = ball(diameter, 24, 12 if diameter % 2 == 0 else 12.5)
    assert dice(mask, crop_and_paste(mask)) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10), seeds, st.tuples(*[st.floats(-0.5, 0.5, width=32)] * 3))
def test_a_ragged_lesion_of_up_to_ten_voxels_is_restored_exactly(
    extent: int, seed: int, shift: tuple[float, float, float]
) -> None:
    mask = np.pad(ragged(extent, seed), 6)
    assert np.array_equal(mask, crop_and_paste(mask, shift))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 10), seeds)
def test_a_ragged_lesion_in_the_corner_of_the_volume_is_restored_exactly(extent: int, seed: int) -> None:
    mask = np.pad(ragged(extent, seed), ((0, 4), (0, 0), (3, 0)))
    assert np.array_equal(mask, crop_and_paste(mask))


def test_isolated_voxels_are_restored_exactly() -> None:
    mask = np.zeros((24, 24, 24), bool)
    mask[8:16:2, 8:16:2, 8:16:2] = True
    assert np.array_equal(mask, crop_and_paste(mask))


@pytest.mark.parametrize(("diameter", "least"), [(24, 0.98), (48, 0.97)])
@pytest.mark.parametrize("shift", [0.0, 0.37])
def test_large_balls_are_restored_well(diameter: int, least: float, shift: float) -> None:
    mask = ball(diameter, diameter + 12)
    assert dice(mask, crop_and_paste(mask, (shift, shift, shift))) >= least


@pytest.mark.parametrize(("diameter", "least"), [(24, 0.98), (48, 0.97)])
def test_large_lumpy_lesions_are_restored_well(diameter: int, least: float) -> None:
    shape = diameter + 12
    noise = torch.randn(1, 1, *[shape // 6] * 3, generator=torch.Generator().manual_seed(3))
    lumps = functional.interpolate(noise, [shape] * 3, mode="trilinear")[0, 0].numpy()
    grid = np.arange(shape) + 0.5 - shape / 2
    radius = np.sqrt(grid[:, None, None] ** 2 + grid[:, None] ** 2 + grid**2)
    mask = radius <= diameter / 2 * (0.85 + 0.15 * np.clip(lumps, -1, 1))
    assert dice(mask, crop_and_paste(mask)) >= least


def test_a_shift_of_half_a_voxel_lowers_the_dice() -> None:
    mask = ball(10, 24)
    assert dice(mask, np.roll(mask, 1, axis=0)) < 0.95


# -- One axis --------------------------------------------------------------------------------------------------


def test_sample_positions_are_middles_of_equal_cells() -> None:
    assert sample_positions(-1, 2, 3).tolist() == [-0.5, 0.5, 1.5]


@settings(max_examples=200)
@given(positions, extents, st.integers(1, 40), st.integers(1, 30))
def test_rows_of_the_crop_matrix_sum_to_one(low: float, extent: float, samples: int, length: int) -> None:
    matrix = crop_matrix(low, low + extent, samples, *voxel_range(low, low + extent, length))
    assert np.allclose(matrix.sum(axis=1), 1) and matrix.min() >= 0


@settings(max_examples=200)
@given(positions, extents, st.integers(1, 40), st.integers(1, 30))
def test_cropping_reads_no_voxel_beyond_its_range(low: float, extent: float, samples: int, length: int) -> None:
    first, end = voxel_range(low, low + extent, length)
    assert 0 <= first < end <= length
    whole = crop_matrix(low, low + extent, samples, 0, length)
    part = crop_matrix(low, low + extent, samples, first, end)
    assert np.allclose(whole[:, first:end], part) and np.allclose(np.delete(whole, np.s_[first:end], axis=1), 0)


def test_cropping_at_the_voxel_centres_is_the_identity() -> None:
    assert np.array_equal(crop_matrix(2, 7, 5, 0, 9), np.eye(9)[2:7])


def test_magnifying_twice_interpolates_at_quarters() -> None:
    assert crop_matrix(1, 2, 2, 0, 3).tolist() == [[0.25, 0.75, 0], [0, 0.75, 0.25]]


def test_shrinking_takes_the_mean_of_the_cell() -> None:
    assert crop_matrix(0, 4, 2, 0, 4).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]


def test_beyond_the_volume_the_border_is_repeated() -> None:
    assert crop_matrix(-2, 2, 4, 0, 4).tolist() == [[1, 0, 0, 0]] * 3 + [[0, 1, 0, 0]]


@settings(max_examples=200, deadline=None)
@given(positions, extents, st.integers(1, 40), st.integers(1, 30))
def test_rows_of_the_paste_matrix_sum_to_one(low: float, extent: float, samples: int, length: int) -> None:
    matrix, first, end = paste_matrix(low, low + extent, samples, length)
    assert matrix.shape == (end - first, samples)
    assert np.allclose(matrix.sum(axis=1), 1, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(positions, extents, st.integers(1, 40), st.integers(1, 30))
def test_pasting_writes_the_voxels_whose_centres_lie_inside(
    low: float, extent: float, samples: int, length: int
) -> None:
    _, first, end = paste_matrix(low, low + extent, samples, length)
    assert list(range(first, end)) == [i for i in range(length) if low <= i + 0.5 < low + extent]


@settings(max_examples=100, deadline=None)
@given(positions, st.floats(0.5, 16, width=32), st.integers(20, 40), st.integers(1, 30), seeds)
def test_pasting_restores_a_magnified_region(low: float, extent: float, samples: int, length: int, seed: int) -> None:
    high = low + extent
    first, end = voxel_range(low, high, length)
    values = np.random.default_rng(seed).random(length)
    matrix, inner_first, inner_end = paste_matrix(low, high, samples, length, bounded=False)
    cropped = crop_matrix(low, high, samples, first, end) @ values[first:end]
    assert np.abs(matrix @ cropped - values[inner_first:inner_end]).max(initial=0) < 0.05


# -- Whole RoIs ------------------------------------------------------------------------------------------------


def sampled_by_torch(volume: torch.Tensor, roi: np.ndarray, size: tuple[int, int, int]) -> torch.Tensor:
    """The same crop by grid_sample. Its coordinates run from -1 to 1 between the outer edges of the volume."""
    axes = [
        torch.from_numpy(sample_positions(roi[a], roi[a + 3], size[a]) / volume.shape[a + 1] * 2 - 1) for a in range(3)
    ]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([x, y, z], dim=-1)[None]
    return functional.grid_sample(volume[None].double(), grid, padding_mode="border", align_corners=False)[0]


def random_roi(random: np.random.Generator, size: tuple[int, int, int]) -> np.ndarray:
    """Return an RoI that magnifies along all axes and may reach beyond a volume of about ten voxels."""
    low = random.uniform(-4, 9, 3)
    return np.concatenate([low, low + random.uniform(0.5, 1, 3) * size])


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_crops_agree_with_grid_sample(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = random.integers(1, 12, 3)
    volume = torch.from_numpy(random.random((2, *shape)).astype(np.float32))
    rois = np.stack([random_roi(random, (6, 9, 7)) for _ in range(3)])
    wanted = torch.stack([sampled_by_torch(volume, roi, (6, 9, 7)) for roi in rois])
    assert torch.allclose(crop_rois(volume, rois, (6, 9, 7)).double(), wanted, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_feature_crops_agree_with_grid_sample(seed: int) -> None:
    random = np.random.default_rng(seed)
    features = torch.from_numpy(random.random((2, *random.integers(1, 12, 3))).astype(np.float32))
    rois = np.stack([random_roi(random, (6, 9, 7)) for _ in range(3)]).astype(np.float32)
    wanted = torch.stack([sampled_by_torch(features, roi, (6, 9, 7)) for roi in rois])
    assert torch.allclose(crop_features(features, torch.from_numpy(rois), (6, 9, 7)).double(), wanted, atol=1e-4)


def test_feature_crops_carry_the_gradient_to_the_cells_they_read() -> None:
    features = torch.zeros(1, 6, 6, 6, requires_grad=True)
    crop_features(features, torch.tensor([[2.0, 2, 2, 4, 4, 4]]), (2, 2, 2)).sum().backward()
    wanted = torch.zeros(1, 6, 6, 6)
    wanted[:, 2:4, 2:4, 2:4] = 1
    assert features.grad is not None and torch.allclose(features.grad, wanted, atol=1e-6)


def test_feature_crops_keep_the_dtype() -> None:
    features = torch.ones(1, 4, 4, 4, dtype=torch.bfloat16)
    assert crop_features(features, torch.tensor([[0.0, 0, 0, 2, 2, 2]]), (2, 2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flipping_volume_and_roi_flips_the_crop(axis: int) -> None:
    volume = torch.rand(1, 9, 10, 11, generator=torch.Generator().manual_seed(0))
    roi = np.array([-1.2, 3.1, 2, 4.3, 12, 7.7])
    mirrored = roi.copy()
    length = volume.shape[axis + 1]
    mirrored[axis], mirrored[axis + 3] = length - roi[axis + 3], length - roi[axis]
    there = crop_rois(volume.flip(axis + 1), mirrored[None], (8, 8, 8)).flip(axis + 2)
    assert torch.allclose(there, crop_rois(volume, roi[None], (8, 8, 8)), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flipping_cube_and_roi_flips_the_pasted_values(axis: int) -> None:
    cube, shape = torch.rand(1, 16, 16, 16, generator=torch.Generator().manual_seed(0)), (9, 10, 11)
    roi = np.array([-1.5, 3.25, 2, 4.25, 12, 7.75])
    mirrored = roi.copy()
    mirrored[axis], mirrored[axis + 3] = shape[axis] - roi[axis + 3], shape[axis] - roi[axis]
    values, region = paste_roi(cube, roi, shape)
    flipped, flipped_region = paste_roi(cube.flip(axis + 1), mirrored, shape)
    assert torch.allclose(flipped.flip(axis + 1), values, atol=1e-4)
    assert flipped_region[axis] == slice(shape[axis] - region[axis].stop, shape[axis] - region[axis].start)


def test_no_rois_give_no_crops() -> None:
    assert crop_rois(torch.zeros(3, 4, 4, 4), [], (2, 2, 2)).shape == (0, 3, 2, 2, 2)
    assert crop_features(torch.zeros(3, 4, 4, 4), torch.zeros(0, 6), (2, 2, 2)).shape == (0, 3, 2, 2, 2)


def test_crops_of_a_half_precision_volume_are_float32() -> None:
    crops = crop_rois(torch.ones(1, 4, 4, 4, dtype=torch.float16), [[0, 0, 0, 4, 4, 4]], (2, 2, 2))
    assert crops.dtype == torch.float32 and torch.equal(crops, torch.ones(1, 1, 2, 2, 2))


def test_an_roi_outside_the_volume_pastes_nothing() -> None:
    values, region = paste_roi(torch.ones(1, 4, 4, 4), (20, 0, 0, 24, 4, 4), (8, 8, 8))
    assert values.shape == (1, 0, 4, 4) and region[0].start == region[0].stop


@given(
    low=st.lists(st.floats(-6, 12), min_size=3, max_size=3), size=st.lists(st.floats(0.2, 9), min_size=3, max_size=3)
)
def test_the_region_of_pasting_is_known_without_pasting(low: list[float], size: list[float]) -> None:
    roi = np.array([*low, *(a + b for a, b in zip(low, size, strict=True))])
    values, region = paste_roi(torch.ones(1, 3, 3, 3), roi, (5, 6, 7))
    assert paste_region(roi, (5, 6, 7)) == region
    assert values.shape[1:] == tuple(axis.stop - axis.start for axis in region)


@pytest.mark.parametrize("low", [-4.0, -3.7, -7.5])
def test_samples_outside_the_volume_do_not_reach_its_border_voxels(low: float) -> None:
    # Stage 2 is never trained outside the volume, so its output there must not count.
    roi = np.array([low, 0, 0, 8, 8, 8])
    cube = inside_volume(roi[None], (16, 16, 16), SIZE)[0]
    values, region = paste_roi(cube, roi, (16, 16, 16))
    assert region[0] == slice(0, 8) and torch.allclose(values, torch.ones_like(values), atol=1e-3)


# -- Indicators ------------------------------------------------------------------------------------------------


def test_box_indicator_of_a_partly_covered_cell_is_the_covered_fraction() -> None:
    shares = box_indicator([[0.5, 0, 0, 2.25, 1, 1]], [[0, 0, 0, 3, 1, 1]], (3, 1, 1))
    assert shares.flatten().tolist() == [0.5, 1.0, 0.25]


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_box_indicator_sums_to_the_volume_inside_the_roi(seed: int) -> None:
    random = np.random.default_rng(seed)
    low = random.uniform(0, 4, (2, 3))
    boxes = np.concatenate([low, low + random.uniform(0.1, 4, (2, 3))], axis=1)
    shown = (
        box_indicator(boxes, [[0, 0, 0, 8, 8, 8]] * 2, (5, 8, 11)).sum(dim=(1, 2, 3, 4)).numpy() * 512 / (5 * 8 * 11)
    )
    assert np.allclose(shown, (boxes[:, 3:] - boxes[:, :3]).prod(axis=1), rtol=1e-4)


def test_no_boxes_have_no_indicators() -> None:
    assert box_indicator([], [], (2, 3, 4)).shape == (0, 1, 2, 3, 4)


def test_inside_volume_marks_samples_between_the_outer_edges() -> None:
    inside = inside_volume([[-2, 0, 0, 6, 1, 1]], (4, 4, 4), (8, 1, 1))
    assert inside.flatten().tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def test_the_caller_cannot_change_cached_matrices() -> None:
    with pytest.raises(ValueError, match="read-only"):
        paste_matrix(0, 8, 16, 8)[0][:] = 7


def test_crops_are_the_same_under_autocast() -> None:
    random = np.random.default_rng(0)
    volume = torch.from_numpy(random.normal(size=(1, 12, 12, 12)).astype(np.float32))
    roi = [[1.3, 2.1, 0.7, 8.9, 9.2, 7.4]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        crops = crop_rois(volume, roi, (8, 8, 8))
    assert torch.equal(crops, crop_rois(volume, roi, (8, 8, 8)))
