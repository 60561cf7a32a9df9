from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from detseg3d.core.augmentation import Augmentation
from detseg3d.core.boxes import boxes_from_instances
from detseg3d.training.augmentation import affine as affine_module
from detseg3d.training.augmentation.affine import AffineMap, draw_affine, read_window, source_region
from detseg3d.training.augmentation.table import AugmentationTable, Change, table_of

SHAPE = (13, 15, 17)
STRONG = table_of(Augmentation.STRONG)
ALWAYS = AugmentationTable(zoom=Change(1, 0.85, 1.18), rotation=15)


def make_case(channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    image = random.normal(size=(channels, *SHAPE)).astype(np.float32)
    instances = random.integers(0, 5, SHAPE).astype(np.uint8)
    return image, instances


def flip(*signs: int) -> np.ndarray:
    return np.diag(np.asarray(signs, np.float64))


def copied(
    volume: np.ndarray, low: np.ndarray, window: tuple[int, ...], signs: tuple[int, ...], edge: bool
) -> np.ndarray:
    """The window voxel by voxel: flipped about its middle, beyond the border its last voxel or 0."""
    result = np.zeros(window, volume.dtype)
    for index in np.ndindex(*window):
        place = [low[a] + (index[a] if signs[a] > 0 else window[a] - 1 - index[a]) for a in range(3)]
        inside = [int(np.clip(p, 0, n - 1)) for p, n in zip(place, volume.shape, strict=True)]
        if edge or inside == place:
            result[index] = volume[tuple(inside)]
    return result


corner = st.tuples(*[st.integers(-3, n - 2) for n in SHAPE])
sizes = st.tuples(*[st.integers(4, 9)] * 3)
signs = st.tuples(*[st.sampled_from((1, -1))] * 3)


@settings(max_examples=40, deadline=None)
@given(corner, sizes, signs)
def test_whole_voxel_windows_are_copies(
    low: tuple[int, int, int], window: tuple[int, int, int], sign: tuple[int, int, int]
) -> None:
    image, instances = make_case()
    affine = AffineMap(np.asarray(low) + np.asarray(window) / 2, flip(*sign), interpolate=False)
    seen, labels = read_window(image, instances, affine, window)
    for channel in range(2):
        np.testing.assert_array_equal(seen[channel], copied(image[channel], np.asarray(low), window, sign, edge=True))
    np.testing.assert_array_equal(labels, copied(instances, np.asarray(low), window, sign, edge=False))


def test_windows_have_the_types_that_training_takes() -> None:
    image, instances = make_case()
    affine = AffineMap(np.array([6.0, 6, 6]), np.eye(3), interpolate=False)
    seen, labels = read_window(image.astype(np.float16), instances, affine, (4, 4, 4))
    assert (seen.dtype, labels.dtype) == (np.float32, np.int32)
    assert seen.flags.c_contiguous and labels.flags.c_contiguous


class Recorder:
    """An array that remembers what was read of it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.voxels = array, array.shape, 0

    def __getitem__(self, key: object) -> np.ndarray:
        part = self.array[key]  # type: ignore[index]
        self.voxels += part.size
        return part


def test_only_the_window_is_read() -> None:
    image, instances = make_case(channels=1)
    recorder = Recorder(image)
    read_window(recorder, instances, AffineMap(np.array([6.0, 6, 6]), np.eye(3), interpolate=False), (4, 4, 4))
    assert recorder.voxels == 4**3


def draw_rotation(
    seed: int, spacing: tuple[float, ...] = (1.0, 1.0, 1.0), center: tuple[float, ...] = (6.3, 7.1, 9.4)
) -> AffineMap:
    """An interpolating map; flips and angles depend on the seed."""
    random = np.random.default_rng(seed)
    while True:
        affine = draw_affine(center, spacing, 1000, ALWAYS, random)
        if affine.interpolate:
            return affine


def by_scipy(volume: np.ndarray, affine: AffineMap, window: tuple[int, ...], order: int, mode: str) -> np.ndarray:
    # scipy counts voxel centres, the map voxel edges: half a voxel apart on both sides.
    half = np.asarray(window) / 2
    offset = affine.center + affine.matrix @ (0.5 - half) - 0.5
    return ndimage.affine_transform(
        volume.astype(np.float64), affine.matrix, offset, output_shape=window, order=order, mode=mode, prefilter=False
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("center", [(6.3, 7.1, 9.4), (1.2, 14.0, 3.0), (12.5, 0.5, 16.5)])
def test_interpolated_image_equals_scipy(seed: int, center: tuple[float, float, float]) -> None:
    image, instances = make_case()
    affine, window = draw_rotation(seed, center=center), (8, 9, 10)
    seen, _ = read_window(image, instances, affine, window)
    for channel in range(2):
        expected = by_scipy(image[channel], affine, window, order=1, mode="nearest")
        np.testing.assert_allclose(seen[channel], expected, atol=2e-5)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("center", [(6.3, 7.1, 9.4), (1.2, 14.0, 3.0), (12.5, 0.5, 16.5)])
def test_interpolated_labels_equal_scipy(seed: int, center: tuple[float, float, float]) -> None:
    image, instances = make_case()
    affine, window = draw_rotation(seed, center=center), (8, 9, 10)
    _, labels = read_window(image, instances, affine, window)
    # Both round to the nearest voxel; outside the volume is background.
    half = np.asarray(window) / 2
    index = np.stack(np.meshgrid(*[np.arange(n) for n in window], indexing="ij"), axis=-1)
    place = np.floor((index + 0.5 - half) @ affine.matrix.T + affine.center).astype(int)
    inside = np.all((place >= 0) & (place < np.asarray(SHAPE)), axis=-1)
    clipped = np.clip(place, 0, np.asarray(SHAPE) - 1)
    expected = np.where(inside, instances[clipped[..., 0], clipped[..., 1], clipped[..., 2]], 0)
    np.testing.assert_array_equal(labels, expected)
    deep = ndimage.binary_erosion(inside)
    np.testing.assert_array_equal(labels[deep], by_scipy(instances, affine, window, order=0, mode="nearest")[deep])


def test_labels_keep_large_ids_when_interpolated() -> None:
    instances = np.full(SHAPE, 70_001, np.uint32)
    image = np.zeros((1, *SHAPE), np.float32)
    _, labels = read_window(image, instances, draw_rotation(0), (4, 4, 4))
    assert np.unique(labels).tolist() == [70_001]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_boxes_follow_the_lesion(seed: int, anisotropic: bool) -> None:
    """The box derived from the augmented map is where the map sends the lesion, to a voxel."""
    instances = np.zeros((40, 40, 40), np.uint8)
    instances[17:22, 15:24, 18:22] = 3
    spacing = (3.0, 1.0, 1.0) if anisotropic else (1.0, 1.0, 1.0)
    affine = draw_rotation(seed, spacing, center=(20.0, 19.0, 21.0))
    window = (32, 32, 32)
    _, labels = read_window(np.zeros((1, 40, 40, 40), np.float32), instances, affine, window)
    ids, boxes = boxes_from_instances(labels)
    corners = np.stack(np.meshgrid([17.0, 22], [15.0, 24], [18.0, 22], indexing="ij"), axis=-1).reshape(-1, 3)
    moved = (corners - affine.center) @ np.linalg.inv(affine.matrix).T + 16
    assert ids.tolist() == [3]
    assert np.all(boxes[0, :3] >= moved.min(axis=0) - 0.51) and np.all(boxes[0, 3:] <= moved.max(axis=0) + 0.51)
    # Corners of a turned block taper: the box of its voxels may fall short of them, but not by more than the taper.
    assert np.all(boxes[0, :3] <= moved.min(axis=0) + 2.5) and np.all(boxes[0, 3:] >= moved.max(axis=0) - 2.5)


def test_flips_mirror_boxes_exactly() -> None:
    instances = np.zeros((20, 20, 20), np.uint8)
    instances[2:5, 6:7, 11:18] = 1
    affine = AffineMap(np.array([10.0, 10, 10]), flip(-1, 1, -1), interpolate=False)
    _, labels = read_window(np.zeros((1, 20, 20, 20), np.float32), instances, affine, (20, 20, 20))
    assert boxes_from_instances(labels)[1].tolist() == [[15, 6, 2, 18, 7, 9]]


def test_image_and_labels_move_together() -> None:
    instances = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(24, 24, 24)), 2) > 0.1
    image = instances[None].astype(np.float32)
    seen, labels = read_window(image, instances.astype(np.uint8), draw_rotation(4, center=(12, 12, 12)), (16, 16, 16))
    # Half-way between two voxels, linear interpolation crosses 0.5 about where the nearest voxel changes.
    assert np.mean((seen[0] > 0.5) == (labels > 0)) > 0.95


def test_without_zoom_and_flips_the_map_is_the_identity() -> None:
    affine = draw_affine((4, 5, 6), (1, 1, 1), 100, AugmentationTable(), np.random.default_rng(0), mirror_axes=())
    assert not affine.interpolate
    np.testing.assert_array_equal(affine.matrix, np.eye(3))
    assert affine.center.tolist() == [4, 5, 6]


def test_all_eight_flips_are_drawn() -> None:
    random = np.random.default_rng(0)
    drawn = [draw_affine((0, 0, 0), (1, 1, 1), 10**9, STRONG, random) for _ in range(200)]
    assert {tuple(np.diag(affine.matrix)) for affine in drawn} == {
        (z, y, x) for z in (-1.0, 1.0) for y in (-1.0, 1.0) for x in (-1.0, 1.0)
    }


def test_large_volumes_are_not_interpolated() -> None:
    random = np.random.default_rng(0)
    assert not any(draw_affine((0, 0, 0), (1, 1, 1), 8_000_001, STRONG, random).interpolate for _ in range(50))


@given(st.integers(0, 10_000), st.tuples(*[st.floats(0.3, 6)] * 3))
def test_rotations_are_rigid_in_millimetres(seed: int, spacing: tuple[float, float, float]) -> None:
    affine = draw_rotation(seed, spacing)
    in_mm = np.diag(spacing) @ affine.matrix @ np.diag(1 / np.asarray(spacing))
    scale = abs(np.linalg.det(in_mm)) ** (1 / 3)
    assert 0.85 - 1e-9 <= scale <= 1.18 + 1e-9
    np.testing.assert_allclose(in_mm @ in_mm.T, scale**2 * np.eye(3), atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_coarse_axis_is_not_turned(seed: int) -> None:
    matrix = draw_rotation(seed, (5.0, 1.0, 1.0)).matrix
    assert matrix[0, 1] == matrix[0, 2] == matrix[1, 0] == matrix[2, 0] == 0
    assert matrix[1, 2] != 0


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_the_source_region_holds_every_sample(seed: int) -> None:
    affine, window = draw_rotation(seed), (8, 9, 10)
    low, high = source_region(affine, window)
    half = np.asarray(window) / 2
    corners = np.stack(np.meshgrid(*[[0.5 - h, h - 0.5] for h in half], indexing="ij"), axis=-1).reshape(-1, 3)
    samples = corners @ affine.matrix.T + affine.center - 0.5  # in voxel centres, as linear interpolation counts
    assert np.all(low <= np.floor(samples.min(axis=0))) and np.all(high >= np.floor(samples.max(axis=0)) + 2)


def test_without_zoom_windows_are_flipped_only() -> None:
    random = np.random.default_rng(0)
    maps = [draw_affine((4, 5, 6), (1, 1, 1), 100, AugmentationTable(), random) for _ in range(50)]
    assert not any(affine.interpolate for affine in maps)
    assert len({tuple(np.diag(affine.matrix)) for affine in maps}) == 8


@pytest.mark.parametrize("axes", [(), (1,), (0, 2)])
def test_windows_are_flipped_along_the_axes_asked_for(axes: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    maps = [draw_affine((4, 5, 6), (1, 1, 1), 100, AugmentationTable(), random, axes) for _ in range(60)]
    flipped = {axis for affine in maps for axis in range(3) if affine.matrix[axis, axis] < 0}
    assert flipped == set(axes)


def test_the_axes_that_may_be_flipped_change_nothing_else() -> None:
    def draw(axes: tuple[int, ...]) -> np.ndarray:
        random = np.random.default_rng(4)
        return np.array([np.abs(draw_affine((4, 5, 6), (1, 1, 1), 9, STRONG, random, axes).matrix) for _ in "many"])

    np.testing.assert_array_equal(draw(()), draw((0, 1, 2)))


def test_as_many_windows_are_zoomed_as_the_table_says() -> None:
    random = np.random.default_rng(0)
    table = AugmentationTable(zoom=Change(0.4, 0.85, 1.18))
    maps = [draw_affine((4, 5, 6), (1, 1, 1), 100, table, random) for _ in range(300)]
    assert 90 < sum(affine.interpolate for affine in maps) < 150


@given(st.integers(0, 10_000))
def test_each_axis_is_stretched_within_its_range(seed: int) -> None:
    table = AugmentationTable(zoom=Change(1, 0.5, 2), stretch=1.1)
    matrix = draw_affine((4, 5, 6), (1, 1, 1), 100, table, np.random.default_rng(seed), ()).matrix
    scales = np.diag(matrix)
    assert np.count_nonzero(matrix) == 3
    assert scales.max() / scales.min() <= 1.1**2 + 1e-9
    assert scales.min() >= 0.5 / 1.1 and scales.max() <= 2 * 1.1


def lesions_inside(instances: np.ndarray, affine: AffineMap, window: tuple[int, ...]) -> set[int]:
    """Ids whose box has its middle in the window, and the window's place of a voxel, each by brute force."""
    inverse = np.linalg.inv(affine.matrix)
    found = set()
    for lesion in set(np.unique(instances).tolist()) - {0}:
        voxels = np.argwhere(instances == lesion)
        middle = (voxels.min(axis=0) + voxels.max(axis=0) + 1) / 2
        place = inverse @ (middle - affine.center) + np.asarray(window) / 2
        if np.all((place >= 0) & (place < window)):
            found.add(int(lesion))
    return found


def one_slice_lesions(axis: int, radius: int) -> np.ndarray:
    """A volume with discs of one slice, or of a voxel, that lie apart from each other."""
    instances = np.zeros((20, 40, 40), np.int32)
    offsets = np.indices((2 * radius + 1,) * 2) - radius
    disc = (offsets**2).sum(axis=0) <= radius**2
    shape = np.insert(disc.shape, axis, 1)
    number = 0
    for z in range(3, 20 - shape[0], 2 + shape[0]):
        for y in range(4, 40 - shape[1], 4 + shape[1]):
            for x in range(4, 40 - shape[2], 4 + shape[2]):
                number += 1
                region = tuple(slice(a, a + n) for a, n in zip((z, y, x), shape, strict=True))
                instances[region] = number * np.expand_dims(disc, axis)
    return instances


@pytest.mark.parametrize("radius", [0, 1, 3, 6])
@pytest.mark.parametrize(("axis", "spacing"), [(0, (5.0, 1.0, 1.0)), (2, (1.0, 1.0, 4.0)), (1, (1.0, 1.0, 1.0))])
def test_no_lesion_of_one_slice_vanishes(axis: int, spacing: tuple[float, float, float], radius: int) -> None:
    instances = one_slice_lesions(axis, radius)
    image, random, window = np.zeros((1, *instances.shape), np.float32), np.random.default_rng(radius), (12, 32, 32)
    seen = interpolated = 0
    while interpolated < 4:
        center = np.floor(random.uniform((7, 16, 16), (13, 24, 24)))
        affine = draw_affine(center, spacing, 12 * 32 * 32, ALWAYS, random)
        interpolated += affine.interpolate
        labels = read_window(image, instances, affine, window)[1]
        expected = lesions_inside(instances, affine, window)
        assert expected <= set(np.unique(labels).tolist())
        seen += len(expected)
    assert seen > 0


def test_a_lesion_between_two_samples_has_the_nearest_of_its_slices() -> None:
    instances = np.zeros((8, 12, 12), np.int32)
    instances[4, 3:9, 3:9] = 2
    # The samples lie at 3.4 and 5.1 voxels along z, so that the nearest slices are 3 and 5.
    affine = AffineMap(np.array([4.25, 6.0, 6.0]), np.diag([1.7, 1.0, 1.0]), True)
    labels = read_window(np.zeros((1, 8, 12, 12), np.float32), instances, affine, (2, 12, 12))[1]
    # The slices' middles are at 4.5 ± 0.85 - 0.25 edges: the upper one covers the lesion more.
    middles = np.array([4.25 - 0.85, 4.25 + 0.85])
    nearest = int(np.abs(middles - 4.5).argmin())
    assert np.array_equal(labels[nearest] == 2, instances[4] == 2)


def test_a_lesion_without_free_voxels_takes_one_of_another_lesion() -> None:
    result = np.array([[[1, 1, 3]]], np.int32)
    affine_module._restore(result, 2, np.array([[[0.0, 0.2, 0.9]]], np.float32))
    assert result.tolist() == [[[1, 2, 3]]], "the last voxel of lesion 3 stays"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flipped_windows_of_one_slice_reach_torch(axis: int) -> None:
    shape = tuple(1 if other == axis else 8 for other in range(3))
    image, instances = np.ones((1, *shape), np.float32), np.ones(shape, np.int32)
    affine = AffineMap(np.asarray(shape) / 2, flip(*(-1 if other == axis else 1 for other in range(3))), False)
    window, labels = read_window(image, instances, affine, shape)
    assert torch.from_numpy(window).shape == (1, *shape)
    assert torch.from_numpy(labels).shape == shape
