from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from detseg3d.preprocessing.instances import resample_instances


def scattered(seed: int, shape: tuple[int, int, int], count: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    instances = np.zeros(shape, np.int32)
    for lesion in range(1, count + 1):
        low = [random.integers(0, n) for n in shape]
        instances[tuple(slice(a, a + random.integers(1, 5)) for a in low)] = lesion
    return instances


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.tuples(*[st.integers(4, 20)] * 3))
def test_no_lesion_vanishes_and_no_lesion_appears(seed: int, new_shape: tuple[int, int, int]) -> None:
    instances = scattered(seed, (14, 15, 16), 30)
    resampled, rescued = resample_instances(instances, new_shape)
    assert resampled.shape == new_shape
    assert resampled.dtype == instances.dtype
    assert np.array_equal(np.unique(resampled), np.unique(instances))
    assert all((resampled == lesion).sum() == 1 for lesion in rescued)


def test_isolated_lesions_agree_with_a_threshold_of_the_interpolated_mask() -> None:
    instances = np.zeros((12, 14, 16), np.int32)
    instances[2:5, 2:6, 3:5] = 1
    instances[7:11, 8:12, 8:15] = 2
    resampled, rescued = resample_instances(instances, (17, 22, 30))
    for lesion in (1, 2):
        mask = torch.from_numpy((instances == lesion).astype(np.float32))[None, None]
        share = functional.interpolate(mask, (17, 22, 30), mode="trilinear", align_corners=False)[0, 0].numpy()
        assert np.array_equal(resampled == lesion, share >= 0.5 - 1e-5)
    assert rescued == []


def test_volume_is_kept_when_refining() -> None:
    instances = np.zeros((20, 20, 20), np.int32)
    z, y, x = np.ogrid[:20, :20, :20]
    instances[(z - 9) ** 2 + (y - 10) ** 2 + (x - 8) ** 2 <= 25] = 1
    resampled, _ = resample_instances(instances, (40, 40, 40))
    assert (resampled > 0).sum() / 8 == pytest.approx((instances > 0).sum(), rel=0.03)


def test_touching_lesions_leave_no_gap() -> None:
    instances = np.zeros((6, 6, 6), np.int32)
    instances[:, :, :3], instances[:, :, 3:] = 1, 2
    resampled, _ = resample_instances(instances, (9, 9, 9))
    assert (resampled > 0).all()
    assert (resampled[:, :, :4] == 1).all()
    assert (resampled[:, :, 5:] == 2).all()


@pytest.mark.parametrize("row", [[1, 1, 1, 2], [2, 2, 2, 1]])
def test_the_smaller_lesion_gets_a_voxel_claimed_equally(row: list[int]) -> None:
    resampled, _ = resample_instances(np.array([[row]], np.int32), (1, 1, 6))
    assert resampled[0, 0].tolist() == [row[0]] * 4 + [row[3]] * 2


def test_a_lost_lesion_keeps_the_voxel_that_it_covers_most() -> None:
    instances = np.zeros((9, 9, 9), np.int32)
    instances[4, 7, 1] = 5
    resampled, rescued = resample_instances(instances, (3, 3, 3))
    assert np.argwhere(resampled).tolist() == [[1, 2, 0]]
    assert rescued == [5]


def test_lost_lesions_that_covered_the_same_voxel_get_neighbours() -> None:
    instances = np.zeros((8, 8, 8), np.int32)
    instances[0, 0, 0], instances[2, 0, 0], instances[0, 2, 0], instances[0, 0, 2] = 1, 2, 3, 4
    resampled, rescued = resample_instances(instances, (2, 2, 2))
    assert rescued == [1, 2, 3, 4]
    assert sorted(resampled[resampled > 0].tolist()) == [1, 2, 3, 4]


def test_a_lost_lesion_may_take_a_voxel_of_a_large_lesion_but_not_the_last_voxel() -> None:
    instances = np.zeros((8, 8, 8), np.int32)
    instances[0:4, 0:4, 0:4] = 1
    instances[1, 1, 1] = 2
    resampled, rescued = resample_instances(instances, (2, 2, 2))
    assert rescued == [2]
    assert sorted(np.unique(resampled).tolist()) == [0, 1, 2]


def test_the_same_shape_costs_nothing() -> None:
    instances = scattered(0, (5, 6, 7), 4)
    resampled, rescued = resample_instances(instances, (5, 6, 7))
    assert resampled is instances
    assert rescued == []


def test_empty_map() -> None:
    resampled, rescued = resample_instances(np.zeros((4, 4, 4), np.uint16), (3, 5, 2))
    assert resampled.shape == (3, 5, 2)
    assert not resampled.any()
    assert rescued == []


def test_more_lesions_than_voxels() -> None:
    with pytest.raises(ValueError, match="27 lesions cannot lie on a grid of 8 voxels"):
        resample_instances(np.arange(1, 28, dtype=np.int32).reshape(3, 3, 3), (2, 2, 2))
