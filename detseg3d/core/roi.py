"""RoI geometry: cropping a region of a volume to a cube of samples, and pasting a cube back into the volume.

An RoI is a box (see :mod:`detseg3d.core.boxes`) that is sampled at ``size`` points per axis, at the centres of ``size``
equal cells. Cropping is separable linear interpolation with one small matrix per axis. Pasting is the least-squares
inverse of cropping. It restores a magnified region exactly, even an isolated voxel. A second interpolation would blur
such a voxel: at a magnification of 2, its value would become 0.75³ = 0.42.

If an RoI has about as many samples as voxels, or fewer, the exact inverse amplifies values that no volume can produce,
for example a mask with sharper edges than the voxels allow. For such a mask the inverse is kept close to linear
interpolation.
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


# Weight of the penalty on second differences in the exact inverse. If an RoI has fewer samples than voxels, the penalty
# determines the values between the samples. Otherwise the penalty is negligible beside the data term.
_EXACT_SMOOTHNESS = 1e-4
# Penalty of the bounded inverse, by voxels per sample: the weight of the penalty, and the fraction of the penalty that
# acts on the difference from linear interpolation. With these values, hard masks of ellipsoids are restored as well as
# by linear interpolation. At one voxel per sample, only results close to linear interpolation are safe. From 1.25
# voxels per sample on, linear interpolation of a hard mask is worse than the bounded inverse.
_PENALTY_SCALES = (0.5, 0.75, 1.0, 1.05, 1.13, 1.25, 2.0, 3.0)
_PENALTY_WEIGHTS = (0.004, 0.1, 1.0, 0.4, 0.1, 0.1, 0.3, 1.0)
_PENALTY_LINEAR_FRACTIONS = (1.0, 1.0, 1.0, 0.8, 0.5, 0.0, 0.0, 0.0)
# If an RoI has fewer voxels per sample than this along every axis, the amplification of the exact inverse is harmless.
_FINE = 0.6
# Limits of the sum of the excess outside [0, 1] per unit of edge. Up to the first limit, the exact inverse is used.
# From the second limit on, the bounded inverse is used. In between, both are mixed. Soft masks reach 0.16 (at 2 voxels
# per sample, where both inverses are equally good). Hard masks reach 0.2 to 2.
_CONSISTENT, _INCONSISTENT = 0.14, 0.2


def sample_positions(low: float, high: float, samples: int) -> npt.NDArray[np.float64]:
    """Return the positions of the sample points along one axis of an RoI: the centres of equal cells.

    All positions are coordinates of voxel edges: voxel ``i`` reaches from ``i`` to ``i + 1``.

    Parameters
    ----------
    low, high : float
        Ends of the RoI along the axis.
    samples : int
        Number of samples along the axis.

    Returns
    -------
    ndarray of float64, shape ``(samples,)``

    Examples
    --------
    >>> sample_positions(2, 6, 2).tolist()
    [3.0, 5.0]
    """
    return np.asarray(low + (np.arange(samples) + 0.5) * ((high - low) / samples), np.float64)


def voxel_range(low: float, high: float, length: int) -> tuple[int, int]:
    """Return the range of the voxels that linear interpolation between ``low`` and ``high`` reads.

    Parameters
    ----------
    low, high : float
        Ends of an interval along one axis, in voxel edges.
    length : int
        Number of voxels of the volume along the axis.

    Returns
    -------
    first, end : int
        The range ``first .. end - 1`` has at least one voxel.

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
    """Return the matrix of linear interpolation from voxels ``first .. end - 1`` to the samples of ``[low, high]``.

    If a sample covers more than one voxel, it is the mean of several interpolated points in its cell, so no voxel is
    skipped. Beyond the range, the outermost voxel is repeated.

    Parameters
    ----------
    low, high : float
        Ends of the RoI along one axis, in voxel edges.
    samples : int
        Number of samples along the axis.
    first, end : int
        Range of the voxels that are read, from :func:`voxel_range`.

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
    """Return the least-squares inverse of cropping along one axis.

    The resulting voxel values reproduce the samples best under linear interpolation, with a small penalty on second
    differences (a smoothing spline; Reinsch 1967). The penalty matters if an RoI has fewer samples than voxels. Samples
    outside the volume do not count.

    With about one voxel per sample, the samples do not determine the voxels: a sample between two voxels measures only
    their mean. There the exact inverse amplifies errors up to 19 times. The bounded inverse has a larger penalty, on
    second differences of the voxel values and of their difference from linear interpolation of the samples. The penalty
    is small if an RoI magnifies, so both inverses then agree.

    Parameters
    ----------
    low, high : float
        Ends of the RoI along the axis, in voxel edges.
    samples : int
        Samples of the RoI along the axis.
    length : int
        Voxels of the volume along the axis.
    bounded : bool, optional
        Return the bounded instead of the exact inverse.

    Returns
    -------
    matrix : ndarray of float64, shape ``(end - first, samples)``
        Every row sums to 1.
    first, end : int
        Range of the voxels with centres inside ``[low, high)`` and inside the volume; ``first == end`` if it is empty.
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
    """Return first and end of the range of voxels with centres in ``[low, high)``; the range may be empty."""
    first = max(int(np.ceil(low - 0.5)), 0)
    return first, max(min(int(np.ceil(high - 0.5)), length), first)


@lru_cache(maxsize=512)  # up to 50 kB each
def _inverse(
    low: float, high: float, samples: int, voxels: int, used: tuple[int, int], bounded: bool
) -> npt.NDArray[np.float64]:
    """Return the inverse from samples ``used[0] .. used[1] - 1``; other columns are zero. The array is read-only."""
    forward = crop_matrix(low, high, samples, 0, voxels)
    # Ignore samples outside the volume. They all repeat the border voxel and would outweigh the samples inside. Their
    # predicted values are arbitrary, because the loss of Stage 2 ignores them.
    forward[: used[0]] = forward[used[1] :] = 0
    second = np.diff(np.eye(voxels), n=2, axis=0) if voxels > 2 else np.zeros((0, voxels))
    weight, share = _penalty((high - low) / samples) if bounded else (_EXACT_SMOOTHNESS, 0.0)
    penalty = weight * second.T @ second
    towards_linear = share * penalty @ _linear_matrix(low, high, samples, voxels, used)
    # Tie voxels beyond all samples to their neighbours; otherwise the system could be singular.
    first = np.diff(np.eye(voxels), axis=0)
    system = forward.T @ forward + penalty + (1e-7 if bounded else 1e-8) * (first.T @ first)
    inverse = np.asarray(np.linalg.solve(system, forward.T + towards_linear), np.float64)
    inverse.setflags(write=False)
    return inverse


def _penalty(voxels_per_sample: float) -> tuple[float, float]:
    """Return the weight of the penalty in the bounded inverse, and the fraction towards linear interpolation."""
    weight = np.exp(np.interp(voxels_per_sample, _PENALTY_SCALES, np.log(_PENALTY_WEIGHTS)))
    return float(weight), float(np.interp(voxels_per_sample, _PENALTY_SCALES, _PENALTY_LINEAR_FRACTIONS))


def _linear_matrix(
    low: float, high: float, samples: int, voxels: int, used: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Return the matrix of linear interpolation from the used samples to the voxel centres."""
    places = (np.arange(voxels) + 0.5 - low) * (samples / (high - low)) - 0.5
    places = np.clip(places, used[0], used[1] - 1)
    return np.asarray(np.maximum(1 - np.abs(places[:, None] - np.arange(samples)), 0), np.float64)


def crop_rois(volume: torch.Tensor, rois: npt.ArrayLike, size: Triple) -> torch.Tensor:
    """Crop RoIs from one volume and magnify (or shrink) each to ``size`` samples.

    Parameters
    ----------
    volume : Tensor, shape ``(C, Z, Y, X)``
        Any floating-point type; the computation uses float32.
    rois : array_like, shape ``(N, 6)``
        In voxel edges of the volume. Beyond the volume, its border is repeated.
    size : tuple of 3 ints
        Samples ``(z, y, x)`` of each crop.

    Returns
    -------
    Tensor of float32, shape ``(N, C, *size)``
    """
    crops = volume.new_empty((len(as_boxes(rois)), volume.shape[0], *size), dtype=torch.float32)
    for index, roi in enumerate(as_boxes(rois)):
        region, matrices = crop_plan(roi, volume.shape[1:], size)
        all_channels = (slice(None), *region)
        block = volume[all_channels].float()
        crops[index] = apply_separable(block, [matrix.to(block) for matrix in matrices])
    return crops


def crop_plan(
    roi: npt.ArrayLike, shape: Sequence[int], size: Triple
) -> tuple[tuple[slice, slice, slice], list[torch.Tensor]]:
    """Return the region of the volume that an RoI reads, and the interpolation matrix of each axis.

    Use this function to crop a block that is built only for this region, such as the mask of one lesion.

    Parameters
    ----------
    roi : array_like, shape ``(6,)``
        In voxel edges of the volume.
    shape : sequence of 3 ints
        Shape ``(Z, Y, X)`` of the volume.
    size : tuple of 3 ints
        Samples ``(z, y, x)`` of the crop.

    Returns
    -------
    region : tuple of 3 slices
    matrices : list of 3 Tensors of float32
        For :func:`apply_separable`, in the order z, y, x.
    """
    box = as_boxes(np.asarray(roi).reshape(1, 6))[0]
    ranges = [voxel_range(float(box[a]), float(box[a + 3]), shape[a]) for a in range(3)]
    matrices = [
        torch.from_numpy(crop_matrix(float(box[a]), float(box[a + 3]), size[a], *ranges[a])).float() for a in range(3)
    ]
    z, y, x = (slice(*voxels) for voxels in ranges)
    return (z, y, x), matrices


def apply_separable(block: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Apply one matrix to each spatial axis of a block, without transposing or copying it.

    The computation uses the number type of ``block`` even under autocast, so training and prediction crop identically.

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

    All RoIs use one call of ``grid_sample``, so the backward pass needs one gradient map. Slicing would need one
    gradient map for each RoI.

    Parameters
    ----------
    features : Tensor, shape ``(C, Z, Y, X)``
    rois : Tensor, shape ``(N, 6)``
        In voxel edges of the map (cells). Beyond the map, its border is repeated.
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
    """Return the fraction of each RoI sample's cell that lies inside the box.

    Stage 2 reads these fractions as an input channel that marks the lesion to segment.

    Parameters
    ----------
    boxes : array_like, shape ``(N, 6)``
        One box for each RoI, in voxel edges.
    rois : array_like, shape ``(N, 6)``
        In voxel edges.
    size : tuple of 3 ints
        Samples ``(z, y, x)`` of an RoI.

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
    """Return the factors of :func:`box_indicator` along each axis; their product is the fraction of a cell.

    Parameters
    ----------
    boxes, rois, size
        See :func:`box_indicator`.

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
    """Return 1 for each RoI sample inside the volume and 0 for each sample outside.

    Parameters
    ----------
    rois : array_like, shape ``(N, 6)``
        In voxel edges of the volume.
    shape : sequence of 3 ints
        Shape ``(Z, Y, X)`` of the volume.
    size : tuple of 3 ints
        Samples ``(z, y, x)`` of an RoI.

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
    """Paste the probabilities of an RoI into the voxel grid of a volume; the inverse of :func:`crop_rois`.

    A soft mask holds the covered fraction of each voxel. It is restored exactly. For a mask that no volume can produce,
    the exact inverse oscillates far outside [0, 1]. The larger these oscillations are, the more weight the bounded
    inverse gets (see :func:`paste_matrix`).

    Parameters
    ----------
    cube : Tensor, shape ``(C, z, y, x)``
        Probabilities at the samples of the RoI.
    roi : array_like, shape ``(6,)``
        Box of the RoI in voxel edges of the volume. The volume may have another grid than the cropped one.
    shape : sequence of 3 ints
        Shape ``(Z, Y, X)`` of the volume.

    Returns
    -------
    values : Tensor of float32, shape ``(C, z', y', x')``
        Values of the voxels with centres inside the RoI. They may slightly exceed the range of the cube.
    region : tuple of 3 slices
        Position of the values in the volume.
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
    """Apply the exact or the bounded inverse of cropping along all three axes."""
    matrices, region = [], []
    for axis, (low, high) in enumerate(_rounded(roi)):
        matrix, first, end = paste_matrix(low, high, cube.shape[axis + 1], shape[axis], bounded)
        matrices.append(torch.tensor(matrix, dtype=torch.float32, device=cube.device))
        region.append(slice(first, end))
    return apply_separable(cube.float(), matrices), (region[0], region[1], region[2])


def _consistency(exact: torch.Tensor, bounded: torch.Tensor) -> torch.Tensor:
    """Return the weight of the exact inverse for each channel, shape ``(C, 1, 1, 1)``, from 0 to 1.

    The exact inverse of a soft mask stays within [0, 1]. The excess outside this range arises along the edge of the
    mask. It is divided by the total variation of the mask, so the weight does not depend on the size of the mask.
    """
    excess = (exact - exact.clamp(0, 1)).abs().sum(dim=(1, 2, 3), keepdim=True)
    mask = bounded.clamp(0, 1)
    edges = [mask.diff(dim=axis).abs().sum(dim=(1, 2, 3), keepdim=True) for axis in (1, 2, 3)]
    edge = torch.stack(edges).sum(dim=0).clamp(min=1)
    return ((_INCONSISTENT - excess / edge) / (_INCONSISTENT - _CONSISTENT)).clamp(0, 1)


def paste_region(roi: npt.ArrayLike, shape: Sequence[int]) -> tuple[slice, slice, slice]:
    """Return the region into which :func:`paste_roi` pastes an RoI.

    Parameters
    ----------
    roi : array_like, shape ``(6,)``
        Voxel edges ``z0 y0 x0 z1 y1 x1``.
    shape : sequence of 3 ints
        Shape ``(Z, Y, X)`` of the volume.

    Returns
    -------
    tuple of 3 slices
        Voxels with centres inside the RoI; empty along an axis if the RoI lies outside the volume.

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
    """Return both ends of an RoI along each axis, rounded to 1/1024 voxel so that equal RoIs share a cached inverse."""
    box = as_boxes(np.asarray(roi).reshape(1, 6))[0]
    return [(round(float(box[axis]) * 1024) / 1024, round(float(box[axis + 3]) * 1024) / 1024) for axis in range(3)]
