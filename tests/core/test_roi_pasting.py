"""Pasting of masks: soft masks are restored exactly, and hard masks as well as by linear interpolation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from detseg3d.core.arrays import Triple
from detseg3d.core.roi import crop_rois, paste_matrix, paste_region, paste_roi

SCALES = [0.5, 0.65, 0.8, 0.9, 0.97, 1.0, 1.05, 1.13, 1.25, 1.4, 1.5, 1.75, 2.0]


def ellipsoid(random: np.random.Generator, extent: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """A solid ellipsoid near the middle of a volume that is larger than an RoI of this extent (voxels)."""
    shape = (extent + 12).astype(int)
    axes = extent * random.uniform(0.22, 0.3, 3)
    offset = np.moveaxis(np.indices(shape), 0, -1) + 0.5 - shape / 2 - random.uniform(-0.5, 0.5, 3)
    return ((offset / axes) ** 2).sum(axis=-1) <= 1


def roi_around(
    random: np.random.Generator, mask: npt.NDArray[np.bool_], extent: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    where = np.argwhere(mask)
    middle = (where.min(axis=0) + where.max(axis=0) + 1) / 2 + random.uniform(-0.5, 0.5, 3)
    return np.round(np.concatenate([middle - extent / 2, middle + extent / 2]) * 1024) / 1024


def dice(values: npt.NDArray[np.floating], region: tuple[slice, slice, slice], mask: npt.NDArray[np.bool_]) -> float:
    pasted = values >= 0.5
    return float(2 * (pasted & mask[region]).sum() / (pasted.sum() + mask.sum()))


def linear(cube: torch.Tensor, roi: npt.NDArray[np.float64], shape: Triple) -> npt.NDArray[np.float64]:
    """Plain linear interpolation of the samples at the centres of the voxels."""
    values = cube[0].double().numpy()
    for axis, voxels in enumerate(paste_region(roi, shape)):
        samples = values.shape[axis]
        places = (np.arange(voxels.start, voxels.stop) + 0.5 - roi[axis]) / (roi[axis + 3] - roi[axis]) * samples - 0.5
        weights = np.maximum(1 - np.abs(np.clip(places, 0, samples - 1)[:, None] - np.arange(samples)), 0)
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return values


def exact(cube: torch.Tensor, roi: npt.NDArray[np.float64], shape: Triple) -> npt.NDArray[np.float64]:
    """Paste with the exact inverse only."""
    values = cube[0].double().numpy()
    for axis in range(3):
        matrix = paste_matrix(roi[axis], roi[axis + 3], values.shape[axis], shape[axis], bounded=False)[0]
        values = np.moveaxis(np.tensordot(matrix, values, axes=(1, axis)), 0, axis)
    return values


def compare(scale: tuple[float, float, float], size: Triple, scenes: int = 8) -> tuple[float, float, float]:
    """Return the mean Dice minus the reference: the exact inverse for soft masks, linear for hard masks."""
    differences = np.zeros((scenes, 3))
    for scene in range(scenes):
        random = np.random.default_rng([scene, *size])
        extent = np.array(scale) * size
        mask = ellipsoid(random, extent)
        roi, shape = roi_around(random, mask, extent), (mask.shape[0], mask.shape[1], mask.shape[2])
        share = crop_rois(torch.from_numpy(mask.astype(np.float32))[None], roi[None], size)[0]
        answers = (share, torch.sigmoid(20 * (share - 0.5)), (share >= 0.5).float())
        for column, (answer, reference) in enumerate(zip(answers, (exact, linear, linear), strict=True)):
            cube = answer.half().float()
            values, region = paste_roi(cube, roi, shape)
            differences[scene, column] = dice(values[0].numpy(), region, mask) - dice(
                reference(cube, roi, shape), region, mask
            )
    soft, confident, hard = differences.mean(axis=0)
    return float(soft), float(confident), float(hard)


@pytest.mark.parametrize("size", [(12, 12, 12), (20, 20, 20)], ids=str)
@pytest.mark.parametrize("scale", SCALES)
def test_soft_masks_are_restored_exactly_and_hard_masks_as_well_as_by_linear_interpolation(
    scale: float, size: Triple
) -> None:
    soft, confident, hard = compare((scale, scale, scale), size)
    assert soft >= -0.0005
    assert confident >= -0.002
    assert hard >= -0.002


@pytest.mark.parametrize(
    ("scale", "size"),
    [
        ((2.0, 0.5, 1.0), (8, 24, 24)),
        ((1.0, 1.5, 1.5), (8, 28, 28)),
        ((0.5, 1.75, 1.2), (16, 16, 16)),
        ((1.25, 0.75, 1.0), (12, 20, 16)),
        ((1.0, 2.0, 2.0), (8, 20, 20)),
    ],
)
def test_soft_and_hard_masks_of_anisotropic_rois_are_restored(scale: tuple[float, float, float], size: Triple) -> None:
    soft, confident, hard = compare(scale, size)
    assert soft >= -0.0005
    assert confident >= -0.002
    # If samples lie halfway between two slices, linear interpolation of 0 and 1 gives exactly the threshold. Rounding
    # then decides whether one slice of a lesion of four slices is inside.
    assert hard >= -0.01


@pytest.mark.parametrize("scale", SCALES)
def test_the_gain_of_the_bounded_inverse_is_bounded(scale: float) -> None:
    # The largest sum of absolute weights is the worst overshoot of values in [0, 1].
    rows = [
        np.abs(paste_matrix(40 + phase, 40 + phase + 24 * scale, 24, 200)[0]).sum(axis=1).max()
        for phase in np.linspace(0, 1, 16, endpoint=False)
    ]
    assert max(rows) < 3


def test_the_gain_of_the_exact_inverse_is_not_bounded() -> None:
    # This amplification is the reason for the bounded inverse.
    assert np.abs(paste_matrix(40.5, 64.5, 24, 200, bounded=False)[0]).sum(axis=1).max() > 10


def test_each_channel_has_a_separate_weight_of_the_exact_inverse() -> None:
    random = np.random.default_rng(3)
    mask = ellipsoid(random, np.full(3, 16.0))
    roi, shape = roi_around(random, mask, np.full(3, 16.0)), (mask.shape[0], mask.shape[1], mask.shape[2])
    share = crop_rois(torch.from_numpy(mask.astype(np.float32))[None], roi[None], (16, 16, 16))[0]
    hard = (share >= 0.5).float()
    together, _ = paste_roi(torch.cat([share, hard]), roi, shape)
    for channel, alone in enumerate((share, hard)):
        torch.testing.assert_close(together[channel : channel + 1], paste_roi(alone, roi, shape)[0])
