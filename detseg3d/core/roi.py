"""RoI geometry: which part of the volume a box shows, how it is cropped to a cube and how a cube is put back.

An RoI is a box (see :mod:`detseg3d.core.boxes`) sampled at ``size`` points per axis, each at the middle of one of
``size`` equal cells. Cropping is separable linear interpolation: one small matrix per axis. Putting back is its
least-squares inverse, so what cropping magnified comes back exactly, down to an isolated voxel, which interpolating
a second time would blur away (at a magnification of 2 an isolated voxel would come back as 0.75³ = 0.42). If an RoI
has about as few samples as voxels, or fewer, the exact inverse amplifies what is not consistent with any volume, as a
mask that is surer of itself than the voxels allow. For such a mask the inverse is held near linear interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from detseg3d.core.arrays import Triple
from detseg3d.core.boxes import as_boxes

__all__ = [
    "apply_separable",
    "box_indicator",
    "box_shares",
    "crop_features",
    "crop_matrix",
    "crop_plan",
    "crop_rois",
    "inside_volume",
    "paste_matrix",
    "paste_region",
    "paste_roi",
    "sample_positions",
    "voxel_range",
]


# Weight of the penalty on second differences in the exact inverse. It only matters where the RoI has fewer samples than
# the volume has voxels, where it decides what lies between the samples; elsewhere it is far below the data term.
_EXACT_SMOOTHNESS = 1e-4
# The penalty of the bounded inverse by voxels per sample: its weight, and the share of it that is on the departure
# from linear interpolation. Chosen so that confident masks of ellipsoids come back as well as by that. At one
# voxel per sample little else is safe; from 1.25 on linear interpolation of a hard mask is the poorer one.
_PENALTY_SCALES = (0.5, 0.75, 1.0, 1.05, 1.13, 1.25, 2.0, 3.0)
_PENALTY_WEIGHTS = (0.004, 0.1, 1.0, 0.4, 0.1, 0.1, 0.3, 1.0)
_PENALTY_LINEAR_SHARES = (1.0, 1.0, 1.0, 0.8, 0.5, 0.0, 0.0, 0.0)
# Below so many voxels per sample along every axis the exact inverse amplifies too little to harm.
_FINE = 0.6
# Values outside [0, 1] per unit of edge: up to the first the exact inverse is taken, from the second on the bounded.
# Soft masks reach 0.16 (at 2 voxels per sample, where both inverses are as good), confident ones 0.2 to 2.
_CONSISTENT, _INCONSISTENT = 0.14, 0.2


def sample_positions(low: float, high: float, samples: int) -> npt.NDArray[np.float64]:
    """Positions (voxel edges) of the ``samples`` sample points of an RoI axis: the middles of equal cells.

    Examples
    --------
    >>> sample_positions(2, 6, 2).tolist()
    [3.0, 5.0]
    """
    return np.asarray(low + (np.arange(samples) + 0.5) * ((high - low) / samples), np.float64)


def voxel_range(low: float, high: float, length: int) -> tuple[int, int]:
    """First voxel and end of the voxels that linear interpolation within ``[low, high]`` reads; never empty.

    Examples
    --------
    >>> voxel_range(1.2, 2.2, 10)
    (0, 3)
    """
    first = int(np.floor(low - 0.5))
    end = int(np.floor(high - 0.5)) + 2
    first = min(max(first, 0), length - 1)
    return first, max(min(end, length), first + 1)


def crop_matrix(low: float, high: float, samples: int, first: int, end: int) -> npt.NDArray[np.float64]:
    """Linear interpolation from voxels ``first .. end - 1`` to the sample points of ``[low, high]``.

    Where a sample stands for more than one voxel, it is the mean over its cell (several interpolated points), so
    that nothing between the samples is skipped. Beyond the range the outermost voxel is repeated.

    Returns
    -------
    ndarray of float64, shape ``(samples, end - first)``
        Every row sums to 1.
    """
    points_per_sample = max(1, int(np.ceil((high - low) / samples - 1e-6)))
    points = sample_positions(low, high, samples * points_per_sample) - 0.5 - first
    points = np.clip(points, 0, end - first - 1)
    weights = np.maximum(1 - np.abs(points[:, None] - np.arange(end - first)), 0)
    mean: npt.NDArray[np.float64] = weights.reshape(samples, points_per_sample, -1).mean(axis=1)
    return mean


def paste_matrix(
    low: float, high: float, samples: int, length: int, bounded: bool = True
) -> tuple[npt.NDArray[np.float64], int, int]:
    """Least-squares inverse of cropping along one axis.

    The voxel values are those whose linear interpolation explains the samples best, with a small penalty on their
    second differences (a smoothing spline; Reinsch 1967), which decides where samples are fewer than voxels. Samples
    outside the volume do not count.

    With about one voxel per sample, samples do not determine voxels: one between two voxels sees only their mean. The
    exact inverse amplifies an error there up to 19 times. The bounded one has a larger penalty: on second differences
    of the voxel values, and on those of what the voxel values add to linear interpolation of the samples. Its penalty
    falls with the voxels per sample, so that both inverses agree where an RoI magnifies.

    Parameters
    ----------
    low, high : float
        Where the RoI lies, in voxel edges.
    samples : int
    length : int
        Voxels of the volume.
    bounded : bool, optional

    Returns
    -------
    matrix : ndarray of float64, shape ``(end - first, samples)``
        Every row sums to 1.
    first, end : int
        The voxels whose centre lies inside ``[low, high)`` and inside the volume; ``first == end`` if there are none.
    """
    first, end = _centers_within(low, high, length)
    if end == first:
        return np.zeros((0, samples)), first, first
    read_first, read_end = voxel_range(low, high, length)
    points = sample_positions(low, high, samples)
    used = int((points < 0).sum()), int((points < length).sum())
    if used[0] == used[1]:
        used = 0, samples
    inverse = _inverse(low - read_first, high - read_first, samples, read_end - read_first, used, bounded)
    return inverse[first - read_first : end - read_first], first, end


def _centers_within(low: float, high: float, length: int) -> tuple[int, int]:
    """First voxel and end of the voxels of an axis whose centre lies in ``[low, high)``; equal if there are none."""
    first = max(int(np.ceil(low - 0.5)), 0)
    return first, max(min(int(np.ceil(high - 0.5)), length), first)


@lru_cache(maxsize=512)  # up to 50 kB each
def _inverse(
    low: float, high: float, samples: int, voxels: int, used: tuple[int, int], bounded: bool
) -> npt.NDArray[np.float64]:
    """Inverse from the samples ``used[0] .. used[1] - 1``; the others have columns of zeros. Shared, so read-only."""
    forward = crop_matrix(low, high, samples, 0, voxels)
    # Samples outside the volume all repeat its border voxel: they would outvote the few that lie within it, and
    # Stage 2, whose loss has no weight there, may say anything.
    forward[: used[0]] = forward[used[1] :] = 0
    second = np.diff(np.eye(voxels), n=2, axis=0) if voxels > 2 else np.zeros((0, voxels))
    weight, share = _penalty((high - low) / samples) if bounded else (_EXACT_SMOOTHNESS, 0.0)
    penalty = weight * second.T @ second
    towards_linear = share * penalty @ _linear_matrix(low, high, samples, voxels, used)
    # A voxel beyond every sample is tied to its neighbour; without this the system could be singular.
    first = np.diff(np.eye(voxels), axis=0)
    system = forward.T @ forward + penalty + (1e-7 if bounded else 1e-8) * (first.T @ first)
    inverse = np.asarray(np.linalg.solve(system, forward.T + towards_linear), np.float64)
    inverse.setflags(write=False)
    return inverse


def _penalty(voxels_per_sample: float) -> tuple[float, float]:
    """Penalty of the bounded inverse: weight, and share of it that is on the departure from linear interpolation."""
    weight = np.exp(np.interp(voxels_per_sample, _PENALTY_SCALES, np.log(_PENALTY_WEIGHTS)))
    return float(weight), float(np.interp(voxels_per_sample, _PENALTY_SCALES, _PENALTY_LINEAR_SHARES))


def _linear_matrix(
    low: float, high: float, samples: int, voxels: int, used: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Linear interpolation of the used samples at the voxels' centres; beyond them the outermost is repeated."""
    places = (np.arange(voxels) + 0.5 - low) * (samples / (high - low)) - 0.5
    places = np.clip(places, used[0], used[1] - 1)
    return np.asarray(np.maximum(1 - np.abs(places[:, None] - np.arange(samples)), 0), np.float64)


def crop_rois(volume: torch.Tensor, rois: npt.ArrayLike, size: Triple) -> torch.Tensor:
    """Crop RoIs from one volume and magnify (or shrink) each to ``size`` samples.

    Parameters
    ----------
    volume : Tensor, shape ``(C, Z, Y, X)``
        Any floating dtype; computed in float32.
    rois : array_like, shape ``(N, 6)``
        In voxel edges of the volume; may reach beyond it (the border is repeated).
    size : tuple of 3 ints
        Samples ``(z, y, x)`` of each crop.

    Returns
    -------
    Tensor of float32, shape ``(N, C, *size)``
    """
    crops = volume.new_empty((len(as_boxes(rois)), volume.shape[0], *size), dtype=torch.float32)
    for index, roi in enumerate(as_boxes(rois)):
        region, matrices = crop_plan(roi, volume.shape[1:], size)
        block = volume[(slice(None), *region)].float()
        crops[index] = apply_separable(block, [matrix.to(block) for matrix in matrices])
    return crops


def crop_plan(
    roi: npt.ArrayLike, shape: Sequence[int], size: Triple
) -> tuple[tuple[slice, slice, slice], list[torch.Tensor]]:
    """What cropping one RoI reads and computes: the region of the volume and one matrix per axis.

    For callers that build the block to crop only where it is needed, such as the mask of a single instance.
    """
    box = as_boxes(np.asarray(roi).reshape(1, 6))[0]
    ranges = [voxel_range(float(box[a]), float(box[a + 3]), shape[a]) for a in range(3)]
    matrices = [
        torch.from_numpy(crop_matrix(float(box[a]), float(box[a + 3]), size[a], *ranges[a])).float() for a in range(3)
    ]
    z, y, x = (slice(*voxels) for voxels in ranges)
    return (z, y, x), matrices


def apply_separable(block: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Apply one matrix per spatial axis to ``(C, Z, Y, X)``: plain matrix products, nothing is transposed or copied.

    In the dtype of ``block`` also where autocast would take a half precision: training and prediction see one picture.

    Parameters
    ----------
    block : Tensor, shape ``(C, Z, Y, X)``
    matrices : sequence of 3 Tensors, shapes ``(z, Z)``, ``(y, Y)``, ``(x, X)``

    Returns
    -------
    Tensor, shape ``(C, z, y, x)``
    """
    along_z, along_y, along_x = matrices
    channels, _, length_y, length_x = block.shape
    with torch.autocast(block.device.type, enabled=False):
        block = torch.matmul(along_z, block.flatten(2)).reshape(channels, -1, length_y, length_x)
        block = torch.matmul(along_y, block)
        return torch.matmul(block, along_x.T)


def crop_features(features: torch.Tensor, rois: torch.Tensor, size: Triple) -> torch.Tensor:
    """Crop RoIs from a feature map by trilinear sampling, differentiable with respect to the map.

    One call of ``grid_sample`` for all RoIs: its backward pass fills one gradient map, where slicing would fill one
    for every RoI.

    Parameters
    ----------
    features : Tensor, shape ``(C, Z, Y, X)``
    rois : Tensor, shape ``(N, 6)``
        In voxel edges of the map (cells); positions beyond the map repeat its border.
    size : tuple of 3 ints

    Returns
    -------
    Tensor, shape ``(N, C, *size)``, dtype of ``features``
    """
    count = rois.shape[0]
    if count == 0:
        return features.new_zeros((0, features.shape[0], *size))
    rois = rois.to(device=features.device, dtype=torch.float32)
    axes = []
    for axis in range(3):
        steps = (torch.arange(size[axis], device=features.device) + 0.5) / size[axis]
        low, high = rois[:, axis, None], rois[:, axis + 3, None]
        axes.append((low + steps * (high - low)) / features.shape[axis + 1] * 2 - 1)
    z, y, x = axes
    grid = torch.stack(
        [
            x[:, None, None, :].expand(count, *size),
            y[:, None, :, None].expand(count, *size),
            z[:, :, None, None].expand(count, *size),
        ],
        dim=-1,
    )
    flat = grid.reshape(1, count * size[0], size[1], size[2], 3)
    sampled = functional.grid_sample(
        features[None].float(), flat, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.reshape(features.shape[0], count, *size).transpose(0, 1).to(features.dtype)


def box_indicator(boxes: npt.ArrayLike, rois: npt.ArrayLike, size: Triple) -> torch.Tensor:
    """Share of each RoI sample's cell that lies inside the box: tells Stage 2 which thing is meant.

    Returns
    -------
    Tensor of float32, shape ``(N, 1, *size)``, values in [0, 1]

    Examples
    --------
    >>> box_indicator([[1, 0, 0, 2, 4, 4]], [[0, 0, 0, 4, 4, 4]], (4, 1, 1)).flatten().tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    return _outer(*box_shares(boxes, rois, size))


def box_shares(
    boxes: npt.ArrayLike, rois: npt.ArrayLike, size: Triple
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """:func:`box_indicator` along each axis; their product is the share of a cell.

    Returns
    -------
    tuple of 3 ndarrays, shapes ``(N, size[0])``, ``(N, size[1])``, ``(N, size[2])``
    """
    inside = []
    a, r = as_boxes(boxes), as_boxes(rois)
    for axis in range(3):
        step = (r[:, axis + 3] - r[:, axis]) / size[axis]
        edges = r[:, axis, None] + np.arange(size[axis] + 1) * step[:, None]
        overlap = np.minimum(edges[:, 1:], a[:, axis + 3, None]) - np.maximum(edges[:, :-1], a[:, axis, None])
        inside.append((np.clip(overlap, 0, None) / np.maximum(step[:, None], 1e-6)).astype(np.float32))
    return inside[0], inside[1], inside[2]


def inside_volume(rois: npt.ArrayLike, shape: Sequence[int], size: Triple) -> torch.Tensor:
    """1 where an RoI sample lies inside the volume, else 0.

    Returns
    -------
    Tensor of float32, shape ``(N, 1, *size)``
    """
    array = as_boxes(rois)
    axes = []
    for axis in range(3):
        steps = (np.arange(size[axis]) + 0.5) / size[axis]
        points = array[:, axis, None] + steps * (array[:, axis + 3, None] - array[:, axis, None])
        axes.append(((points >= 0) & (points < shape[axis])).astype(np.float32))
    return _outer(*axes)


def _outer(z: npt.NDArray[np.float32], y: npt.NDArray[np.float32], x: npt.NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :])[:, None]


def paste_roi(
    cube: torch.Tensor, roi: npt.ArrayLike, shape: Sequence[int]
) -> tuple[torch.Tensor, tuple[slice, slice, slice]]:
    """Put the probabilities of an RoI back onto the voxel grid of a volume: the inverse of :func:`crop_rois`.

    A soft mask, whose values are shares of voxels, comes back exactly. A mask that no volume explains makes the exact
    inverse ring, far outside [0, 1]; the more of that, the more the bounded inverse counts (see :func:`paste_matrix`).

    Parameters
    ----------
    cube : Tensor, shape ``(C, z, y, x)``
        Probabilities at the RoI's samples.
    roi : array_like, shape ``(6,)``
        Where the cube came from, in voxel edges of the volume (any grid of the same space will do).
    shape : sequence of 3 ints
        Shape ``(Z, Y, X)`` of the volume.

    Returns
    -------
    values : Tensor of float32, shape ``(C, z', y', x')``
        At the voxels whose centre lies inside the RoI; may slightly exceed the range of the cube.
    region : tuple of 3 slices
        Where they belong.
    """
    exact, region = _paste(cube, roi, shape, bounded=False)
    spans = [(high - low) / samples for (low, high), samples in zip(_rounded(roi), cube.shape[1:], strict=True)]
    if max(spans) < _FINE or exact.numel() == 0:
        return exact, region
    bounded, _ = _paste(cube, roi, shape, bounded=True)
    weight = _consistency(exact, bounded)
    return torch.lerp(bounded, exact, weight), region


def _paste(
    cube: torch.Tensor, roi: npt.ArrayLike, shape: Sequence[int], bounded: bool
) -> tuple[torch.Tensor, tuple[slice, slice, slice]]:
    """One of the two inverses of cropping, along all three axes."""
    matrices, region = [], []
    for axis, (low, high) in enumerate(_rounded(roi)):
        matrix, first, end = paste_matrix(low, high, cube.shape[axis + 1], shape[axis], bounded)
        matrices.append(torch.tensor(matrix, dtype=torch.float32, device=cube.device))
        region.append(slice(first, end))
    return apply_separable(cube.float(), matrices), (region[0], region[1], region[2])


def _consistency(exact: torch.Tensor, bounded: torch.Tensor) -> torch.Tensor:
    """How far each channel can be trusted to be a soft mask, ``(C, 1, 1, 1)`` from 0 to 1.

    The exact inverse of a soft mask stays within [0, 1]. What lies outside is compared with the edge of the mask (its
    total variation), along which it arises, so that masks of all sizes are judged alike.
    """
    excess = (exact - exact.clamp(0, 1)).abs().sum(dim=(1, 2, 3), keepdim=True)
    mask = bounded.clamp(0, 1)
    edges = [mask.diff(dim=axis).abs().sum(dim=(1, 2, 3), keepdim=True) for axis in (1, 2, 3)]
    edge = torch.stack(edges).sum(dim=0).clamp(min=1)
    return ((_INCONSISTENT - excess / edge) / (_INCONSISTENT - _CONSISTENT)).clamp(0, 1)


def paste_region(roi: npt.ArrayLike, shape: Sequence[int]) -> tuple[slice, slice, slice]:
    """Where :func:`paste_roi` puts an RoI, without putting it there.

    Parameters
    ----------
    roi : array_like, shape ``(6,)``
        Voxel edges ``z0 y0 x0 z1 y1 x1``.
    shape : sequence of 3 ints
        Shape ``(Z, Y, X)`` of the volume.

    Returns
    -------
    tuple of 3 slices
        The voxels whose centre lies inside the RoI; empty along an axis for an RoI outside the volume.

    Examples
    --------
    >>> paste_region([0, 0.6, -2, 1, 2, 9], (1, 4, 4))
    (slice(0, 1, None), slice(1, 2, None), slice(0, 4, None))
    """
    z, y, x = (
        slice(*_centers_within(low, high, length)) for (low, high), length in zip(_rounded(roi), shape, strict=True)
    )
    return z, y, x


def _rounded(roi: npt.ArrayLike) -> list[tuple[float, float]]:
    """Both ends of an RoI along each axis; rounded to a 1024th of a voxel, equal placements share one factorisation."""
    box = as_boxes(np.asarray(roi).reshape(1, 6))[0]
    return [(round(float(box[axis]) * 1024) / 1024, round(float(box[axis + 3]) * 1024) / 1024) for axis in range(3)]
